// What the source's side keeps while it migrates: send.c's own.
#pragma once
#include "migrate/pages.h"
#include "migrate/send.h"

struct sending {
    struct migrate_source *s;
    struct wire *c;
    struct owner owner;
    bool in_common;   // the receiver sees the owner's file
    bool first;       // the first round: all pages of the receiver's are zero
    bool stopped;     // the machine has been stopped for good or for a failed attempt
    uint64_t begin;   // host monotonic time
    uint64_t *marked; // one bit per page: to be sent
    uint64_t pace_since, pace_bytes;
    struct pages_batch pages;
    struct zeros_batch zeros;
};
