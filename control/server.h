// The control server of one machine: HTTP with JSON on a unix socket, on a thread of its own.
//
// Who may connect, may do all that the machine's owner may: the socket has mode 0600, in a directory of mode 0700.
// Still no peer is trusted to speak sense, or at all: connections, headers, bodies and times are bounded (server.c says
// how), and whatever they send, the machine runs on.
//
// A stream (a console) is a resource, too: a WebSocket at its path. What the machine prints is sent as binary messages,
// from the last output on; what the peer sends goes to the machine. Several peers may be there.
//
// Example:
//     curl --unix-socket ~/.local/state/trapeze/web/control.sock http://trapeze/vm
//     curl --unix-socket ... -X POST http://trapeze/pause
#pragma once
#include "control/route.h"
#include <stdint.h>
#include <sys/un.h>

struct control_server;

// A stream of bytes with any number of readers, each with a position of its own.
struct control_stream {
    const char *path; // "/console"; NULL: end of the table
    void *ctx;
    uint64_t (*begin)(void *ctx); // the position of a new reader
    // Up to `size` bytes from *position on, which moves; 0: nothing more for now. What is too old is skipped; a
    // position of 0 is the oldest there is.
    size_t (*read)(void *ctx, uint64_t *position, void *data, size_t size);
    size_t (*write)(void *ctx, const void *data, size_t size); // bytes taken; 0: no room for now
};

// Both tables end with an empty entry and stay the caller's, as what they point to. A socket that a dead server left
// behind is replaced.
int control_server_start(struct control_server **out, const struct sockaddr_un *address,
                         const struct control_table *tables, const struct control_stream *streams, struct error *err);
// Any thread: a stream has more to read, or room again.
void control_server_wake(struct control_server *s);
// Waits until the last handler has returned; connections end. The caller removes the socket's file.
void control_server_stop(struct control_server *s);
