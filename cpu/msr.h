// Model-specific registers that live in the CPU: one table that says, for each, its field, its writable bits and its
// rules.
//
// An engine asks here first; what is not here belongs to a device (local APIC, paravirtual clock) and goes up by an
// upcall; what nobody knows is #GP.
#pragma once
#include "cpu/model.h"
#include "cpu/state.h"

enum {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_UCODE_REV = 0x8b,
    MSR_MTRRCAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_MTRR_BASE0 = 0x200,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC_FIRST = 0x800,
    MSR_X2APIC_LAST = 0x8ff,
    MSR_XSS = 0xda0,
    MSR_EFER = 0xc0000080,
    MSR_STAR = 0xc0000081,
    MSR_LSTAR = 0xc0000082,
    MSR_CSTAR = 0xc0000083,
    MSR_SFMASK = 0xc0000084,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE = 0xc0000101,
    MSR_KERNEL_GS_BASE = 0xc0000102,
    MSR_TSC_AUX = 0xc0000103,
};

#define DEBUGCTL_BTF (1ull << 1) // single-step on branches

enum cpu_msr_result {
    CPU_MSR_OK,
    CPU_MSR_GP,      // reserved bits, read-only, or non-canonical
    CPU_MSR_UNKNOWN, // not the CPU's: ask the devices
};

// MSR_TSC is answered by the engine itself (it has the clock); everything else that is the CPU's is answered here.
enum cpu_msr_result cpu_msr_read(const struct cpu_state *s, const struct cpu_model *m, uint32_t msr, uint64_t *val);
enum cpu_msr_result cpu_msr_write(struct cpu_state *s, const struct cpu_model *m, uint32_t msr, uint64_t val);
