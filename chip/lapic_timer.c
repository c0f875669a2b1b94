// The local APIC's timer: one-shot, periodic and TSC-deadline (Intel SDM vol. 3, 11.5.4).
//
// The count is never counted: it follows from the time at which it began. timer_next is the time of the next interrupt,
// kept only while there is one to come (timer set, entry not masked); the VM's timer is armed for it. Before a register
// changes, lapic_timer_settle() delivers what fell due but was not seen yet by the (maybe late) event loop, so a guest
// can't lose an interrupt by writing to a register at the wrong moment. What follows is reckoned from the same moment
// (that which settle returns): with a second look at the clock, a short count that ends between the two would be lost.
//
// A guest may ask for a period of a nanosecond. The registers behave as asked, but interrupts are delivered at most
// every MIN_PERIOD, for each costs the host work that the guest isn't charged for.
//
// Example: initial 100000 with divide by 16 interrupts every 1.6 ms at a crystal clock of 1 GHz.
#include "chip/lapic.h"
#include "cpu/msr.h"

enum { MIN_PERIOD = 100000 }; // ns

static unsigned mode(const struct lapic *a)
{
    return a->lvt[LVT_TIMER] >> LVT_TIMER_SHIFT & 3;
}

static uint64_t now_ns(const struct lapic *a)
{
    return vm_clock_ns(&a->dev.vm->clock);
}

// Nanoseconds of one count.
static uint64_t tick(const struct lapic *a)
{
    unsigned code = (a->timer_divide & 3) | (a->timer_divide >> 1 & 4);
    return (1ull << ((code + 1) & 7)) * 1000000 / CPU_CRYSTAL_KHZ;
}

static uint64_t period(const struct lapic *a)
{
    return a->timer_initial * tick(a); // at most 2^32 * 128
}

static uint32_t count_at(const struct lapic *a, uint64_t now)
{
    uint64_t p = period(a), gone = now - a->timer_start;
    if (!p || mode(a) > LVT_TIMER_PERIODIC)
        return 0;
    if (mode(a) == LVT_TIMER_PERIODIC)
        gone %= p;
    return gone >= p ? 0 : a->timer_initial - gone / tick(a);
}

uint32_t lapic_timer_count(const struct lapic *a)
{
    return count_at(a, now_ns(a));
}

uint64_t lapic_timer_deadline(const struct lapic *a)
{
    if (mode(a) != LVT_TIMER_DEADLINE || vm_clock_tsc(&a->dev.vm->clock) >= a->tsc_deadline)
        return 0; // never set, or already over: then the hardware has cleared it
    return a->tsc_deadline;
}

void lapic_timer_arm(struct lapic *a, uint64_t now)
{
    uint64_t p = period(a), next = VM_TIMER_NEVER;
    if (mode(a) == LVT_TIMER_DEADLINE) {
        if (a->tsc_deadline)
            next = vm_clock_tsc_to_ns(&a->dev.vm->clock, a->tsc_deadline);
    } else if (p && mode(a) <= LVT_TIMER_PERIODIC) {
        uint64_t gone = now - a->timer_start;
        if (mode(a) == LVT_TIMER_PERIODIC)
            next = now + p - gone % p;
        else if (gone < p)
            next = now + p - gone;
    }
    if (a->lvt[LVT_TIMER] & LVT_MASKED)
        next = VM_TIMER_NEVER;
    a->timer_next = next;
    vm_timer_set(&a->timer, next);
}

// The timer has reached its time: interrupts, and says when it will be next.
static void expire(struct lapic *a, uint64_t now)
{
    if (mode(a) == LVT_TIMER_PERIODIC) {
        uint64_t p = period(a);
        a->timer_next += p;
        if (a->timer_next < now + MIN_PERIOD && p < MIN_PERIOD)
            a->timer_next = now + MIN_PERIOD;
        else if (a->timer_next <= now) // late by a whole period or more: those interrupts would have merged in IRR
            a->timer_next = now + p - (now - a->timer_start) % p;
    } else {
        a->timer_next = VM_TIMER_NEVER;
        if (mode(a) == LVT_TIMER_DEADLINE)
            a->tsc_deadline = 0;
    }
    lapic_local(a, LVT_TIMER);
}

uint64_t lapic_timer_settle(struct lapic *a)
{
    uint64_t now = now_ns(a);
    if (a->timer_next != VM_TIMER_NEVER) {
        if (now >= a->timer_next)
            expire(a, now);
    } else if (a->tsc_deadline && !lapic_timer_deadline(a)) {
        a->tsc_deadline = 0; // went by while the entry was masked
    }
    return now;
}

void lapic_timer_fire(struct device *d, struct vm_timer *t)
{
    struct lapic *a = (struct lapic *)d;
    vm_lock(&d->lock);
    lapic_timer_settle(a);
    vm_timer_set(t, a->timer_next);
    vm_unlock(&d->lock);
}

void lapic_timer_set_initial(struct lapic *a, uint32_t initial)
{
    if (mode(a) == LVT_TIMER_DEADLINE)
        return; // ignored in this mode
    a->timer_start = lapic_timer_settle(a);
    a->timer_initial = initial;
    lapic_timer_arm(a, a->timer_start);
}

// The count goes on from where it is, at the new pace.
void lapic_timer_set_divide(struct lapic *a, uint32_t divide)
{
    uint64_t now = lapic_timer_settle(a);
    uint32_t count = count_at(a, now);
    a->timer_divide = divide;
    a->timer_start = now - (a->timer_initial - count) * tick(a);
    lapic_timer_arm(a, now);
}

void lapic_timer_put(struct lapic *a, uint32_t initial, uint32_t current, uint32_t divide)
{
    uint64_t now = now_ns(a);
    a->timer_divide = divide;
    a->timer_initial = initial;
    a->timer_start = now - (uint64_t)(initial > current ? initial - current : 0) * tick(a);
    lapic_timer_arm(a, now);
}

void lapic_timer_set_deadline(struct lapic *a, uint64_t tsc)
{
    if (mode(a) != LVT_TIMER_DEADLINE)
        return; // ignored in the other modes
    uint64_t now = lapic_timer_settle(a);
    a->tsc_deadline = tsc;
    if (tsc && tsc <= vm_clock_tsc(&a->dev.vm->clock)) {
        a->tsc_deadline = 0; // already over: interrupts at once
        lapic_local(a, LVT_TIMER);
    }
    lapic_timer_arm(a, now);
}
