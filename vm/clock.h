// The virtual clock of a VM: everything that a guest can read the time from derives from this one.
//
// Units are guest nanoseconds since the machine was switched on. The TSC is the same clock in other units: tsc = ns *
// khz / 10^6. The clock can be paused and saved. Two sources: the host's TSC (scaled only if the guest's frequency
// differs), or, for tests and lockstep runs, a virtual one that moves only when it is told.
//
// Example: in a unit test, vm_clock_virtual(&vm->clock, 1000000); ... vm_clock_advance(vm, 5000000); runs every timer
// due within 5 ms, in order.
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct vm;

// Read on any thread without a lock; `sequence` is odd while pause or resume changes the fields, and readers try again.
struct vm_clock {
    uint32_t tsc_khz; // the guest's TSC frequency
    bool is_virtual;
    bool host_is_tsc;            // host source: the host's TSC; else its monotonic clock, counted as 1 GHz
    uint32_t host_khz;           // host source: frequency of the host's counter
    uint64_t ratio;              // guest ticks per host tick, 16.48 fixed point; 0: one to one
    _Atomic uint64_t virtual_ns; // virtual source: now
    _Atomic uint32_t sequence;
    _Atomic bool paused;
    _Atomic uint64_t tsc_offset; // guest TSC = scaled host counter + offset (modulo 2^64); meaningful while not paused
    _Atomic uint64_t paused_tsc; // guest TSC while paused
};

struct host_instant;

// tsc_khz 0: the host's own frequency. `since` as for host_counter_find. Starts at zero, running.
void vm_clock_host(struct vm_clock *c, uint32_t tsc_khz, const struct host_instant *since);
// Where the TSC is the host's plus a number, that number, good while the clock runs; else NULL.
const _Atomic uint64_t *vm_clock_tsc_offset(const struct vm_clock *c);
void vm_clock_virtual(struct vm_clock *c, uint32_t tsc_khz);
uint64_t vm_clock_tsc(const struct vm_clock *c);
uint64_t vm_clock_ns(const struct vm_clock *c);
uint64_t vm_clock_tsc_to_ns(const struct vm_clock *c, uint64_t tsc); // rounds up; saturates at VM_TIMER_NEVER
void vm_clock_pause(struct vm_clock *c);                             // one thread at a time; vm_pause does it
void vm_clock_resume(struct vm_clock *c);
// A restored machine's time, while paused: goes on at this TSC (host source) or at these nanoseconds (virtual source).
void vm_clock_set(struct vm_clock *c, uint64_t tsc, uint64_t ns);

// Virtual source only: moves time forward, running due timers in order of their deadlines. Each sees its own deadline
// as the present time. A timer that sets itself to a time that is not in the future runs again one nanosecond later.
void vm_clock_advance(struct vm *vm, uint64_t ns);

// Wall clock: seconds since 1970 UTC and nanoseconds; the host's for the host source, a fixed epoch (2000-01-01) plus
// ns for the virtual one.
void vm_clock_wall(const struct vm_clock *c, int64_t *seconds, uint32_t *nanoseconds);
