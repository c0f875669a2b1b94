// Steal time as KVM offers it: a page per CPU that tells the guest for how long its CPU wanted to run and did not, and
// whether it is away now (Linux, Documentation/virt/kvm/x86/msr.rst).
//
// MSR 0x4b564d03 takes the address, a multiple of 64, with bit 0 as the switch; INIT switches it off. What is away here
// is a CPU that sleeps in HLT, from before its thread sleeps until after it has been scheduled again. A CPU whose
// thread the host has set aside amid guest code does not count: nobody tells us of that.
//
// Where that is offered (CPU_PV_TLB_FLUSH), who changes page tables need not wake a CPU that is away, just to have it
// forget translations: it sets bit 1 beside the bit 0 that says "away", and the CPU forgets all of them when it comes
// back, before it does anything else.
//
// An engine with local APICs of its own (vm/engine_apic.h) puts CPUs to sleep itself, and has steal time, too.
//
// Example: CPU 1 sleeps, byte 16 of its page is 1. CPU 0 frees a page table and makes it 3. An interrupt wakes CPU 1:
// the byte becomes 0 and its TLB is empty.
#pragma once
#include "cpu/model.h"
#include "vm/vm.h"

struct steal_time {
    struct device dev;
    bool flushes; // the guest was offered to order flushes
    // Each CPU's own thread uses these, others only while the vCPUs stand still.
    uint64_t msr[CPU_MAX];
    uint64_t told[CPU_MAX];   // guest ns at which the page was last written
    uint64_t stolen[CPU_MAX]; // what vcpu_stolen said then
    bool engines;             // the engine does all of this while vCPUs run; msr[] is where it is kept meanwhile
    bool fresh;               // just loaded
};

// Watches the VM's vCPUs (vm->watch) from then on. The VM owns it.
int steal_time_create(struct vm *vm, struct steal_time **out, struct error *err);
