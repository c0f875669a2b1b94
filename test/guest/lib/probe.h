// One memory access in ring 0 or 3, and how it ended (probe.S). The building block of the paging guests.
#pragma once
#include "guest.h"

enum access { READ, WRITE, RMW, EXECUTE };
enum ring { KERNEL, USER };

// Does the access at va (EXECUTE jumps there: the page must hold int $DONE) with these flags; see `last`.
// Returns the error code if it was a page fault with CR2 = va, NO_FAULT, or STRANGE for anything else.
#define NO_FAULT (-1)
#define STRANGE (-2)
int probe(enum access access, enum ring ring, ulong va, ulong flags);
// The same, in ring 0 or 3 without flags, and one line: "ok   NAME: #PF(0007)".
bool check_probe(const char *name, enum access access, enum ring ring, ulong va, int want);

// All combinations of the rights in `bits` (of W, U and NX, as in a page table entry), all accesses, both rings,
// against the manual's rules (SDM vol. 3, 4.6.1) under the present CR0 and CR4: one line. apply() puts rights into the
// entry under test of va's translation, all others of which allow everything, and flushes; `page` is the page mapped
// there.
#define RIGHT_W 2ull
#define RIGHT_U 4ull
#define RIGHT_NX (1ull << 63)
bool check_rights(const char *name, ulong va, u64 bits, void (*apply)(u64 rights), void *page, ulong flags);
