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
