// What both ways of asynchronous I/O share: choosing one, and continuing short transfers. See aio.h.
#include "backend/aio.h"
#include <string.h>

enum { THREADS = 4 };

int aio_create(struct aio **out, struct error *err)
{
    if (aio_create_uring(out, err) == 0)
        return 0;
    return aio_create_threads(out, THREADS, err);
}

void aio_advance(struct aio_request *r, uint64_t bytes)
{
    r->offset += bytes;
    r->length -= bytes;
    while (r->iovs && bytes >= r->iov->iov_len) {
        bytes -= r->iov->iov_len;
        r->iov++;
        r->iovs--;
    }
    if (r->iovs) {
        r->iov->iov_base = (char *)r->iov->iov_base + bytes;
        r->iov->iov_len -= bytes;
    }
}

void aio_zero_rest(struct aio_request *r)
{
    for (unsigned i = 0; i < r->iovs; i++)
        memset(r->iov[i].iov_base, 0, r->iov[i].iov_len);
}
