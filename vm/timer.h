// Timers in guest time.
//
// A timer belongs to a device, which embeds it. When it is due, its function is called on the event loop's thread (or
// by vm_clock_advance) with the device's lock held (unless its ops say `unlocked`). It may arm itself again. Setting
// and cancelling are cheap and may be done with the device's lock held; a cancelled timer's function may still be about
// to wait for the lock, so functions check their own state (compare the deadline) before they act.
//
// Example: vm_timer_init(&pit->timer, &pit->dev, pit_tick); vm_timer_set(&pit->timer, vm_clock_ns(&vm->clock) + 54925);
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct device;

#define VM_TIMER_NEVER UINT64_MAX

struct vm_timer {
    struct device *dev;
    void (*fn)(struct device *dev, struct vm_timer *t);
    uint64_t deadline; // guest ns, VM_TIMER_NEVER when not armed; guarded by the VM's timer lock
    unsigned index;    // place in the heap; guarded likewise
};

void vm_timer_init(struct vm_timer *t, struct device *dev, void (*fn)(struct device *, struct vm_timer *));
void vm_timer_set(struct vm_timer *t, uint64_t deadline_ns); // VM_TIMER_NEVER cancels
void vm_timer_cancel(struct vm_timer *t);
