// The virtio network card before a backend that sends frames of any size at any time, and refuses some.
#include "virtio.h"
#include "virtio/net.h"
#include <string.h>

struct target {
    struct fuzz_virtio v;
    struct net net;
    bool refuse;
    unsigned accepted;
    uint64_t sent;
};

static struct target *target_of(struct net *n)
{
    return (struct target *)((char *)n - offsetof(struct target, net));
}

static int start(struct net *n, struct error *err)
{
    (void)n, (void)err;
    return 0;
}

static void nothing(struct net *n)
{
    (void)n;
}

static bool send(struct net *n, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct target *t = target_of(n);
    FUZZ_CHECK(size >= NET_ETHERNET && size <= NET_FRAME_MAX);
    FUZZ_CHECK(!(h->flags & ~NET_HEADER_NEEDS_CSUM) && (h->flags || !h->gso_type));
    FUZZ_CHECK(!h->flags || ((t->net.takes & NET_CSUM) && h->csum_start + h->csum_offset + 2u <= size));
    FUZZ_CHECK(h->gso_type != NET_GSO_TCPV4 || (t->net.takes & NET_TSO4));
    FUZZ_CHECK(h->gso_type != NET_GSO_TCPV6 || (t->net.takes & NET_TSO6));
    for (size_t i = 0; i < size; i += 64)
        t->sent += frame[i];
    t->sent += frame[size - 1];
    return !t->refuse;
}

static void accept(struct net *n, unsigned offloads)
{
    struct target *t = target_of(n);
    FUZZ_CHECK(!(offloads & ~t->net.gives));
    t->accepted = offloads;
}

static const struct net_ops ops = {.start = start, .stop = nothing, .wake = nothing, .send = send, .accept = accept};

static void backend(struct fuzz_virtio *v)
{
    struct target *t = (struct target *)v;
    static const uint8_t frame[NET_FRAME_MAX];
    unsigned how = (unsigned)fuzz_take(&v->g, 1);
    t->refuse = (how & 7) == 7;
    if (how & 0x80) {
        t->net.transmit(t->net.ctx);
        return;
    }
    if ((how & 0x70) == 0x70) {
        t->net.link(t->net.ctx, how & 1);
        return;
    }
    struct net_header h = {.flags = (uint8_t)(how >> 3 & 3), .csum_start = 14, .csum_offset = 2};
    if (how & 0x20)
        h.gso_type = how & 1 ? NET_GSO_TCPV4 : NET_GSO_TCPV6;
    h.gso_size = 1000;
    size_t size = fuzz_take(&v->g, 2);
    t->net.receive(t->net.ctx, &h, frame, how & 0x40 ? size : size % 2048);
    FUZZ_CHECK(v->dev->in_flight == 0); // whatever came of it
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    struct target t;
    fuzz_virtio_begin(&t.v, data, size);
    unsigned how = (unsigned)fuzz_take(&t.v.g, 1);
    t.net = (struct net){.ops = &ops, .takes = how & 7, .gives = how >> 3 & 7, .mtu = how & 0x40 ? 9000 : 0};
    t.refuse = false;
    t.accepted = 0;
    t.sent = 0;
    FUZZ_CHECK(virtio_net_create(&t.v.g.f.vm, "virtio-net0", &t.net, mac, &t.v.dev, NULL) == 0);
    t.v.backend = backend;
    fuzz_virtio_run(&t.v);
    fuzz_virtio_end(&t.v);
    return 0;
}
