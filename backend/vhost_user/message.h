// Messages of the vhost-user protocol, as they go over the unix socket (QEMU's documentation, interop/vhost-user.rst).
//
// A message is a header and at most one payload, in the host's byte order; file descriptors travel beside it. We are
// the front end: we ask. The other side answers where the request has an answer by nature, or where we want to know
// that it was done (NEED_REPLY, if both sides can do REPLY_ACK).
//
// Example: {SET_VRING_NUM, VERSION | NEED_REPLY, 8} {ring 0, 256}   ->   {SET_VRING_NUM, VERSION | REPLY, 8} {0: done}
#pragma once
#include <stdint.h>

enum vhost_user_request {
    VHOST_USER_GET_FEATURES = 1,
    VHOST_USER_SET_FEATURES = 2,
    VHOST_USER_SET_OWNER = 3,
    VHOST_USER_SET_MEM_TABLE = 5,
    VHOST_USER_SET_VRING_NUM = 8,
    VHOST_USER_SET_VRING_ADDR = 9,
    VHOST_USER_SET_VRING_BASE = 10,
    VHOST_USER_GET_VRING_BASE = 11,
    VHOST_USER_SET_VRING_KICK = 12,
    VHOST_USER_SET_VRING_CALL = 13,
    VHOST_USER_GET_PROTOCOL_FEATURES = 15,
    VHOST_USER_SET_PROTOCOL_FEATURES = 16,
    VHOST_USER_GET_QUEUE_NUM = 17,
    VHOST_USER_SET_VRING_ENABLE = 18,
};

enum { VHOST_USER_VERSION = 1, VHOST_USER_VERSION_MASK = 3, VHOST_USER_REPLY = 4, VHOST_USER_NEED_REPLY = 8 };

struct vhost_user_header {
    uint32_t request, flags, size; // of the payload
};
_Static_assert(sizeof(struct vhost_user_header) == 12, "vhost-user: Header");

// Among the virtio features: the protocol has features of its own.
#define VHOST_USER_F_PROTOCOL_FEATURES (1ull << 30)

enum { VHOST_USER_PROTOCOL_MQ = 1 << 0, VHOST_USER_PROTOCOL_REPLY_ACK = 1 << 3 };

enum { VHOST_USER_REGIONS = 8, VHOST_USER_FDS = 8 }; // of a memory table; of a message

struct vhost_user_vring { // SET_VRING_NUM, _BASE, _ENABLE; GET_VRING_BASE
    uint32_t index, num;
};

struct vhost_user_address { // SET_VRING_ADDR; addresses are those of our process, as the memory table names them
    uint32_t index, flags;
    uint64_t desc, used, avail, log;
};
_Static_assert(sizeof(struct vhost_user_address) == 40, "vhost-user: vring address description");

struct vhost_user_region {
    uint64_t gpa, size, user, mmap_offset;
};

struct vhost_user_memory {
    uint32_t regions, padding;
    struct vhost_user_region region[VHOST_USER_REGIONS]; // as many as there are; the others are not sent
};
_Static_assert(sizeof(struct vhost_user_memory) == 8 + 32 * VHOST_USER_REGIONS, "vhost-user: memory regions");
