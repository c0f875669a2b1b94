// How long work is told: what is being done now, for people who wait.
#pragma once
#include <stdint.h>

struct progress {
    // A line; done and total (bytes) are 0 where they can't be told. Called often.
    void (*tell)(void *ctx, const char *what, uint64_t done, uint64_t total);
    void *ctx;
};

static inline void progress_tell(const struct progress *p, const char *what, uint64_t done, uint64_t total)
{
    if (p && p->tell)
        p->tell(p->ctx, what, done, total);
}
