// Asynchronous page faults as KVM offers them: a guest's program that touches memory which the host has to fetch first
// is told so by a #PF of a special kind, and waits while others run; an interrupt tells when the memory is there
// (Linux, Documentation/virt/kvm/x86/msr.rst).
//
// MSR 0x4b564d02 takes the address of the CPU's page, a multiple of 64, with bit 0 as the switch and bit 3 for "by
// interrupt"; 0x4b564d06 the vector; 1 written to 0x4b564d07 says that a token was read. INIT switches it off.
//
// Only an engine that has the guest's page faults in the host's kernel can do this (KVM, with local APICs of its own:
// vm/engine_apic.h). Under the others memory is always there, and nobody ever waits; but what is saved under the one
// may be loaded under the other, and then all that waited are told to look again, as KVM does it, too.
//
// Example: a guest is restored from a snapshot whose memory is read as it is used; instead of a CPU, a program waits.
#pragma once
#include "cpu/model.h"
#include "vm/vm.h"

struct async_pf {
    struct device dev;
    bool engines, fresh;      // the engine does it; just loaded
    uint64_t enable[CPU_MAX]; // MSRs: each CPU's own thread uses them, others only while the vCPUs stand still
    uint64_t vector[CPU_MAX];
    bool waits[CPU_MAX]; // to be told to look again, once the token before is read
};

int async_pf_create(struct vm *vm, struct async_pf **out, struct error *err); // the VM owns it
