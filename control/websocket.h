// The client's side of a WebSocket (RFC 6455) on a control socket: a stream of bytes in both directions.
//
// Example:
//     int fd = websocket_open(&address, "/console", &w, &err);
//     websocket_send(fd, WEBSOCKET_BINARY, "ls\n", 3);
//     n = read(fd, ...); websocket_feed(&w, bytes, n, on_data, ctx)
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

enum { WEBSOCKET_TEXT = 1, WEBSOCKET_BINARY = 2, WEBSOCKET_CLOSE = 8, WEBSOCKET_PING = 9, WEBSOCKET_PONG = 10 };

// Frames that come, as far as they have come.
struct websocket {
    uint8_t head[14]; // of the frame
    unsigned have;    // bytes of it
    uint64_t left;    // of its payload
    uint8_t opcode;
    bool in_payload, closed;
    uint8_t control[125]; // payload of a ping
    unsigned control_size;
    bool pinged;        // a ping's payload is in control, and is to be sent back
    uint8_t rest[8192]; // what came behind the answer to the handshake
    size_t rest_size;
};

// Connects, and changes over to the WebSocket protocol. The descriptor blocks. Whatever the server has sent already is
// in w->rest: feed it first.
int websocket_open(const struct sockaddr_un *a, const char *path, struct websocket *w, struct error *err);

// One frame, masked as a client's must be. -errno.
int websocket_send(int fd, unsigned opcode, const void *data, size_t size);

// Takes bytes as they come; payload is given to fn piece by piece. -EPROTO if it is nonsense. Afterwards closed and
// pinged tell what else has come.
int websocket_feed(struct websocket *w, const void *data, size_t size,
                   void (*fn)(void *ctx, const void *data, size_t size), void *ctx);
