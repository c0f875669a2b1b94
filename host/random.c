// Random bytes: see random.h.
#include "host/random.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

void host_random(void *buf, size_t size)
{
    unsigned char *p = buf;
    while (size) {
        ssize_t n = getrandom(p, size, 0);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            perror("getrandom"); // only a sandbox that forbids the call gets here
            abort();
        }
        p += n;
        size -= (size_t)n;
    }
}
