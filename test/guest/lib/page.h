// Page table entries and the guests' own mappings (page.c), for 64-bit guests.

#pragma once
#include "guest.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define PWT 8ull
#define PCD 0x10ull
#define A 0x20ull
#define D 0x40ull
#define LARGE 0x80ull
#define G 0x100ull
#define NX (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull

// Bits of a page fault's error code.
#define PF_P 1
#define PF_W 2
#define PF_U 4
#define PF_RSVD 8
#define PF_I 16

// A zeroed page of the arena, identity mapped for ring 0.
void *new_page(void);
// The entry for va at level 1 (4 KiB page), 2 (2 MiB or table), 3 (1 GiB or directory) or 4. Makes the tables above,
// with P, W and U.
u64 *entry_of(u64 va, unsigned level);
// A 4 KiB page.
void map(u64 va, u64 pa, u64 bits);

// Leaves long mode and enters it again with other tables and CR4 (boot64.S).
void reenter_long_mode(u32 cr3, u32 cr4);
