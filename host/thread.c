// Threads and futexes of Linux: see thread.h.
//
// Futexes are process-private. The timeout is absolute on CLOCK_MONOTONIC (FUTEX_WAIT_BITSET), so that a loop around a
// wait does not stretch it.
#include "host/thread.h"
#include "host/clock.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct thread {
    pthread_t id;
    char name[16]; // the kernel's limit
    void (*fn)(void *ctx);
    void *ctx;
};

static void *start(void *arg)
{
    struct thread *t = arg;
    pthread_setname_np(pthread_self(), t->name);
    // A sleep ends when it was asked to, not up to 50 us later (prctl(2), PR_SET_TIMERSLACK): guests' timers hang on
    // it.
    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul);
    t->fn(t->ctx);
    return NULL;
}

int thread_create(struct thread **out, const char *name, void (*fn)(void *ctx), void *ctx, struct error *err)
{
    struct thread *t = malloc(sizeof *t);
    if (!t)
        return error_set(err, ENOMEM, "thread %s: no memory", name);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->fn = fn;
    t->ctx = ctx;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = pthread_create(&t->id, NULL, start, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e) {
        free(t);
        return error_set(err, e, "thread %s: %s", name, strerror(e));
    }
    *out = t;
    return 0;
}

uint64_t thread_cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

void thread_yield(void)
{
    sched_yield();
}

void thread_join(struct thread *t)
{
    pthread_join(t->id, NULL);
    free(t);
}

void futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t until_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000)};
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected, until_ns == HOST_NEVER ? NULL : &ts, NULL,
            FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(_Atomic uint32_t *word, unsigned threads)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads > INT_MAX ? INT_MAX : threads, NULL, NULL, 0);
}
