// The socket to a vhost-user back end: requests and their answers, each within a bounded time.
//
// Nothing that comes is believed: an answer has the version, kind and size that it must have, or the back end is said
// to break the protocol. A call that failed leaves the channel in no state to be used again.
//
// Used by one thread at a time.
#pragma once
#include "backend/vhost_user/message.h"
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>

struct vhost_channel {
    int fd;            // a connected stream socket
    const char *name;  // of the back end, for messages
    bool acks;         // REPLY_ACK was negotiated
    uint64_t limit_ns; // for a message with its answer
};

struct vhost_message {
    enum vhost_user_request request;
    const void *payload;
    size_t size;
    const int *fd;
    unsigned fds; // at most VHOST_USER_FDS
};

// Sends a message, and waits until it is done where the back end can tell.
int vhost_channel_tell(struct vhost_channel *c, const struct vhost_message *m, struct error *err);
// Sends one that has an answer by nature, of exactly `size` bytes.
int vhost_channel_ask(struct vhost_channel *c, const struct vhost_message *m, void *answer, size_t size,
                      struct error *err);
