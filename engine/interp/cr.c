// Control registers: what may be written, which modes a write enters or leaves, and what it makes stale.
//
// Every check comes before any change. The order of the mode bits is the architecture's (Intel SDM vol. 3, 9.8.5): a
// kernel sets CR4.PAE and EFER.LME, then CR0.PG, and EFER.LMA follows; it leaves in the opposite order from
// compatibility mode.
//
// Example: MOV CR0 with PG newly set, LME set and PAE clear: #GP(0), and nothing has changed.
#include "engine/interp/shared.h"
#include "engine/interp/system.h"
#include <string.h>

static bool refuse(struct interp_vcpu *v)
{
    interp_gp(v, 0);
    return false;
}

static uint64_t above_physical(const struct interp_vcpu *v)
{
    return ~0ull << v->model->phys_bits;
}

// Intel SDM vol. 3, 4.4.1: with PAE paging outside of long mode the four top entries are registers of the CPU.
bool load_pdptes(struct interp_vcpu *v, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer)
{
    if (!(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || efer & EFER_LMA)
        return true;
    uint64_t gpa = cr3 & 0xffffffe0, pdpte[4];
    const struct ram_region *r = ram_find(&v->vm->ram, gpa); // 32 bytes that don't cross a page
    memset(pdpte, 0xff, sizeof pdpte);
    if (r)
        memcpy(pdpte, r->host + (gpa - r->gpa), sizeof pdpte);
    const uint64_t reserved = 0x1e6 | above_physical(v);
    for (unsigned i = 0; i < 4; i++)
        if (pdpte[i] & 1 && pdpte[i] & reserved)
            return refuse(v);
    memcpy(v->s.pdpte, pdpte, sizeof pdpte);
    return true;
}

static bool write_cr0(struct interp_vcpu *v, uint64_t val)
{
    struct cpu_state *s = &v->s;
    const uint64_t known =
        CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
    if (val >> 32)
        return refuse(v);
    val = (val & known) | CR0_ET;
    if ((val & CR0_PG && !(val & CR0_PE)) || (val & CR0_NW && !(val & CR0_CD)))
        return refuse(v);
    uint64_t changed = val ^ s->cr0, efer = s->efer;
    if (changed & val & CR0_PG && efer & EFER_LME) {
        if (!(s->cr4 & CR4_PAE) || s->seg[CPU_CS].attr & CPU_SEG_L || (s->tr.attr & CPU_SEG_TYPE) == SYS_TSS16_BUSY)
            return refuse(v);
        efer |= EFER_LMA;
    }
    if (changed & ~val & CR0_PG) {
        if (v->mode == MODE_LONG64 || s->cr4 & CR4_PCIDE)
            return refuse(v);
        efer &= ~EFER_LMA;
    }
    if (changed & (CR0_PG | CR0_CD | CR0_NW) && !load_pdptes(v, val, s->cr3, s->cr4, efer))
        return false;
    s->cr0 = val;
    s->efer = efer;
    if (changed & CR0_PG)
        interp_tlb_flush_all(v);
    if (changed & (CR0_PE | CR0_PG | CR0_WP | CR0_AM | CR0_TS | CR0_EM))
        interp_mode_changed(v);
    return true;
}

static bool write_cr3(struct interp_vcpu *v, uint64_t val)
{
    struct cpu_state *s = &v->s;
    bool pcid = s->cr4 & CR4_PCIDE, keep = pcid && val >> 63;
    if (pcid)
        val &= ~(1ull << 63);
    if (s->efer & EFER_LMA && val & above_physical(v))
        return refuse(v);
    if (!load_pdptes(v, s->cr0, val, s->cr4, s->efer))
        return false;
    s->cr3 = val;
    if (!pcid)
        interp_tlb_flush_nonglobal(v);
    else if (!keep)
        interp_tlb_flush_pcid(v, val & 0xfff);
    interp_tlb_switch(v);
    return true;
}

static bool write_cr4(struct interp_vcpu *v, uint64_t val)
{
    struct cpu_state *s = &v->s;
    uint64_t changed = val ^ s->cr4;
    if (val & ~v->model->cr4_mask)
        return refuse(v);
    if (s->efer & EFER_LMA && (!(val & CR4_PAE) || changed & CR4_LA57))
        return refuse(v);
    if (changed & val & CR4_PCIDE && (!(s->efer & EFER_LMA) || s->cr3 & 0xfff))
        return refuse(v);
    if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP) && !load_pdptes(v, s->cr0, s->cr3, val, s->efer))
        return false;
    s->cr4 = val;
    // Intel SDM vol. 3, 4.10.4.1
    if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_LA57) || changed & ~val & CR4_PCIDE || changed & val & CR4_SMEP)
        interp_tlb_flush_all(v);
    interp_mode_changed(v);
    return true;
}

bool interp_write_cr(struct interp_vcpu *v, unsigned cr, uint64_t val)
{
    switch (cr) {
    case 0:
        return write_cr0(v, val);
    case 2:
        v->s.cr2 = val;
        return true;
    case 3:
        return write_cr3(v, val);
    case 4:
        return write_cr4(v, val);
    case 8:
        if (val & ~15ull)
            return refuse(v);
        interp_up_tpr_write(v, val);
        return true;
    default:
        interp_ud(v);
        return false;
    }
}

// --- instructions

enum interp_result sys_mov_to_cr(struct interp_vcpu *v, const struct interp_insn *i)
{
    if (v->cpl != 0)
        return interp_gp(v, 0);
    return interp_write_cr(v, i->op[0].reg, interp_reg(v, &i->op[1])) ? INTERP_BREAK : INTERP_FAULT;
}

enum interp_result sys_mov_from_cr(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t val;
    if (v->cpl != 0)
        return interp_gp(v, 0);
    switch (i->op[1].reg) {
    case 0:
        val = v->s.cr0;
        break;
    case 2:
        val = v->s.cr2;
        break;
    case 3:
        val = v->s.cr3;
        break;
    case 4:
        val = v->s.cr4;
        break;
    case 8:
        val = interp_up_tpr_read(v);
        break;
    default:
        return interp_ud(v);
    }
    interp_set_reg(v, &i->op[0], val);
    return INTERP_NEXT;
}

enum interp_result sys_clts(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    if (v->cpl != 0)
        return interp_gp(v, 0);
    v->s.cr0 &= ~CR0_TS;
    interp_mode_changed(v);
    return INTERP_BREAK;
}

enum interp_result sys_lmsw(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t val;
    if (v->cpl != 0)
        return interp_gp(v, 0);
    if (!operand_read(v, i, 0, 2, &val))
        return INTERP_FAULT;
    // PE, MP, EM, TS; PE can be set but not cleared.
    val = (v->s.cr0 & ~0xeull) | (val & 0xf);
    return interp_write_cr(v, 0, val) ? INTERP_BREAK : INTERP_FAULT;
}

enum interp_result sys_smsw(struct interp_vcpu *v, const struct interp_insn *i)
{
    if (v->s.cr4 & CR4_UMIP && v->cpl != 0)
        return interp_gp(v, 0);
    return operand_write(v, i, 0, 2, v->s.cr0) ? INTERP_NEXT : INTERP_FAULT;
}
