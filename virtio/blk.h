// The virtio block device (Virtio 1.2, 5.2).
#pragma once
#include "report/error.h"
#include "virtio/device.h"
#include "vm/disk.h"

// Makes one with `queues` request queues (1..VIRTIO_QUEUES_MAX). The VM owns the device; the disk stays the caller's
// and must outlive the VM.
int virtio_blk_create(struct vm *vm, const char *name, struct disk *disk, unsigned queues, struct virtio_device **out,
                      struct error *err);
