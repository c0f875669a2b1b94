// Memory and randomness for models: see alloc.h.
#include "vm/alloc.h"
#include "host/random.h"
#include <stdlib.h>

void *vm_alloc(size_t size)
{
    return calloc(1, size ? size : 1);
}

void vm_free(void *p)
{
    free(p);
}

void vm_random(void *buf, size_t size)
{
    host_random(buf, size);
}
