// Executes MMX, SSE and AVX instructions in their stubs: guest state into the frame, the stub, and back.
//
// SIMD floating-point exceptions (Intel SDM vol. 1, 11.5): the stub runs with all of them masked and the flags cleared,
// so afterwards MXCSR says which ones this instruction raised. If one of them is unmasked in the guest's MXCSR, the
// guest gets #XM (or #UD without CR4.OSXMMEXCPT) with the flags set and no register changed.
#include "engine/interp/host.h"
#include <string.h>

uint8_t *host_mmx(struct interp_vcpu *v, unsigned n)
{
    // Registers are physical for MMX and relative to the stack's top in the area.
    unsigned top = (host_get16(v->s.xsave + AREA_FSW) & FSW_TOP) >> FSW_TOP_SHIFT;
    return v->s.xsave + AREA_ST + 16 * ((n - top) & 7);
}

// Every MMX instruction but EMMS makes the stack's top 0 and all registers valid (Intel SDM vol. 1, 9.5.1).
void host_enter_mmx(struct interp_vcpu *v)
{
    uint8_t *area = v->s.xsave;
    uint16_t fsw = host_get16(area + AREA_FSW);
    unsigned top = (fsw & FSW_TOP) >> FSW_TOP_SHIFT;
    if (top) {
        uint8_t old[8][16];
        memcpy(old, area + AREA_ST, sizeof old);
        for (unsigned n = 0; n < 8; n++)
            memcpy(area + AREA_ST + 16 * n, old[(n - top) & 7], 16);
    }
    host_put16(area + AREA_FSW, (uint16_t)(fsw & ~FSW_TOP));
    area[AREA_FTW] = 0xff;
}

static void load(struct interp_vcpu *v, const struct interp_insn *i, const struct host_form *form)
{
    struct host_frame *f = &v->host->frame;
    for (unsigned n = 0; n < FIELDS; n++) {
        unsigned reg = i->op[n].reg;
        switch (form->slot[n]) {
        case SLOT_MMX:
            memcpy(f->vec[n + 1], host_mmx(v, reg), 8);
            break;
        case SLOT_YMM:
            memcpy(f->vec[n + 1] + 16, host_ymm_high(v, reg), 16);
            // fall through
        case SLOT_XMM:
            memcpy(f->vec[n + 1], host_xmm(v, reg), 16);
            break;
        case SLOT_GPR:
            f->gpr[0] = v->s.gpr[reg];
            break;
        default:
            break;
        }
    }
    if (form->xmm0)
        memcpy(f->vec[0], host_xmm(v, 0), 16);
    if (form->rax)
        f->gpr[0] = v->s.gpr[CPU_RAX];
    if (form->rcx)
        f->gpr[1] = v->s.gpr[CPU_RCX];
    if (form->rdx)
        f->gpr[2] = v->s.gpr[CPU_RDX];
    if (form->flags)
        f->flags = (v->s.rflags & RFLAGS_STATUS) | RFLAGS_FIXED;
}

static void store(struct interp_vcpu *v, const struct interp_insn *i, const struct host_form *form)
{
    const struct host_frame *f = &v->host->frame;
    if (form->mmx)
        host_enter_mmx(v);
    for (unsigned n = 0; n < FIELDS; n++) {
        unsigned reg = i->op[n].reg;
        if (!(form->written & 1 << n))
            continue;
        switch (form->slot[n]) {
        case SLOT_MMX:
            memcpy(v->s.xsave + AREA_ST + 16 * reg, f->vec[n + 1], 8);
            host_put16(v->s.xsave + AREA_ST + 16 * reg + 8, 0xffff);
            break;
        case SLOT_XMM:
            memcpy(host_xmm(v, reg), f->vec[n + 1], 16);
            if (form->vex)
                memset(host_ymm_high(v, reg), 0, 16);
            break;
        case SLOT_YMM:
            memcpy(host_xmm(v, reg), f->vec[n + 1], 16);
            memcpy(host_ymm_high(v, reg), f->vec[n + 1] + 16, 16);
            break;
        case SLOT_GPR:
            v->s.gpr[reg] = f->gpr[0];
            break;
        default:
            break;
        }
    }
    if (form->xmm0_written) {
        memcpy(host_xmm(v, 0), f->vec[0], 16);
        if (form->vex)
            memset(host_ymm_high(v, 0), 0, 16);
    }
    if (form->rcx)
        v->s.gpr[CPU_RCX] = f->gpr[1];
    if (form->flags)
        v->s.rflags = (v->s.rflags & ~(uint64_t)RFLAGS_STATUS) | (f->flags & RFLAGS_STATUS);
}

// Runs a floating-point form; false if it raised an unmasked exception (v->fault is set, MXCSR has the flags).
static bool run_fp(struct interp_vcpu *v, const struct interp_insn *i, const struct host_form *form)
{
    struct host_frame *f = &v->host->frame;
    uint32_t guest = host_get32(v->s.xsave + AREA_MXCSR);
    f->mxcsr = ((guest & ~(uint32_t)MXCSR_FLAGS) | MXCSR_MASKS) & 0xffff;
    load(v, i, form);
    uint32_t raised = 0;
    if (!(guest & MXCSR_UM)) {
        // Unmasked, underflow means a tiny result, exact or not, and flushing to zero is off; masked it means one that
        // is inexact too. Flushing happens for every tiny result and is told by UE: a first run finds those.
        f->mxcsr |= MXCSR_FZ;
        form->run(f);
        raised = f->mxcsr & MXCSR_UE;
        f->mxcsr = ((guest & ~(uint32_t)(MXCSR_FLAGS | MXCSR_FZ)) | MXCSR_MASKS) & 0xffff;
        load(v, i, form);
    }
    form->run(f);
    raised |= f->mxcsr & MXCSR_FLAGS;
    // One thing a masked run cannot tell: whether a result that overflows or underflows would have been exact with a
    // larger exponent. Unmasked, PE would then stay clear; here it is set.
    // Invalid, denormal and divide-by-zero are found before anything is computed: one that is unmasked leaves nothing
    // to overflow, underflow or be inexact.
    if (raised & ~(guest >> 7) & MXCSR_BEFORE)
        raised &= MXCSR_BEFORE;
    host_put32(v->s.xsave + AREA_MXCSR, guest | raised);
    if (!(raised & ~(guest >> 7)))
        return true;
    if (form->mmx)
        host_enter_mmx(v); // that much is done already
    if (v->s.cr4 & CR4_OSXMMEXCPT)
        interp_fault(v, EXC_XM);
    else
        interp_ud(v);
    return false;
}

static enum interp_result run(struct interp_vcpu *v, const struct interp_insn *i, const struct host_form *form)
{
    struct host_frame *f = &v->host->frame;
    if (form->vex ? !host_check_avx(v) : form->sse && !host_check_sse(v))
        return INTERP_FAULT;
    if (form->mmx && !host_check_mmx(v))
        return INTERP_FAULT;
    uint64_t la = 0;
    if (form->mem_size) {
        unsigned align = form->align;
        if (align && !form->align_strict && (host_get32(v->s.xsave + AREA_MXCSR) & MXCSR_MM))
            align = 0;
        if (!host_address(v, i, form->mem_size, align, form->mem_write, &la))
            return INTERP_FAULT;
        if (!align && !host_aligned(v, la, form->mem_size))
            return INTERP_FAULT;
        if (form->mem_read && !host_read(v, la, f->mem, form->mem_size))
            return INTERP_FAULT;
        // A page fault comes before what the computation raises.
        if (form->mem_write && form->fp && !interp_probe(v, la, form->mem_size, CPU_WRITE, false))
            return INTERP_FAULT;
    }
    host_use(v, (form->vex ? XSTATE_AVX | XSTATE_SSE : form->sse ? XSTATE_SSE : 0) | (form->mmx ? XSTATE_X87 : 0));
    if (form->fp) {
        if (!run_fp(v, i, form))
            return INTERP_FAULT;
    } else {
        load(v, i, form);
        form->run(f);
    }
    if (form->mem_write && !host_write(v, la, f->mem, form->mem_size))
        return INTERP_FAULT;
    store(v, i, form);
    v->count.host_executed++;
    return INTERP_NEXT;
}

enum interp_result host_vector(struct interp_vcpu *v, const struct interp_insn *i)
{
    return run(v, i, i->stub);
}

enum interp_result host_vector_passing(struct interp_vcpu *v, const struct interp_insn *i)
{
    const struct host_form *form = host_form_passing(v->host, i);
    return form ? run(v, i, form) : interp_ud(v);
}
