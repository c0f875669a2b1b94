// Virtio devices without their transport: see device.h.
#include "virtio/device.h"
#include "report/log.h"
#include <errno.h>
#include <string.h>

enum { KICK_BUDGET = 4 * VIRTQ_SIZE_MAX }; // chains in one go before others get the thread

static void go_on(struct device *dev, struct vm_timer *t)
{
    (void)t;
    struct virtio_device *d = (struct virtio_device *)dev;
    uint32_t waiting = d->waiting;
    d->waiting = 0;
    for (unsigned q = 0; q < d->queues; q++)
        if (waiting >> q & 1)
            virtio_kick(d, q);
}

// Lets the timer kick a queue as soon as the event loop comes to it; in a paused VM, just after it goes on.
static void kick_later(struct virtio_device *d, unsigned queue)
{
    d->waiting |= 1u << queue;
    vm_timer_set(&d->timer, vm_clock_ns(&d->dev.vm->clock) + d->dev.vm->frozen);
}

void virtio_init(struct virtio_device *d, struct vm *vm, const struct virtio_kind *kind, const char *name,
                 uint64_t features, unsigned queues, uint16_t queue_size, void *config, unsigned config_size)
{
    d->kind = kind;
    d->offered = features | VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;
    d->queues = queues;
    d->config = config;
    d->config_size = config_size;
    device_add(vm, &d->dev, &kind->device, name);
    for (unsigned q = 0; q < queues; q++)
        virtq_init(&d->queue[q].ring, vm, queue_size);
    vm_timer_init(&d->timer, &d->dev, go_on);
}

const char *virtio_transport_name(const struct virtio_device *d, const char *prefix, char buf[sizeof d->dev.name])
{
    unsigned at = 0;
    for (const char *p = prefix; *p && at < sizeof d->dev.name - 1; p++)
        buf[at++] = *p;
    for (const char *p = d->dev.name; *p && at < sizeof d->dev.name - 1; p++)
        buf[at++] = *p;
    buf[at] = 0;
    return buf;
}

static bool operating(const struct virtio_device *d)
{
    return (d->status & VIRTIO_DRIVER_OK) && !(d->status & VIRTIO_NEEDS_RESET);
}

bool virtio_pop(struct virtio_device *d, unsigned queue, struct virtq_chain *c)
{
    struct virtio_queue *q = &d->queue[queue];
    if (!operating(d) || q->budget <= 0)
        return false;
    if (d->dev.vm->frozen) {
        kick_later(d, queue);
        return false;
    }
    int rc = virtq_pop(&q->ring, c);
    if (rc < 0)
        virtio_broken(d, q->ring.fault);
    if (rc <= 0)
        return false;
    q->budget--;
    d->requests++;
    d->in_flight++;
    return true;
}

static void back(struct virtio_device *d, unsigned chains)
{
    d->in_flight -= chains;
    if (!d->in_flight)
        d->resetting = false;
}

void virtio_push(struct virtio_device *d, unsigned queue, const struct virtq_chain *c, uint64_t written)
{
    virtq_push(&d->queue[queue].ring, c->head, c->epoch, written > UINT32_MAX ? UINT32_MAX : (uint32_t)written);
    back(d, 1);
}

void virtio_push_together(struct virtio_device *d, unsigned queue, uint32_t epoch, const struct virtq_used *used,
                          unsigned count)
{
    virtq_push_together(&d->queue[queue].ring, epoch, used, count);
    back(d, count);
}

void virtio_unpop(struct virtio_device *d, unsigned queue, unsigned count)
{
    virtq_unpop(&d->queue[queue].ring, count);
    d->queue[queue].budget += (int)count;
    d->requests -= count;
    back(d, count);
}

bool virtio_has_in_flight(struct virtio_device *d)
{
    vm_lock(&d->dev.lock);
    bool some = d->in_flight > 0;
    vm_unlock(&d->dev.lock);
    return some;
}

void virtio_notify(struct virtio_device *d, unsigned queue)
{
    if (!virtq_wants_interrupt(&d->queue[queue].ring) || !d->transport.queue_interrupt)
        return;
    d->interrupts++;
    d->transport.queue_interrupt(d->transport.ctx, queue);
}

void virtio_spend(struct virtio_device *d, unsigned queue, unsigned chains)
{
    d->queue[queue].budget -= chains < KICK_BUDGET ? (int)chains : KICK_BUDGET;
}

void virtio_kick(struct virtio_device *d, unsigned queue)
{
    if (queue >= d->queues || !operating(d) || !d->queue[queue].ring.enabled)
        return;
    struct virtio_queue *q = &d->queue[queue];
    if (q->busy) {
        q->again = true;
        return;
    }
    q->busy = true;
    q->budget = KICK_BUDGET;
    do {
        q->again = false;
        d->kind->kick(d, queue);
    } while (q->again && q->budget > 0);
    q->busy = false;
    if (q->budget <= 0)
        kick_later(d, queue);
}

bool virtio_in_operation(const struct virtio_device *d)
{
    return d->status & VIRTIO_DRIVER_OK;
}

void virtio_rung(struct device *virtio_device, unsigned queue)
{
    struct virtio_device *d = (struct virtio_device *)virtio_device;
    vm_lock(&d->dev.lock);
    virtio_kick(d, queue);
    vm_unlock(&d->dev.lock);
}

static void config_interrupt(struct virtio_device *d)
{
    if ((d->status & VIRTIO_DRIVER_OK) && d->transport.config_interrupt)
        d->transport.config_interrupt(d->transport.ctx);
}

void virtio_failed(struct virtio_device *d)
{
    d->status |= VIRTIO_NEEDS_RESET;
    config_interrupt(d);
}

void virtio_broken(struct virtio_device *d, const char *why)
{
    if (d->status & VIRTIO_NEEDS_RESET)
        return;
    log_guest(d->dev.vm->log, "%s: the driver broke the rules: %s", d->dev.name, why);
    virtio_failed(d);
}

void virtio_config_changed(struct virtio_device *d)
{
    d->config_generation++;
    config_interrupt(d);
}

static void reset(struct virtio_device *d)
{
    for (unsigned q = 0; q < d->queues; q++)
        virtq_reset(&d->queue[q].ring);
    d->status = 0;
    d->accepted = 0;
    d->waiting = 0;
    d->resetting = d->in_flight > 0;
    if (d->kind->reset)
        d->kind->reset(d);
    if (d->transport.reset)
        d->transport.reset(d->transport.ctx);
}

void virtio_device_reset(struct device *dev)
{
    struct virtio_device *d = (struct virtio_device *)dev;
    reset(d);
    d->resetting = false;
    d->config_generation = 0;
}

uint8_t virtio_status(const struct virtio_device *d)
{
    return d->resetting ? VIRTIO_ACKNOWLEDGE : d->status;
}

static bool features_acceptable(const struct virtio_device *d)
{
    return !(d->accepted & ~d->offered) && (d->accepted & VIRTIO_F_VERSION_1);
}

// Hands what was negotiated to the queues.
static void tell_queues(struct virtio_device *d)
{
    for (unsigned q = 0; q < d->queues; q++) {
        d->queue[q].ring.event_idx = virtio_has(d, VIRTIO_F_EVENT_IDX);
        d->queue[q].ring.indirect = virtio_has(d, VIRTIO_F_INDIRECT_DESC);
    }
}

void virtio_set_status(struct virtio_device *d, uint8_t status)
{
    if (!status) {
        reset(d);
        return;
    }
    d->resetting = false;
    uint8_t up = status & ~d->status & ~VIRTIO_NEEDS_RESET; // only a reset takes bits away (2.1.1)
    if ((up & VIRTIO_FEATURES_OK)) {
        if (features_acceptable(d))
            tell_queues(d);
        else
            up &= ~VIRTIO_FEATURES_OK; // the driver reads it back and gives up
    }
    if (!((d->status | up) & VIRTIO_FEATURES_OK))
        up &= ~VIRTIO_DRIVER_OK;
    d->status |= up;
    if (up & VIRTIO_DRIVER_OK && d->transport.ready)
        d->transport.ready(d->transport.ctx);
    if (up & VIRTIO_DRIVER_OK)
        for (unsigned q = 0; q < d->queues; q++)
            virtio_kick(d, q); // chains may have been made available before
}

uint32_t virtio_offered(const struct virtio_device *d, uint32_t window)
{
    return window < 2 ? (uint32_t)(d->offered >> 32 * window) : 0;
}

uint32_t virtio_accepted(const struct virtio_device *d, uint32_t window)
{
    return window < 2 ? (uint32_t)(d->accepted >> 32 * window) : 0;
}

void virtio_accept(struct virtio_device *d, uint32_t window, uint32_t bits)
{
    if (window >= 2 || (d->status & VIRTIO_FEATURES_OK))
        return;
    unsigned shift = 32 * window;
    d->accepted = (d->accepted & ~(0xffffffffull << shift)) | (uint64_t)bits << shift;
}

struct virtq *virtio_queue(struct virtio_device *d, unsigned queue)
{
    return queue < d->queues ? &d->queue[queue].ring : NULL;
}

// A queue's registers are the driver's until it enables the queue.
static struct virtq *settable(struct virtio_device *d, unsigned queue)
{
    struct virtq *q = virtio_queue(d, queue);
    return q && !q->enabled ? q : NULL;
}

void virtio_queue_set_size(struct virtio_device *d, unsigned queue, uint16_t size)
{
    struct virtq *q = settable(d, queue);
    if (q)
        q->size = size;
}

void virtio_queue_set_address(struct virtio_device *d, unsigned queue, enum virtio_area area, unsigned half,
                              uint32_t val)
{
    struct virtq *q = settable(d, queue);
    if (!q)
        return;
    uint64_t *address = area == VIRTIO_DESC ? &q->desc : area == VIRTIO_AVAIL ? &q->avail : &q->used;
    unsigned shift = 32 * half;
    *address = (*address & ~(0xffffffffull << shift)) | (uint64_t)val << shift;
}

void virtio_queue_enable(struct virtio_device *d, unsigned queue)
{
    struct virtq *q = settable(d, queue);
    if (q && virtq_enable(q))
        virtio_broken(d, q->fault);
}

void virtio_queue_disable(struct virtio_device *d, unsigned queue)
{
    struct virtq *q = virtio_queue(d, queue);
    if (!q)
        return;
    virtq_reset(q);
    tell_queues(d);
}

uint32_t virtio_config_read(const struct virtio_device *d, uint64_t offset, unsigned size)
{
    uint32_t val = 0;
    if (size <= 4 && offset < d->config_size)
        memcpy(&val, d->config + offset, size < d->config_size - offset ? size : d->config_size - offset);
    return val;
}

void virtio_config_write(struct virtio_device *d, uint64_t offset, unsigned size, uint32_t val)
{
    if (d->kind->config_write && size <= 4 && offset < d->config_size && size <= d->config_size - offset)
        d->kind->config_write(d, (unsigned)offset, size, val);
}

int virtio_device_loaded(struct device *dev)
{
    struct virtio_device *d = (struct virtio_device *)dev;
    if ((d->status & VIRTIO_FEATURES_OK) && !features_acceptable(d))
        return -EINVAL;
    if ((d->status & VIRTIO_DRIVER_OK) && !(d->status & VIRTIO_FEATURES_OK))
        return -EINVAL;
    d->resetting = false;
    tell_queues(d);
    for (unsigned q = 0; q < d->queues; q++) {
        struct virtq *ring = &d->queue[q].ring;
        if (ring->enabled && virtq_enable(ring))
            return -EINVAL;
        kick_later(d, q); // whatever was made available just before the machine was saved
    }
    return 0;
}

void virtio_device_stats(struct device *dev, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_device *d = (const struct virtio_device *)dev;
    emit(ctx, "requests", d->requests);
    emit(ctx, "interrupts", d->interrupts);
}
