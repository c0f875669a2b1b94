// Frames on a stream socket, in both directions, without ever waiting: what cables and switches speak.
//
// Each message is preceded by four bytes, in network order: its kind in the first one, its length in the other three.
// Kind 0 is a plain frame, so that a peer that knows no other kind sees frames preceded by their length: the format of
// QEMU's `-netdev stream` and of passt. Kind 1 is a frame with virtio's header before it; kind 2 is for the two ends
// themselves (backend/switch_messages.h).
//
//     00 00 00 2a  <42 bytes>                 a frame of 42 bytes
//     01 00 ff f0  <12 bytes> <65508 bytes>   a large one that still has to be cut into segments, as its header says
//
// Reading: fill() takes what is there in one go, next() hands out what is complete. A message lies in the stream's own
// memory until the next fill().
//
// Writing: put() collects messages without copying them, flush() writes them in one go. What the socket does not take
// is copied and waits (`backlog` bytes at most, and the rest of one message); when that is full, put() and flush() drop
// whole messages.
#pragma once
#include "vm/net.h"
#include <sys/uio.h>

enum { NET_MESSAGE_FRAME, NET_MESSAGE_HEADED, NET_MESSAGE_CONTROL };
enum { NET_CONTROL_MAX = 1024, NET_BATCH = 64 };

struct net_message {
    unsigned kind;
    struct net_header header; // all zeroes but with NET_MESSAGE_HEADED
    const uint8_t *data;      // the frame, or what a control message says
    size_t size;
};

struct net_stream {
    int fd; // the owner's; not blocking
    uint8_t *in;
    size_t in_start, in_end;
    uint8_t *out; // what waits
    size_t out_start, out_end, backlog;
    uint64_t dropped; // messages
    unsigned batch;
    struct { // of each message of the batch
        uint8_t bytes[4];
        struct net_header header;
    } prefix[NET_BATCH];
    struct iovec iov[2 * NET_BATCH];
};

void net_stream_init(struct net_stream *s, int fd, size_t backlog);
void net_stream_free(struct net_stream *s); // not fd

int net_stream_fill(struct net_stream *s); // 1: something came; 0: nothing now; -EPIPE: the end; negative errno
int net_stream_next(struct net_stream *s, struct net_message *m); // 1; 0: none is complete; -EPROTO: not our format

// The header goes along with NET_MESSAGE_HEADED only. data must stay until flush(). False: dropped.
bool net_stream_put(struct net_stream *s, unsigned kind, const struct net_header *h, const void *data, size_t size);
int net_stream_flush(struct net_stream *s); // 0, also if something waits; negative errno: the stream is of no more use
static inline bool net_stream_waits(const struct net_stream *s)
{
    return s->out_start < s->out_end;
}
