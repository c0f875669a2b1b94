// Random bytes from the kernel's generator, good enough for keys. Never fails: without a source of randomness the
// process ends, since nothing sensible could go on.
#pragma once
#include <stddef.h>

void host_random(void *buf, size_t size);
