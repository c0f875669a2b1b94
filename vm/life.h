// The inside of a VM's life, for vm/ alone: what vm.c, life.c and vcpu.c share.
//
// vCPU threads obey one word, `command`: RUN, PARK or STOP. A thread that leaves the engine and finds PARK sleeps on
// the word; `running` counts the threads that are not parked, and whoever stops the VM sleeps on that.
#pragma once
#include "engine/engine.h"
#include "vm/vm.h"

struct thread;

enum { LIFE_PARK, LIFE_RUN, LIFE_STOP };

struct vm_life {
    _Atomic uint32_t command; // LIFE_*
    _Atomic uint32_t running; // vCPU threads that are not parked
    struct vm_lock stop_lock; // guards stops and the changes of command that follow from it
    unsigned stops;           // how many want the vCPUs parked: users (vm_pause), a reset that is under way
    unsigned pauses;          // how many of those also want the clock to stand
    _Atomic bool ended;       // written under stop_lock
    _Atomic bool reset_wanted;
};

struct vcpu_counters { // written by the vCPU's thread
    _Atomic uint64_t port_reads, port_writes, mmio_reads, mmio_writes, msr_reads, msr_writes;
    _Atomic uint64_t halts, sleeps, hypercalls, interrupts, exits;
};

struct vcpu {
    struct vm *vm;
    unsigned id;
    struct engine_vcpu *engine;
    _Atomic bool asleep; // in halt; whoever sets a bit in pending must wake it
    _Atomic bool unhalt; // the next HLT ends at once
    // Of the host's time, on the vCPU's thread: since when and with how much processor time it has been running guests,
    // and how much of that it slept because it wanted to; what was stolen before.
    uint64_t run_since, run_cpu, slept, stolen;
    struct thread *thread;
    struct vcpu_counters count;
};

extern const struct engine_upcalls vcpu_upcalls;

int vcpu_create(struct vm *vm, unsigned id, struct error *err);
void vcpu_destroy(struct vcpu *v);
void vcpu_main(void *vcpu);          // the thread
void vcpu_run_begin(struct vcpu *v); // the vCPU's thread is about to run guests, and does so no longer
void vcpu_run_end(struct vcpu *v);
void vcpu_stats(struct vcpu *v, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
