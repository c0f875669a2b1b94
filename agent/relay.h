// Moves bytes between file descriptors and the streams of a session, at either end of it.
//
//     trapeze exec                                              trapeze-agent
//     standard input  -> source 0 ======> sink 0   -> the program's standard input
//     standard output <- sink 1   <====== source 1 <- its standard output
//     standard error  <- sink 2   <====== source 2 <- its standard error
//
// A source is read only as far as the other side has room; a sink keeps what its descriptor does not take yet, at most
// AGENT_WINDOW bytes, and grants more as it hands them on. What belongs to no stream goes to `frame`.
//
// Example: relay_init(&r, fd); relay_source(&r, 1, out); relay_sink(&r, 0, in); while (!relay_round(&r, -1, NULL)) ...
#pragma once
#include "agent/channel.h"

struct relay_source {
    int fd;          // -1: there is none, or it has ended
    uint32_t window; // bytes that the other side has room for
};

struct relay_sink {
    int fd;             // -1: there is none, or it has been ended
    bool polite;        // the descriptor may be somebody else's, too: it blocks, and is given little at once
    bool ended;         // no more will come
    int broken;         // nobody reads there (errno): what comes is thrown away
    uint32_t handed_on; // and not yet granted anew
    uint32_t start, size;
    uint8_t buffer[AGENT_WINDOW];
};

struct relay {
    struct channel channel;
    struct relay_source source[AGENT_STREAMS];
    struct relay_sink sink[AGENT_STREAMS];
    bool draining; // a source that has nothing now has ended (its program has)
    void *ctx;
    // A frame that belongs to no stream. 0, or a negative errno that ends relay_round with it.
    int (*frame)(struct relay *r, const struct channel_frame *f);
    // Stream n has ended and everything was handed on. NULL: the descriptor is closed.
    void (*end)(struct relay *r, unsigned n);
};

void relay_init(struct relay *r, int fd);
void relay_source(struct relay *r, unsigned stream, int fd);
void relay_sink(struct relay *r, unsigned stream, int fd, bool polite);
// Waits for something to happen and does it. `extra` (-1: none) is polled too, and *ready told whether it can be read.
// 0, -ECONNRESET when the connection has ended (all that had come was handed out before), -EPROTO, or what frame()
// says.
int relay_round(struct relay *r, int extra, bool *ready);
// Whether all that came for the sinks has been handed on.
bool relay_idle(const struct relay *r);
bool relay_sources_ended(const struct relay *r);
// Makes more of what frame() or the owner has put into the channel go out, until it is out or the connection is gone.
void relay_finish(struct relay *r, int timeout_ms);
