// The output buffer and its thread: see output.h.
//
// Invariant, guarded by lock: tail <= head <= tail + SIZE. Both count all bytes ever printed; byte number i is ring[i %
// SIZE]. The thread copies a chunk, writes it without the lock, and then moves the tail to behind it, unless dropping
// has moved it further already.
#include "backend/output.h"
#include "host/thread.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 256 << 10, CHUNK = 4096, STALL = 5, FLUSH_SECONDS = 2, POLL_MS = 100 };

struct output {
    pthread_mutex_t lock;
    pthread_cond_t filled, drained;
    enum output_manner manner;
    int fd;
    bool writing, stopping, stalled;
    uint64_t head, tail;
    struct thread *thread; // NULL before the first byte
    char ring[SIZE];
};

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static struct timespec in_seconds(unsigned s)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += s;
    return t;
}

// One attempt to write: never blocks for longer than POLL_MS, so that a change of descriptor or the end is noticed.
// Returns bytes written.
static size_t write_some(int fd, const char *data, size_t size)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (poll(&p, 1, POLL_MS) <= 0)
        return 0;
    ssize_t n = write(fd, data, size);
    if (n > 0)
        return (size_t)n;
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    return size; // nobody will ever read this (EPIPE, EIO): let it go
}

static void pump(void *ctx)
{
    struct output *o = ctx;
    char chunk[CHUNK];
    pthread_mutex_lock(&o->lock);
    for (;;) {
        while (!o->stopping && (o->head == o->tail || o->fd < 0))
            pthread_cond_wait(&o->filled, &o->lock);
        if (o->stopping)
            break;
        uint64_t from = o->tail;
        size_t n = min(o->head - from, min(CHUNK, SIZE - from % SIZE));
        memcpy(chunk, o->ring + from % SIZE, n);
        int fd = o->fd;
        o->writing = true;
        pthread_mutex_unlock(&o->lock);
        size_t done = write_some(fd, chunk, n);
        pthread_mutex_lock(&o->lock);
        o->writing = false;
        if (done)
            o->stalled = false;
        if (from + done > o->tail)
            o->tail = from + done;
        pthread_cond_broadcast(&o->drained);
    }
    pthread_mutex_unlock(&o->lock);
}

void output_write(struct output *o, const void *data, size_t size)
{
    const char *from = data;
    pthread_mutex_lock(&o->lock);
    // Most outputs of most machines never have a byte. If there can be no thread now, the next write tries again; what
    // is printed is kept meanwhile.
    if (!o->thread && size)
        thread_create(&o->thread, "output", pump, o, NULL);
    while (size) {
        size_t room = SIZE - (size_t)(o->head - o->tail);
        if (!room && o->manner == OUTPUT_WAIT && !o->stalled && o->fd >= 0) {
            struct timespec until = in_seconds(STALL);
            if (pthread_cond_timedwait(&o->drained, &o->lock, &until) == ETIMEDOUT)
                o->stalled = true;
            continue;
        }
        if (!room) { // the oldest go
            o->tail += min(size, SIZE);
            continue;
        }
        size_t n = min(size, min(room, SIZE - o->head % SIZE));
        memcpy(o->ring + o->head % SIZE, from, n);
        o->head += n;
        from += n;
        size -= n;
        pthread_cond_signal(&o->filled);
    }
    pthread_mutex_unlock(&o->lock);
}

void output_fd(struct output *o, int fd)
{
    pthread_mutex_lock(&o->lock);
    o->fd = fd;
    while (o->writing)
        pthread_cond_wait(&o->drained, &o->lock);
    pthread_cond_signal(&o->filled);
    pthread_mutex_unlock(&o->lock);
}

void output_flush(struct output *o)
{
    struct timespec until = in_seconds(FLUSH_SECONDS);
    pthread_mutex_lock(&o->lock);
    while (o->thread && o->head != o->tail && o->fd >= 0)
        if (pthread_cond_timedwait(&o->drained, &o->lock, &until) == ETIMEDOUT)
            break;
    pthread_mutex_unlock(&o->lock);
}

void output_destroy(struct output *o)
{
    output_flush(o);
    pthread_mutex_lock(&o->lock);
    o->stopping = true;
    pthread_cond_broadcast(&o->filled);
    pthread_mutex_unlock(&o->lock);
    if (o->thread)
        thread_join(o->thread);
    pthread_cond_destroy(&o->filled);
    pthread_cond_destroy(&o->drained);
    pthread_mutex_destroy(&o->lock);
    free(o);
}

int output_create(struct output **out, int fd, enum output_manner manner, struct error *err)
{
    struct output *o = calloc(1, sizeof *o);
    if (!o)
        return error_set(err, ENOMEM, "console: out of memory");
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->filled, &monotonic);
    pthread_cond_init(&o->drained, &monotonic);
    pthread_condattr_destroy(&monotonic);
    o->fd = fd;
    o->manner = manner;
    *out = o;
    return 0;
}
