// A virtual CPU as the rest of the machine sees it: something that runs on a thread of its own and can be signalled.
//
// The local APIC model tells a vCPU that it has an interrupt (vcpu_signal with VCPU_INTR); the engine later asks back,
// on the vCPU's thread, which vector (struct local_apic_ops). See engine/engine.h for the other half of this.
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct vm;

// Same bits as ENGINE_* (checked in vcpu.c).
enum {
    VCPU_INTR = 1 << 0,
    VCPU_NMI = 1 << 1,
    VCPU_INIT = 1 << 2,
    VCPU_SIPI = 1 << 3,
    VCPU_EXIT = 1 << 4,
    VCPU_UNHALT = 1 << 5,
    VCPU_TLB_FLUSH = 1 << 6,
};

// Any thread. Wakes the vCPU if it sleeps in HLT.
void vcpu_signal(struct vm *vm, unsigned cpu, unsigned bits);
void vcpu_startup(struct vm *vm, unsigned cpu, uint8_t vector); // startup IPI
// Ends the HLT that the vCPU is in, or else the next one that it comes to. Any thread.
void vcpu_unhalt(struct vm *vm, unsigned cpu);
// Nanoseconds that the vCPU wanted to run and did not, because the host had its thread wait. On its own thread.
uint64_t vcpu_stolen(struct vm *vm, unsigned cpu);

// What a vCPU asks of its local interrupt controller; on the vCPU's thread.
struct local_apic_ops {
    int (*ack)(void *ctx, unsigned cpu); // highest deliverable vector, now in service; -1 if none
    uint64_t (*tpr_read)(void *ctx, unsigned cpu);
    void (*tpr_write)(void *ctx, unsigned cpu, uint64_t tpr); // 0..15
    void (*init)(void *ctx, unsigned cpu);                    // the CPU took an INIT
    void (*eoi)(void *ctx, uint8_t vector); // an engine's own local APIC finished a level-triggered vector
    // An interrupt (`mode` as in ICR) to all CPUs of a set, bit n for CPU n; how many of them take it. Any thread.
    unsigned (*multicast)(void *ctx, uint64_t cpus, uint8_t mode, uint8_t vector);
};

// Who is told when vCPUs run and sleep; on the vCPU's thread. What is NULL is not called.
struct vcpu_watch {
    void *ctx;
    void (*sleeps)(void *ctx, unsigned cpu); // in HLT
    bool (*wakes)(void *ctx, unsigned cpu);  // after that; true: all its translations are to be forgotten
    void (*runs)(void *ctx, unsigned cpu);   // now and then: it is about to take an interrupt
    void (*init)(void *ctx, unsigned cpu);   // it took an INIT
};
