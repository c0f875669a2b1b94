// What a socket device needs from whatever its connections lead to on the host: the interface that backends implement.
//
// A backend has one thread of its own, and everything about connections happens there. It tells the device what its
// peers (host sockets) are ready for, and calls work() after wake() and after each round of news; the device then moves
// what can be moved, reading from and writing to the peers. A vCPU's kick does nothing but wake it.
//
//     guest connects     work() -> connect(port, connection) -> a peer, or NULL: refused
//     host connects      call(guest port, peer) -> a connection ... work() -> opened(peer, host port)
//     host has data      ready(connection, VSOCK_READ), work() -> read(), read(), ...
//     guest has data     work() -> write(); what does not fit is kept by the device, which wants VSOCK_WRITE then
//
// Back-pressure. The device says by want() what it wants to hear of, and never hears of anything else but hang-up. It
// reads no more than the guest has room for and keeps no more than it promised to keep; a backend buffers nothing.
//
// A peer belongs to the device from call() or connect() on until the device closes it.
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VSOCK_READ = 1, VSOCK_WRITE = 2, VSOCK_HANGUP = 4 };
// Context identifiers: the host's, and the first and the last that a guest may have. (Virtio 1.2, 5.10.4)
#define VSOCK_CID_HOST 2u
#define VSOCK_CID_FIRST 3u
#define VSOCK_CID_LAST 0xfffffffeu

struct vsock;
struct vsock_peer;       // the backend's
struct vsock_connection; // the device's

struct vsock_ops {
    // Starts the thread: from here on the functions below `ctx` may be called. 0 or negative errno.
    int (*start)(struct vsock *v, struct error *err);
    void (*stop)(struct vsock *v); // when it returns they are not called any more; harmless if it was not started
    void (*wake)(struct vsock *v); // any thread, locks may be held: call work()

    // The rest is called by the device on the backend's thread, without locks.
    // The guest wants to be connected to the host's port. NULL: nobody listens there.
    struct vsock_peer *(*connect)(struct vsock *v, uint32_t port, struct vsock_connection *c);
    void (*opened)(struct vsock_peer *p, uint32_t host_port); // the guest has accepted what call() asked for
    // Bytes done, at least 1 (read: 0 is the end); -EAGAIN: not now; else the connection is broken.
    int64_t (*read)(struct vsock_peer *p, void *data, size_t size);
    int64_t (*write)(struct vsock_peer *p, const void *data, size_t size);
    void (*shut)(struct vsock_peer *p, unsigned ways);  // VSOCK_WRITE: nothing more will be written; VSOCK_READ: read
    void (*want)(struct vsock_peer *p, unsigned ready); // VSOCK_READ, VSOCK_WRITE
    void (*close_peer)(struct vsock_peer *p);
    void (*close)(struct vsock *v); // any thread: stops and frees the backend
};

struct vsock {
    const struct vsock_ops *ops;
    // The device's, set before start(). All are called on the backend's thread.
    void *ctx;
    void (*work)(void *ctx);
    // Somebody wants to be connected to the guest's port. NULL: no guest is there, or it has too many connections.
    struct vsock_connection *(*call)(void *ctx, uint32_t port, struct vsock_peer *p);
    void (*ready)(void *ctx, struct vsock_connection *c, unsigned ready);
};
