// The virtual clock: see clock.h.
//
// Conversions between ticks and nanoseconds are exact: whole milliseconds (tsc / khz) and the rest apart, so that
// nothing overflows and no error grows with uptime. Example at 2600000 kHz: tsc 2600001 is 1000000 ns and 1 tick, and
// 1 tick * 10^6 / 2600000 = 0 ns rounded down, 1 rounded up.
#include "vm/clock.h"
#include "host/clock.h"
#include <stdatomic.h>
#include <string.h>

#define VIRTUAL_EPOCH 946684800 // 2000-01-01 00:00:00 UTC

static uint64_t host_ticks(const struct vm_clock *c)
{
    uint64_t t = host_counter_read(&(struct host_counter){.khz = c->host_khz, .is_tsc = c->host_is_tsc});
    return c->ratio ? (uint64_t)((unsigned __int128)t * c->ratio >> 48) : t;
}

void vm_clock_host(struct vm_clock *c, uint32_t tsc_khz, const struct host_instant *since)
{
    struct host_counter host;
    host_counter_find(&host, tsc_khz, since);
    memset(c, 0, sizeof *c);
    c->host_is_tsc = host.is_tsc;
    c->host_khz = host.khz;
    c->tsc_khz = tsc_khz ? tsc_khz : host.khz;
    if (c->tsc_khz != host.khz)
        c->ratio = ((unsigned __int128)c->tsc_khz << 48) / host.khz;
    c->tsc_offset = -host_ticks(c);
}

void vm_clock_virtual(struct vm_clock *c, uint32_t tsc_khz)
{
    memset(c, 0, sizeof *c);
    c->is_virtual = true;
    c->tsc_khz = tsc_khz ? tsc_khz : 1000000;
}

const _Atomic uint64_t *vm_clock_tsc_offset(const struct vm_clock *c)
{
    return c->is_virtual || !c->host_is_tsc || c->ratio ? NULL : &c->tsc_offset;
}

uint64_t vm_clock_tsc(const struct vm_clock *c)
{
    if (c->is_virtual) {
        uint64_t ns = c->virtual_ns;
        return ns / 1000000 * c->tsc_khz + ns % 1000000 * c->tsc_khz / 1000000;
    }
    for (;;) {
        uint32_t sequence = atomic_load_explicit(&c->sequence, memory_order_acquire);
        uint64_t tsc = atomic_load_explicit(&c->paused, memory_order_acquire)
                           ? atomic_load_explicit(&c->paused_tsc, memory_order_acquire)
                           : atomic_load_explicit(&c->tsc_offset, memory_order_acquire) + host_ticks(c);
        __asm__ volatile("lfence" ::: "memory"); // the counter is read before the sequence is looked at again
        if (!(sequence & 1) && sequence == atomic_load_explicit(&c->sequence, memory_order_relaxed))
            return tsc;
        __builtin_ia32_pause();
    }
}

uint64_t vm_clock_ns(const struct vm_clock *c)
{
    if (c->is_virtual)
        return c->virtual_ns;
    uint64_t tsc = vm_clock_tsc(c);
    return tsc / c->tsc_khz * 1000000 + tsc % c->tsc_khz * 1000000 / c->tsc_khz;
}

uint64_t vm_clock_tsc_to_ns(const struct vm_clock *c, uint64_t tsc)
{
    uint64_t ms = tsc / c->tsc_khz;
    uint64_t rest = (tsc % c->tsc_khz * 1000000 + c->tsc_khz - 1) / c->tsc_khz;
    return ms > (UINT64_MAX - rest) / 1000000 ? UINT64_MAX : ms * 1000000 + rest;
}

void vm_clock_pause(struct vm_clock *c)
{
    if (c->is_virtual || c->paused)
        return;
    c->sequence++; // first: nobody may read a time after the one that is kept
    c->paused_tsc = c->tsc_offset + host_ticks(c);
    c->paused = true;
    c->sequence++;
}

void vm_clock_resume(struct vm_clock *c)
{
    if (c->is_virtual || !c->paused)
        return;
    c->sequence++;
    c->tsc_offset = c->paused_tsc - host_ticks(c);
    c->paused = false;
    c->sequence++;
}

void vm_clock_set(struct vm_clock *c, uint64_t tsc, uint64_t ns)
{
    if (c->is_virtual) {
        c->virtual_ns = ns;
        return;
    }
    c->sequence++;
    c->paused_tsc = tsc;
    c->sequence++;
}

void vm_clock_wall(const struct vm_clock *c, int64_t *seconds, uint32_t *nanoseconds)
{
    if (!c->is_virtual) {
        host_wall(seconds, nanoseconds);
        return;
    }
    uint64_t ns = c->virtual_ns;
    *seconds = VIRTUAL_EPOCH + (int64_t)(ns / 1000000000);
    *nanoseconds = (uint32_t)(ns % 1000000000);
}
