// A console with many ends: what a guest prints on one port goes to the console that the user named, into a log file of
// bounded size, and to whoever attaches; and what any of them types goes to the guest.
//
// The newest RING bytes of output are kept. Each reader has its own position in all that was ever printed; who is too
// slow loses the oldest, and nobody waits for anybody: neither the guest nor the other readers. The log is written by a
// thread of the hub's own; when it has grown to half of its limit it becomes NAME.1, in place of the NAME.1 before.
//
// Example:
//     hub_create(&(struct hub_options){.below = console_stream(c), .loop = loop, .folder = fd, .log = "console.log",
//                                      .limit = 4 << 20}, &hub, &err);
//     uart_create(vm, ..., hub_stream(hub), ...);
//     uint64_t position = 0; while ((n = hub_read(hub, &position, buffer, sizeof buffer))) ...
#pragma once
#include "host/loop.h"
#include "report/error.h"
#include "vm/stream.h"

struct hub;

struct hub_options {
    struct stream *below; // the console that the user named; NULL: none. It outlives the hub.
    struct loop *loop;
    int folder;      // where the log is; -1: no log
    const char *log; // the name of its file, appended to
    uint64_t limit;  // bytes of both files together
};

int hub_create(const struct hub_options *o, struct hub **out, struct error *err);
void hub_destroy(struct hub *h);          // writes the log out; loop thread, or when the loop has ended
struct stream *hub_stream(struct hub *h); // for the guest's device

// Any thread. Bytes from *position on, which moves; 0: there are no more for now. 0 is the oldest position there is.
size_t hub_read(struct hub *h, uint64_t *position, void *data, size_t size);
// Any thread. Where to begin to read for who wants to see the last `bytes` of output: at the start of a line, if there
// is one.
uint64_t hub_tail(struct hub *h, size_t bytes);
// Any thread. How many bytes were taken to be typed: a guest that doesn't read makes this 0.
size_t hub_type(struct hub *h, const void *data, size_t size);
// fn is called, on any thread and with no lock of the hub's held, when there is something to read after a hub_read that
// gave 0, or room after a hub_type that took less than it was given. NULL ends it: when this returns, nobody is in fn.
void hub_watch(struct hub *h, void (*fn)(void *ctx), void *ctx);
