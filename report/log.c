// Log lines: see log.h. A NULL log swallows everything, so that unit tests need none.
#include "report/log.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

enum { LINE = 512 };

static void emit(struct log *l, const char *tag, const char *fmt, va_list ap)
{
    char line[LINE];
    int n = snprintf(line, sizeof line, "%s", tag);
    vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    l->sink(l->ctx, line);
}

void log_line(struct log *l, enum log_level level, const char *fmt, ...)
{
    static const char *const tag[] = {"error: ", "warning: ", "", "debug: "};
    if (!l || level > l->level)
        return;
    va_list ap;
    va_start(ap, fmt);
    emit(l, tag[level], fmt, ap);
    va_end(ap);
}

void log_guest(struct log *l, const char *fmt, ...)
{
    if (!l || l->level < LOG_WARN)
        return;
    // Take one from the budget unless it is empty: never wraps below zero, whatever the number of threads.
    uint32_t left = l->guest_budget;
    do {
        if (!left)
            return;
    } while (!atomic_compare_exchange_weak(&l->guest_budget, &left, left - 1));
    va_list ap;
    va_start(ap, fmt);
    emit(l, "guest: ", fmt, ap);
    va_end(ap);
}

void log_trace(struct log *l, unsigned kind, const char *fmt, ...)
{
    if (!log_tracing(l, kind))
        return;
    va_list ap;
    va_start(ap, fmt);
    emit(l, "trace: ", fmt, ap);
    va_end(ap);
}
