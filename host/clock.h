// The host's clocks: monotonic time, wall time and the time stamp counter.
//
// Example: uint64_t t0 = host_monotonic_ns(); ... printf("%llu ns", host_monotonic_ns() - t0);
#pragma once
#include <stdint.h>

#define HOST_NEVER UINT64_MAX

uint64_t host_monotonic_ns(void);                        // CLOCK_MONOTONIC
void host_wall(int64_t *seconds, uint32_t *nanoseconds); // since 1970 UTC

// A counter that runs at the same constant rate on every CPU of the host, and that rate in kHz: the TSC where the host
// has an invariant one that its kernel trusts, else CLOCK_MONOTONIC itself at 1000000 kHz.
struct host_counter {
    uint32_t khz;
    uint8_t is_tsc;
    const char *source; // where the frequency was learnt from, for people
};

// One moment on two clocks: the TSC and CLOCK_MONOTONIC_RAW.
struct host_instant {
    uint64_t tsc, ns;
};

struct host_instant host_instant_now(void);

// Finds out (see clock.c for how exactly). `hint_khz` is what an earlier call found, or 0; it is taken as it is if the
// TSC agrees with it within 250 ppm. `since` (may be NULL) is a moment from which on to compare: the longer ago, the
// less is waited. Takes up to a millisecond, or 20 ms where the frequency must be measured.
void host_counter_find(struct host_counter *c, uint32_t hint_khz, const struct host_instant *since);
uint64_t host_counter_read(const struct host_counter *c);
