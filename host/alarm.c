// Alarms: see alarm.h. `due` is taken back before fn is called, so that a time which is set meanwhile is not lost.
#include "host/alarm.h"
#include "host/clock.h"
#include "host/thread.h"
#include <errno.h>
#include <stdlib.h>

struct alarm {
    void (*fn)(void *ctx);
    void *ctx;
    struct thread *thread;
    _Atomic uint64_t due;     // HOST_NEVER: not set
    _Atomic uint32_t changed; // counts up with every change of `due` or `stopping`
    _Atomic bool stopping;
};

static void run(void *ctx)
{
    struct alarm *a = ctx;
    for (;;) {
        uint32_t seen = atomic_load(&a->changed);
        if (atomic_load(&a->stopping))
            return;
        uint64_t due = atomic_load(&a->due);
        if (due > host_monotonic_ns())
            futex_wait(&a->changed, seen, due);
        else if (atomic_compare_exchange_strong(&a->due, &due, HOST_NEVER))
            a->fn(a->ctx);
    }
}

static void tell(struct alarm *a)
{
    atomic_fetch_add(&a->changed, 1);
    futex_wake(&a->changed, 1);
}

void alarm_by(struct alarm *a, uint64_t monotonic_ns)
{
    uint64_t due = atomic_load(&a->due);
    while (monotonic_ns < due)
        if (atomic_compare_exchange_weak(&a->due, &due, monotonic_ns)) {
            tell(a);
            return;
        }
}

int alarm_create(struct alarm **out, const char *name, void (*fn)(void *ctx), void *ctx, struct error *err)
{
    struct alarm *a = calloc(1, sizeof *a);
    if (!a)
        return error_set(err, ENOMEM, "%s: out of memory", name);
    a->fn = fn;
    a->ctx = ctx;
    atomic_store(&a->due, HOST_NEVER);
    int e = thread_create(&a->thread, name, run, a, err);
    if (e) {
        free(a);
        return e;
    }
    *out = a;
    return 0;
}

void alarm_destroy(struct alarm *a)
{
    atomic_store(&a->stopping, true);
    tell(a);
    thread_join(a->thread);
    free(a);
}
