// The virtio file system device (Virtio 1.2, 5.11): a folder of the host, which the guest mounts by its tag.
//
// What goes through the queues are FUSE requests; a vhost back end (virtiofsd) serves them. The device only says how
// the folder is called, and answers when there is no back end any more.
//
// Example: virtio_fs_create(&vm, "virtio-fs0", "src", vhost, &dev, &err);      in the guest: mount -t virtiofs src /mnt
#pragma once
#include "report/error.h"
#include "virtio/device.h"

enum { VIRTIO_FS_TAG_MAX = 36 }; // bytes

struct vhost;

// The VM owns the device and has its memory already; the vhost stays the caller's and outlives it. The tag has 1 to
// VIRTIO_FS_TAG_MAX bytes.
int virtio_fs_create(struct vm *vm, const char *name, const char *tag, struct vhost *vhost, struct virtio_device **out,
                     struct error *err);
