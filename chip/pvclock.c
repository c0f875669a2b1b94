// The paravirtual clock's pages.
//
// A page's line is ns = system_time + scale(tsc - tsc_timestamp). Guest time and guest TSC both begin at zero and stop
// together while the VM is paused (vm/clock.h), so the line through the origin holds for all CPUs and for ever: each
// page is written once, when the guest asks for it. All CPUs having the same line is what makes the clock "stable":
// the guest need not guard against going backwards when it looks at another CPU's page.
//
// A page's version is odd while it changes; readers try again then.
//
// Example: a guest that was paused for an hour finds an hour less on this clock than on the wall: its own time stood
// still.
#include "chip/pvclock.h"
#include "vm/alloc.h"
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

enum { MSR_WALL_OLD = 0x11, MSR_TIME_OLD = 0x12, MSR_WALL = 0x4b564d00, MSR_TIME = 0x4b564d01 };
enum { ENABLE = 1, FLAG_STABLE = 1, NS = 1000000000 };

// The guest's structures begin with a version, which is written by itself; these are what follows. They need not be
// aligned to more than 4 bytes.
struct time_page {
    uint32_t pad;
    uint64_t tsc_timestamp, system_time;
    uint32_t multiplier;
    int8_t shift;
    uint8_t flags, pad2[2];
} __attribute__((packed));

struct wall_page {
    uint32_t seconds, nanoseconds;
};

_Static_assert(sizeof(struct time_page) == 28 && sizeof(struct wall_page) == 8, "layout of the guest's structures");

// ns = ticks * 2^shift * multiplier / 2^32, the multiplier as large as it can be.
static void scale(uint32_t khz, uint32_t *multiplier, int8_t *shift)
{
    int s = 0;
    while (s < 31 && 1000000ull >= (uint64_t)khz << s)
        s++;
    while (s <= 0 && s > -31 && (uint64_t)1000000 << (1 - s) < khz)
        s--;
    *shift = s;
    *multiplier = ((unsigned __int128)1000000 << (32 - s)) / khz;
}

// Replaces what follows the version at gpa; nothing happens if that is no RAM.
static void publish(struct vm *vm, uint64_t gpa, const void *page, size_t size)
{
    _Atomic uint32_t *version = gpa & 3 ? NULL : vm_ram(vm, gpa, 4 + size, true);
    if (!version)
        return;
    uint32_t was = atomic_load_explicit(version, memory_order_relaxed) & ~1u;
    atomic_store_explicit(version, was | 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    memcpy((uint8_t *)version + 4, page, size);
    atomic_store_explicit(version, was + 2, memory_order_release);
    vm_ram_written(vm, gpa, 4 + size);
}

static void write_time(struct pvclock *p, unsigned cpu)
{
    struct time_page page = {.flags = FLAG_STABLE};
    uint32_t multiplier;
    int8_t shift;
    if (!(p->time_msr[cpu] & ENABLE))
        return;
    scale(p->dev.vm->clock.tsc_khz, &multiplier, &shift);
    page.multiplier = multiplier;
    page.shift = shift;
    publish(p->dev.vm, p->time_msr[cpu] & ~(uint64_t)ENABLE, &page, sizeof page);
}

static void write_wall(struct pvclock *p)
{
    struct vm *vm = p->dev.vm;
    int64_t seconds;
    uint32_t nanoseconds;
    vm_clock_wall(&vm->clock, &seconds, &nanoseconds);
    int64_t then = seconds * NS + nanoseconds - (int64_t)vm_clock_ns(&vm->clock);
    const struct wall_page page = {.seconds = then / NS, .nanoseconds = then % NS};
    publish(vm, p->wall_msr, &page, sizeof page);
}

static int msr_read(struct device *d, unsigned cpu, uint32_t msr, uint64_t *val)
{
    struct pvclock *p = (struct pvclock *)d;
    *val = msr == MSR_WALL || msr == MSR_WALL_OLD ? p->wall_msr : p->time_msr[cpu];
    return 0;
}

static int msr_write(struct device *d, unsigned cpu, uint32_t msr, uint64_t val)
{
    struct pvclock *p = (struct pvclock *)d;
    if (msr == MSR_WALL || msr == MSR_WALL_OLD) {
        p->wall_msr = val;
        write_wall(p);
    } else {
        p->time_msr[cpu] = val;
        write_time(p, cpu);
    }
    return 0;
}

static void reset(struct device *d)
{
    struct pvclock *p = (struct pvclock *)d;
    p->wall_msr = 0;
    for (unsigned i = 0; i < CPU_MAX; i++)
        p->time_msr[i] = 0;
}

static int loaded(struct device *d)
{
    struct pvclock *p = (struct pvclock *)d;
    for (unsigned i = 0; i < CPU_MAX; i++)
        write_time(p, i);
    return 0;
}

static void destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field fields[] = {
    STATE_U64(struct pvclock, wall_msr, 1),
    STATE_U64(struct pvclock, time_msr, 1),
    STATE_END,
};

static const struct state_table state = {"pvclock", 1, fields};

static const struct device_ops ops = {
    .name = "pvclock",
    .reset = reset,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .state = &state,
    .loaded = loaded,
    .destroy = destroy,
};

int pvclock_create(struct vm *vm, struct pvclock **out, struct error *err)
{
    struct pvclock *p = vm_alloc(sizeof *p);
    if (!p)
        return error_set(err, ENOMEM, "pvclock: out of memory");
    device_add(vm, &p->dev, &ops, "pvclock");
    *out = p;
    if (vm_msr_add(vm, MSR_WALL_OLD, MSR_TIME_OLD, &p->dev) || vm_msr_add(vm, MSR_WALL, MSR_TIME, &p->dev))
        return error_set(err, ENOSPC, "pvclock: its MSRs are taken or there are too many");
    return 0;
}
