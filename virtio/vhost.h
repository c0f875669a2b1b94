// A virtio device whose queues are served by another process (vm/vhost.h): what all kinds of them have in common.
//
// A kind embeds struct virtio_vhost first. Chains of all its queues go to the other side as they are, and come back
// when it is done with them. If it is lost, a kind that can answer a chain itself does so (`refuse`: an I/O error,
// say), from then on and for those that were under way; for any other the device needs a reset, which brings nothing
// back either.
//
// Example: virtio/fs.c.
#pragma once
#include "virtio/device.h"
#include "vm/vhost.h"

struct vhost_slot;

struct virtio_vhost_ring {
    struct vhost_slot *slot[VHOST_SLOTS]; // made when they are needed
    uint16_t free[VHOST_SLOTS], frees;    // slots that are not in use
    bool starved;                         // chains wait for a slot
};

struct virtio_vhost {
    struct virtio_device virtio;
    struct vhost *vhost;
    // Answers a chain that nobody will serve: fills its in part as far as need be and returns how many bytes that were.
    // With the lock held. May be NULL.
    uint64_t (*refuse)(struct virtio_vhost *v, const struct virtq_chain *c);
    bool lost;
    uint64_t bytes_out, bytes_in; // for statistics
    struct virtio_vhost_ring ring[VHOST_RINGS_MAX];
};

// After virtio_init, and after the VM has its memory: starts the other side. The vhost stays the caller's, and outlives
// the device.
int virtio_vhost_start(struct virtio_vhost *v, struct vhost *vhost, struct error *err);

// For the kind's table.
void virtio_vhost_kick(struct virtio_device *d, unsigned queue);
void virtio_vhost_drain(struct device *dev);
void virtio_vhost_stats(struct device *dev, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
void virtio_vhost_destroy(struct device *dev); // frees the kind's object, too
