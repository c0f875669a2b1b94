// Frames over a connection, for both ends of it: see protocol.h for what they look like.
//
// What comes in is hostile: a guest may say anything to the host. A frame is handed out only when it is complete, and
// one that is longer than AGENT_PAYLOAD ends the connection. What goes out waits in a buffer until the connection takes
// it; data frames leave room there for frames without data, so that those can always be sent.
//
// Example: channel_put(c, AGENT_SIGNAL, 0, bytes, 4); channel_flush(c);
//          while (channel_fill(c) > 0) while (channel_next(c, &frame) > 0) handle(&frame);
#pragma once
#include "agent/protocol.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CHANNEL_OUT = 4 * (AGENT_HEAD + AGENT_PAYLOAD), CHANNEL_RESERVE = 8192 };

struct channel {
    int fd; // a socket, not blocking; the owner's
    bool ended;
    size_t in_start, in_end, out_start, out_end;
    uint8_t in[2 * (AGENT_HEAD + AGENT_PAYLOAD)], out[CHANNEL_OUT];
};

struct channel_frame {
    uint8_t type, stream;
    uint32_t size;
    const uint8_t *data; // until the next call of channel_next
};

void channel_init(struct channel *c, int fd);
// Reads what there is: bytes, 0 if there is nothing now or no room before channel_next, -ECONNRESET at the end.
int channel_fill(struct channel *c);
// The next complete frame: 1, 0 if there is none, -EPROTO.
int channel_next(struct channel *c, struct channel_frame *f);
// Whether a data frame of `size` bytes may be put.
bool channel_takes(const struct channel *c, size_t size);
// False: there is no room, and nothing was put.
bool channel_put(struct channel *c, enum agent_frame type, unsigned stream, const void *data, size_t size);
// Writes what is to go out. 0, or -ECONNRESET; what is left (channel_waits) waits until the socket takes more.
int channel_flush(struct channel *c);
static inline bool channel_waits(const struct channel *c)
{
    return c->out_start < c->out_end;
}

// Waits until a frame has come, for so long at most. 1, or -ETIMEDOUT, -ECONNRESET, -EPROTO. What is to go out goes out
// meanwhile.
int channel_await(struct channel *c, struct channel_frame *f, int timeout_ms);

// The HELLO that is sent, and whether one that came is of our version: 0, -EPROTO if it is none at all, -ENOTSUP.
bool channel_hello(struct channel *c);
int channel_check_hello(const struct channel_frame *f);

// A request, item by item. False where it would be longer than a frame may be.
struct channel_request {
    uint8_t data[AGENT_PAYLOAD];
    size_t size;
};
bool request_add(struct channel_request *r, enum agent_item tag, const void *data, size_t size);
bool request_add_text(struct channel_request *r, enum agent_item tag, const char *text);
// Goes through a request: 1 and the next item, 0 at the end, -EPROTO. *at begins with 0.
int request_next(const struct channel_frame *f, size_t *at, enum agent_item *tag, const uint8_t **data, size_t *size);

// Numbers as they are sent.
static inline void put_le(uint8_t *p, uint32_t n, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(n >> 8 * i);
}
static inline uint32_t get_le(const uint8_t *p, unsigned bytes)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < bytes; i++)
        n |= (uint32_t)p[i] << 8 * i;
    return n;
}
