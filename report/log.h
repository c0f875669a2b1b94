// The log and the trace: what a running machine tells about itself.
//
// A struct log belongs to one VM (or one program); there is no global one. Guest-triggered messages go through
// log_guest(), which is limited in rate so that a hostile guest cannot fill a disk.
//
// Example: log_info(vm->log, "disk %s: 2.0 GiB, read-only", name);
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

// Kinds of trace, a bitmask (trapeze run --trace).
enum {
    TRACE_EXITS = 1 << 0,
    TRACE_INTERRUPTS = 1 << 1,
    TRACE_MMIO = 1 << 2,
    TRACE_PIO = 1 << 3,
    TRACE_TRANSLATE = 1 << 4
};

struct log {
    enum log_level level;
    unsigned trace;                            // TRACE_* that are on
    void (*sink)(void *ctx, const char *line); // one line without newline; called from any thread, must lock itself
    void *ctx;
    _Atomic uint32_t guest_budget; // messages that guests may still cause; see log_guest
};

void log_line(struct log *l, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void log_guest(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_trace(struct log *l, unsigned kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static inline bool log_tracing(const struct log *l, unsigned kind)
{
    return l && (l->trace & kind);
}

#define log_error(l, ...) log_line(l, LOG_ERROR, __VA_ARGS__)
#define log_warn(l, ...) log_line(l, LOG_WARN, __VA_ARGS__)
#define log_info(l, ...) log_line(l, LOG_INFO, __VA_ARGS__)
#define log_debug(l, ...) log_line(l, LOG_DEBUG, __VA_ARGS__)
