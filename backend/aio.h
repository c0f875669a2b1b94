// Asynchronous file I/O for disk backends: io_uring where the kernel lets us have one, a pool of threads otherwise.
//
// A request is one operation on a file descriptor. done() is called exactly once, on a thread of the aio's own, when
// all bytes are through: short transfers are continued here, so the caller sees success or an error, never a part.
// Reading past the end of the file gives zeroes.
//
// Requests are the caller's memory and must live until done(). No order is kept between requests: who needs one waits.
//
// Example: aio_submit(aio, &(struct aio_request){.op = AIO_READ, .fd = fd, .offset = 4096, .iov = v, .iovs = 2, .done =
// on_done});
#pragma once
#include "report/error.h"
#include <stdint.h>
#include <sys/uio.h>

enum aio_op { AIO_READ, AIO_WRITE, AIO_SYNC, AIO_PUNCH, AIO_ZERO };

struct aio_request {
    enum aio_op op;
    int fd;
    uint64_t offset, length; // PUNCH and ZERO: bytes; READ and WRITE: the sum of iov
    struct iovec *iov;       // changed while the request runs
    unsigned iovs;
    void (*done)(struct aio_request *r, int result); // 0 or negative errno
    struct aio_request *next;                        // the aio's
};

struct aio;

struct aio_ops {
    const char *name;
    void (*submit)(struct aio *a, struct aio_request *r);
    void (*destroy)(struct aio *a); // waits for everything that was submitted
};

struct aio {
    const struct aio_ops *ops;
};

// The best that there is. -errno if not even threads can be had.
int aio_create(struct aio **out, struct error *err);
int aio_create_uring(struct aio **out, struct error *err); // -ENOSYS, -EPERM... where there is none
int aio_create_threads(struct aio **out, unsigned threads, struct error *err);

static inline void aio_submit(struct aio *a, struct aio_request *r)
{
    a->ops->submit(a, r);
}

// Takes `bytes` off the front of r's vector and moves its offset on: what both backends do after a short transfer.
void aio_advance(struct aio_request *r, uint64_t bytes);
// Fills what is left of r's vector with zeroes: reading past the end.
void aio_zero_rest(struct aio_request *r);
