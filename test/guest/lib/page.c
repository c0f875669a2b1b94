// Page tables for the guests' own mappings, below the identity map of the first 4 GiB: 4-level (long mode).
//
// Tables and pages come from the arena, zeroed, and are never given back. Nothing here flushes the TLB: that is what
// many of the cases are about.
#include "page.h"

static ulong arena_next;

void *new_page(void)
{
    if (!arena_next)
        arena_next = (ulong)arena;
    void *page = (void *)arena_next;
    arena_next += 4096;
    return memset(page, 0, 4096);
}

u64 *entry_of(u64 va, unsigned level)
{
    u64 *table = pml4;
    for (unsigned l = 4; l > level; l--) {
        u64 *e = &table[va >> (12 + 9 * (l - 1)) & 511];
        if (!*e)
            *e = (u64)(ulong)new_page() | P | W | U;
        table = (u64 *)(ulong)(*e & ADDRESS);
    }
    return &table[va >> (12 + 9 * (level - 1)) & 511];
}

void map(u64 va, u64 pa, u64 bits)
{
    *entry_of(va, 1) = pa | bits;
}
