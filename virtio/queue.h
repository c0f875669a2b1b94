// A split virtqueue as the device sees it (Virtio 1.2, 2.7).
//
// The driver owns three areas in guest memory. The descriptor table holds buffers (address, length, flags, next). The
// available ring names heads of descriptor chains that the device may take; the used ring gives them back with the
// number of bytes written. All indices run freely modulo 2^16:
//
//     avail.idx (driver's)  = 7        used.idx (ours) = 5
//     next_avail (ours)     = 6        so chain ring[6 % size] waits, one chain is with us, five were given back
//
// A chain is first buffers that the device reads ("out"), then buffers that it writes ("in").
//
// Everything in there is hostile. virtq_pop copies each descriptor once, checks it once, and returns host addresses;
// nobody looks at the descriptor again. No chain is longer than the queue, so loops end. Any breach of the rules is
// -EPROTO with a reason in `fault`; the device then asks for a reset. Rings are looked up once, when the queue is
// enabled: the memory map is fixed while vCPUs run.
//
// A chain that was popped before the queue was reset carries the old epoch: giving it back then does nothing.
//
// Not locked: the device's lock guards a queue. Used through virtio/device.h by the kinds of devices.
//
// Example: while (virtq_pop(q, &chain) > 0) { n = fill(&chain); virtq_push(q, chain.head, chain.epoch, n); }
//          if (virtq_wants_interrupt(q)) raise();
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;

enum { VIRTQ_SIZE_MAX = 256 };

struct virtq_buffer {
    uint8_t *base; // in our address space
    uint64_t gpa;
    uint32_t len;
};

struct virtq_chain {
    uint16_t head;
    uint16_t out, in; // number of buffers: buffer[0..out) are read by the device, buffer[out..out+in) written
    uint32_t epoch;
    uint64_t out_bytes, in_bytes;
    struct virtq_buffer buffer[VIRTQ_SIZE_MAX];
};

struct virtq {
    // What the driver sets while the queue is disabled.
    uint16_t size;
    uint8_t enabled;
    uint64_t desc, avail, used; // guest-physical addresses of the three areas
    // What was negotiated.
    uint8_t event_idx, indirect;
    // Where we are.
    uint16_t next_avail, next_used;
    uint16_t told; // next_used when virtq_wants_interrupt was last asked
    uint32_t epoch;
    // Derived.
    struct vm *vm;
    uint16_t size_max;
    const uint8_t *desc_host;
    const uint8_t *avail_host;
    uint8_t *used_host;
    const char *fault; // why the last call failed
};

void virtq_init(struct virtq *q, struct vm *vm, uint16_t size_max);
void virtq_reset(struct virtq *q); // disabled, size_max, all indices zero, a new epoch

// Checks the driver's settings and looks up the rings. -EPROTO with q->fault.
int virtq_enable(struct virtq *q);

// Takes the next chain: 1, 0 if there is none (the driver is then asked to notify), or -EPROTO with q->fault.
int virtq_pop(struct virtq *q, struct virtq_chain *c);
// Gives a chain back with the number of bytes written into its in-buffers.
void virtq_push(struct virtq *q, uint16_t head, uint32_t epoch, uint32_t written);
// Gives several chains back by one step of the ring's index: the driver sees all of them or none. count <= size.
struct virtq_used {
    uint16_t head;
    uint32_t written;
};
void virtq_push_together(struct virtq *q, uint32_t epoch, const struct virtq_used *used, unsigned count);
// Puts the last `count` chains back into the available ring, as if they had not been taken; nothing may have been
// pushed meanwhile.
void virtq_unpop(struct virtq *q, unsigned count);
// True if the driver wants to hear of what was pushed since the last call.
bool virtq_wants_interrupt(struct virtq *q);

// Copies between a chain and a buffer, from a byte offset in its out (or in) part; return how many bytes there were.
size_t virtq_chain_read(const struct virtq_chain *c, uint64_t offset, void *buf, size_t size);
size_t virtq_chain_write(struct vm *vm, const struct virtq_chain *c, uint64_t offset, const void *buf, size_t size);
