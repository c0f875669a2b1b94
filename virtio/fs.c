// The virtio file system device: see fs.h.
//
// Two queues: one for requests that must not wait (FORGET, INTERRUPT) and one for all others. A FUSE request begins
// with a header that has a number; the answer begins with one that has the same number and an error. When the back end
// is lost each request is answered so, with ENOTCONN, which is what users of a FUSE mount get whose server has died.
// (Device status NEEDS_RESET would tell Linux nothing: it would wait for ever.) A new mount fails likewise.
//
// State. The rings are ours and saved as everybody's, but which files a guest has open only the back end knows. A guest
// that is restored beside a new back end gets errors for what it had mounted, until it mounts it again.
#include "virtio/fs.h"
#include "virtio/vhost.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

enum { PRIORITY, REQUESTS, QUEUES, QUEUE_SIZE = 256 };
enum { FUSE_ENOTCONN = 107 }; // Linux's number, whatever ours is

struct fs_config { // 5.11.4
    char tag[VIRTIO_FS_TAG_MAX];
    uint32_t num_request_queues;
};
_Static_assert(sizeof(struct fs_config) == 40, "Virtio 1.2, 5.11.4");

struct fuse_in { // the beginning of struct fuse_in_header, <linux/fuse.h>
    uint32_t len, opcode;
    uint64_t unique;
};

struct fuse_out { // struct fuse_out_header
    uint32_t len;
    int32_t error;
    uint64_t unique;
};

struct virtio_fs {
    struct virtio_vhost vhost;
    struct fs_config config;
};

static uint64_t refuse(struct virtio_vhost *v, const struct virtq_chain *c)
{
    struct fuse_in in;
    if (virtq_chain_read(c, 0, &in, sizeof in) < sizeof in || c->in_bytes < sizeof(struct fuse_out))
        return 0; // FORGET, for instance, has no answer
    const struct fuse_out out = {.len = sizeof out, .error = -FUSE_ENOTCONN, .unique = in.unique};
    return virtq_chain_write(v->virtio.dev.vm, c, 0, &out, sizeof out);
}

static const struct state_field fs_fields[] = {VIRTIO_STATE(struct virtio_fs, vhost.virtio), STATE_END};
static const struct state_table fs_state = {"virtio-fs", 1, fs_fields};

static const struct virtio_kind fs_kind = {
    .device = {.name = "virtio-fs",
               .reset = virtio_device_reset,
               .drain = virtio_vhost_drain,
               .state = &fs_state,
               .loaded = virtio_device_loaded,
               .stats = virtio_vhost_stats,
               .destroy = virtio_vhost_destroy},
    .id = 26,
    .pci_class = 0x018000,
    .kick = virtio_vhost_kick,
};

int virtio_fs_create(struct vm *vm, const char *name, const char *tag, struct vhost *vhost, struct virtio_device **out,
                     struct error *err)
{
    size_t length = strlen(tag);
    if (!length || length > VIRTIO_FS_TAG_MAX)
        return error_set(err, EINVAL, "%s: the tag must have 1 to %d bytes", name, VIRTIO_FS_TAG_MAX);
    struct virtio_fs *f = vm_alloc(sizeof *f);
    if (!f)
        return error_set(err, ENOMEM, "%s: out of memory", name);
    memcpy(f->config.tag, tag, length); // not terminated if it fills the field (5.11.4)
    f->config.num_request_queues = 1;
    f->vhost.refuse = refuse;
    virtio_init(&f->vhost.virtio, vm, &fs_kind, name, 0, QUEUES, QUEUE_SIZE, &f->config, sizeof f->config);
    *out = &f->vhost.virtio;
    return virtio_vhost_start(&f->vhost, vhost, err);
}
