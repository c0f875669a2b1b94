// Timers in guest time.
//
// A timer belongs to a device, which embeds it. When it is due, its function is called on the event loop's thread (or
// by vm_clock_advance) with the device's lock held (unless the device is `unlocked`). It may arm itself again.
//
// Setting and cancelling are cheap, may be done on any thread and with the device's lock held. Who sets or cancels a
// timer with the device's lock held can be sure that it is not called for the old deadline any more. For an unlocked
// device that is not so: its function may be just about to take the device's own lock, and must look at the device's
// own state (compare the deadline) before it acts.
//
// A timer that serves one vCPU (the local APIC's) is bound to it by vm_timer_bind. While that vCPU sleeps in HLT, its
// own thread waits for the deadline and calls the function, so that a tick does not have to pass through the event
// loop's thread. While it runs guest code, the loop's thread calls it as for all others.
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
    // Guarded by the lock of the timer's queue (timer.c).
    uint64_t deadline; // guest ns, VM_TIMER_NEVER when not armed
    unsigned queue;    // 0, or 1 + the vCPU that it is bound to
    unsigned index;    // place in the queue's heap
    bool firing;       // taken off the heap, function not called yet
};

void vm_timer_init(struct vm_timer *t, struct device *dev, void (*fn)(struct device *, struct vm_timer *));
void vm_timer_bind(struct vm_timer *t, unsigned cpu);        // right after vm_timer_init
void vm_timer_set(struct vm_timer *t, uint64_t deadline_ns); // VM_TIMER_NEVER cancels
void vm_timer_cancel(struct vm_timer *t);
