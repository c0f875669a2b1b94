// The event loop on epoll: see loop.h.
//
// Two file descriptors are the loop's own: an eventfd by which other threads wake it (posted messages, stop) and a
// timerfd. A source's epoll data is its address. Removing a source inside of a callback must not free it while the
// batch of events at hand may still name it; so it is only marked, and freed after the batch.
//
// The timer can be set from any thread while it expires. Reading the timerfd tells which it was: setting it again
// takes back an expiry that has not been read yet, so a callback never comes for a time that was replaced before.
#include "host/loop.h"
#include "host/clock.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { BATCH = 32 };

struct loop_source {
    struct loop *loop;
    int fd;
    unsigned events;
    void (*fn)(void *ctx, unsigned events);
    void *ctx;
    bool removed;
    struct loop_source *next; // in the loop's list of all, or of removed ones
};

struct message {
    void (*fn)(void *ctx);
    void *ctx;
    struct message *next;
};

struct loop {
    int epoll, wake, timer;
    struct loop_source wake_source, timer_source;
    struct loop_source *sources, *removed;
    _Atomic bool stop;
    pthread_mutex_t lock;          // guards the messages and the timer's function
    struct message *first, **last; // posted messages
    void (*timer_fn)(void *ctx);
    void *timer_ctx;
};

static int watch(struct loop *l, struct loop_source *s, int op, unsigned events)
{
    struct epoll_event e = {
        .events = (events & LOOP_READ ? EPOLLIN : 0u) | (events & LOOP_WRITE ? EPOLLOUT : 0u),
        .data.ptr = s,
    };
    return epoll_ctl(l->epoll, op, s->fd, &e);
}

static void on_wake(void *ctx, unsigned events)
{
    struct loop *l = ctx;
    (void)events;
    uint64_t n;
    if (read(l->wake, &n, sizeof n) < 0)
        return;
    pthread_mutex_lock(&l->lock);
    struct message *m = l->first;
    l->first = NULL;
    l->last = &l->first;
    pthread_mutex_unlock(&l->lock);
    while (m) { // what these post comes in the next round
        struct message *next = m->next;
        m->fn(m->ctx);
        free(m);
        m = next;
    }
}

static void on_timer(void *ctx, unsigned events)
{
    struct loop *l = ctx;
    (void)events;
    uint64_t expirations;
    pthread_mutex_lock(&l->lock);
    bool expired = read(l->timer, &expirations, sizeof expirations) == sizeof expirations;
    void (*fn)(void *) = l->timer_fn;
    void *fn_ctx = l->timer_ctx;
    pthread_mutex_unlock(&l->lock);
    if (expired && fn)
        fn(fn_ctx);
}

int loop_create(struct loop **out, struct error *err)
{
    struct loop *l = calloc(1, sizeof *l);
    if (!l)
        return error_set(err, ENOMEM, "event loop: no memory");
    l->last = &l->first;
    pthread_mutex_init(&l->lock, NULL);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    l->wake_source = (struct loop_source){.loop = l, .fd = l->wake, .fn = on_wake, .ctx = l};
    l->timer_source = (struct loop_source){.loop = l, .fd = l->timer, .fn = on_timer, .ctx = l};
    if (l->epoll < 0 || l->wake < 0 || l->timer < 0 || watch(l, &l->wake_source, EPOLL_CTL_ADD, LOOP_READ) < 0 ||
        watch(l, &l->timer_source, EPOLL_CTL_ADD, LOOP_READ) < 0) {
        int e = error_set(err, errno, "event loop: %s", strerror(errno));
        loop_destroy(l);
        return e;
    }
    *out = l;
    return 0;
}

static void free_sources(struct loop_source **list)
{
    while (*list) {
        struct loop_source *s = *list;
        *list = s->next;
        free(s);
    }
}

void loop_destroy(struct loop *l)
{
    while (l->first) {
        struct message *m = l->first;
        l->first = m->next;
        free(m);
    }
    free_sources(&l->sources);
    free_sources(&l->removed);
    for (int i = 0; i < 3; i++) {
        int fd = i == 0 ? l->timer : i == 1 ? l->wake : l->epoll;
        if (fd >= 0)
            close(fd);
    }
    pthread_mutex_destroy(&l->lock);
    free(l);
}

struct loop_source *loop_fd(struct loop *l, int fd, unsigned events, void (*fn)(void *ctx, unsigned events), void *ctx)
{
    struct loop_source *s = malloc(sizeof *s);
    if (!s)
        return NULL;
    *s = (struct loop_source){.loop = l, .fd = fd, .events = events, .fn = fn, .ctx = ctx};
    if (events && watch(l, s, EPOLL_CTL_ADD, events) < 0) {
        int e = errno;
        free(s);
        errno = e;
        return NULL;
    }
    s->next = l->sources;
    l->sources = s;
    return s;
}

void loop_fd_events(struct loop_source *s, unsigned events)
{
    if (s->removed || events == s->events)
        return;
    // epoll reports hang-up even if no event is asked for; a paused source therefore leaves the set.
    watch(s->loop, s, !s->events ? EPOLL_CTL_ADD : !events ? EPOLL_CTL_DEL : EPOLL_CTL_MOD, events);
    s->events = events;
}

void loop_remove(struct loop_source *s)
{
    if (!s || s->removed)
        return;
    loop_fd_events(s, 0);
    s->removed = true;
    struct loop_source **link = &s->loop->sources;
    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    s->next = s->loop->removed;
    s->loop->removed = s;
}

void loop_timer(struct loop *l, uint64_t ns, void (*fn)(void *ctx), void *ctx)
{
    struct itimerspec t = {0}; // all zero disarms
    if (ns != HOST_NEVER) {
        t.it_value.tv_sec = (time_t)(ns / 1000000000);
        t.it_value.tv_nsec = (long)(ns % 1000000000);
        if (!ns)
            t.it_value.tv_nsec = 1;
    }
    pthread_mutex_lock(&l->lock);
    l->timer_fn = fn;
    l->timer_ctx = ctx;
    timerfd_settime(l->timer, TFD_TIMER_ABSTIME, &t, NULL);
    pthread_mutex_unlock(&l->lock);
}

static void wake(struct loop *l)
{
    int e = errno; // loop_stop is called in signal handlers
    ssize_t n = write(l->wake, &(uint64_t){1}, sizeof(uint64_t));
    (void)n; // fails only if the counter is at its limit, and then the loop is awake anyway
    errno = e;
}

int loop_post(struct loop *l, void (*fn)(void *ctx), void *ctx)
{
    struct message *m = malloc(sizeof *m);
    if (!m)
        return -ENOMEM;
    *m = (struct message){.fn = fn, .ctx = ctx};
    pthread_mutex_lock(&l->lock);
    bool was_empty = !l->first;
    *l->last = m;
    l->last = &m->next;
    pthread_mutex_unlock(&l->lock);
    if (was_empty)
        wake(l);
    return 0;
}

static void dispatch(const struct epoll_event *e)
{
    struct loop_source *s = e->data.ptr;
    unsigned events = (e->events & EPOLLIN ? LOOP_READ : 0u) | (e->events & EPOLLOUT ? LOOP_WRITE : 0u);
    if (e->events & (EPOLLHUP | EPOLLERR))
        events |= LOOP_READ | (s->events & LOOP_WRITE);
    if (!s->removed)
        s->fn(s->ctx, events);
}

void loop_run(struct loop *l)
{
    while (!atomic_load(&l->stop)) {
        struct epoll_event event[BATCH];
        int n = epoll_wait(l->epoll, event, BATCH, -1);
        for (int i = 0; i < n; i++)
            dispatch(&event[i]);
        free_sources(&l->removed);
    }
    atomic_store(&l->stop, false);
}

void loop_stop(struct loop *l)
{
    atomic_store(&l->stop, true);
    wake(l);
}
