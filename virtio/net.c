// The virtio network card (Virtio 1.2, 5.1): one pair of queues.
//
// Threads. A kick by the driver does nothing but wake the backend; frames are moved on the backend's thread (vm/net.h).
// It enters the queue's kick itself (`serving`), so that the rules of virtio/device.h hold: one at a time, a budget, a
// reset meanwhile does no harm.
//
// Out. A frame is copied out of guest memory and its chain given back before it is sent, so a driver that changes it
// meanwhile changes nothing, and no chain is in flight while the lock is free. A frame that the backend refuses is
// `held` in our buffer and goes first the next time.
//
// In. With mergeable buffers a frame may fill several chains (5.1.6.4). Its number stands in the first one's header and
// the driver expects to find them all once it sees the first, so they are given back by one step of the ring's index.
// If there are not enough, they stay in the ring and the frame with the backend:
//
//     chains of 1536 bytes, a frame of 4000:   [header 1524 | 1536 | 940 ]   num_buffers 3
//
// Frames that come while no driver is there are dropped, as on a card that is down. So are those that the driver could
// not take however long we wait (larger than all its buffers; an offload that it did not accept).
//
// Offloads are the backend's: the card only checks that a header says nothing that was not negotiated, and that the
// checksum lies within the frame.
#include "virtio/net.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

enum { RECEIVE, TRANSMIT, QUEUES, QUEUE_SIZE = 256 };
enum { NOTIFY_EVERY = 16, BYTES_PER_CHAIN = 4096 }; // chains given back before the driver hears of it; one's work

#define NET_F_CSUM (1ull << 0)
#define NET_F_GUEST_CSUM (1ull << 1)
#define NET_F_MTU (1ull << 3)
#define NET_F_MAC (1ull << 5)
#define NET_F_GUEST_TSO4 (1ull << 7)
#define NET_F_GUEST_TSO6 (1ull << 8)
#define NET_F_HOST_TSO4 (1ull << 11)
#define NET_F_HOST_TSO6 (1ull << 12)
#define NET_F_MRG_RXBUF (1ull << 15)
#define NET_F_STATUS (1ull << 16)

enum { STATUS_LINK_UP = 1 };

struct net_config { // 5.1.4
    uint8_t mac[6];
    uint16_t status, max_virtqueue_pairs, mtu;
};
_Static_assert(sizeof(struct net_config) == 12, "Virtio 1.2, 5.1.4");

enum verdict { TAKEN, DROPPED, NO_ROOM };

struct virtio_net {
    struct virtio_device virtio;
    struct net *net;
    struct net_config config;
    struct virtq_chain first, more, out;    // being filled, being sent
    struct virtq_used used[VIRTQ_SIZE_MAX]; // of the frame being received
    bool serving;                           // the backend's thread is in our transmit kick
    bool starved;                           // the backend waits for room
    bool held;                              // `frame` is still to be sent
    bool announce;                          // others are to be told where the card is now
    unsigned accepted;                      // offloads that the backend was told of
    const struct net_header *in_header;     // while a frame is being received
    const uint8_t *in;
    size_t in_size;
    enum verdict verdict;
    uint64_t rx_frames, rx_bytes, rx_dropped, tx_frames, tx_bytes, tx_dropped; // for statistics
    struct net_header header;                                                  // of `frame`
    size_t size;
    uint8_t frame[NET_FRAME_MAX];
};

// ---- in

static unsigned offloads(const struct virtio_net *n, uint64_t csum, uint64_t tso4, uint64_t tso6)
{
    const struct virtio_device *d = &n->virtio;
    if (!virtio_has(d, csum))
        return 0; // the others need it (5.1.3.1)
    return NET_CSUM | (virtio_has(d, tso4) ? NET_TSO4 : 0u) | (virtio_has(d, tso6) ? NET_TSO6 : 0u);
}

// Whether a frame needs no more than these offloads and its header makes sense.
static bool allowed(const struct net_header *h, size_t size, unsigned offloads)
{
    if (h->flags & NET_HEADER_NEEDS_CSUM) {
        if (!(offloads & NET_CSUM) || (size_t)h->csum_start + h->csum_offset + 2 > size)
            return false;
    } else if (h->gso_type != NET_GSO_NONE) {
        return false;
    }
    switch (h->gso_type) {
    case NET_GSO_NONE:
        return true;
    case NET_GSO_TCPV4:
        return (offloads & NET_TSO4) && h->gso_size;
    case NET_GSO_TCPV6:
        return (offloads & NET_TSO6) && h->gso_size;
    default:
        return false;
    }
}

// Writes as much of the frame as goes into the chain; returns how much. The header lies before the first piece.
static size_t fill(struct virtio_net *n, const struct virtq_chain *c, size_t done, unsigned before)
{
    uint64_t room = c->in_bytes - before;
    size_t left = n->in_size - done;
    return virtq_chain_write(n->virtio.dev.vm, c, before, n->in + done, left < room ? left : (size_t)room);
}

static enum verdict place(struct virtio_net *n)
{
    struct virtio_device *d = &n->virtio;
    bool merge = virtio_has(d, NET_F_MRG_RXBUF);
    struct net_header h = *n->in_header;
    unsigned chains = 0;
    size_t done = 0;
    if (!virtio_has(d, NET_F_GUEST_CSUM))
        h.flags &= (uint8_t)~NET_HEADER_DATA_VALID;
    if (!allowed(&h, n->in_size, offloads(n, NET_F_GUEST_CSUM, NET_F_GUEST_TSO4, NET_F_GUEST_TSO6)))
        return DROPPED;
    while (done < n->in_size) {
        struct virtq_chain *c = chains ? &n->more : &n->first;
        unsigned before = chains ? 0 : sizeof h;
        if ((chains && !merge) || chains == VIRTQ_SIZE_MAX || !virtio_pop(d, RECEIVE, c)) {
            // More will come, unless these were all that the ring can hold or all that a frame may have.
            bool never =
                (chains && !merge) || chains >= d->queue[RECEIVE].ring.size || (d->status & VIRTIO_NEEDS_RESET);
            virtio_unpop(d, RECEIVE, chains);
            return never ? DROPPED : NO_ROOM;
        }
        if (c->in_bytes < before) {
            virtio_broken(d, "receive buffer smaller than a header");
            virtio_unpop(d, RECEIVE, chains + 1);
            return DROPPED;
        }
        size_t written = fill(n, c, done, before);
        done += written;
        n->used[chains++] = (struct virtq_used){c->head, (uint32_t)(written + before)};
    }
    h.num_buffers = (uint16_t)chains;
    virtq_chain_write(d->dev.vm, &n->first, 0, &h, sizeof h);
    virtio_push_together(d, RECEIVE, n->first.epoch, n->used, chains);
    virtio_notify(d, RECEIVE);
    return TAKEN;
}

static void receive_kick(struct virtio_net *n)
{
    if (n->in) {
        n->verdict = place(n);
    } else if (n->starved) { // there are new buffers, and the backend waits for them
        n->starved = false;
        n->net->ops->wake(n->net);
    }
}

static bool receive(void *ctx, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct virtio_net *n = ctx;
    if (size < NET_ETHERNET || size > NET_FRAME_MAX)
        return true;
    vm_lock(&n->virtio.dev.lock);
    n->in_header = h;
    n->in = frame;
    n->in_size = size;
    n->verdict = DROPPED; // what it stays if the device is not in operation
    virtio_kick(&n->virtio, RECEIVE);
    n->in = NULL;
    bool over = n->verdict != NO_ROOM;
    n->starved = !over;
    n->rx_frames += n->verdict == TAKEN;
    n->rx_bytes += n->verdict == TAKEN ? size : 0;
    n->rx_dropped += n->verdict == DROPPED;
    vm_unlock(&n->virtio.dev.lock);
    return over;
}

// ---- out

// Copies a chain's frame into our buffer. False if it is none that can be sent.
static bool gather(struct virtio_net *n, const struct virtq_chain *c)
{
    struct net_header *h = &n->header;
    if (virtq_chain_read(c, 0, h, sizeof *h) < sizeof *h) {
        virtio_broken(&n->virtio, "frame without a header");
        return false;
    }
    uint64_t size = c->out_bytes - sizeof *h;
    if (size < NET_ETHERNET || size > NET_FRAME_MAX)
        return false;
    h->flags &= NET_HEADER_NEEDS_CSUM;
    h->num_buffers = 0;
    if (!allowed(h, size, offloads(n, NET_F_CSUM, NET_F_HOST_TSO4, NET_F_HOST_TSO6)))
        return false;
    n->size = virtq_chain_read(c, sizeof *h, n->frame, size);
    return true;
}

// Hands the frame in our buffer down; the lock is let go meanwhile.
static void send(struct virtio_net *n)
{
    vm_unlock(&n->virtio.dev.lock);
    bool sent = n->net->ops->send(n->net, &n->header, n->frame, n->size);
    vm_lock(&n->virtio.dev.lock);
    n->held = !sent;
    n->tx_frames += sent;
    n->tx_bytes += sent ? n->size : 0;
}

static void transmit_kick(struct virtio_net *n)
{
    struct virtio_device *d = &n->virtio;
    if (!n->serving) {
        n->net->ops->wake(n->net);
        return;
    }
    unsigned chains = 0;
    while (!n->held && virtio_pop(d, TRANSMIT, &n->out)) {
        bool good = gather(n, &n->out);
        virtio_push(d, TRANSMIT, &n->out, 0);
        if (++chains % NOTIFY_EVERY == 0)
            virtio_notify(d, TRANSMIT);
        n->tx_dropped += !good;
        if (!good)
            continue;
        virtio_spend(d, TRANSMIT, (unsigned)(n->size / BYTES_PER_CHAIN));
        send(n);
    }
    virtio_notify(d, TRANSMIT);
}

// What the driver accepted, as far as the backend can give it.
static void tell_backend(struct virtio_net *n)
{
    unsigned accepted =
        n->virtio.status & VIRTIO_DRIVER_OK ? offloads(n, NET_F_GUEST_CSUM, NET_F_GUEST_TSO4, NET_F_GUEST_TSO6) : 0;
    if (accepted == n->accepted)
        return;
    n->accepted = accepted;
    vm_unlock(&n->virtio.dev.lock);
    n->net->ops->accept(n->net, accepted);
    vm_lock(&n->virtio.dev.lock);
}

// RFC 903: a request for one's own address, which switches learn from and nobody answers.
static void announce(struct virtio_net *n)
{
    static const uint8_t rarp[] = {0x80, 0x35, 0, 1, 8,
                                   0,    6,    4, 0, 3}; // type; Ethernet, IPv4, lengths, request reverse
    const uint8_t *mac = n->config.mac;
    n->announce = false;
    memset(n->frame, 0, 60);
    memset(n->frame, 0xff, 6);
    memcpy(n->frame + 6, mac, 6);
    memcpy(n->frame + 12, rarp, sizeof rarp);
    memcpy(n->frame + 22, mac, 6); // sender
    memcpy(n->frame + 32, mac, 6); // target
    n->header = (struct net_header){0};
    n->size = 60;
    send(n);
}

static void transmit(void *ctx)
{
    struct virtio_net *n = ctx;
    vm_lock(&n->virtio.dev.lock);
    tell_backend(n);
    if (n->held)
        send(n);
    if (n->announce && !n->held)
        announce(n);
    if (!n->held) {
        n->serving = true;
        virtio_kick(&n->virtio, TRANSMIT);
        n->serving = false;
    }
    vm_unlock(&n->virtio.dev.lock);
}

// ---- both

static void link(void *ctx, bool up)
{
    struct virtio_net *n = ctx;
    uint16_t status = up ? STATUS_LINK_UP : 0;
    vm_lock(&n->virtio.dev.lock);
    if (n->config.status != status) {
        n->config.status = status;
        virtio_config_changed(&n->virtio);
    }
    vm_unlock(&n->virtio.dev.lock);
}

static void net_kick(struct virtio_device *d, unsigned queue)
{
    struct virtio_net *n = (struct virtio_net *)d;
    if (queue == RECEIVE)
        receive_kick(n);
    else
        transmit_kick(n);
}

static void net_reset(struct virtio_device *d)
{
    struct virtio_net *n = (struct virtio_net *)d;
    n->held = false;
    n->starved = false;
    n->net->ops->wake(n->net); // a frame that it keeps for us may go
}

static void net_stats(struct device *dev, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_net *n = (const struct virtio_net *)dev;
    virtio_device_stats(dev, emit, ctx);
    emit(ctx, "rx_frames", n->rx_frames);
    emit(ctx, "rx_bytes", n->rx_bytes);
    emit(ctx, "rx_dropped", n->rx_dropped);
    emit(ctx, "tx_frames", n->tx_frames);
    emit(ctx, "tx_bytes", n->tx_bytes);
    emit(ctx, "tx_dropped", n->tx_dropped);
    if (n->net->ops->stats)
        n->net->ops->stats(n->net, emit, ctx);
}

static void net_destroy(struct device *dev)
{
    struct virtio_net *n = (struct virtio_net *)dev;
    n->net->ops->stop(n->net);
    vm_free(n);
}

// The link is the backend's, and a held frame may be lost like any other on the way.
static const struct state_field net_fields[] = {VIRTIO_STATE(struct virtio_net, virtio), STATE_END};
static const struct state_table net_state = {"virtio-net", 1, net_fields};

static const struct virtio_kind net_kind = {
    .device = {.name = "virtio-net",
               .reset = virtio_device_reset,
               .state = &net_state,
               .loaded = virtio_device_loaded,
               .stats = net_stats,
               .destroy = net_destroy},
    .id = 1,
    .pci_class = 0x020000,
    .kick = net_kick,
    .reset = net_reset,
};

static uint64_t features_of(const struct net *net)
{
    uint64_t f = NET_F_MAC | NET_F_STATUS | NET_F_MRG_RXBUF | (net->mtu ? NET_F_MTU : 0);
    f |= (net->takes & NET_CSUM ? NET_F_CSUM : 0) | (net->takes & NET_TSO4 ? NET_F_HOST_TSO4 : 0) |
         (net->takes & NET_TSO6 ? NET_F_HOST_TSO6 : 0);
    return f | (net->gives & NET_CSUM ? NET_F_GUEST_CSUM : 0) | (net->gives & NET_TSO4 ? NET_F_GUEST_TSO4 : 0) |
           (net->gives & NET_TSO6 ? NET_F_GUEST_TSO6 : 0);
}

int virtio_net_create(struct vm *vm, const char *name, struct net *net, const uint8_t mac[6],
                      struct virtio_device **out, struct error *err)
{
    struct virtio_net *n = vm_alloc(sizeof *n);
    if (!n)
        return error_set(err, ENOMEM, "%s: out of memory", name);
    n->net = net;
    memcpy(n->config.mac, mac, 6);
    n->config.status = STATUS_LINK_UP;
    n->config.max_virtqueue_pairs = 1;
    n->config.mtu = net->mtu;
    virtio_init(&n->virtio, vm, &net_kind, name, features_of(net), QUEUES, QUEUE_SIZE, &n->config, sizeof n->config);
    net->ctx = n;
    net->receive = receive;
    net->transmit = transmit;
    net->link = link;
    *out = &n->virtio;
    return net->ops->start(net, err);
}

void virtio_net_announce(struct virtio_device *d)
{
    struct virtio_net *n = (struct virtio_net *)d;
    vm_lock(&d->dev.lock);
    n->announce = d->status & VIRTIO_DRIVER_OK;
    vm_unlock(&d->dev.lock);
    n->net->ops->wake(n->net);
}
