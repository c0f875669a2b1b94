// The virtio entropy device (Virtio 1.2, 5.4): one queue of buffers to be filled with random bytes.
//
// A driver is content with less than it asked for, so a chain gets at most CHAIN_BYTES.
#include "virtio/rng.h"
#include "vm/alloc.h"
#include <errno.h>

enum { QUEUE_SIZE = 64, CHAIN_BYTES = 64 * 1024, BYTES_PER_CHAIN = 4096 };

struct virtio_rng {
    struct virtio_device virtio;
    struct virtq_chain chain; // the one being filled
};

static void rng_kick(struct virtio_device *d, unsigned queue)
{
    struct virtq_chain *c = &((struct virtio_rng *)d)->chain;
    while (virtio_pop(d, queue, c)) {
        uint32_t done = 0;
        for (unsigned i = 0; i < c->in && done < CHAIN_BYTES; i++) {
            const struct virtq_buffer *b = &c->buffer[c->out + i];
            uint32_t n = b->len < CHAIN_BYTES - done ? b->len : CHAIN_BYTES - done;
            vm_random(b->base, n);
            vm_ram_written(d->dev.vm, b->gpa, n);
            done += n;
        }
        virtio_push(d, queue, c, done);
        virtio_spend(d, queue, done / BYTES_PER_CHAIN);
    }
    virtio_notify(d, queue);
}

static void rng_destroy(struct device *dev)
{
    vm_free(dev);
}

static const struct state_field rng_fields[] = {VIRTIO_STATE(struct virtio_rng, virtio), STATE_END};
static const struct state_table rng_state = {"virtio-rng", 1, rng_fields};

static const struct virtio_kind rng_kind = {
    .device = {.name = "virtio-rng",
               .reset = virtio_device_reset,
               .state = &rng_state,
               .loaded = virtio_device_loaded,
               .stats = virtio_device_stats,
               .destroy = rng_destroy},
    .id = 4,
    .pci_class = 0x00ff00,
    .kick = rng_kick,
};

int virtio_rng_create(struct vm *vm, const char *name, struct virtio_device **out, struct error *err)
{
    struct virtio_rng *r = vm_alloc(sizeof *r);
    if (!r)
        return error_set(err, ENOMEM, "%s: out of memory", name);
    virtio_init(&r->virtio, vm, &rng_kind, name, 0, 1, QUEUE_SIZE, NULL, 0);
    *out = &r->virtio;
    return 0;
}
