// Instructions that read and write the flags as a whole or the interrupt flag: PUSHF, POPF, CLI, STI, CLAC, STAC; the
// rules of IOPL, of virtual-8086 mode and of the virtual interrupt flag (Intel SDM vol. 2, and vol. 3, 20.3 and 20.4).
//
// Example: STI with IF clear sets it and holds interrupts off for one instruction, so STI; HLT never sleeps through
// one. STI with IF set does not hold anything off.
#include "engine/interp/system.h"

enum {
    // What any program may change.
    USER_FLAGS = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID,
};

static unsigned iopl(const struct interp_vcpu *v)
{
    return (v->s.rflags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT;
}

void flags_load(struct interp_vcpu *v, uint64_t val, uint64_t mask)
{
    uint64_t old = v->s.rflags;
    v->s.rflags = (old & ~mask) | (val & mask);
    if ((old ^ v->s.rflags) & RFLAGS_AC)
        interp_tlb_switch(v);
}

static uint64_t load_mask(const struct interp_vcpu *v, unsigned opsize)
{
    uint64_t mask = USER_FLAGS;
    if (!(v->s.cr0 & CR0_PE) || v->cpl == 0)
        mask |= RFLAGS_IOPL;
    if (!(v->s.cr0 & CR0_PE) || v->cpl <= iopl(v))
        mask |= RFLAGS_IF;
    return opsize == 2 ? mask & 0xffff : mask;
}

uint64_t flags_iret_mask(const struct interp_vcpu *v, unsigned opsize)
{
    uint64_t mask = load_mask(v, opsize);
    if (opsize != 2) {
        mask |= RFLAGS_RF;
        if (is_protected(v) && v->cpl == 0)
            mask |= RFLAGS_VIF | RFLAGS_VIP;
    }
    return mask;
}

// Flags have changed: must the loop look at interrupts, or go step by step?
static enum interp_result after(const struct interp_vcpu *v, uint64_t old)
{
    uint64_t on = v->s.rflags & ~old;
    return on & (RFLAGS_IF | RFLAGS_TF) ? INTERP_BREAK : INTERP_NEXT;
}

enum interp_result sys_pushf(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t val = v->s.rflags & ~(RFLAGS_RF | RFLAGS_VM);
    if (is_v86(v) && iopl(v) < 3) {
        if (!(v->s.cr4 & CR4_VME) || i->opsize != 2)
            return interp_gp(v, 0);
        val = (val & ~RFLAGS_IF) | RFLAGS_IOPL | (val & RFLAGS_VIF ? RFLAGS_IF : 0);
    }
    return interp_push(v, i->opsize, val) ? INTERP_NEXT : INTERP_FAULT;
}

enum interp_result sys_popf(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t rsp = v->s.gpr[CPU_RSP], val, mask = load_mask(v, i->opsize), old = v->s.rflags;
    if (is_v86(v) && iopl(v) < 3 && (!(v->s.cr4 & CR4_VME) || i->opsize != 2))
        return interp_gp(v, 0);
    if (!interp_pop(v, i->opsize, &val))
        return INTERP_FAULT;
    if (is_v86(v) && iopl(v) < 3) {
        bool flag = val & RFLAGS_IF;
        if ((val & RFLAGS_TF) || (flag && (old & RFLAGS_VIP))) {
            v->s.gpr[CPU_RSP] = rsp;
            return interp_gp(v, 0);
        }
        val = (val & 0xffff) | (flag ? RFLAGS_VIF : 0);
        mask = (mask & ~(RFLAGS_IF | RFLAGS_IOPL)) | RFLAGS_VIF;
    }
    flags_load(v, val, mask);
    return after(v, old);
}

// Which flag CLI and STI work on: RFLAGS_IF, RFLAGS_VIF, or 0 for #GP(0).
static uint64_t interrupt_flag(const struct interp_vcpu *v)
{
    if (!(v->s.cr0 & CR0_PE) || v->cpl <= iopl(v)) // in virtual-8086 mode CPL is 3
        return RFLAGS_IF;
    if (is_v86(v))
        return v->s.cr4 & CR4_VME ? RFLAGS_VIF : 0;
    return v->cpl == 3 && (v->s.cr4 & CR4_PVI) ? RFLAGS_VIF : 0;
}

enum interp_result sys_cli(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    uint64_t flag = interrupt_flag(v);
    if (!flag)
        return interp_gp(v, 0);
    v->s.rflags &= ~flag;
    return INTERP_NEXT;
}

enum interp_result sys_sti(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    uint64_t flag = interrupt_flag(v);
    if (!flag || (flag == RFLAGS_VIF && (v->s.rflags & RFLAGS_VIP)))
        return interp_gp(v, 0);
    if (v->s.rflags & flag)
        return INTERP_NEXT;
    v->s.rflags |= flag;
    if (flag == RFLAGS_IF)
        v->s.ev.shadow = CPU_SHADOW_STI;
    return INTERP_BREAK;
}

static enum interp_result set_ac(struct interp_vcpu *v, bool on)
{
    if (v->cpl != 0)
        return interp_ud(v);
    flags_load(v, on ? RFLAGS_AC : 0, RFLAGS_AC);
    return INTERP_NEXT;
}

enum interp_result sys_clac(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    return set_ac(v, false);
}

enum interp_result sys_stac(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    return set_ac(v, true);
}
