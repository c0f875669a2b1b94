// See hub.h.
//
// Invariant, guarded by lock: byte number i of the output, for head - RING <= i < head, is ring[i % RING]; logged <=
// head; typed bytes are input[taken % INPUT ... given % INPUT), given - taken <= INPUT. Only the loop's thread takes
// input.
//
// Order of locks: a device's, then the hub's. So the hub calls nobody with its lock held.
#include "backend/hub.h"
#include "host/thread.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RING = 256 << 10, INPUT = 4 << 10, CHUNK = 16 << 10, GATHER_MS = 10, FLUSH_SECONDS = 2 };

struct hub {
    struct stream stream;
    struct stream *below;
    struct loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t printed, written; // for the log's thread; for who flushes
    uint64_t head, logged;
    uint64_t given, taken; // input
    bool stopping, idle;   // idle: the log's thread waits for output
    bool thirsty, pushing; // the watcher wants to hear of output; of room for input
    bool offering;         // a call of offer() is posted
    pthread_mutex_t watch_lock;
    void (*watch)(void *ctx);
    void *watch_ctx;
    int folder, log;
    char name[64];
    uint64_t log_size, limit;
    struct thread *thread; // of the log; NULL before the first byte
    char ring[RING];
    uint8_t input[INPUT];
};

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

// --- the log

static void open_log(struct hub *h)
{
    struct stat st;
    h->log = openat(h->folder, h->name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    h->log_size = h->log >= 0 && fstat(h->log, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void rotate(struct hub *h)
{
    char old[80];
    snprintf(old, sizeof old, "%s.1", h->name);
    if (renameat(h->folder, h->name, h->folder, old))
        unlinkat(h->folder, h->name, 0); // bounded it stays
    close(h->log);
    open_log(h);
}

// A host whose disk is full loses its log, not its machines.
static void log_chunk(struct hub *h, const char *data, size_t size)
{
    while (size) {
        if (h->log >= 0 && h->log_size >= h->limit / 2)
            rotate(h);
        if (h->log_size >= h->limit / 2)
            return;
        size_t part = h->log < 0 ? size : min(size, (size_t)(h->limit / 2 - h->log_size));
        ssize_t n = h->log < 0 ? -1 : write(h->log, data, part);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        h->log_size += (uint64_t)n;
        data += n;
        size -= (size_t)n;
    }
}

static struct timespec from_now(long ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += ms % 1000 * 1000000;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

// The lock is held. Guests print byte by byte: a moment's wait turns many into one write.
static void wait_for_output(struct hub *h)
{
    while (!h->stopping && h->head == h->logged) {
        h->idle = true;
        pthread_cond_wait(&h->printed, &h->lock);
    }
    h->idle = false;
    struct timespec until = from_now(GATHER_MS);
    while (!h->stopping && h->head - h->logged < CHUNK)
        if (pthread_cond_timedwait(&h->printed, &h->lock, &until) == ETIMEDOUT)
            break;
}

static void log_main(void *ctx)
{
    struct hub *h = ctx;
    static const char gap[] = "\n[output lost here]\n";
    char chunk[CHUNK];
    pthread_mutex_lock(&h->lock);
    for (;;) {
        wait_for_output(h);
        if (h->head == h->logged)
            break; // stopping, and all is written
        bool lost = h->head - h->logged > RING;
        if (lost)
            h->logged = h->head - RING;
        size_t n = min((size_t)(h->head - h->logged), min(CHUNK, RING - h->logged % RING));
        memcpy(chunk, h->ring + h->logged % RING, n);
        h->logged += n;
        pthread_mutex_unlock(&h->lock);
        if (lost)
            log_chunk(h, gap, sizeof gap - 1);
        log_chunk(h, chunk, n);
        pthread_mutex_lock(&h->lock);
        pthread_cond_broadcast(&h->written);
    }
    pthread_mutex_unlock(&h->lock);
}

// --- towards the guest

// Gives the device what was typed. Loop thread.
static void offer(void *ctx)
{
    struct hub *h = ctx;
    uint8_t bytes[256];
    bool room = false;
    pthread_mutex_lock(&h->lock);
    h->offering = false;
    while (h->taken < h->given) {
        size_t n = min((size_t)(h->given - h->taken), min(sizeof bytes, INPUT - h->taken % INPUT));
        memcpy(bytes, h->input + h->taken % INPUT, n);
        pthread_mutex_unlock(&h->lock);
        size_t took = h->stream.receive ? h->stream.receive(h->stream.ctx, bytes, n) : n;
        pthread_mutex_lock(&h->lock);
        h->taken += took;
        if (took && h->pushing) {
            h->pushing = false;
            room = true;
        }
        if (took < n)
            break; // the device says when it is ready
    }
    pthread_mutex_unlock(&h->lock);
    if (room) {
        pthread_mutex_lock(&h->watch_lock);
        if (h->watch)
            h->watch(h->watch_ctx);
        pthread_mutex_unlock(&h->watch_lock);
    }
}

// The lock is held.
static void post_offer(struct hub *h)
{
    if (!h->offering && h->taken < h->given)
        h->offering = loop_post(h->loop, offer, h) == 0;
}

size_t hub_type(struct hub *h, const void *data, size_t size)
{
    const uint8_t *from = data;
    pthread_mutex_lock(&h->lock);
    size_t n = min(size, INPUT - (size_t)(h->given - h->taken));
    for (size_t i = 0; i < n; i++)
        h->input[h->given++ % INPUT] = from[i];
    h->pushing |= n < size;
    post_offer(h);
    pthread_mutex_unlock(&h->lock);
    return n;
}

static size_t below_receive(void *ctx, const uint8_t *data, size_t size)
{
    struct hub *h = ctx;
    return h->stream.receive ? h->stream.receive(h->stream.ctx, data, size) : size;
}

static void stream_ready(struct stream *s)
{
    struct hub *h = (struct hub *)s;
    if (h->below)
        h->below->ops->ready(h->below);
    pthread_mutex_lock(&h->lock);
    post_offer(h);
    pthread_mutex_unlock(&h->lock);
}

// --- from the guest

static void stream_write(struct stream *s, const void *data, size_t size)
{
    struct hub *h = (struct hub *)s;
    const char *from = data;
    if (h->below)
        h->below->ops->write(h->below, data, size);
    pthread_mutex_lock(&h->lock);
    for (size_t left = size; left;) {
        size_t n = min(left, RING - h->head % RING);
        memcpy(h->ring + h->head % RING, from, n);
        h->head += n;
        from += n;
        left -= n;
    }
    // A machine that prints nothing does without the thread. If there can be none now, the next byte tries again.
    if (!h->thread && h->log >= 0 && size)
        thread_create(&h->thread, "log", log_main, h, NULL);
    if (h->idle || h->head - h->logged >= CHUNK)
        pthread_cond_signal(&h->printed);
    bool tell = h->thirsty;
    h->thirsty = false;
    pthread_mutex_unlock(&h->lock);
    if (tell) {
        pthread_mutex_lock(&h->watch_lock);
        if (h->watch)
            h->watch(h->watch_ctx);
        pthread_mutex_unlock(&h->watch_lock);
    }
}

size_t hub_read(struct hub *h, uint64_t *position, void *data, size_t size)
{
    pthread_mutex_lock(&h->lock);
    uint64_t oldest = h->head > RING ? h->head - RING : 0;
    if (*position < oldest)
        *position = oldest;
    size_t n = *position < h->head ? (size_t)(h->head - *position) : 0;
    n = min(min(n, size), RING - *position % RING);
    memcpy(data, h->ring + *position % RING, n);
    *position += n;
    if (!n)
        h->thirsty = true;
    pthread_mutex_unlock(&h->lock);
    return n;
}

uint64_t hub_tail(struct hub *h, size_t bytes)
{
    pthread_mutex_lock(&h->lock);
    uint64_t kept = h->head < RING ? h->head : RING, start = h->head - min(bytes, (size_t)kept), at = start;
    while (at < h->head && h->ring[at++ % RING] != '\n')
        ;
    pthread_mutex_unlock(&h->lock);
    // The very first line has nothing before it; a last line without an end is shown as far as it goes.
    return start && at < h->head ? at : start;
}

static void stream_flush(struct stream *s)
{
    struct hub *h = (struct hub *)s;
    if (h->below)
        h->below->ops->flush(h->below);
    struct timespec until = from_now(FLUSH_SECONDS * 1000);
    pthread_mutex_lock(&h->lock);
    while (h->thread && h->logged < h->head)
        if (pthread_cond_timedwait(&h->written, &h->lock, &until) == ETIMEDOUT)
            break;
    pthread_mutex_unlock(&h->lock);
}

static void stream_close(struct stream *s)
{
    hub_destroy((struct hub *)s);
}

struct stream *hub_stream(struct hub *h)
{
    return &h->stream;
}

void hub_watch(struct hub *h, void (*fn)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&h->watch_lock);
    h->watch = fn;
    h->watch_ctx = ctx;
    pthread_mutex_unlock(&h->watch_lock);
}

// --- making and ending

void hub_destroy(struct hub *h)
{
    pthread_mutex_lock(&h->lock);
    h->stopping = true;
    pthread_cond_signal(&h->printed);
    pthread_mutex_unlock(&h->lock);
    if (h->thread)
        thread_join(h->thread);
    if (h->below)
        h->below->receive = NULL;
    if (h->log >= 0)
        close(h->log);
    pthread_cond_destroy(&h->printed);
    pthread_cond_destroy(&h->written);
    pthread_mutex_destroy(&h->lock);
    pthread_mutex_destroy(&h->watch_lock);
    free(h);
}

int hub_create(const struct hub_options *o, struct hub **out, struct error *err)
{
    static const struct stream_ops ops = {stream_write, stream_ready, stream_flush, stream_close};
    struct hub *h = calloc(1, sizeof *h);
    if (!h)
        return error_set(err, ENOMEM, "console: out of memory");
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&h->lock, NULL);
    pthread_mutex_init(&h->watch_lock, NULL);
    pthread_cond_init(&h->printed, &monotonic);
    pthread_cond_init(&h->written, &monotonic);
    pthread_condattr_destroy(&monotonic);
    h->stream.ops = &ops;
    h->below = o->below;
    h->loop = o->loop;
    h->folder = o->folder;
    h->log = -1;
    h->limit = o->limit;
    if (o->folder >= 0) {
        snprintf(h->name, sizeof h->name, "%s", o->log);
        open_log(h);
        if (h->log < 0) {
            int e = errno;
            hub_destroy(h);
            return error_set(err, e, "console log: %s", strerror(e));
        }
    }
    if (h->below) {
        h->below->receive = below_receive;
        h->below->ctx = h;
    }
    *out = h;
    return 0;
}
