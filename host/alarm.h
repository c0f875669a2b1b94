// An alarm: a function that is called on a thread of its own at a set time, and sleeps otherwise.
//
// For what is to happen later than now where no event loop is at hand: a backend that holds something back.
//
// Example: alarm_create(&a, "limit", on_time, disk, err); alarm_by(a, host_monotonic_ns() + 5000000);
#pragma once
#include "report/error.h"
#include <stdint.h>

struct alarm;

int alarm_create(struct alarm **out, const char *name, void (*fn)(void *ctx), void *ctx, struct error *err);
// fn is called at or soon after this host monotonic time; if it is already going to be called earlier, then only then,
// and may set the alarm again. Any thread, fn too.
void alarm_by(struct alarm *a, uint64_t monotonic_ns);
void alarm_destroy(struct alarm *a); // when it returns, fn is not running and will not be called any more
