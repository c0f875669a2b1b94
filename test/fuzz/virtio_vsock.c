// The socket device before peers that take and give as much as they like, and break at any time. Each peer is checked
// to be closed exactly once, and never to be used afterwards.
#include "virtio.h"
#include "virtio/vsock.h"
#include "virtio/vsock_table.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CID = 3, PACKETS = 0x8000 };

struct vsock_peer {
    struct target *t;
    struct vsock_peer *next;
    struct vsock_connection *connection;
    bool closed;
    unsigned want;
};

struct target {
    struct fuzz_virtio v;
    struct vsock vsock;
    struct vsock_peer *peers;
    unsigned open;
    unsigned mood; // how the peers behave just now
    uint64_t sum;
};

static struct target *target_of(struct vsock *v)
{
    return (struct target *)((char *)v - offsetof(struct target, vsock));
}

static int start(struct vsock *v, struct error *err)
{
    (void)v, (void)err;
    return 0;
}

static void nothing(struct vsock *v)
{
    (void)v;
}

static struct vsock_peer *new_peer(struct target *t)
{
    struct vsock_peer *p = calloc(1, sizeof *p);
    FUZZ_CHECK(p);
    p->t = t;
    p->next = t->peers;
    t->peers = p;
    t->open++;
    return p;
}

static struct vsock_peer *connect(struct vsock *v, uint32_t port, struct vsock_connection *c)
{
    struct target *t = target_of(v);
    if (port & 8)
        return NULL;
    struct vsock_peer *p = new_peer(t);
    p->connection = c;
    return p;
}

static void opened(struct vsock_peer *p, uint32_t port)
{
    FUZZ_CHECK(!p->closed && port >= 1u << 30);
}

static int64_t read_peer(struct vsock_peer *p, void *data, size_t size)
{
    FUZZ_CHECK(!p->closed && size && size <= VSOCK_READ_MAX);
    unsigned mood = p->t->mood;
    if (mood & 1)
        return mood & 2 ? -EAGAIN : mood & 4 ? 0 : -ECONNRESET;
    size_t n = mood & 2 && size > 100 ? 100 : size;
    memset(data, 0x5a, n);
    if (mood & 0x80)
        p->t->mood |= 3; // it was all
    return (int64_t)n;
}

static int64_t write_peer(struct vsock_peer *p, const void *data, size_t size)
{
    FUZZ_CHECK(!p->closed && size && size <= VSOCK_BUFFER);
    unsigned mood = p->t->mood;
    for (size_t i = 0; i < size; i += 64)
        p->t->sum += ((const uint8_t *)data)[i];
    if (mood & 8)
        return mood & 0x10 ? -EPIPE : -EAGAIN;
    return mood & 0x10 ? 1 : (int64_t)size;
}

static void shut(struct vsock_peer *p, unsigned ways)
{
    FUZZ_CHECK(!p->closed && ways && !(ways & ~3u));
}

static void want(struct vsock_peer *p, unsigned ready)
{
    FUZZ_CHECK(!p->closed && !(ready & ~3u));
    p->want = ready;
}

static void close_peer(struct vsock_peer *p)
{
    FUZZ_CHECK(!p->closed);
    p->closed = true;
    p->t->open--;
}

static const struct vsock_ops ops = {.start = start,
                                     .stop = nothing,
                                     .wake = nothing,
                                     .connect = connect,
                                     .opened = opened,
                                     .read = read_peer,
                                     .write = write_peer,
                                     .shut = shut,
                                     .want = want,
                                     .close_peer = close_peer};

// As the backend does at the end of a round.
static void sweep(struct target *t)
{
    for (struct vsock_peer **link = &t->peers; *link;) {
        struct vsock_peer *p = *link;
        if (p->closed) {
            *link = p->next;
            free(p);
        } else {
            link = &p->next;
        }
    }
}

// A packet whose ports often meet a connection.
static void packet(struct target *t)
{
    struct fuzz_guest *g = &t->v.g;
    unsigned how = (unsigned)fuzz_take(g, 1);
    struct vsock_header h = {.src_cid = CID,
                             .dst_cid = VSOCK_CID_HOST,
                             .src_port = (uint32_t)fuzz_take(g, 1) & 3,
                             .dst_port = (how & 0x80 ? 1u << 30 : 0) + ((uint32_t)fuzz_take(g, 1) & 15),
                             .type = VSOCK_TYPE_STREAM,
                             .op = how & 7,
                             .flags = how >> 3 & 3,
                             .buf_alloc = (uint32_t)fuzz_take(g, 2) << (how & 0x20 ? 8 : 0),
                             .fwd_cnt = (uint32_t)fuzz_take(g, 1) << 6};
    if ((how & 7) == VSOCK_OP_RW)
        h.len = (uint32_t)fuzz_take(g, 2);
    if (how == 0xff)
        h.type = 2;
    if (how == 0x7f)
        h.dst_cid = 9;
    memcpy(g->f.ram + PACKETS, &h, sizeof h);
    struct fuzz_desc d[2] = {{PACKETS, sizeof h, 1, 1}, {0, h.len + (how == 0xfe ? 0u : 1u), 0, 0}};
    fuzz_virtio_offer(&t->v, 1, 0, d, 2);
}

static void backend(struct fuzz_virtio *v)
{
    struct target *t = (struct target *)v;
    struct fuzz_guest *g = &v->g;
    unsigned how = (unsigned)fuzz_take(g, 1);
    if (how & 0x80) {
        packet(t);
    } else if (how & 0x40) { // room for packets to the guest
        struct fuzz_desc d = {0x9000, how & 0x20 ? 4096 + 44 : (uint32_t)fuzz_take(g, 1), 2, 0};
        fuzz_virtio_offer(v, 0, how & 15, &d, 1);
    } else if (how & 0x20) {
        struct vsock_peer *p = new_peer(t);
        p->connection = t->vsock.call(t->vsock.ctx, how & 3, p);
        if (!p->connection)
            close_peer(p);
    } else if (how & 0x10) {
        t->mood = (unsigned)fuzz_take(g, 1);
    } else {
        struct vsock_peer *p = t->peers;
        for (unsigned n = (unsigned)fuzz_take(g, 1) & 7; p && p->next && n; n--)
            p = p->next;
        unsigned ready = how & 7 & (VSOCK_HANGUP | (p ? p->want : 0));
        if (p && !p->closed && ready)
            t->vsock.ready(t->vsock.ctx, p->connection, ready);
    }
    t->vsock.work(t->vsock.ctx);
    FUZZ_CHECK(v->dev->in_flight == 0);
    sweep(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct target t;
    fuzz_virtio_begin(&t.v, data, size);
    t.vsock = (struct vsock){.ops = &ops};
    t.peers = NULL;
    t.open = t.mood = 0;
    t.sum = 0;
    FUZZ_CHECK(virtio_vsock_create(&t.v.g.f.vm, "virtio-vsock0", &t.vsock, CID, &t.v.dev, NULL) == 0);
    t.v.backend = backend;
    fuzz_virtio_run(&t.v);
    t.vsock.work(t.vsock.ctx);
    fuzz_virtio_end(&t.v);
    FUZZ_CHECK(t.open == 0);
    sweep(&t);
    return 0;
}
