// Memory for models, which know no operating system. Sizes never come from the guest unchecked.
#pragma once
#include <stddef.h>

void *vm_alloc(size_t size); // zeroed; NULL if there is none
void vm_free(void *p);
// Cryptographically good random bytes from the host.
void vm_random(void *buf, size_t size);
