// The front end of the vhost-user protocol: a device's requests are served by another process, which maps the guest's
// memory. vm/vhost.h says what a device sees of it, message.h what goes over the socket, ring.h what lies between us.
//
// Rings are the guest's own only in the plain protocol; here they are ours, and chains are passed on one by one
// (vm/vhost.h tells what for). The back end notices no difference. It costs what the software engines pay anyway, where
// each kick is an exit and each interrupt is raised by a thread of ours.
//
// A back end may be any that the protocol's documentation allows, if it takes indirect descriptors. It may be slow, but
// not for ever: setting up, stopping and draining have limits of time. One that ends, says what makes no sense, or does
// not finish, is lost; before the device hears of it, `end` makes sure that it writes to guest memory no more.
//
// Example: vhost_user_open(&(struct vhost_user_options){.socket = fd, .name = "virtiofsd", .memory = ram.base,
//                          .memory_size = ram.size, .memory_fd = ram.fd}, &vhost, &err);
//          virtio_fs_create(&vm, "virtio-fs0", "tag", vhost, &dev, &err);
#pragma once
#include "vm/vhost.h"

struct vhost_user_options {
    int socket;             // connected to the back end; from now on the front end's, also if it fails
    const char *name;       // of the back end, for messages; copied
    uint64_t features;      // of the device, that the back end must have
    const uint8_t *memory;  // all guest memory lies in here, which is
    uint64_t memory_size;   // so many bytes of
    int memory_fd;          // this file; the caller's
    void (*end)(void *ctx); // ends the back end's process for certain; on any thread; may be NULL
    void *ctx;
    uint64_t limit_ns; // that a message and its answer may take; 0: a default of some seconds
};

// Connects, and finds out what the back end can do.
int vhost_user_open(const struct vhost_user_options *o, struct vhost **out, struct error *err);
