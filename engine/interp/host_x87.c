// Executes x87 instructions in their stubs: the whole x87 state goes into the host's and back, by FXRSTOR and FXSAVE.
//
// Unmasked exceptions need no care while the stub runs: the instruction only marks them pending (FSW.ES), FXSAVE and
// FNINIT don't look. The guest's next waiting instruction raises #MF, in host_check_x87(). Storing instructions don't
// store where an unmasked exception forbids it (Intel SDM vol. 1, 8.5): what they left in the frame is then not
// written.
//
// The last instruction's opcode and address and its operand's address (FOP, FIP, FDP) would be the stub's; they are
// kept here.
#include "engine/interp/host.h"
#include <string.h>

static void set_pointers(struct interp_vcpu *v, const struct interp_insn *i, const struct host_form *form,
                         uint64_t offset)
{
    uint8_t *area = v->s.xsave;
    host_put16(area + AREA_FOP, form->x87_opcode | i->op[3].size);
    host_put64(area + AREA_FIP, v->s.rip);
    if (form->mem_size)
        host_put64(area + AREA_FDP, offset);
}

static enum interp_result run(struct interp_vcpu *v, const struct interp_insn *i, const struct host_form *form)
{
    struct host_frame *f = &v->host->frame;
    uint8_t *area = v->s.xsave;
    if (!host_check_x87(v, true))
        return INTERP_FAULT;
    uint64_t la = 0, offset = 0;
    if (form->mem_size) {
        offset = interp_ea(v, i);
        unsigned align = form->mem_size == 10 ? 8 : form->mem_size;
        if (!interp_linear(v, i->seg, offset, form->mem_size, form->mem_write ? CPU_WRITE : CPU_READ, &la) ||
            !interp_aligned(v, la, align))
            return INTERP_FAULT;
        if (form->mem_read && !host_read(v, la, f->mem, form->mem_size))
            return INTERP_FAULT;
        if (form->mem_write && !interp_probe(v, la, form->mem_size, CPU_WRITE, false))
            return INTERP_FAULT;
    }
    host_use(v, XSTATE_X87);
    memcpy(f->x87, area, AREA_XMM);
    // Only with CR0.NE clear can something still be pending: it is put aside, or the stub's instruction would fault.
    uint16_t aside = host_get16(area + AREA_FSW) & ~host_get16(area + AREA_FCW) & FSW_EXCEPTIONS;
    host_put16(f->x87 + AREA_FSW, host_get16(area + AREA_FSW) & ~(aside | FSW_ES | FSW_B));
    if (form->flags)
        f->flags = (v->s.rflags & RFLAGS_STATUS) | RFLAGS_FIXED;
    form->run(f);
    uint16_t fsw = host_get16(f->x87 + AREA_FSW);
    // An invalid, denormal, overflow or underflow that is unmasked keeps a store from happening; precision doesn't.
    bool stores = !(fsw & ~host_get16(f->x87 + AREA_FCW) & 0x1f);
    if (form->mem_write && stores && !host_write(v, la, f->mem, form->mem_size))
        return INTERP_FAULT;
    host_put16(area + AREA_FSW, fsw | (aside ? aside | FSW_ES | FSW_B : 0));
    area[AREA_FTW] = f->x87[AREA_FTW];
    memcpy(area + AREA_ST, f->x87 + AREA_ST, AREA_XMM - AREA_ST);
    set_pointers(v, i, form, offset);
    if (form->flags)
        v->s.rflags = (v->s.rflags & ~(uint64_t)RFLAGS_STATUS) | (f->flags & RFLAGS_STATUS);
    v->count.host_executed++;
    return INTERP_NEXT;
}

enum interp_result host_x87(struct interp_vcpu *v, const struct interp_insn *i)
{
    return run(v, i, i->stub);
}

enum interp_result host_x87_passing(struct interp_vcpu *v, const struct interp_insn *i)
{
    const struct host_form *form = host_form_passing(v->host, i);
    return form ? run(v, i, form) : interp_ud(v);
}
