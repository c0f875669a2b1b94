// The virtio entropy device (Virtio 1.2, 5.4).
#pragma once
#include "report/error.h"
#include "virtio/device.h"

// The VM owns the device. Its randomness is the host's (vm_random).
int virtio_rng_create(struct vm *vm, const char *name, struct virtio_device **out, struct error *err);
