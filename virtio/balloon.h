// The virtio memory balloon (Virtio 1.2, 5.5): memory that the guest does not need goes back to the host.
//
// Two ways lead there. The host asks the guest to make itself smaller (virtio_balloon_resize): the guest takes pages
// away from itself ("inflates" the balloon) until only so much is left. And without being asked, a guest reports memory
// that lies free for a while: it costs the host nothing until it is used again.
//
// Example: virtio_balloon_create(&vm, "virtio-balloon0", &dev, &err);
//          virtio_balloon_resize(dev, 256 << 20); ... virtio_balloon_state(dev, &s); s.current comes down to s.target
#pragma once
#include "report/error.h"
#include "virtio/device.h"

struct virtio_balloon_state { // bytes
    uint64_t memory;          // what the machine has
    uint64_t target;          // what the guest was asked to be content with
    uint64_t current;         // what it says it has now
    uint64_t discarded;       // given back to the host so far, by either way
};

// The VM owns the device. Its memory is that which the VM has when the machine is put together: call it after that.
int virtio_balloon_create(struct vm *vm, const char *name, struct virtio_device **out, struct error *err);
// Asks the guest to be content with so many bytes of its memory; more than it has means all. Any thread, without the
// device's lock. The guest takes its time, and may refuse: then `current` does not follow.
void virtio_balloon_resize(struct virtio_device *d, uint64_t bytes);
void virtio_balloon_state(struct virtio_device *d, struct virtio_balloon_state *s); // likewise
