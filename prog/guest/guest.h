// Talking to the agent in a machine's guest (agent/protocol.h): finding the machine's socket, waiting for the agent,
// asking for a session, and what `trapeze exec`, `cp`, `ssh` and `connect` share.
//
// A machine is named by its name, or by the path of its socket (--vsock PATH): a name with a slash in it is a path.
//
// Example:
//     if (!guest_connect(s, "web", 60, &err) && !guest_ask(s, AGENT_EXEC, &request, &status, &err)) ...
#pragma once
#include "agent/relay.h"
#include "report/error.h"

enum { GUEST_WAIT = 60 }; // seconds that an agent is waited for unless the user says otherwise

struct guest {
    const char *name;
    int fd; // -1: not connected
    // How the session ended, once it has.
    bool over;
    int status;
    char text[256]; // ERROR's; "": none
    struct relay relay;
};

struct guest *guest_new(const char *name, struct error *err); // not connected; for guest_free
void guest_free(struct guest *g);

// Connects to the agent, waiting for it for so long at most. -ENOENT: no such machine; -ETIMEDOUT: no agent; -ENOTSUP:
// of another version. The text names the machine.
int guest_connect(struct guest *g, unsigned wait_s, struct error *err);
// Asks for a session and waits until it has begun. -ECHILD: the guest refused, g->status is to be ended with.
int guest_ask(struct guest *g, enum agent_frame kind, const struct channel_request *r, struct error *err);
// Moves bytes until the session is over: 0 (g->status), the connection broke: -ECONNRESET, or what came on stream 1
// can't be written: -EPIPE, -ENOSPC and the like. `extra` (-1: none) is a descriptor that `on_extra` is called for when
// it can be read.
int guest_relay(struct guest *g, int extra, void (*on_extra)(struct guest *g, void *ctx), void *ctx, struct error *err);

// A text that came from a guest, for a terminal: control characters become question marks.
void guest_clean(char *text, size_t size);
// For --wait SECONDS. 0 to 86400.
int guest_take_wait(unsigned *wait, const char *v, struct error *err);
