// The receiver's side of a live migration: see receive.h.
#include "migrate/receive.h"
#include "host/clock.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DECIDE_S = 60, STEP_MS = 5 };

void receive_init(struct receiving *r, int fd, const _Atomic bool *cancel)
{
    *r = (struct receiving){.owner.fd = -1};
    wire_init(&r->c, fd, cancel);
}

static int unexpected(unsigned type, struct error *err)
{
    return error_set(err, EPROTO, "migration stream: a message %s at the wrong time", frame_name(type));
}

// One of the source's messages.
static int next(struct receiving *r, struct message *m, struct error *err)
{
    int e = wire_receive(&r->c, m, err);
    if (!e && m->type == MESSAGE_CANCEL)
        e = error_set(err, ECANCELED, "the source keeps the machine: %.*s", (int)m->size, (const char *)m->data);
    return e;
}

int receive_hello(struct receiving *r, struct error *err)
{
    struct message m;
    int e = next(r, &m, err);
    if (e)
        return e;
    if (m.type != MESSAGE_HELLO)
        return unexpected(m.type, err);
    return hello_read(&r->hello, m.data, m.size, err);
}

int receive_welcome(struct receiving *r, struct error *err)
{
    bool common = owner_watch(&r->owner, r->hello.owner, r->hello.id, NULL) == 0;
    const char *answer = common ? "{\"owner\": true}" : "{\"owner\": false}";
    return wire_send_small(&r->c, MESSAGE_WELCOME, answer, strlen(answer), err);
}

// --- contents

// A piece of one of `count` things: index, position, bytes.
static int take_piece(const struct message *m, unsigned count, uint64_t (*size)(const struct hello *, unsigned),
                      const struct hello *h,
                      int (*to)(void *, unsigned, uint64_t, const void *, size_t, struct error *), void *ctx,
                      struct error *err)
{
    uint64_t index = m->size < 16 ? UINT64_MAX : get_u64(m->data), at = m->size < 16 ? 0 : get_u64(m->data + 8);
    size_t bytes = m->size - 16;
    if (index >= count || !to || at > size(h, (unsigned)index) || bytes > size(h, (unsigned)index) - at)
        return error_set(err, EPROTO, "migration stream: a piece of a file that was not announced");
    return to(ctx, (unsigned)index, at, m->data + 16, bytes, err);
}

static uint64_t file_size(const struct hello *h, unsigned i)
{
    return h->file[i].bytes;
}

static uint64_t disk_size(const struct hello *h, unsigned i)
{
    return h->disk[i].bytes;
}

static int take_state(struct receiving *r, const struct message *m, struct error *err)
{
    if (m->size < 8)
        return error_set(err, EPROTO, "migration stream: a state that is none");
    r->state = malloc(m->size);
    if (!r->state)
        return error_set(err, ENOMEM, "migration: out of memory");
    r->stopped_ns = get_u64(m->data);
    r->state_size = m->size - 8;
    memcpy(r->state, m->data + 8, r->state_size);
    r->complete = true;
    return 0;
}

static int take(struct receiving *r, const struct message *m, struct receive_sink *sink, struct error *err)
{
    uint64_t count = 0;
    int e;
    switch (m->type) {
    case MESSAGE_PAGES:
        e = pages_apply(m->data, m->size, &sink->ram, &count, err);
        r->pages += count;
        return e;
    case MESSAGE_ZEROS:
        return zeros_apply(m->data, m->size, &sink->ram, &count, err);
    case MESSAGE_FILE:
        return take_piece(m, r->hello.files, file_size, &r->hello, sink->file, sink->ctx, err);
    case MESSAGE_DISK:
        return take_piece(m, r->hello.disks, disk_size, &r->hello, sink->disk, sink->ctx, err);
    case MESSAGE_ROUND:
        return wire_send_small(&r->c, MESSAGE_ROUND_DONE, m->data, m->size, err);
    case MESSAGE_STATE:
        return take_state(r, m, err);
    default:
        return unexpected(m->type, err);
    }
}

int receive_contents(struct receiving *r, struct receive_sink *sink, struct error *err)
{
    int e = 0;
    while (!e && !r->complete) {
        struct message m;
        e = next(r, &m, err);
        if (!e)
            e = take(r, &m, sink, err);
    }
    pages_ram_free(&sink->ram);
    return e;
}

// --- changing hands

// Until the source lets go of its lock, by dying or by deciding so. Its silence is no answer: it may stand still for
// ever, but it is not dead then.
static int claim(struct receiving *r, struct error *err)
{
    uint64_t until = host_monotonic_ns() + DECIDE_S * 1000000000ull;
    for (;;) {
        int e = owner_claim(&r->owner);
        if (!e)
            return 0;
        if (e == -ECANCELED)
            return error_set(err, ECANCELED, "the source keeps the machine");
        if (e != -EBUSY)
            return error_set(err, -e, "migration: taking the machine over: %s", strerror(-e));
        if (host_monotonic_ns() > until)
            return error_set(err, ETIMEDOUT, "the source neither gives the machine away nor keeps it");
        nanosleep(&(struct timespec){.tv_nsec = STEP_MS * 1000000L}, NULL);
    }
}

int receive_take_over(struct receiving *r, struct error *err)
{
    struct message m;
    r->c.deadline_ns = host_monotonic_ns() + DECIDE_S * 1000000000ull;
    int e = wire_send_small(&r->c, MESSAGE_READY, NULL, 0, err);
    if (!e)
        e = next(r, &m, err);
    if (!e && m.type != MESSAGE_COMMIT)
        e = unexpected(m.type, err);
    if (r->owner.fd < 0)
        return e;
    // With a file in common it has the last word: a source that is gone without a word may have been killed.
    return e == -ECANCELED || e == -EPROTO ? e : claim(r, err);
}

void receive_started(struct receiving *r)
{
    // If it does not arrive, the source finds out by the file, or asks its user.
    wire_send_small(&r->c, MESSAGE_STARTED, NULL, 0, NULL);
}

void receive_refuse(struct receiving *r, const char *why)
{
    if (r->c.fd >= 0)
        wire_send_small(&r->c, MESSAGE_REFUSED, why, strnlen(why, 255), NULL);
}

void receive_close(struct receiving *r)
{
    wire_close(&r->c);
    hello_free(&r->hello);
    free(r->state);
    r->state = NULL;
}
