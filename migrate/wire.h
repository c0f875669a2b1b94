// One connection of a migration: messages (frame.h) over a socket, with or without TLS.
//
// Everything waits in bounded steps: it ends when *cancel becomes true (-ECANCELED), and when the peer has neither
// taken nor given a byte for `patience_ms` (-ETIMEDOUT). One thread at a time.
//
// Example:
//     wire_init(&c, fd, &cancel); wire_secure(&c, &tls, "host2", &err);
//     put_u64(buffer + FRAME_HEADER, n); wire_send(&c, MESSAGE_ROUND, buffer, 8, &err);
//     wire_receive(&c, &m, &err); if (m.type == MESSAGE_ROUND_DONE) ...
#pragma once
#include "migrate/frame.h"
#include "migrate/tls.h"
#include "report/error.h"
#include <stdatomic.h>
#include <stdbool.h>

struct wire {
    int fd;
    struct tls *tls;
    const _Atomic bool *cancel; // NULL: it can't be cancelled
    unsigned patience_ms;
    uint64_t deadline_ns;    // host monotonic time after which nothing waits any more (-ETIMEDOUT); 0: none
    uint32_t sent, received; // messages
    uint64_t bytes;          // sent, headers included
    uint8_t *payload;        // of the message that was received last
    size_t room;
    uint8_t head[FRAME_HEADER]; // of the message that is coming
    size_t have;                // bytes of it
};

struct message {
    unsigned type;
    const uint8_t *data; // until the next wire_receive
    size_t size;
};

// Takes the connected socket, which does not block.
void wire_init(struct wire *c, int fd, const _Atomic bool *cancel);
// host: as tls_open's. Bounded as above.
int wire_secure(struct wire *c, const struct tls_options *o, const char *host, struct error *err);
void wire_close(struct wire *c);

// buffer: FRAME_HEADER bytes of room for the header, then the payload.
int wire_send(struct wire *c, unsigned type, uint8_t *buffer, size_t size, struct error *err);
// Without a payload, or with one of at most 64 KiB that is copied.
int wire_send_small(struct wire *c, unsigned type, const void *payload, size_t size, struct error *err);
// -ECONNRESET: the peer has ended the connection.
int wire_receive(struct wire *c, struct message *m, struct error *err);
bool wire_readable(const struct wire *c); // a message, or the end, has begun to come
