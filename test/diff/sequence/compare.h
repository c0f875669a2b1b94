// Whether two machines have come to the same end.
#pragma once
#include "machine.h"

// False: a description of the first differences is in `why`.
bool machines_same(const struct machine *a, const struct machine *b, char *why, size_t size);
