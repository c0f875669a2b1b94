// The virtio socket device (Virtio 1.2, 5.10): stream sockets between programs in the guest and programs on the host.
#pragma once
#include "report/error.h"
#include "virtio/device.h"
#include "vm/vsock.h"

// Makes one whose guest has the context identifier `cid` (VSOCK_CID_FIRST to VSOCK_CID_LAST) before a backend and
// starts the backend. The VM owns the device, and stops the backend before it frees it; the backend stays the caller's
// and must outlive the VM. -ENOMEM, or what start() says.
int virtio_vsock_create(struct vm *vm, const char *name, struct vsock *vsock, uint32_t cid, struct virtio_device **out,
                        struct error *err);
