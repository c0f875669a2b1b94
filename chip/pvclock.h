// The paravirtual clock that KVM offers and Linux knows as kvmclock: a page per CPU that says how to make nanoseconds
// from the TSC, and one that says what the wall clock showed when those began (Linux,
// Documentation/virt/kvm/x86/msr.rst).
//
// MSRs 0x4b564d01 (and 0x12, the old number) take the address of the CPU's page with bit 0 as the switch, 0x4b564d00
// (0x11) that of the wall clock's.
//
// Example: with a TSC of 2.5 GHz the page holds multiplier 0xcccccccc and shift -1: ns = (tsc >> 1) * multiplier >> 32.
#pragma once
#include "cpu/model.h"
#include "vm/vm.h"

struct pvclock {
    struct device dev; // its lock guards everything
    uint64_t wall_msr;
    uint64_t time_msr[CPU_MAX];
};

int pvclock_create(struct vm *vm, struct pvclock **out, struct error *err);
