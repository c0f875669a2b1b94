// The source's side of a live migration: see send.h.
#include "migrate/send.h"
#include "host/clock.h"
#include "migrate/pages.h"
#include "migrate/sending.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define MS 1000000ull

enum {
    THROTTLE_FIRST = 20, // percent
    THROTTLE_STEP = 15,
    THROTTLE_MOST = 95,
    STOPPED_S = 30,      // what the receiver may take to become ready, beyond the time that sending takes
    STARTED_S = 30,      // to say that the machine runs
    TAKE_BACK_S = 5,     // for a process that is dying to let go of its lock
    SMALL = 256,         // pages that are always few enough to stop for
    UNKNOWN = 100 << 20, // bandwidth, bytes per second, before any was measured
};

// --- one message of the receiver

static int refused(const struct message *m, struct error *err)
{
    return error_set(err, ECONNREFUSED, "the receiver gives up: %.*s", (int)m->size, (const char *)m->data);
}

static int expect(struct wire *c, unsigned type, struct message *m, struct error *err)
{
    int e = wire_receive(c, m, err);
    if (e)
        return e;
    if (m->type == MESSAGE_REFUSED)
        return refused(m, err);
    return m->type == type
               ? 0
               : error_set(err, EPROTO, "the receiver says %s where %s is due", frame_name(m->type), frame_name(type));
}

// What comes unasked is bad news.
static int listen_to(struct wire *c, struct error *err)
{
    struct message m;
    if (!wire_readable(c))
        return 0;
    int e = wire_receive(c, &m, err);
    if (e)
        return e;
    return m.type == MESSAGE_REFUSED
               ? refused(&m, err)
               : error_set(err, EPROTO, "the receiver says %s when it was not asked", frame_name(m.type));
}

// --- the beginning

static int greet(struct sending *g, struct error *err)
{
    size_t size;
    struct message m;
    uint8_t *hello = hello_write(&g->s->hello, &size);
    if (!hello || size > (size_t)frame_limit(MESSAGE_HELLO)) {
        free(hello);
        return error_set(err, ENOMEM, "migration: what the machine is made of is too much to tell");
    }
    int e = wire_send(g->c, MESSAGE_HELLO, hello, size, err);
    free(hello);
    if (!e)
        e = expect(g->c, MESSAGE_WELCOME, &m, err);
    if (e)
        return e;
    json_t *j = json_loadb((const char *)m.data, m.size, 0, NULL);
    g->in_common = json_is_true(json_object_get(j, "owner"));
    json_decref(j);
    return 0;
}

static int send_file(struct sending *g, unsigned index, struct error *err)
{
    enum { PIECE = 1 << 20, HEAD = 16 };
    const struct migrate_file *f = &g->s->file[index];
    uint8_t *buffer = malloc(FRAME_HEADER + HEAD + PIECE);
    int e = buffer ? 0 : error_set(err, ENOMEM, "migration: out of memory");
    for (size_t at = 0; at < f->size && !e;) {
        size_t n = f->size - at < PIECE ? f->size - at : PIECE;
        put_u64(buffer + FRAME_HEADER, index);
        put_u64(buffer + FRAME_HEADER + 8, at);
        memcpy(buffer + FRAME_HEADER + HEAD, (const uint8_t *)f->data + at, n);
        e = wire_send(g->c, MESSAGE_FILE, buffer, HEAD + n, err);
        at += n;
    }
    free(buffer);
    return e;
}

// --- memory

static void keep_pace(struct sending *g)
{
    uint64_t limit = g->s->limits.bandwidth;
    if (!limit || g->stopped)
        return;
    uint64_t due = g->pace_since + (g->c->bytes - g->pace_bytes) * SECOND / limit;
    while (!g->s->cancel) {
        uint64_t now = host_monotonic_ns();
        if (now >= due)
            break;
        uint64_t wait = due - now < 20 * MS ? due - now : 20 * MS;
        nanosleep(&(struct timespec){.tv_nsec = (long)wait}, NULL);
    }
}

static int flush_pages(struct sending *g, struct error *err)
{
    if (!g->pages.count)
        return 0;
    unsigned count = g->pages.count;
    size_t size = pages_finish(&g->pages, g->s->limits.compress);
    int e = listen_to(g->c, err);
    if (!e)
        e = wire_send(g->c, MESSAGE_PAGES, g->pages.data, size, err);
    g->s->progress.pages_sent += count;
    g->s->progress.bytes_sent = g->c->bytes;
    if (!e)
        keep_pace(g);
    return e;
}

static int flush_zeros(struct sending *g, struct error *err)
{
    size_t size = zeros_finish(&g->zeros);
    return size ? wire_send(g->c, MESSAGE_ZEROS, g->zeros.data, size, err) : 0;
}

static int send_page(struct sending *g, uint64_t n, struct error *err)
{
    const uint8_t *page = g->s->ram + n * PAGE_BYTES;
    if (page_is_zero(page)) {
        if (g->first) // the receiver's memory begins as zeros
            return 0;
        g->s->progress.zeros_sent++;
        if (zeros_add(&g->zeros, n))
            return 0;
        int e = flush_zeros(g, err);
        zeros_add(&g->zeros, n);
        return e;
    }
    pages_add(&g->pages, n, page);
    return g->pages.count == PAGES_BATCH ? flush_pages(g, err) : 0;
}

// All pages of the bitmap, which is empty then.
static int send_marked(struct sending *g, struct error *err)
{
    uint64_t words = (g->s->ram_size / PAGE_BYTES + 63) / 64;
    int e = 0;
    for (uint64_t w = 0; w < words && !e; w++)
        while (g->marked[w] && !e) {
            unsigned bit = (unsigned)__builtin_ctzll(g->marked[w]);
            g->marked[w] &= g->marked[w] - 1;
            e = send_page(g, w * 64 + bit, err);
        }
    if (!e)
        e = flush_pages(g, err);
    return e ? e : flush_zeros(g, err);
}

static void mark(struct sending *g, uint64_t first, uint64_t end)
{
    for (uint64_t n = first; n < end; n++)
        g->marked[n / 64] |= 1ull << n % 64;
}

// What may be other than zero. Looking at holes would fill them.
static void mark_all(struct sending *g)
{
    uint64_t pages = g->s->ram_size / PAGE_BYTES;
    off_t at = 0;
    if (g->s->ram_fd < 0) {
        mark(g, 0, pages);
        return;
    }
    while ((uint64_t)at < g->s->ram_size) {
        off_t data = lseek(g->s->ram_fd, at, SEEK_DATA);
        if (data < 0) {
            if (errno != ENXIO) // a kernel that doesn't tell
                mark(g, (uint64_t)at / PAGE_BYTES, pages);
            return;
        }
        at = lseek(g->s->ram_fd, data, SEEK_HOLE);
        if (at <= data)
            at = (off_t)g->s->ram_size;
        mark(g, (uint64_t)data / PAGE_BYTES, ((uint64_t)at + PAGE_BYTES - 1) / PAGE_BYTES);
    }
}

static uint64_t count_marked(const struct sending *g)
{
    uint64_t n = 0;
    for (uint64_t w = 0; w < (g->s->ram_size / PAGE_BYTES + 63) / 64; w++)
        n += (unsigned)__builtin_popcountll(g->marked[w]);
    return n;
}

static int fetch(struct sending *g, struct error *err)
{
    int e = g->s->machine->log_fetch(g->s->ctx, g->marked, err);
    g->s->progress.pages_left = count_marked(g);
    return e;
}

// Sends what is marked and learns how fast that went.
static int round_of(struct sending *g, struct error *err)
{
    struct migrate_progress *p = &g->s->progress;
    uint64_t begin = host_monotonic_ns(), bytes = g->c->bytes, pages = p->pages_sent;
    uint8_t number[8];
    struct message m;
    g->pace_since = begin;
    g->pace_bytes = bytes;
    int e = send_marked(g, err);
    put_u64(number, p->rounds);
    if (!e)
        e = wire_send_small(g->c, MESSAGE_ROUND, number, sizeof number, err);
    if (!e)
        e = expect(g->c, MESSAGE_ROUND_DONE, &m, err);
    if (!e && (m.size != 8 || memcmp(m.data, number, 8) != 0))
        e = error_set(err, EPROTO, "the receiver speaks of another round");
    // In bytes of memory, compressed or not. Of little that was sent, the time says nothing.
    uint64_t took = host_monotonic_ns() - begin, sent = p->pages_sent - pages;
    if (took && sent >= SMALL)
        p->bandwidth = (uint64_t)((double)sent * PAGE_BYTES * 1e9 / (double)took);
    p->bytes_sent = g->c->bytes;
    p->rounds++;
    return e;
}

// Whether what is marked can be sent in the wanted time; what changing hands takes besides is left out of it.
static bool few_enough(const struct sending *g, uint64_t left)
{
    const struct migrate_source *s = g->s;
    uint64_t bandwidth = s->progress.bandwidth ? s->progress.bandwidth : UNKNOWN;
    double reserve = (double)s->limits.downtime_ns / 3 < 60e6 ? (double)s->limits.downtime_ns / 3 : 60e6;
    double ns = (double)left * PAGE_BYTES * 1e9 / (double)bandwidth;
    return left <= SMALL || ns <= (double)s->limits.downtime_ns - reserve;
}

static int copy_running(struct sending *g, struct error *err)
{
    struct migrate_source *s = g->s;
    uint64_t before = UINT64_MAX;
    mark_all(g);
    s->progress.pages_left = count_marked(g);
    g->first = true;
    for (;;) {
        int e = round_of(g, err);
        if (!e && s->machine->disks)
            e = s->machine->disks(s->ctx, false, g->c, &s->progress, err);
        g->first = false;
        if (!e)
            e = fetch(g, err);
        if (e)
            return e;
        uint64_t left = s->progress.pages_left;
        if (few_enough(g, left))
            return 0;
        if (s->limits.max_time_ns && host_monotonic_ns() - g->begin > s->limits.max_time_ns)
            return error_set(
                err, ETIME,
                "migration: the guest writes faster than the connection carries it, and --max-time is over");
        if (left > before / 10 * 7 && s->progress.throttle < THROTTLE_MOST) {
            unsigned t = s->progress.throttle ? s->progress.throttle + THROTTLE_STEP : THROTTLE_FIRST;
            s->progress.throttle = t > THROTTLE_MOST ? THROTTLE_MOST : t;
            s->machine->throttle(s->ctx, s->progress.throttle);
        }
        before = left;
    }
}

// --- standing still

static uint64_t wall_ns(void)
{
    int64_t seconds;
    uint32_t nanoseconds;
    host_wall(&seconds, &nanoseconds);
    return (uint64_t)seconds * SECOND + nanoseconds;
}

static int copy_stopped(struct sending *g, struct error *err)
{
    struct migrate_source *s = g->s;
    uint8_t *state = NULL, *buffer = NULL;
    size_t size = 0;
    struct message m;
    uint64_t stopped = wall_ns();
    int e = fetch(g, err);
    if (e)
        return e;
    uint64_t bandwidth = s->progress.bandwidth ? s->progress.bandwidth : UNKNOWN;
    g->c->deadline_ns = host_monotonic_ns() + STOPPED_S * SECOND +
                        (uint64_t)((double)s->progress.pages_left * PAGE_BYTES * 4e9 / (double)bandwidth);
    e = s->machine->state(s->ctx, &state, &size, err);
    // What saving wrote (requests that were under way have ended) belongs to it.
    if (!e)
        e = fetch(g, err);
    if (!e)
        e = send_marked(g, err);
    if (!e && s->machine->disks)
        e = s->machine->disks(s->ctx, true, g->c, &s->progress, err);
    if (!e && size + 8 > (size_t)frame_limit(MESSAGE_STATE))
        e = error_set(err, EMSGSIZE, "migration: the state of the devices is too large");
    if (!e && !(buffer = malloc(FRAME_HEADER + 8 + size)))
        e = error_set(err, ENOMEM, "migration: out of memory");
    if (!e) {
        put_u64(buffer + FRAME_HEADER, stopped);
        memcpy(buffer + FRAME_HEADER + 8, state, size);
        e = wire_send(g->c, MESSAGE_STATE, buffer, 8 + size, err);
    }
    free(buffer);
    free(state);
    return e ? e : expect(g->c, MESSAGE_READY, &m, err);
}

// From here on a cancel comes too late.
static enum migrate_outcome hand_over(struct sending *g, struct error *err)
{
    struct message m;
    struct error why = {.text = ""};
    g->s->progress.phase = MIGRATE_HANDING_OVER;
    g->c->cancel = NULL;
    g->c->deadline_ns = host_monotonic_ns() + STARTED_S * SECOND;
    if (g->in_common)
        owner_let_go(&g->owner);
    else if (owner_record(&g->owner, "gone", err))
        return MIGRATE_KEPT;
    int e = wire_send_small(g->c, MESSAGE_COMMIT, NULL, 0, &why);
    if (!e)
        e = expect(g->c, MESSAGE_STARTED, &m, &why);
    if (!e)
        return MIGRATE_MOVED;
    if (!g->in_common) {
        error_set(err, EREMOTEIO, "migration: whether the machine runs there is not known (%s); it stands still here",
                  why.text);
        return MIGRATE_UNDECIDED;
    }
    // The receiver's end, or its silence. A process that is being killed lets go of its lock a moment after its
    // sockets.
    uint64_t until = host_monotonic_ns() + TAKE_BACK_S * SECOND;
    while ((e = owner_take_back(&g->owner)) == -EBUSY && host_monotonic_ns() < until)
        nanosleep(&(struct timespec){.tv_nsec = 5 * MS}, NULL);
    if (e == -EBUSY)
        return MIGRATE_MOVED;
    if (e == -ESTALE) {
        error_set(err, EREMOTEIO, "migration: the receiver had taken the machine over, and has ended (%s)", why.text);
        return MIGRATE_LOST;
    }
    *err = why;
    return MIGRATE_KEPT;
}

static int go_on(struct sending *g, struct error *err)
{
    struct error why;
    uint64_t until = host_monotonic_ns() + TAKE_BACK_S * SECOND;
    int e;
    // Never again can anybody else take it, and only then does it run.
    if ((e = owner_keep(&g->owner, &why))) {
        *err = why;
        return e;
    }
    wire_send_small(g->c, MESSAGE_CANCEL, err->text, strnlen(err->text, 255), NULL);
    wire_close(g->c); // a receiver that waits for more ends, and with it what it has of the disks
    while ((e = g->s->machine->resume(g->s->ctx, &why)) == -EBUSY && host_monotonic_ns() < until)
        nanosleep(&(struct timespec){.tv_nsec = 5 * MS}, NULL);
    if (e)
        *err = why;
    return e;
}

static enum migrate_outcome stop_and_hand_over(struct sending *g, struct error *err)
{
    struct migrate_progress *p = &g->s->progress;
    uint64_t begin = host_monotonic_ns();
    enum migrate_outcome outcome = MIGRATE_KEPT;
    int e = g->s->machine->stop(g->s->ctx, err);
    if (e)
        return MIGRATE_KEPT;
    p->phase = MIGRATE_STOPPED;
    g->stopped = true;
    if (!copy_stopped(g, err))
        outcome = hand_over(g, err);
    if (outcome == MIGRATE_KEPT && go_on(g, err))
        outcome = MIGRATE_UNDECIDED;
    p->down_ns = host_monotonic_ns() - begin;
    return outcome;
}

static enum migrate_outcome migrate_all(struct sending *g, struct error *err)
{
    struct migrate_source *s = g->s;
    int e = greet(g, err);
    for (unsigned i = 0; i < s->hello.files && !e; i++)
        e = send_file(g, i, err);
    if (!e)
        e = s->machine->log_start(s->ctx, err);
    if (e)
        return MIGRATE_KEPT;
    s->progress.phase = MIGRATE_COPYING;
    e = copy_running(g, err);
    enum migrate_outcome outcome = e ? MIGRATE_KEPT : stop_and_hand_over(g, err);
    if (outcome == MIGRATE_KEPT) {
        s->machine->throttle(s->ctx, 0);
        s->machine->log_stop(s->ctx);
    }
    return outcome;
}

enum migrate_outcome migrate_send(struct migrate_source *s, struct wire *c, struct error *err)
{
    struct sending g = {.s = s, .c = c, .owner.fd = -1, .begin = host_monotonic_ns()};
    enum migrate_outcome outcome = MIGRATE_KEPT;
    g.marked = calloc((s->ram_size / PAGE_BYTES + 63) / 64, sizeof *g.marked);
    if (!g.marked || pages_batch_init(&g.pages) || zeros_batch_init(&g.zeros)) {
        error_set(err, ENOMEM, "migration: out of memory");
    } else if (!owner_offer(&g.owner, s->hello.owner, err)) {
        strcpy(s->hello.id, g.owner.id);
        outcome = migrate_all(&g, err);
        if (outcome == MIGRATE_KEPT && !g.stopped) {
            owner_keep(&g.owner, NULL);
            wire_send_small(c, MESSAGE_CANCEL, err->text, strnlen(err->text, 255), NULL);
        }
    }
    s->progress.phase = MIGRATE_ENDED;
    free(g.marked);
    pages_batch_free(&g.pages);
    zeros_batch_free(&g.zeros);
    owner_close(&g.owner);
    return outcome;
}
