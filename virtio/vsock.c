// The virtio socket device (Virtio 1.2, 5.10): moves packets between its queues and the table of connections
// (virtio/vsock_table.h).
//
// Threads. As with network cards, a kick by the driver only wakes the backend; packets are moved on the backend's
// thread, which enters the queue's kick itself (`serving`). The table belongs to that thread and is used without the
// lock; the queues are used under it. A packet from the guest is copied and its chain given back before anything is
// done with it, and a chain for a packet to the guest is taken only when the packet is there: so no chain is in flight
// while the lock is free, and the device can be saved at any time.
//
// Connections last as long as both ends. When the driver resets the device they are gone (`drop`: the table is not ours
// to touch on that thread). So are they in a machine that was restored, and there the driver does not know: the event
// TRANSPORT_RESET (5.10.6.7) tells it, and to read its CID anew.
#include "virtio/vsock.h"
#include "virtio/vsock_table.h"
#include "vm/alloc.h"
#include <errno.h>

enum { RECEIVE, TRANSMIT, EVENT, QUEUES, NOBODY = QUEUES, QUEUE_SIZE = 256 };
enum { NOTIFY_EVERY = 16, BYTES_PER_CHAIN = 4096 }; // chains given back before the driver hears of it; one's work
enum { EVENT_TRANSPORT_RESET = 0 };

#define VSOCK_F_STREAM (1ull << 0)

struct vsock_config { // 5.10.4
    uint64_t guest_cid;
};

struct virtio_vsock {
    struct virtio_device virtio;
    struct vsock *vsock;
    struct vsock_config config;
    unsigned serving;     // the queue whose kick the backend's thread is in, or NOBODY
    bool drop;            // the driver was reset: all connections are gone
    bool transport_reset; // the driver is still to be told that they are
    struct virtq_chain out, in, event;
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes; // for statistics
    // The backend's thread's.
    struct vsock_table table;
    struct vsock_header header; // of the packet from the guest
    uint8_t data[VSOCK_BUFFER];
};

// ---- to the guest

// Puts the packet into the chain. False: there is no room in it for any.
static bool put(struct virtio_vsock *v, struct vsock_header *h, const uint8_t *data)
{
    struct vm *vm = v->virtio.dev.vm;
    if (v->in.in_bytes < sizeof *h + (h->len ? 1 : 0))
        return false;
    uint64_t room = v->in.in_bytes - sizeof *h;
    if (h->len > room)
        h->len = (uint32_t)room;
    virtq_chain_write(vm, &v->in, 0, h, sizeof *h);
    virtq_chain_write(vm, &v->in, sizeof *h, data, h->len);
    return true;
}

static void receive_kick(struct virtio_vsock *v)
{
    struct virtio_device *d = &v->virtio;
    unsigned chains = 0;
    if (v->serving != RECEIVE) {
        v->vsock->ops->wake(v->vsock);
        return;
    }
    for (;;) {
        struct vsock_header h;
        const uint8_t *data;
        vm_unlock(&d->dev.lock);
        bool more = vsock_table_next(&v->table, &h, &data);
        vm_lock(&d->dev.lock);
        if (!more || v->drop || !virtio_pop(d, RECEIVE, &v->in))
            break;
        bool good = put(v, &h, data);
        virtio_push(d, RECEIVE, &v->in, good ? sizeof h + h.len : 0);
        if (!good) {
            virtio_broken(d, "receive buffer too small for a packet");
            break;
        }
        v->rx_packets++;
        v->rx_bytes += h.len;
        if (++chains % NOTIFY_EVERY == 0)
            virtio_notify(d, RECEIVE);
        vm_unlock(&d->dev.lock);
        vsock_table_sent(&v->table, &h);
        vm_lock(&d->dev.lock);
    }
    virtio_notify(d, RECEIVE);
}

// ---- from the guest

// Copies the chain's packet. False if it is none.
static bool gather(struct virtio_vsock *v)
{
    struct vsock_header *h = &v->header;
    if (virtq_chain_read(&v->out, 0, h, sizeof *h) < sizeof *h || h->len > v->out.out_bytes - sizeof *h) {
        virtio_broken(&v->virtio, "packet shorter than its header says");
        return false;
    }
    if (h->len > VSOCK_BUFFER) {
        virtio_broken(&v->virtio, "packet larger than any credit");
        return false;
    }
    virtq_chain_read(&v->out, sizeof *h, v->data, h->len);
    return true;
}

static void transmit_kick(struct virtio_vsock *v)
{
    struct virtio_device *d = &v->virtio;
    unsigned chains = 0;
    if (v->serving != TRANSMIT) {
        v->vsock->ops->wake(v->vsock);
        return;
    }
    while (!v->drop && vsock_table_takes(&v->table) && virtio_pop(d, TRANSMIT, &v->out)) {
        bool good = gather(v);
        virtio_push(d, TRANSMIT, &v->out, 0);
        if (!good)
            break;
        v->tx_packets++;
        v->tx_bytes += v->header.len;
        if (++chains % NOTIFY_EVERY == 0)
            virtio_notify(d, TRANSMIT);
        virtio_spend(d, TRANSMIT, v->header.len / BYTES_PER_CHAIN);
        vm_unlock(&d->dev.lock);
        vsock_table_take(&v->table, &v->header, v->data);
        vm_lock(&d->dev.lock);
    }
    virtio_notify(d, TRANSMIT);
}

// ---- both

static void event_kick(struct virtio_vsock *v)
{
    struct virtio_device *d = &v->virtio;
    const uint32_t event = EVENT_TRANSPORT_RESET;
    if (!v->transport_reset || !virtio_pop(d, EVENT, &v->event))
        return;
    v->transport_reset = false;
    size_t written = virtq_chain_write(d->dev.vm, &v->event, 0, &event, sizeof event);
    virtio_push(d, EVENT, &v->event, written);
    virtio_notify(d, EVENT);
}

static void vsock_kick(struct virtio_device *d, unsigned queue)
{
    struct virtio_vsock *v = (struct virtio_vsock *)d;
    if (queue == RECEIVE)
        receive_kick(v);
    else if (queue == TRANSMIT)
        transmit_kick(v);
    else
        event_kick(v);
}

static void serve(struct virtio_vsock *v, unsigned queue)
{
    v->serving = queue;
    virtio_kick(&v->virtio, queue);
    v->serving = NOBODY;
}

static void work(void *ctx)
{
    struct virtio_vsock *v = ctx;
    struct vm_lock *lock = &v->virtio.dev.lock;
    bool stuck;
    vm_lock(lock);
    do {
        if (v->drop) {
            v->drop = false;
            vm_unlock(lock);
            vsock_table_drop(&v->table);
            vm_lock(lock);
        }
        serve(v, TRANSMIT);
        stuck = !vsock_table_takes(&v->table);
        serve(v, RECEIVE);
    } while (v->drop || (stuck && vsock_table_takes(&v->table)));
    vm_unlock(lock);
}

static struct vsock_connection *call(void *ctx, uint32_t port, struct vsock_peer *p)
{
    struct virtio_vsock *v = ctx;
    vm_lock(&v->virtio.dev.lock);
    bool there = (v->virtio.status & VIRTIO_DRIVER_OK) && !(v->virtio.status & VIRTIO_NEEDS_RESET) && !v->drop;
    vm_unlock(&v->virtio.dev.lock);
    return there ? vsock_table_call(&v->table, port, p) : NULL;
}

static void ready(void *ctx, struct vsock_connection *c, unsigned what)
{
    struct virtio_vsock *v = ctx;
    vsock_table_ready(&v->table, c, what);
}

static void vsock_reset(struct virtio_device *d)
{
    struct virtio_vsock *v = (struct virtio_vsock *)d;
    v->drop = true;
    v->transport_reset = false;
    v->vsock->ops->wake(v->vsock);
}

static int vsock_loaded(struct device *dev)
{
    struct virtio_vsock *v = (struct virtio_vsock *)dev;
    v->drop = true;
    v->transport_reset = v->virtio.status & VIRTIO_DRIVER_OK;
    v->vsock->ops->wake(v->vsock);
    return virtio_device_loaded(dev); // which kicks all queues
}

static void vsock_stats(struct device *dev, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_vsock *v = (const struct virtio_vsock *)dev;
    virtio_device_stats(dev, emit, ctx);
    emit(ctx, "rx_packets", v->rx_packets);
    emit(ctx, "rx_bytes", v->rx_bytes);
    emit(ctx, "tx_packets", v->tx_packets);
    emit(ctx, "tx_bytes", v->tx_bytes);
}

static void vsock_destroy(struct device *dev)
{
    struct virtio_vsock *v = (struct virtio_vsock *)dev;
    v->vsock->ops->stop(v->vsock);
    vsock_table_drop(&v->table);
    vm_free(v);
}

// Neither connections nor the CID: whoever restores a machine gives it one, and the driver asks for it anew.
static const struct state_field vsock_fields[] = {VIRTIO_STATE(struct virtio_vsock, virtio), STATE_END};
static const struct state_table vsock_state = {"virtio-vsock", 1, vsock_fields};

static const struct virtio_kind vsock_kind = {
    .device = {.name = "virtio-vsock",
               .reset = virtio_device_reset,
               .state = &vsock_state,
               .loaded = vsock_loaded,
               .stats = vsock_stats,
               .destroy = vsock_destroy},
    .id = 19,
    .pci_class = 0x078000,
    .kick = vsock_kick,
    .reset = vsock_reset,
};

int virtio_vsock_create(struct vm *vm, const char *name, struct vsock *vsock, uint32_t cid, struct virtio_device **out,
                        struct error *err)
{
    struct virtio_vsock *v = vm_alloc(sizeof *v);
    if (!v)
        return error_set(err, ENOMEM, "%s: out of memory", name);
    v->vsock = vsock;
    v->config.guest_cid = cid;
    v->serving = NOBODY;
    vsock_table_init(&v->table, vsock, cid);
    virtio_init(&v->virtio, vm, &vsock_kind, name, VSOCK_F_STREAM, QUEUES, QUEUE_SIZE, &v->config, sizeof v->config);
    vsock->ctx = v;
    vsock->work = work;
    vsock->call = call;
    vsock->ready = ready;
    *out = &v->virtio;
    return vsock->ops->start(vsock, err);
}
