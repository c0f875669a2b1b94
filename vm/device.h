// What a device is: one struct of functions.
//
// A device embeds struct device as its first member, is made by its own init function (which wires it: registers
// ranges, MSRs, timers), and from then on is reached only through these functions, each called with the device's lock
// held (unless ops->unlocked: then the device locks itself). Restoring a saved machine is init plus load: there is no
// second wiring.
//
// Saved state is a table of fields, so save and load are the same lines of code for every device (vm/state.h).
//
// Example: chip/rtc.c.
#pragma once
#include "vm/lock.h"
#include "vm/state.h"
#include <stdbool.h>
#include <stdint.h>

struct device;
struct vm;

// One access by a vCPU to a range that the device registered.
struct bus_access {
    unsigned cpu;    // who asks
    unsigned region; // the number given when the range was registered
    unsigned size;   // 1, 2, 4, 8
    uint64_t offset; // from the range's start; offset + size is within the range
};

struct device_ops {
    const char *name; // of the kind, e.g. "rtc"
    bool unlocked;    // the device does its own locking
    void (*reset)(struct device *d);
    // Waits until nothing that the device began is still under way on other threads (disk requests). Called with the
    // vCPUs stopped and without the device's lock, before any device is reset, saved or destroyed. May be NULL. What
    // other threads begin by themselves (a packet comes) must look at vm->frozen with the device's lock held, and wait:
    // virtio_pop does.
    void (*drain)(struct device *d);
    uint64_t (*read)(struct device *d, struct bus_access a);
    void (*write)(struct device *d, struct bus_access a, uint64_t val);
    // Where the engine itself keeps part of the device's state while vCPUs run (vm/engine_apic.h): the vCPUs stand
    // still now, it is to be fetched; they are about to run, it is to be handed over. Without the device's lock; always
    // in turn, release first. May be NULL.
    void (*hold)(struct device *d);
    void (*release)(struct device *d);
    // The CPU took an INIT, on its own thread and without the device's lock. May be NULL.
    void (*took_init)(struct device *d, unsigned cpu);
    // Model-specific registers registered with vm_msr_add. Return 0, or -1 for #GP.
    int (*msr_read)(struct device *d, unsigned cpu, uint32_t msr, uint64_t *val);
    int (*msr_write)(struct device *d, unsigned cpu, uint32_t msr, uint64_t val);
    const struct state_table *state; // what is saved; NULL if the device has no state
    int (*loaded)(struct device *d); // after load: check the (hostile) values, arm timers again. 0 or -EINVAL
    // Counters for people to read, with the lock held unless `unlocked`. May be NULL.
    void (*stats)(struct device *d, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
    void (*destroy)(struct device *d); // frees it; without the lock, nothing can reach the device any more
};

struct device {
    const struct device_ops *ops;
    struct vm *vm;
    char name[24]; // of this one, unique in the VM, e.g. "virtio-blk0"
    struct vm_lock lock;
    struct device *next; // in vm->devices
};

// Enters the device into the VM's list. Does not call reset: vm_reset does that for all of them before the first
// instruction.
void device_add(struct vm *vm, struct device *d, const struct device_ops *ops, const char *name);

// All devices in order of creation; the vCPUs are stopped. vm_reset does both.
void device_drain_all(struct vm *vm);
void device_reset_all(struct vm *vm);
// State that is the engine's while vCPUs run; once each however often it is called in a row.
void device_hold_all(struct vm *vm);
void device_release_all(struct vm *vm);
