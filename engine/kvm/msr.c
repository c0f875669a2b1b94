// Model-specific registers: cpu/msr.h says what they are, under KVM as under the other engines.
//
// A filter denies KVM all of them but those that guests touch all the time or that act by themselves, and KVM then asks
// us (KVM_CAP_X86_USER_SPACE_MSR). So a register has the same bits and the same #GP whatever executes the guest, and
// what the host's KVM happens to know never shows. Those with an effect on the CPU are passed on to the kernel's copy
// afterwards. The x2APIC's registers cannot be filtered: with a local APIC in the kernel they are the kernel's, without
// one KVM knows none, and asks.
//
//                                   read            written
//     FS, GS, kernel GS base        by the guest    by the guest
//     SYSCALL and SYSENTER, TSC_AUX by the guest    here, and passed on
//     SPEC_CTRL, PRED_CMD           by the guest    by the guest, if the model has them
//     TSC                           by the guest    here: it changes TSC_ADJUST
//     EFER, PAT, DEBUGCTL           here            here, and passed on
//     MTRRs, machine check, ...     here            here
//     those of devices              an upcall       an upcall
//     with local APICs in the kernel:
//     APIC_BASE                     by the guest    here, and passed on
//     TSC deadline, EOIs in memory, by the guest    by the guest
//     steal time, asynchronous page faults
//
// EFER.AIBRSE (automatic IBRS) is in our AMD models, and few hosts have it. Where the kernel does not take the bit, the
// guest gets what it stands for by SPEC_CTRL.IBRS, set for good: where CPUs have that, its predictions made in user
// mode do not steer its kernel.
//
// Source: api.rst [4.97] KVM_X86_SET_MSR_FILTER, [7.21] KVM_CAP_X86_USER_SPACE_MSR.
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <string.h>

#define SPEC_CTRL_IBRS 1ull

enum {
    MSR_KVM_FIRST = 0x4b564d00,
    MSR_KVM_ASYNC_PF = 0x4b564d02,
    MSR_KVM_STEAL_TIME = 0x4b564d03,
    MSR_KVM_EOI = 0x4b564d04,
    MSR_KVM_ASYNC_PF_INT = 0x4b564d06,
    MSR_KVM_ASYNC_PF_ACK = 0x4b564d07,
};

// Registers that the kernel has a copy of.
static const uint32_t mirrored[] = {
    MSR_STAR,        MSR_LSTAR,        MSR_CSTAR,        MSR_SFMASK,  MSR_KERNEL_GS_BASE,
    MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_TSC_AUX, MSR_PAT,
    MSR_DEBUGCTL,    MSR_SPEC_CTRL,    MSR_PRED_CMD,     MSR_FS_BASE, MSR_GS_BASE,
};

static bool is_mirrored(uint32_t msr)
{
    for (unsigned n = 0; n < sizeof mirrored / sizeof mirrored[0]; n++)
        if (mirrored[n] == msr)
            return true;
    return false;
}

// --- the filter

#define BIT(first, msr) (1u << ((msr) - (first)) % 8)

int kvm_msr_prepare(struct kvm_vm *vm, struct error *err)
{
    struct kvm_enable_cap ask = {
        .cap = KVM_CAP_X86_USER_SPACE_MSR,
        .args = {KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER}};
    if (ioctl(vm->fd, KVM_ENABLE_CAP, &ask) < 0)
        return error_set(err, errno, "KVM: MSR exits: %s", strerror(errno));
    bool spec_ctrl = cpu_model_has(vm->base.config.model, 7, 0, 3, 26);
    // One bit per register, 1 allows.
    uint8_t system_read[] = {BIT(MSR_STAR, MSR_STAR) | BIT(MSR_STAR, MSR_LSTAR) | BIT(MSR_STAR, MSR_CSTAR) |
                             BIT(MSR_STAR, MSR_SFMASK)};
    uint8_t base_read[] = {BIT(MSR_FS_BASE, MSR_FS_BASE) | BIT(MSR_FS_BASE, MSR_GS_BASE) |
                           BIT(MSR_FS_BASE, MSR_KERNEL_GS_BASE) | BIT(MSR_FS_BASE, MSR_TSC_AUX)};
    uint8_t base_write[] = {BIT(MSR_FS_BASE, MSR_FS_BASE) | BIT(MSR_FS_BASE, MSR_GS_BASE) |
                            BIT(MSR_FS_BASE, MSR_KERNEL_GS_BASE)};
    uint8_t sysenter_read[] = {7}, tsc_read[] = {1}, spec[] = {spec_ctrl ? 3 : 0};
    bool own_apic = vm->base.own_apic; // else these three stay empty
    uint8_t apic_base[] = {own_apic ? BIT(MSR_APIC_BASE & ~7u, MSR_APIC_BASE) : 0};
    uint8_t deadline[] = {own_apic ? BIT(MSR_TSC_DEADLINE, MSR_TSC_DEADLINE) : 0};
    uint8_t paravirt[] = {own_apic ? BIT(MSR_KVM_FIRST, MSR_KVM_STEAL_TIME) | BIT(MSR_KVM_FIRST, MSR_KVM_EOI) : 0};
    if (own_apic && cpu_model_has(vm->base.config.model, CPU_LEAF_PARAVIRT, CPUID_ANY, 0, CPU_PV_ASYNC_PF))
        paravirt[0] |= BIT(MSR_KVM_FIRST, MSR_KVM_ASYNC_PF) | BIT(MSR_KVM_FIRST, MSR_KVM_ASYNC_PF_INT) |
                       BIT(MSR_KVM_FIRST, MSR_KVM_ASYNC_PF_ACK);
    struct kvm_msr_filter filter = {
        .flags = KVM_MSR_FILTER_DEFAULT_DENY,
        .ranges =
            {
                {KVM_MSR_FILTER_READ, 8, MSR_STAR, system_read},
                {KVM_MSR_FILTER_READ, 8, MSR_FS_BASE, base_read},
                {KVM_MSR_FILTER_WRITE, 8, MSR_FS_BASE, base_write},
                {KVM_MSR_FILTER_READ, 8, MSR_SYSENTER_CS, sysenter_read},
                {KVM_MSR_FILTER_READ, 8, MSR_TSC, tsc_read},
                {KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 8, MSR_SPEC_CTRL, spec},
                {KVM_MSR_FILTER_READ, 8, MSR_APIC_BASE & ~7u, apic_base},
                {KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 8, MSR_TSC_DEADLINE, deadline},
                {KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 8, MSR_KVM_FIRST, paravirt},
            },
    };
    if (ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
        return error_set(err, errno, "KVM: MSR filter: %s", strerror(errno));
    return 0;
}

// --- the kernel's copies

struct one_msr { // struct kvm_msrs with one entry
    uint32_t count, pad;
    struct kvm_msr_entry entry;
};

_Static_assert(offsetof(struct one_msr, entry) == offsetof(struct kvm_msrs, entries), "layout of struct kvm_msrs");

uint64_t kvm_msr_read_kernel(struct kvm_vcpu *v, uint32_t msr)
{
    struct one_msr m = {.count = 1, .entry = {.index = msr}};
    return ioctl(v->fd, KVM_GET_MSRS, &m) == 1 ? m.entry.data : 0;
}

bool kvm_msr_write_kernel(struct kvm_vcpu *v, uint32_t msr, uint64_t val)
{
    struct one_msr m = {.count = 1, .entry = {.index = msr, .data = val}};
    return ioctl(v->fd, KVM_SET_MSRS, &m) == 1;
}

void kvm_msr_set_efer(struct kvm_vcpu *v, uint64_t efer)
{
    v->s.efer = efer;
    v->efer_hidden = 0;
    if (kvm_msr_write_kernel(v, MSR_EFER, efer))
        return;
    v->efer_hidden = efer & EFER_AIBRSE;
    kvm_msr_write_kernel(v, MSR_EFER, efer & ~v->efer_hidden);
    if (v->efer_hidden)
        kvm_msr_write_kernel(v, MSR_SPEC_CTRL, SPEC_CTRL_IBRS);
}

// Registers that the guest writes without us.
static void fetch(struct kvm_vcpu *v)
{
    v->s.msr.kernel_gs_base = kvm_msr_read_kernel(v, MSR_KERNEL_GS_BASE);
    if (cpu_model_has(v->base.vm->config.model, 7, 0, 3, 26))
        v->s.msr.spec_ctrl = kvm_msr_read_kernel(v, MSR_SPEC_CTRL);
}

void kvm_msr_get(struct kvm_vcpu *v, struct cpu_msrs *m)
{
    fetch(v);
    *m = v->s.msr;
}

// A register that is not in the model or not in the kernel has no copy there; that is no error. What the kernel has
// already it is not told again: of some registers it complains in its log.
static void pass_on(struct kvm_vcpu *v, uint32_t msr)
{
    uint64_t val;
    if (cpu_msr_read(&v->s, v->base.vm->config.model, msr, &val) == CPU_MSR_OK && val != kvm_msr_read_kernel(v, msr))
        kvm_msr_write_kernel(v, msr, val);
}

void kvm_msr_set(struct kvm_vcpu *v, const struct cpu_msrs *m)
{
    v->s.msr = *m;
    for (unsigned n = 0; n < sizeof mirrored / sizeof mirrored[0]; n++)
        if (mirrored[n] != MSR_FS_BASE && mirrored[n] != MSR_GS_BASE) // these are the segments' (state.c)
            pass_on(v, mirrored[n]);
    kvm_clock_sync(v);
}

// --- what the guest asks us

// The rest of the state that the rules of a register look at.
static void fetch_control(struct kvm_vcpu *v)
{
    struct kvm_sregs s;
    if (ioctl(v->fd, KVM_GET_SREGS, &s) < 0)
        return;
    v->s.cr0 = s.cr0;
    v->s.cr4 = s.cr4;
    v->s.efer = s.efer | v->efer_hidden;
    v->s.seg[CPU_FS].base = s.fs.base;
    v->s.seg[CPU_GS].base = s.gs.base;
    fetch(v);
}

static bool read(struct kvm_vcpu *v, uint32_t msr, uint64_t *val)
{
    const struct cpu_model *m = v->base.vm->config.model;
    if (msr == MSR_TSC) {
        *val = KVM_UP(v)->tsc(v->base.owner) + v->s.msr.tsc_adjust;
        return true;
    }
    if (msr == MSR_EFER || is_mirrored(msr))
        fetch_control(v);
    enum cpu_msr_result r = cpu_msr_read(&v->s, m, msr, val);
    if (r != CPU_MSR_UNKNOWN)
        return r == CPU_MSR_OK;
    if (KVM_UP(v)->msr_read(v->base.owner, msr, val))
        return false;
    if (msr == MSR_TSC_DEADLINE && *val)
        *val += v->s.msr.tsc_adjust;
    return true;
}

static bool write_apic_base(struct kvm_vcpu *v, uint64_t val)
{
    return cpu_apic_base_allowed(kvm_msr_read_kernel(v, MSR_APIC_BASE), val) &&
           kvm_msr_write_kernel(v, MSR_APIC_BASE, val);
}

static bool write_device(struct kvm_vcpu *v, uint32_t msr, uint64_t val)
{
    if (msr == MSR_APIC_BASE && v->base.vm->own_apic)
        return write_apic_base(v, val);
    if (msr == MSR_TSC_DEADLINE && val) {
        val -= v->s.msr.tsc_adjust;
        val += !val; // zero would disarm
    }
    v->tpr_stale = true;
    return !KVM_UP(v)->msr_write(v->base.owner, msr, val);
}

static bool write(struct kvm_vcpu *v, uint32_t msr, uint64_t val)
{
    const struct cpu_model *m = v->base.vm->config.model;
    if (msr == MSR_TSC) {
        v->s.msr.tsc_adjust = val - KVM_UP(v)->tsc(v->base.owner);
        kvm_clock_sync(v);
        return true;
    }
    bool acts = msr == MSR_EFER || is_mirrored(msr);
    if (acts)
        fetch_control(v);
    enum cpu_msr_result r = cpu_msr_write(&v->s, m, msr, val);
    if (r == CPU_MSR_UNKNOWN)
        return write_device(v, msr, val);
    if (r != CPU_MSR_OK)
        return false;
    if (msr == MSR_EFER)
        kvm_msr_set_efer(v, v->s.efer);
    else if (msr == MSR_PRED_CMD)
        kvm_msr_write_kernel(v, msr, val);
    else if (acts)
        pass_on(v, msr);
    else if (msr == MSR_TSC_ADJUST)
        kvm_clock_sync(v);
    return true;
}

void kvm_msr_exit(struct kvm_vcpu *v)
{
    struct kvm_run *run = v->run;
    uint64_t val = run->msr.data;
    v->unfinished = true;
    if (run->exit_reason == KVM_EXIT_X86_WRMSR) {
        run->msr.error = !write(v, run->msr.index, val);
        return;
    }
    run->msr.error = !read(v, run->msr.index, &val);
    run->msr.data = val;
}
