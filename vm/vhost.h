// What a device needs from whoever serves its queues outside of this process: the interface of vhost back ends.
//
// The device keeps the guest's rings to itself. It takes chains from them, checked, and submits them as requests; the
// other side has rings of its own, between it and us, and reads and writes the buffers in guest memory by itself. A
// chain goes back to the guest only after its request has come back to us. So
//   - the other side never sees anything of a ring that the guest can write to,
//   - whoever has decoded code from guest memory, or logs what is written there, hears of it before the guest can know
//   that
//     there is something new,
//   - all state of the queues is the device's, and saved with it: between requests the other side has none.
//
//     guest's ring  ->  virtq_pop  ->  submit(slot)  ->  their ring
//     guest's ring  <-  virtq_push <-  done(slot)    <-  their ring
//
// The other side may write all of guest memory: it is trusted as much as this process is, but not to be alive or right.
// What it says is checked; when it ends, or breaks the rules, it is `lost` and stays so.
//
// Requests of a ring are named by slots, which the device chooses: a slot is in use from submit() until done().
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stdint.h>

enum { VHOST_RINGS_MAX = 16, VHOST_SLOTS = 256, VHOST_BUFFERS_MAX = 256, VHOST_REGIONS_MAX = 7 };

struct vhost_region { // of guest memory
    uint64_t gpa, size;
    void *host; // in this process
};

struct vhost_buffer {
    uint64_t gpa;
    uint32_t len; // not 0
};

struct vhost_done {
    uint16_t slot;
    uint32_t written; // bytes, as it says, of the buffers that it may write
};

struct vhost;

struct vhost_ops {
    // Shows guest memory to the other side and starts the rings, each with VHOST_SLOTS slots. From here on the
    // functions below `ctx` may be called. 0 or negative errno.
    int (*start)(struct vhost *v, const struct vhost_region *region, unsigned regions, unsigned rings,
                 struct error *err);
    // Puts a request into a ring: `out` buffers to be read, then `in` to be written; out + in is at least 1 and at most
    // VHOST_BUFFERS_MAX. The slot is free. With the device's lock held. kick() wakes the other side afterwards.
    void (*submit)(struct vhost *v, unsigned ring, uint16_t slot, const struct vhost_buffer *b, unsigned out,
                   unsigned in);
    void (*kick)(struct vhost *v, unsigned ring);
    // Returns when every request is done. If that takes too long the other side is lost first. Without locks.
    void (*drain)(struct vhost *v);
    void (*stop)(struct vhost *v);  // when it returns nothing is called any more; harmless if it was not started
    void (*close)(struct vhost *v); // stops and frees
};

struct vhost {
    const struct vhost_ops *ops;
    // The device's, set before start(). Both are called on a thread of the backend's, without locks.
    void *ctx;
    void (*done)(void *ctx, unsigned ring, const struct vhost_done *d, unsigned count);
    // The other side does nothing any more, and writes nothing: what is in flight never comes back. Called once at
    // most.
    void (*lost)(void *ctx, const char *why);
};
