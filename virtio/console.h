// The virtio console (Virtio 1.2, 5.3): one port, which is a terminal or any stream of bytes.
#pragma once
#include "report/error.h"
#include "virtio/device.h"
#include "vm/stream.h"

// The VM owns the device; the stream stays the caller's, must outlive the VM, and gets the console as its reader.
int virtio_console_create(struct vm *vm, const char *name, struct stream *stream, struct virtio_device **out,
                          struct error *err);

// Tells the guest how large the terminal is. Any thread.
void virtio_console_resize(struct virtio_device *d, uint16_t columns, uint16_t rows);
