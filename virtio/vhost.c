// A virtio device whose queues are served by another process: see vhost.h.
//
// Slots. A chain in flight is kept in the slot by whose number the other side knows it. A driver that resets the device
// again and again without waiting can have more chains under way than a queue holds; when slots are used up, chains
// wait in the ring.
//
// When an answer comes, all that the other side may have written is told to the VM before the guest sees the chain in
// its used ring: all buffers as a whole, whatever it says that it wrote. That is a look at a word for each page.
#include "virtio/vhost.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

struct vhost_slot {
    bool used;
    struct virtq_chain chain;
};

static struct vhost_slot *take(struct virtio_vhost_ring *r, uint16_t *number)
{
    if (!r->frees)
        return NULL;
    *number = r->free[r->frees - 1];
    struct vhost_slot *s = r->slot[*number];
    if (!s)
        s = r->slot[*number] = vm_alloc(sizeof *s);
    if (s)
        r->frees--;
    return s;
}

static void give_back(struct virtio_vhost_ring *r, uint16_t number)
{
    r->slot[number]->used = false;
    r->free[r->frees++] = number;
}

static void submit(struct virtio_vhost *v, unsigned queue, uint16_t number, const struct virtq_chain *c)
{
    struct vhost_buffer b[VHOST_BUFFERS_MAX];
    for (unsigned i = 0; i < (unsigned)c->out + c->in; i++)
        b[i] = (struct vhost_buffer){c->buffer[i].gpa, c->buffer[i].len};
    v->bytes_out += c->out_bytes;
    v->vhost->ops->submit(v->vhost, queue, number, b, c->out, c->in);
}

static void refuse(struct virtio_vhost *v, unsigned queue, const struct virtq_chain *c)
{
    virtio_push(&v->virtio, queue, c, v->refuse ? v->refuse(v, c) : 0);
}

void virtio_vhost_kick(struct virtio_device *d, unsigned queue)
{
    struct virtio_vhost *v = (struct virtio_vhost *)d;
    struct virtio_vhost_ring *r = &v->ring[queue];
    unsigned submitted = 0;
    if (v->lost && !v->refuse) {
        virtio_failed(d);
        return;
    }
    for (;;) {
        uint16_t number;
        struct vhost_slot *s = take(r, &number);
        if (!s) {
            r->starved = true;
            break;
        }
        s->used = true;
        if (!virtio_pop(d, queue, &s->chain)) {
            give_back(r, number);
            break;
        }
        if (v->lost || !(s->chain.out + s->chain.in)) { // or there is nothing in it
            refuse(v, queue, &s->chain);
            give_back(r, number);
            continue;
        }
        submit(v, queue, number, &s->chain);
        submitted++;
    }
    if (submitted)
        v->vhost->ops->kick(v->vhost, queue);
    virtio_notify(d, queue); // for those that were refused
}

// ---- on the other side's thread

static void done(void *ctx, unsigned queue, const struct vhost_done *done, unsigned count)
{
    struct virtio_vhost *v = ctx;
    struct virtio_device *d = &v->virtio;
    struct virtio_vhost_ring *r = &v->ring[queue];
    for (unsigned n = 0; n < count; n++) {
        // Nobody else touches a slot in flight.
        const struct virtq_chain *c = &r->slot[done[n].slot]->chain;
        for (unsigned i = 0; i < c->in; i++)
            vm_ram_written(d->dev.vm, c->buffer[c->out + i].gpa, c->buffer[c->out + i].len);
    }
    vm_lock(&d->dev.lock);
    for (unsigned n = 0; n < count; n++) {
        const struct virtq_chain *c = &r->slot[done[n].slot]->chain;
        uint64_t written = done[n].written < c->in_bytes ? done[n].written : c->in_bytes;
        v->bytes_in += written;
        virtio_push(d, queue, c, written);
        give_back(r, done[n].slot);
    }
    virtio_notify(d, queue);
    if (r->starved) {
        r->starved = false;
        virtio_kick(d, queue);
    }
    vm_unlock(&d->dev.lock);
}

static void lost(void *ctx, const char *why)
{
    struct virtio_vhost *v = ctx;
    struct virtio_device *d = &v->virtio;
    log_warn(d->dev.vm->log, "%s: %s", d->dev.name, why);
    vm_lock(&d->dev.lock);
    v->lost = true;
    for (unsigned queue = 0; queue < d->queues; queue++) {
        struct virtio_vhost_ring *r = &v->ring[queue];
        for (unsigned n = 0; n < VHOST_SLOTS; n++) {
            if (!r->slot[n] || !r->slot[n]->used)
                continue;
            const struct virtq_chain *c = &r->slot[n]->chain;
            for (unsigned i = 0; i < c->in; i++) // something may have been written all the same
                vm_ram_written(d->dev.vm, c->buffer[c->out + i].gpa, c->buffer[c->out + i].len);
            refuse(v, queue, c);
            give_back(r, (uint16_t)n);
        }
        virtio_notify(d, queue);
        r->starved = false;
        virtio_kick(d, queue);
    }
    if (!v->refuse)
        virtio_failed(d);
    vm_unlock(&d->dev.lock);
}

// ---- for the kind's table

void virtio_vhost_drain(struct device *dev)
{
    struct virtio_vhost *v = (struct virtio_vhost *)dev;
    do // what is done may make room for chains that have been waiting
        v->vhost->ops->drain(v->vhost);
    while (virtio_has_in_flight(&v->virtio));
}

void virtio_vhost_stats(struct device *dev, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_vhost *v = (const struct virtio_vhost *)dev;
    virtio_device_stats(dev, emit, ctx);
    emit(ctx, "bytes_out", v->bytes_out);
    emit(ctx, "bytes_in", v->bytes_in);
}

void virtio_vhost_destroy(struct device *dev)
{
    struct virtio_vhost *v = (struct virtio_vhost *)dev;
    if (v->vhost)
        v->vhost->ops->stop(v->vhost);
    for (unsigned queue = 0; queue < VHOST_RINGS_MAX; queue++)
        for (unsigned n = 0; n < VHOST_SLOTS; n++)
            vm_free(v->ring[queue].slot[n]);
    vm_free(v);
}

int virtio_vhost_start(struct virtio_vhost *v, struct vhost *vhost, struct error *err)
{
    struct virtio_device *d = &v->virtio;
    const struct vm_memory *m = &d->dev.vm->memory;
    struct vhost_region region[VHOST_REGIONS_MAX];
    unsigned regions = 0;
    for (unsigned i = 0; i < m->count; i++) {
        if (m->region[i].readonly)
            continue;
        if (regions == VHOST_REGIONS_MAX)
            return error_set(err, ENOSPC, "%s: guest memory is in more than %d pieces", d->dev.name, VHOST_REGIONS_MAX);
        region[regions++] = (struct vhost_region){m->region[i].gpa, m->region[i].size, m->region[i].host};
    }
    for (unsigned queue = 0; queue < d->queues; queue++)
        for (unsigned n = 0; n < VHOST_SLOTS; n++)
            v->ring[queue].free[v->ring[queue].frees++] = (uint16_t)(VHOST_SLOTS - 1 - n);
    vhost->ctx = v;
    vhost->done = done;
    vhost->lost = lost;
    v->vhost = vhost;
    return vhost->ops->start(vhost, region, regions, d->queues, err);
}
