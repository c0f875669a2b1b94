// Doorbells: eventfds, and one thread that waits for all of them.
//
// An eventfd is what the kernel can ring by itself, for example when a guest writes to an address.
//
// Example: bells_create(&b, "bells", err); fd = bells_add(b, on_ring, ctx, err); ... the kernel is given fd.
#pragma once
#include "report/error.h"

struct bells;

int bells_create(struct bells **out, const char *name, struct error *err);
// A new bell; fn(ctx) is called on the thread some time after it was rung, once for all rings until then. Any thread.
// Returns its file descriptor, which stays ours, or a negative errno.
int bells_add(struct bells *b, void (*fn)(void *ctx), void *ctx, struct error *err);
void bells_destroy(struct bells *b); // ends the thread first; b may be NULL
