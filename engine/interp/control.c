// System instructions that are neither control registers nor segments: MSRs, time, CPUID, XCR0, FS and GS bases, TLB
// and cache maintenance, HLT, hypercalls.
//
// Time: the guest reads tsc() + TSC_ADJUST. Writing the TSC moves TSC_ADJUST by the same amount, as processors do, so
// there is nothing else to keep. The local APIC's deadline is compared with tsc() there, so TSC_ADJUST is taken off on
// the way to it and added on the way back.
//
// Example: WRMSR(TSC, 0) at tsc() == 1000 makes TSC_ADJUST -1000; a deadline of 500 then is armed for tsc() 1500.
#include "cpu/msr.h"
#include "engine/interp/system.h"
#include <string.h>

enum interp_result privileged(struct interp_vcpu *v)
{
    return v->cpl == 0 ? INTERP_NEXT : interp_gp(v, 0);
}

static void set_edx_eax(struct interp_vcpu *v, uint64_t val)
{
    v->s.gpr[CPU_RAX] = (uint32_t)val;
    v->s.gpr[CPU_RDX] = val >> 32;
}

static uint64_t edx_eax(const struct interp_vcpu *v)
{
    return (uint32_t)v->s.gpr[CPU_RAX] | v->s.gpr[CPU_RDX] << 32;
}

// --- time

static enum interp_result read_tsc(struct interp_vcpu *v)
{
    if (v->s.cr4 & CR4_TSD && v->cpl != 0)
        return interp_gp(v, 0);
    set_edx_eax(v, interp_up_tsc(v) + v->s.msr.tsc_adjust);
    return INTERP_NEXT;
}

enum interp_result sys_rdtsc(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    return read_tsc(v);
}

enum interp_result sys_rdtscp(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    enum interp_result r = read_tsc(v);
    if (r == INTERP_NEXT)
        v->s.gpr[CPU_RCX] = (uint32_t)v->s.msr.tsc_aux;
    return r;
}

enum interp_result sys_rdpmc(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    return interp_gp(v, 0); // no counter exists
}

// --- MSRs

enum interp_result sys_rdmsr(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    uint32_t msr = (uint32_t)v->s.gpr[CPU_RCX];
    uint64_t val = 0;
    if (v->cpl != 0)
        return interp_gp(v, 0);
    v->count.msr_reads++;
    if (msr == MSR_TSC) {
        val = interp_up_tsc(v) + v->s.msr.tsc_adjust;
    } else {
        enum cpu_msr_result r = cpu_msr_read(&v->s, v->model, msr, &val);
        if (r == CPU_MSR_GP || (r == CPU_MSR_UNKNOWN && interp_up_msr_read(v, msr, &val)))
            return interp_gp(v, 0);
        if (msr == MSR_TSC_DEADLINE && val)
            val += v->s.msr.tsc_adjust;
    }
    set_edx_eax(v, val);
    return INTERP_NEXT;
}

enum interp_result sys_wrmsr(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    uint32_t msr = (uint32_t)v->s.gpr[CPU_RCX];
    uint64_t val = edx_eax(v), efer = v->s.efer;
    if (v->cpl != 0)
        return interp_gp(v, 0);
    v->count.msr_writes++;
    if (msr == MSR_TSC) {
        v->s.msr.tsc_adjust = val - interp_up_tsc(v);
        return INTERP_NEXT;
    }
    enum cpu_msr_result r = cpu_msr_write(&v->s, v->model, msr, val);
    if (r == CPU_MSR_UNKNOWN) {
        if (msr == MSR_TSC_DEADLINE && val) {
            val -= v->s.msr.tsc_adjust;
            val += !val; // zero would disarm
        }
        r = interp_up_msr_write(v, msr, val) ? CPU_MSR_GP : CPU_MSR_OK;
    }
    if (r == CPU_MSR_GP)
        return interp_gp(v, 0);
    if (efer != v->s.efer)
        interp_mode_changed(v);
    return INTERP_BREAK;
}

// --- CPUID, XCR0

enum interp_result sys_cpuid(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    struct cpuid_regs r;
    v->count.cpuids++;
    cpu_cpuid(v->model, &v->s, v->base.id, (uint32_t)v->s.gpr[CPU_RAX], (uint32_t)v->s.gpr[CPU_RCX], &r);
    v->s.gpr[CPU_RAX] = r.eax;
    v->s.gpr[CPU_RBX] = r.ebx;
    v->s.gpr[CPU_RCX] = r.ecx;
    v->s.gpr[CPU_RDX] = r.edx;
    return INTERP_NEXT;
}

enum interp_result sys_xgetbv(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    uint64_t bv;
    if (!(v->s.cr4 & CR4_OSXSAVE))
        return interp_ud(v);
    switch ((uint32_t)v->s.gpr[CPU_RCX]) {
    case 0:
        set_edx_eax(v, v->s.xcr0);
        return INTERP_NEXT;
    case 1: // which components are not in their initial state
        if (!cpu_model_has(v->model, 0xd, 1, 0, 2))
            return interp_gp(v, 0);
        memcpy(&bv, v->s.xsave + 512, sizeof bv);
        set_edx_eax(v, bv & v->s.xcr0);
        return INTERP_NEXT;
    default:
        return interp_gp(v, 0);
    }
}

enum interp_result sys_xsetbv(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    uint64_t val = edx_eax(v);
    if (!(v->s.cr4 & CR4_OSXSAVE))
        return interp_ud(v);
    if (v->cpl != 0 || (uint32_t)v->s.gpr[CPU_RCX] != 0)
        return interp_gp(v, 0);
    uint64_t wide = val & XSTATE_AVX512;
    if (val & ~v->model->xcr0_mask || !(val & XSTATE_X87) || (val & XSTATE_AVX && !(val & XSTATE_SSE)) ||
        (wide && (wide != XSTATE_AVX512 || !(val & XSTATE_AVX))))
        return interp_gp(v, 0);
    v->s.xcr0 = val;
    return INTERP_BREAK;
}

// --- bases

static enum interp_result read_base(struct interp_vcpu *v, const struct interp_insn *i, unsigned seg)
{
    if (!(v->s.cr4 & CR4_FSGSBASE))
        return interp_ud(v);
    interp_set_reg(v, &i->op[0], v->s.seg[seg].base);
    return INTERP_NEXT;
}

static enum interp_result write_base(struct interp_vcpu *v, const struct interp_insn *i, unsigned seg)
{
    uint64_t val = interp_reg(v, &i->op[0]);
    if (!(v->s.cr4 & CR4_FSGSBASE))
        return interp_ud(v);
    if (!cpu_is_canonical(&v->s, val))
        return interp_gp(v, 0);
    v->s.seg[seg].base = val;
    return INTERP_NEXT;
}

enum interp_result sys_rdfsbase(struct interp_vcpu *v, const struct interp_insn *i)
{
    return read_base(v, i, CPU_FS);
}

enum interp_result sys_rdgsbase(struct interp_vcpu *v, const struct interp_insn *i)
{
    return read_base(v, i, CPU_GS);
}

enum interp_result sys_wrfsbase(struct interp_vcpu *v, const struct interp_insn *i)
{
    return write_base(v, i, CPU_FS);
}

enum interp_result sys_wrgsbase(struct interp_vcpu *v, const struct interp_insn *i)
{
    return write_base(v, i, CPU_GS);
}

enum interp_result sys_swapgs(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    if (v->cpl != 0)
        return interp_gp(v, 0);
    uint64_t base = v->s.seg[CPU_GS].base;
    v->s.seg[CPU_GS].base = v->s.msr.kernel_gs_base;
    v->s.msr.kernel_gs_base = base;
    return INTERP_NEXT;
}

// --- TLB and caches

// The linear address of a memory operand that is named and not accessed.
static uint64_t named_address(const struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t ea = interp_ea(v, i);
    if (v->mode == MODE_LONG64)
        return i->seg >= CPU_FS ? v->s.seg[i->seg].base + ea : ea;
    return (uint32_t)(v->s.seg[i->seg].base + ea);
}

enum interp_result sys_invlpg(struct interp_vcpu *v, const struct interp_insn *i)
{
    if (v->cpl != 0)
        return interp_gp(v, 0);
    uint64_t la = named_address(v, i);
    if (cpu_is_canonical(&v->s, la) || !is_long(v))
        interp_tlb_flush_page(v, la);
    return INTERP_BREAK;
}

enum { INVPCID_ADDRESS, INVPCID_PCID, INVPCID_ALL, INVPCID_NONGLOBAL };

enum interp_result sys_invpcid(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t type = interp_reg(v, &i->op[0]), descriptor[2], la;
    if (v->cpl != 0 || is_v86(v))
        return interp_gp(v, 0);
    if (!interp_linear(v, i->seg, interp_ea(v, i), 16, CPU_READ, &la) ||
        !interp_read_bytes(v, la, descriptor, 16, false))
        return INTERP_FAULT;
    unsigned pcid = descriptor[0] & 0xfff;
    bool on = v->s.cr4 & CR4_PCIDE;
    if (type > INVPCID_NONGLOBAL || descriptor[0] >> 12)
        return interp_gp(v, 0);
    if (type <= INVPCID_PCID && pcid && !on)
        return interp_gp(v, 0);
    if (type == INVPCID_ADDRESS && !cpu_is_canonical(&v->s, descriptor[1]))
        return interp_gp(v, 0);
    switch (type) {
    case INVPCID_ADDRESS:
        if (pcid == (on ? v->s.cr3 & 0xfff : 0))
            interp_tlb_flush_page(v, descriptor[1]);
        else
            interp_tlb_flush_pcid(v, pcid); // more than asked for, which is allowed
        break;
    case INVPCID_PCID:
        interp_tlb_flush_pcid(v, pcid);
        break;
    case INVPCID_ALL:
        interp_tlb_flush_all(v);
        break;
    default:
        interp_tlb_flush_nonglobal(v);
    }
    return INTERP_BREAK;
}

// INVD, WBINVD: memory is always what the caches hold.
enum interp_result sys_cache(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    return privileged(v);
}

// --- the rest

enum interp_result sys_hlt(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    if (v->cpl != 0)
        return interp_gp(v, 0);
    v->s.ev.activity = CPU_HALTED;
    return INTERP_BREAK;
}

enum { HYPERCALL_EPERM = -1 };

enum interp_result sys_hypercall(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    bool wide = v->mode == MODE_LONG64;
    uint64_t mask = wide ? ~0ull : 0xffffffff, result = (uint64_t)HYPERCALL_EPERM;
    const uint64_t arg[4] = {v->s.gpr[CPU_RBX] & mask, v->s.gpr[CPU_RCX] & mask, v->s.gpr[CPU_RDX] & mask,
                             v->s.gpr[CPU_RSI] & mask};
    if (v->cpl == 0)
        result = interp_up_hypercall(v, v->s.gpr[CPU_RAX] & mask, arg, wide);
    v->s.gpr[CPU_RAX] = result & mask;
    return INTERP_BREAK;
}

// INT n. In virtual-8086 mode IOPL and the redirection bitmap decide (Intel SDM vol. 3, 20.3).
static bool v86_wants_own_table(struct interp_vcpu *v, uint8_t vector, bool *own)
{
    uint16_t map;
    uint8_t byte;
    const struct cpu_segment *tr = &v->s.tr;
    *own = false;
    if (!(v->s.cr4 & CR4_VME))
        return true;
    if (tr->limit < 103) {
        interp_gp(v, 0);
        return false;
    }
    if (!interp_read_bytes(v, (uint32_t)(tr->base + 102), &map, 2, true))
        return false;
    uint32_t offset = map - 32u + vector / 8; // the 32 bytes below the I/O bitmap
    if (map < 32 || offset > tr->limit) {
        interp_gp(v, 0);
        return false;
    }
    if (!interp_read_bytes(v, (uint32_t)(tr->base + offset), &byte, 1, true))
        return false;
    *own = !(byte >> vector % 8 & 1);
    return true;
}

enum interp_result sys_int(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint8_t vector = (uint8_t)i->imm;
    uint64_t next = v->s.rip + i->len;
    v->no_step = true;
    if (is_v86(v)) {
        bool own;
        if (!v86_wants_own_table(v, vector, &own))
            return INTERP_FAULT;
        if (own)
            return deliver_v86_redirected(v, vector, next) ? INTERP_JUMP : INTERP_FAULT;
        if ((v->s.rflags & RFLAGS_IOPL) != RFLAGS_IOPL)
            return interp_gp(v, 0);
    }
    return interp_soft_interrupt(v, vector, next);
}

enum interp_result sys_int3(struct interp_vcpu *v, const struct interp_insn *i)
{
    v->no_step = true;
    v->count.exceptions[EXC_BP]++;
    return interp_soft_interrupt(v, EXC_BP, v->s.rip + i->len);
}

enum interp_result sys_into(struct interp_vcpu *v, const struct interp_insn *i)
{
    if (!(v->s.rflags & RFLAGS_OF))
        return INTERP_NEXT;
    v->no_step = true;
    v->count.exceptions[EXC_OF]++;
    return interp_soft_interrupt(v, EXC_OF, v->s.rip + i->len);
}
