// SYSCALL, SYSRET, SYSENTER, SYSEXIT, by the rules of the model's vendor.
//
// AMD: SYSCALL and SYSRET work in every protected mode, with CSTAR as the target from compatibility mode and STAR's low
// half in legacy mode; SYSENTER and SYSEXIT only in legacy mode. Intel: SYSCALL and SYSRET only in 64-bit mode,
// SYSENTER and SYSEXIT everywhere. SYSRET to a non-canonical address faults in the kernel on Intel, and at the target,
// in user mode, on AMD.
//
// Both set SS to the flat segment that its selector stands for. (AMD hardware takes only the selector in SYSRET and
// leaves the attributes that SS had; no program can want that, and the rest of the world gets by with the flat one.)
//
// Single step: SYSCALL and SYSRET trap if TF is set after them, not before: a system call whose mask holds TF is
// stepped over without a trap in the kernel.
//
// Sources: AMD APM vol. 3, SYSCALL, SYSRET, SYSENTER, SYSEXIT; Intel SDM vol. 2, same names.
#include "engine/interp/system.h"

static struct cpu_segment code(uint16_t sel, bool wide)
{
    uint16_t attr = CPU_SEG_CODE | CPU_SEG_WRITE | (wide ? CPU_SEG_L : CPU_SEG_DB);
    return flat_segment(sel, attr | (sel & 3) << CPU_SEG_DPL_SHIFT);
}

static struct cpu_segment data(uint16_t sel)
{
    return flat_segment(sel, CPU_SEG_WRITE | CPU_SEG_DB | (sel & 3) << CPU_SEG_DPL_SHIFT);
}

void interp_syscall_segments(uint64_t star, bool ret, struct cpu_segment *cs, struct cpu_segment *ss)
{
    uint16_t sel = ret ? (star >> 48) | 3 : (star >> 32) & 0xfffc;
    *cs = code(ret ? (sel + 16) | 3 : sel, true);
    *ss = data(ret ? (sel + 8) | 3 : sel + 8);
}

static enum interp_result go(struct interp_vcpu *v, uint16_t cs_sel, uint16_t ss_sel, bool wide, uint64_t rip)
{
    struct cpu_segment cs = code(cs_sel, wide), ss = data(ss_sel);
    v->no_step = true;
    if (v->s.rflags & RFLAGS_TF)
        v->s.ev.pending_debug |= DR6_BS;
    transfer(v, &cs, &ss, rip);
    return INTERP_JUMP;
}

static bool is_amd(const struct interp_vcpu *v)
{
    return v->model->vendor == CPU_VENDOR_AMD;
}

enum interp_result sys_syscall(struct interp_vcpu *v, const struct interp_insn *i)
{
    if (!(v->s.efer & EFER_SCE) || !is_protected(v) || (!is_amd(v) && v->mode != MODE_LONG64))
        return interp_ud(v);
    uint64_t star = v->s.msr.star, next = v->s.rip + i->len;
    uint16_t sel = (star >> 32) & 0xfffc;
    if (!is_long(v)) {
        v->s.gpr[CPU_RCX] = (uint32_t)next;
        v->s.rflags &= ~(RFLAGS_IF | RFLAGS_RF);
        return go(v, sel, sel + 8, false, (uint32_t)star);
    }
    uint64_t target = v->mode == MODE_LONG64 ? v->s.msr.lstar : v->s.msr.cstar;
    v->s.gpr[CPU_RCX] = next;
    v->s.gpr[CPU_R11] = v->s.rflags & ~RFLAGS_RF;
    v->s.rflags = (v->s.rflags & ~v->s.msr.sfmask & ~RFLAGS_RF) | RFLAGS_FIXED;
    return go(v, sel, sel + 8, true, target);
}

enum interp_result sys_sysret(struct interp_vcpu *v, const struct interp_insn *i)
{
    if (!(v->s.efer & EFER_SCE) || (!is_amd(v) && v->mode != MODE_LONG64))
        return interp_ud(v);
    if (!is_protected(v) || v->cpl != 0)
        return interp_gp(v, 0);
    uint64_t star = v->s.msr.star, rcx = v->s.gpr[CPU_RCX];
    uint16_t sel = (star >> 48) | 3, ss = ((star >> 48) + 8) | 3;
    if (v->mode != MODE_LONG64) {
        v->s.rflags |= RFLAGS_IF;
        return go(v, sel, ss, false, (uint32_t)rcx);
    }
    bool wide = i->opsize == 8;
    if (wide && !is_amd(v) && !cpu_is_canonical(&v->s, rcx))
        return interp_gp(v, 0);
    const uint64_t mask = 0x3c7fd7; // all but RF, VM and reserved ones
    v->s.rflags = (v->s.gpr[CPU_R11] & mask) | RFLAGS_FIXED;
    return go(v, wide ? ((star >> 48) + 16) | 3 : sel, ss, wide, wide ? rcx : (uint32_t)rcx);
}

enum interp_result sys_sysenter(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    uint16_t sel = v->s.msr.sysenter_cs & 0xfffc;
    if (is_amd(v) && is_long(v))
        return interp_ud(v);
    if (!(v->s.cr0 & CR0_PE) || !sel)
        return interp_gp(v, 0);
    bool wide = is_long(v);
    v->s.rflags &= ~(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
    v->s.gpr[CPU_RSP] = wide ? v->s.msr.sysenter_esp : (uint32_t)v->s.msr.sysenter_esp;
    return go(v, sel, sel + 8, wide, wide ? v->s.msr.sysenter_eip : (uint32_t)v->s.msr.sysenter_eip);
}

enum interp_result sys_sysexit(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint16_t sel = v->s.msr.sysenter_cs & 0xfffc;
    if (!is_protected(v) || v->cpl != 0)
        return interp_gp(v, 0);
    if (is_amd(v) && is_long(v))
        return interp_ud(v);
    if (!sel)
        return interp_gp(v, 0);
    uint64_t rip = v->s.gpr[CPU_RDX], rsp = v->s.gpr[CPU_RCX];
    bool wide = v->mode == MODE_LONG64 && i->opsize == 8;
    if (wide && (!cpu_is_canonical(&v->s, rip) || !cpu_is_canonical(&v->s, rsp)))
        return interp_gp(v, 0);
    v->s.gpr[CPU_RSP] = wide ? rsp : (uint32_t)rsp;
    if (wide)
        return go(v, (sel + 32) | 3, (sel + 40) | 3, true, rip);
    return go(v, (sel + 16) | 3, (sel + 24) | 3, false, (uint32_t)rip);
}
