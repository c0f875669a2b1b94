// The event loop: one thread that waits for file descriptors, timers and messages from other threads.
//
// Everything is called on the thread that is in loop_run. loop_post is the only way in from another thread.
//
// Example: loop_fd(loop, fd, LOOP_READ, on_readable, ctx); loop_run(loop);
#pragma once
#include "report/error.h"
#include <stdint.h>

struct loop;
struct loop_source;

enum { LOOP_READ = 1, LOOP_WRITE = 2 };

int loop_create(struct loop **out, struct error *err);
void loop_destroy(struct loop *l);

// Watches fd (not owned). The callback gets the events that are ready; hang-up and error count as LOOP_READ, and as
// LOOP_WRITE if that is watched. While `events` is 0 nothing is reported, hang-up neither. NULL on failure (errno says
// why: EPERM for regular files, which are always ready).
struct loop_source *loop_fd(struct loop *l, int fd, unsigned events, void (*fn)(void *ctx, unsigned events), void *ctx);
void loop_fd_events(struct loop_source *s, unsigned events); // 0 pauses it
void loop_remove(struct loop_source *s);                     // loop thread only; safe inside of a callback

// One timer for the owner's own queue: fn is called once at or after host monotonic time ns; setting again replaces,
// HOST_NEVER cancels. Any thread.
void loop_timer(struct loop *l, uint64_t monotonic_ns, void (*fn)(void *ctx), void *ctx);

// Any thread: fn(ctx) is called once on the loop's thread, in order of posting. -ENOMEM if it can't.
int loop_post(struct loop *l, void (*fn)(void *ctx), void *ctx);

void loop_run(struct loop *l);  // until loop_stop
void loop_stop(struct loop *l); // any thread, signal handlers too
