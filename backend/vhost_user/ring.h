// The rings between us and a back end: the driver's side of a split virtqueue (Virtio 1.2, 2.7), in memory of our own
// that the guest cannot reach.
//
// A slot is a descriptor, and has an indirect table of its own, so nothing is ever allocated: slot 5 in flight is
// descriptor 5, which names table 5, which names the buffers.
//
//     0x0000 descriptors   0x1000 available ring   0x2000 used ring   0x4000 tables, a page for each slot
//
// The back end's answers are checked: it must give back slots that it has, each once.
//
// Locks: submitting is guarded by the device's lock, collecting is one thread's. They share the in_flight bytes.
#pragma once
#include "vm/vhost.h"
#include <stddef.h>

enum {
    VHOST_RING_DESCRIPTORS = 0,
    VHOST_RING_AVAILABLE = 0x1000,
    VHOST_RING_USED = 0x2000,
    VHOST_RING_TABLES = 0x4000,
    VHOST_RING_SIZE = VHOST_RING_TABLES + VHOST_SLOTS * 4096, // bytes
};

struct vhost_ring {
    uint8_t *base; // VHOST_RING_SIZE bytes, zeroed
    uint64_t gpa;  // where the other side finds them
    uint16_t available, used;
    _Atomic uint8_t in_flight[VHOST_SLOTS];
};

void vhost_ring_init(struct vhost_ring *r, uint8_t *base, uint64_t gpa);
void vhost_ring_submit(struct vhost_ring *r, uint16_t slot, const struct vhost_buffer *b, unsigned out, unsigned in);
// Whether the other side wants to be told of what was submitted.
bool vhost_ring_wants_kick(const struct vhost_ring *r);
// Takes up to `room` answers; returns how many, or -EPROTO and why.
int vhost_ring_collect(struct vhost_ring *r, struct vhost_done *done, unsigned room, const char **why);
