// The MMIO transport of virtio devices, version 2 (Virtio 1.2, 4.2).
#pragma once
#include "report/error.h"
#include "virtio/device.h"

enum { VIRTIO_MMIO_SIZE = 0x200 }; // bytes of registers and configuration

// Maps the device's registers at gpa; its level-triggered interrupt is gsi. The VM owns the transport.
int virtio_mmio_attach(struct virtio_device *d, uint64_t gpa, unsigned gsi, struct error *err);
