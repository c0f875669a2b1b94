// Timers: see timer.h.
//
// One queue (a binary heap by deadline) for each vCPU and one for everybody else, each with its own lock. The event
// loop has one timer of its own; `armed` is the guest time that it is set to. The rules:
//   - Whoever makes a queue's first deadline earlier looks whether `armed` is later, and then moves it. A deadline that
//     moves back leaves it alone: the loop wakes for nothing once and sets itself right. So a system call is made only
//     when the earliest of all deadlines comes nearer.
//   - The loop's thread, when woken, first sets `armed` to never, then runs what is due in each queue, then arms for
//   the
//     earliest that is left. As `armed` is changed under its lock and a queue's `first` is written before that lock is
//     asked for, one of the two sides always sees the other.
//   - While a vCPU sleeps in HLT, its queue is `watched`: its own thread wakes at the first deadline. The loop then
//     leaves that queue out when it arms itself, but anybody who sets one of its timers to an earlier time from outside
//     arms the loop as always; so no deadline is lost, at worst two threads wake for it.
//
// A function is called with the device's lock but without the queue's. Between taking the timer off the heap and having
// the device's lock somebody may set or cancel it; that clears `firing`, and the call is left out.
//
// A guest can ask for deadlines in the past for ever; so a pass runs at most BATCH timers of a queue, and the loop gets
// to its other work in between.
#include "host/clock.h"
#include "host/loop.h"
#include "vm/alloc.h"
#include "vm/timers.h"
#include <stdatomic.h>
#include <string.h>

enum { BATCH = 32, NOT_QUEUED = ~0u };

struct timer_queue {
    struct vm_lock lock;
    struct vm_timer **heap;
    unsigned count, capacity;
    unsigned timers;        // that may come in; capacity is never less once the VM is complete
    _Atomic uint64_t first; // heap[0]'s deadline or VM_TIMER_NEVER; written under the lock
    _Atomic uint64_t fired; // for statistics; written under the lock
    _Atomic bool watched;
};

struct vm_timers {
    struct vm *vm;
    struct vm_lock arm_lock;
    uint64_t armed; // guarded by arm_lock
    _Atomic uint64_t arms;
    bool incomplete;
    struct timer_queue queue[1 + CPU_MAX];
};

struct vm_timers *vm_timers_create(struct vm *vm)
{
    struct vm_timers *ts = vm_alloc(sizeof *ts);
    if (!ts)
        return NULL;
    ts->vm = vm;
    ts->armed = VM_TIMER_NEVER;
    for (unsigned i = 0; i <= CPU_MAX; i++)
        ts->queue[i].first = VM_TIMER_NEVER;
    return ts;
}

void vm_timers_destroy(struct vm_timers *ts)
{
    if (!ts)
        return;
    if (ts->vm->loop)
        loop_timer(ts->vm->loop, HOST_NEVER, NULL, NULL);
    for (unsigned i = 0; i <= CPU_MAX; i++)
        vm_free(ts->queue[i].heap);
    vm_free(ts);
}

bool vm_timers_complete(const struct vm_timers *ts)
{
    return !ts->incomplete;
}

// --- the heap; the queue's lock is held

static void place(struct timer_queue *q, unsigned i, struct vm_timer *t)
{
    q->heap[i] = t;
    t->index = i;
}

static void sift_up(struct timer_queue *q, unsigned i, struct vm_timer *t)
{
    while (i) {
        unsigned parent = (i - 1) / 2;
        if (q->heap[parent]->deadline <= t->deadline)
            break;
        place(q, i, q->heap[parent]);
        i = parent;
    }
    place(q, i, t);
}

static void sift_down(struct timer_queue *q, unsigned i, struct vm_timer *t)
{
    for (;;) {
        unsigned child = 2 * i + 1;
        if (child >= q->count)
            break;
        if (child + 1 < q->count && q->heap[child + 1]->deadline < q->heap[child]->deadline)
            child++;
        if (t->deadline <= q->heap[child]->deadline)
            break;
        place(q, i, q->heap[child]);
        i = child;
    }
    place(q, i, t);
}

static void unqueue(struct timer_queue *q, struct vm_timer *t)
{
    unsigned i = t->index;
    t->index = NOT_QUEUED;
    t->deadline = VM_TIMER_NEVER;
    struct vm_timer *last = q->heap[--q->count];
    if (last == t)
        return;
    if (i && last->deadline < q->heap[(i - 1) / 2]->deadline)
        sift_up(q, i, last);
    else
        sift_down(q, i, last);
}

static void enqueue(struct timer_queue *q, struct vm_timer *t, uint64_t deadline)
{
    t->deadline = deadline;
    sift_up(q, q->count++, t);
}

static void note_first(struct timer_queue *q)
{
    q->first = q->count ? q->heap[0]->deadline : VM_TIMER_NEVER;
}

// --- the loop's timer

static void on_loop_timer(void *ctx);

static void arm_locked(struct vm_timers *ts, uint64_t deadline)
{
    if (deadline >= ts->armed || ts->vm->clock.paused)
        return;
    ts->armed = deadline;
    ts->arms++;
    uint64_t now = vm_clock_ns(&ts->vm->clock), host = host_monotonic_ns();
    uint64_t wait = deadline > now ? deadline - now : 0;
    loop_timer(ts->vm->loop, wait < HOST_NEVER - 1 - host ? host + wait : HOST_NEVER - 1, on_loop_timer, ts);
}

static void arm(struct vm_timers *ts, uint64_t deadline)
{
    if (!ts->vm->loop || deadline == VM_TIMER_NEVER)
        return;
    vm_lock(&ts->arm_lock);
    arm_locked(ts, deadline);
    vm_unlock(&ts->arm_lock);
}

// Runs timers of q that are due at `now`, at most BATCH of them.
static void run_due(struct timer_queue *q, uint64_t now)
{
    if (q->first > now)
        return;
    vm_lock(&q->lock);
    for (unsigned n = 0; n < BATCH && q->count && q->heap[0]->deadline <= now; n++) {
        struct vm_timer *t = q->heap[0];
        struct device *d = t->dev;
        unqueue(q, t);
        note_first(q);
        t->firing = true;
        q->fired++;
        vm_unlock(&q->lock);
        if (!d->ops->unlocked)
            vm_lock(&d->lock);
        vm_lock(&q->lock);
        bool still = t->firing;
        t->firing = false;
        vm_unlock(&q->lock);
        if (still)
            t->fn(d, t);
        if (!d->ops->unlocked)
            vm_unlock(&d->lock);
        vm_lock(&q->lock);
    }
    vm_unlock(&q->lock);
}

static uint64_t first_of_all(const struct vm_timers *ts, bool watched_too)
{
    uint64_t first = VM_TIMER_NEVER;
    for (unsigned i = 0; i <= ts->vm->cpus; i++) {
        const struct timer_queue *q = &ts->queue[i];
        if (q->first < first && (watched_too || !q->watched))
            first = q->first;
    }
    return first;
}

static void on_loop_timer(void *ctx)
{
    struct vm_timers *ts = ctx;
    vm_lock(&ts->arm_lock);
    ts->armed = VM_TIMER_NEVER;
    vm_unlock(&ts->arm_lock);
    if (ts->vm->clock.paused)
        return;
    uint64_t now = vm_clock_ns(&ts->vm->clock);
    for (unsigned i = 0; i <= ts->vm->cpus; i++)
        run_due(&ts->queue[i], now);
    arm(ts, first_of_all(ts, false));
}

void vm_timers_resume(struct vm_timers *ts)
{
    vm_lock(&ts->arm_lock);
    ts->armed = VM_TIMER_NEVER; // what was armed before the pause was for another host time
    vm_unlock(&ts->arm_lock);
    arm(ts, first_of_all(ts, true));
}

// A pass may make new timers due, but those of a sane device lie in the future: a few passes do.
void vm_timers_settle(struct vm_timers *ts)
{
    enum { PASSES = 64 };
    uint64_t now = vm_clock_ns(&ts->vm->clock);
    for (unsigned n = 0; n < PASSES && first_of_all(ts, true) <= now; n++)
        for (unsigned i = 0; i <= ts->vm->cpus; i++)
            run_due(&ts->queue[i], now);
}

// --- a sleeping vCPU

uint64_t vm_timers_sleep_begin(struct vm_timers *ts, unsigned cpu)
{
    struct timer_queue *q = &ts->queue[1 + cpu];
    q->watched = true;
    const struct vm_clock *c = &ts->vm->clock;
    uint64_t now = vm_clock_ns(c), host = host_monotonic_ns();
    if (q->first <= now && !c->paused) {
        run_due(q, now);
        return 0;
    }
    // A deadline before which the loop would wake for us alone: let it sleep.
    uint64_t first = q->first;
    if (first == VM_TIMER_NEVER || c->paused)
        return HOST_NEVER;
    vm_lock(&ts->arm_lock);
    if (ts->armed == first) {
        ts->armed = VM_TIMER_NEVER;
        uint64_t others = first_of_all(ts, false);
        if (others != VM_TIMER_NEVER)
            arm_locked(ts, others);
        else
            loop_timer(ts->vm->loop, HOST_NEVER, on_loop_timer, ts);
    }
    vm_unlock(&ts->arm_lock);
    return first - now < HOST_NEVER - 1 - host ? host + (first - now) : HOST_NEVER - 1;
}

void vm_timers_sleep_end(struct vm_timers *ts, unsigned cpu)
{
    struct timer_queue *q = &ts->queue[1 + cpu];
    q->watched = false;
    arm(ts, q->first);
}

// --- what devices call

// Makes room in a queue for one more timer, so that setting one never allocates.
static void reserve(struct vm_timers *ts, struct timer_queue *q)
{
    vm_lock(&q->lock);
    if (++q->timers > q->capacity) {
        unsigned capacity = q->capacity ? 2 * q->capacity : 8;
        struct vm_timer **heap = vm_alloc(capacity * sizeof *heap);
        if (heap) {
            if (q->count)
                memcpy(heap, q->heap, q->count * sizeof *heap);
            vm_free(q->heap);
            q->heap = heap;
            q->capacity = capacity;
        } else {
            ts->incomplete = true; // vm_reset refuses to start
        }
    }
    vm_unlock(&q->lock);
}

void vm_timer_init(struct vm_timer *t, struct device *dev, void (*fn)(struct device *, struct vm_timer *))
{
    *t = (struct vm_timer){.dev = dev, .fn = fn, .deadline = VM_TIMER_NEVER, .index = NOT_QUEUED};
    reserve(dev->vm->timers, &dev->vm->timers->queue[0]);
}

void vm_timer_bind(struct vm_timer *t, unsigned cpu)
{
    struct vm_timers *ts = t->dev->vm->timers;
    if (cpu >= CPU_MAX)
        return;
    ts->queue[0].timers--;
    t->queue = 1 + cpu;
    reserve(ts, &ts->queue[t->queue]);
}

void vm_timer_set(struct vm_timer *t, uint64_t deadline)
{
    struct vm_timers *ts = t->dev->vm->timers;
    struct timer_queue *q = &ts->queue[t->queue];
    vm_lock(&q->lock);
    t->firing = false;
    uint64_t before = q->first;
    if (t->index != NOT_QUEUED)
        unqueue(q, t);
    if (deadline != VM_TIMER_NEVER && q->count < q->capacity)
        enqueue(q, t, deadline);
    note_first(q);
    uint64_t first = q->first;
    vm_unlock(&q->lock);
    if (first < before)
        arm(ts, first);
}

void vm_timer_cancel(struct vm_timer *t)
{
    vm_timer_set(t, VM_TIMER_NEVER);
}

void vm_clock_advance(struct vm *vm, uint64_t ns)
{
    struct vm_timers *ts = vm->timers;
    struct vm_clock *c = &vm->clock;
    uint64_t end = c->virtual_ns + ns;
    for (;;) {
        uint64_t first = first_of_all(ts, true);
        if (first > end)
            break;
        uint64_t now = c->virtual_ns;
        if (first > now)
            c->virtual_ns = now = first;
        for (unsigned i = 0; i <= vm->cpus; i++)
            run_due(&ts->queue[i], now);
        if (first_of_all(ts, true) <= now) {
            if (now == end)
                break;
            c->virtual_ns = now + 1;
        }
    }
    c->virtual_ns = end;
}

void vm_timers_stats(const struct vm_timers *ts, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    uint64_t fired = 0;
    for (unsigned i = 0; i <= CPU_MAX; i++)
        fired += ts->queue[i].fired;
    emit(ctx, "timer.fired", fired);
    emit(ctx, "timer.armed", ts->arms);
}
