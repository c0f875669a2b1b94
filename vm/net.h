// What a network card needs from whatever carries its frames: the interface that backends implement.
//
// A backend has one thread of its own. It hands frames up by receive(), and it calls transmit() after wake(), upon
// which the card hands its frames down by send(): so neither way is ever served on a vCPU's thread.
//
//     vCPU                 backend's thread
//     kick -> wake()   ..> transmit() -> send(), send(), ...
//     kick -> wake()   ..> receive() again, if it was refused before
//
// Back-pressure. receive() may refuse a frame (the driver has no buffers ready): the backend keeps it and offers it
// again after the next wake(). send() may refuse one: the card keeps it and offers it again when the backend calls
// transmit() the next time, which it does as soon as it has room.
//
// Frames are whole Ethernet frames without FCS. What the hardware of a real card would do to them is described in the
// header, which is virtio's (Virtio 1.2, 5.1.6): a checksum that is still to be completed, a TCP stream that is still
// to be cut into segments. Neither side gives the other what it has not said it takes (`takes`, accept()).
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NET_CSUM = 1, NET_TSO4 = 2, NET_TSO6 = 4 };                                        // offloads
enum { NET_ETHERNET = 14, NET_FRAME_MAX = 65550, NET_MTU_MIN = 68, NET_MTU_MAX = 65520 }; // bytes

enum { NET_HEADER_NEEDS_CSUM = 1, NET_HEADER_DATA_VALID = 2 };   // net_header.flags
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4 }; // net_header.gso_type

struct net_header { // little-endian
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size; // bytes of all headers (a hint); of payload in each segment
    uint16_t csum_start, csum_offset;
    uint16_t num_buffers; // the card's
};
_Static_assert(sizeof(struct net_header) == 12, "Virtio 1.2, 5.1.6");

struct net;

struct net_ops {
    // Starts the thread: from here on the functions below `ctx` may be called. 0 or negative errno.
    int (*start)(struct net *n, struct error *err);
    void (*stop)(struct net *n); // when it returns they are not called any more; harmless if it was not started
    void (*wake)(struct net *n); // any thread, locks may be held: there is something to send, or room again
    // In transmit(), without locks. False: not now. The frame is only lent.
    bool (*send)(struct net *n, const struct net_header *h, const uint8_t *frame, size_t size);
    // In transmit(): the driver takes frames that need these offloads (NET_*), from now on.
    void (*accept)(struct net *n, unsigned offloads);
    void (*close)(struct net *n); // stops and frees
    // Counters for people to read; any thread. May be NULL.
    void (*stats)(struct net *n, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
};

struct net {
    const struct net_ops *ops;
    unsigned takes, gives; // offloads that send() can take, and that received frames might need
    uint16_t mtu;          // largest IP packet; 0: not known
    // The card's, set before start(). All are called on the backend's thread.
    void *ctx;
    bool (*receive)(void *ctx, const struct net_header *h, const uint8_t *frame, size_t size); // false: no room now
    void (*transmit)(void *ctx);
    void (*link)(void *ctx, bool up); // the cable is plugged in, as it is at first, or not
};
