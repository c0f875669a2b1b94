// What tests of the machinery add to the bed: a window of 512 small pages to map as they like, and free running.
#pragma once
#include "bed.h"
#include <stdlib.h>

// In long mode: linear addresses WINDOW to WINDOW + 2 MiB, by the page table at WINDOW_TABLE.
#define WINDOW 0x10000000ull
enum { WINDOW_TABLE = 0x20000 };

static inline void bed_window(struct bed *b)
{
    bed_write(b, BED_TABLES + 0x2000 + 8 * (WINDOW >> 21), WINDOW_TABLE | 7, 8);
}

static inline void bed_map(struct bed *b, unsigned page, uint64_t entry)
{
    bed_write(b, WINDOW_TABLE + 8 * page, entry, 8);
}

// Runs until HLT by run(), in whole blocks (bed_run goes by step(), one instruction at a time).
static inline void bed_go(struct bed *b)
{
    struct error e = {""};
    b->halts = 0;
    b->s.ev.activity = CPU_RUNNING;
    if (b->vm->ops->set_state(b->cpu, &b->s, CPU_GROUP_ALL, &e))
        fail_msg("%s", e.text);
    b->how = b->vm->ops->run(b->cpu, &e);
    b->vm->ops->get_state(b->cpu, &b->s, CPU_GROUP_ALL);
}

// A counter by name: struct bed_stat s = {name}; vcpu_stats(cpu, bed_stat_take, &s).
struct bed_stat {
    const char *name;
    uint64_t value;
};

static inline void bed_stat_take(void *ctx, const char *name, uint64_t value)
{
    struct bed_stat *s = ctx;
    if (!strcmp(name, s->name))
        s->value = value;
}

static inline uint64_t bed_stat(struct bed *b, const char *name)
{
    struct bed_stat s = {name, 0};
    b->vm->ops->vcpu_stats(b->cpu, bed_stat_take, &s);
    return s.value;
}
