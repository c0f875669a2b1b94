// The connections of a socket device: a state machine for packets, which knows neither queues nor locks.
//
// Packets from the guest go in (vsock_table_take), packets to the guest come out (vsock_table_next, then
// vsock_table_sent when there was a buffer for it). All of this happens on the backend's thread (vm/vsock.h).
//
//     guest                               here                                host
//     REQUEST 1025 -> 80           ->     connect(80)                   ->    a peer
//     RESPONSE                     <-
//     RW 100 bytes                 ->     write(): 60 taken, 40 kept          (received 100, forwarded 60)
//     CREDIT_UPDATE                <-     ... writable: 40 more               (forwarded 100)
//     RW                           <-     read(), no more than its credit
//     SHUTDOWN both                ->     what is kept is written, the peer is closed
//     RST                          <-     and the connection is forgotten
//
// Credit (5.10.6.3). Each side tells with each packet how much it buffers (buf_alloc) and how much of what it received
// it has handed on (fwd_cnt); counters run modulo 2^32. We buffer VSOCK_BUFFER bytes for each connection, allocated
// when a peer first takes less than it is offered. A guest that sends beyond that is hung up on.
//
// Bounds. VSOCK_CONNECTIONS at once, and VSOCK_RESETS answers to packets that belong to no connection; while those are
// full no packet is taken from the guest, which it has brought about by not offering buffers.
#pragma once
#include "vm/vsock.h"

enum { VSOCK_BUFFER = 128 << 10, VSOCK_CONNECTIONS = 512, VSOCK_RESETS = 64, VSOCK_BUCKETS = 256 };
enum { VSOCK_READ_MAX = 64 << 10 }; // bytes read from a peer at once

struct vsock_header { // 5.10.6
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_header) == 44, "Virtio 1.2, 5.10.6");

enum { VSOCK_TYPE_STREAM = 1 };
enum {
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE,
    VSOCK_OP_RST,
    VSOCK_OP_SHUTDOWN,
    VSOCK_OP_RW,
    VSOCK_OP_CREDIT_UPDATE,
    VSOCK_OP_CREDIT_REQUEST,
};
enum { VSOCK_SHUTDOWN_RECEIVE = 1, VSOCK_SHUTDOWN_SEND = 2 };

struct vsock_table {
    struct vsock *vsock;
    uint32_t cid;
    unsigned count;
    uint32_t next_port; // for calls from the host
    struct vsock_connection *bucket[VSOCK_BUCKETS];
    struct vsock_connection *ready, **ready_end; // those that have something for the guest
    struct vsock_connection *owner;              // whose data `in` is; NULL: nobody's
    uint32_t in_start, in_end;
    uint8_t in[VSOCK_READ_MAX];
    unsigned resets; // answers to packets that belong to nothing
    struct vsock_header reset[VSOCK_RESETS];
};

void vsock_table_init(struct vsock_table *t, struct vsock *vsock, uint32_t cid);
void vsock_table_drop(struct vsock_table *t); // closes all peers and forgets all connections

// Whether another packet may be taken. If not, packets must first go out.
bool vsock_table_takes(const struct vsock_table *t);
// A packet from the guest, with h->len bytes of data, of which the caller has checked only that they are there.
void vsock_table_take(struct vsock_table *t, const struct vsock_header *h, const uint8_t *data);
// The next packet for the guest; false if there is none. Asking again gives the same or a later state of it. Its data
// (h->len bytes, may be 0) may be cut short: vsock_table_sent gets as many as were sent. For other packets that is 0.
bool vsock_table_next(struct vsock_table *t, struct vsock_header *h, const uint8_t **data);
void vsock_table_sent(struct vsock_table *t, const struct vsock_header *h);

// As in struct vsock.
struct vsock_connection *vsock_table_call(struct vsock_table *t, uint32_t port, struct vsock_peer *p);
void vsock_table_ready(struct vsock_table *t, struct vsock_connection *c, unsigned ready);
