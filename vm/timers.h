// The inside of the timers, for vm/ alone: see timer.h for what devices see and timer.c for how it works.
#pragma once
#include "vm/vm.h"

struct vm_timers *vm_timers_create(struct vm *vm); // NULL: no memory
void vm_timers_destroy(struct vm_timers *ts);
bool vm_timers_complete(const struct vm_timers *ts); // false: there was no memory for all timers that were initialized

// Timers wait for a paused clock by themselves; after it goes on:
void vm_timers_resume(struct vm_timers *ts);

// While the clock is paused: fires what is due, so that no deadline that has passed is left.
void vm_timers_settle(struct vm_timers *ts);

// A vCPU that sleeps looks after its own timers. begin runs what is due and returns the host monotonic time until which
// the thread may sleep; end hands them back to the event loop.
uint64_t vm_timers_sleep_begin(struct vm_timers *ts, unsigned cpu);
void vm_timers_sleep_end(struct vm_timers *ts, unsigned cpu);

void vm_timers_stats(const struct vm_timers *ts, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
