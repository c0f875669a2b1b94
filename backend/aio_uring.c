// Asynchronous I/O by io_uring. See aio.h.
//
// Submission is done by whoever calls, under a lock; large transfers are left to threads of the kernel's; one thread of
// our own reaps completions. Short transfers go in again from the reaping thread. Invariant: inflight counts the
// requests whose completion has not been reaped; destroy() wakes the reaper by a no-op that carries no request.
#include "backend/aio.h"
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 128, COPY_MAX = 64 << 10 };

struct aio_uring {
    struct aio aio;
    struct io_uring ring;
    pthread_mutex_t lock;                // guards the submission side of ring, the waiting list and inflight
    struct aio_request *waiting, **last; // no room in the ring yet
    unsigned inflight;
    bool stopping;
    pthread_t reaper;
};

static void prepare(struct io_uring_sqe *sqe, struct aio_request *r)
{
    unsigned n = r->iovs < IOV_MAX ? r->iovs : IOV_MAX;
    switch (r->op) {
    case AIO_READ:
        io_uring_prep_readv(sqe, r->fd, r->iov, n, r->offset);
        break;
    case AIO_WRITE:
        io_uring_prep_writev(sqe, r->fd, r->iov, n, r->offset);
        break;
    case AIO_SYNC:
        io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC);
        break;
    case AIO_PUNCH:
        io_uring_prep_fallocate(sqe, r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->offset,
                                (off_t)r->length);
        break;
    case AIO_ZERO:
        io_uring_prep_fallocate(sqe, r->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)r->offset,
                                (off_t)r->length);
        break;
    }
    // What is in the page cache would be copied by whoever submits, which is a vCPU; below COPY_MAX that is quicker
    // than waking a thread.
    if ((r->op == AIO_READ || r->op == AIO_WRITE) && r->length >= COPY_MAX)
        sqe->flags |= IOSQE_ASYNC;
    io_uring_sqe_set_data(sqe, r);
}

// Moves waiting requests into the ring while there is room. With lock held. Never more in flight than the completion
// queue holds.
static void feed(struct aio_uring *u)
{
    bool any = false;
    while (u->waiting && u->inflight < ENTRIES) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (!sqe)
            break;
        struct aio_request *r = u->waiting;
        u->waiting = r->next;
        if (!u->waiting)
            u->last = &u->waiting;
        prepare(sqe, r);
        u->inflight++;
        any = true;
    }
    // EAGAIN: the kernel is short of memory for the moment. What is in the ring must go in: nobody would ask again.
    int e = any ? -EAGAIN : 0;
    while (e == -EINTR || e == -EAGAIN || e == -EBUSY)
        e = io_uring_submit(&u->ring);
}

static void submit(struct aio *a, struct aio_request *r)
{
    struct aio_uring *u = (struct aio_uring *)a;
    r->next = NULL;
    pthread_mutex_lock(&u->lock);
    *u->last = r;
    u->last = &r->next;
    feed(u);
    pthread_mutex_unlock(&u->lock);
}

// True if the request is finished, with its result; false if it has to go in again.
static bool finished(struct aio_request *r, int res, int *result)
{
    *result = 0;
    if (res == -EINTR || res == -EAGAIN)
        return false;
    if (res < 0) {
        *result = res;
        return true;
    }
    if (r->op != AIO_READ && r->op != AIO_WRITE)
        return true;
    if (res == 0 && r->length) { // the file ends here
        if (r->op == AIO_WRITE)
            *result = -EIO;
        else
            aio_zero_rest(r);
        return true;
    }
    aio_advance(r, (uint64_t)res);
    return r->length == 0;
}

static void *reap(void *ctx)
{
    struct aio_uring *u = ctx;
    for (;;) {
        struct io_uring_cqe *cqe;
        int e = io_uring_wait_cqe(&u->ring, &cqe);
        if (e == -EINTR)
            continue;
        if (e < 0)
            break;
        struct aio_request *r = io_uring_cqe_get_data(cqe);
        int res = cqe->res, result;
        io_uring_cqe_seen(&u->ring, cqe);
        bool done = r && finished(r, res, &result);
        pthread_mutex_lock(&u->lock);
        if (r) {
            u->inflight--;
            if (!done) {
                r->next = u->waiting;
                if (!u->waiting)
                    u->last = &r->next;
                u->waiting = r;
            }
            feed(u);
        }
        bool end = u->stopping && !u->inflight && !u->waiting;
        pthread_mutex_unlock(&u->lock);
        if (done)
            r->done(r, result);
        if (end)
            break;
    }
    return NULL;
}

static void destroy(struct aio *a)
{
    struct aio_uring *u = (struct aio_uring *)a;
    pthread_mutex_lock(&u->lock);
    u->stopping = true;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (sqe) {
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data(sqe, NULL);
        io_uring_submit(&u->ring);
    }
    pthread_mutex_unlock(&u->lock);
    pthread_join(u->reaper, NULL);
    io_uring_queue_exit(&u->ring);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

int aio_create_uring(struct aio **out, struct error *err)
{
    static const struct aio_ops ops = {"io_uring", submit, destroy};
    struct aio_uring *u = calloc(1, sizeof *u);
    if (!u)
        return error_set(err, ENOMEM, "asynchronous I/O: out of memory");
    // One entry more than we ever have in flight: the no-op that ends the reaper always finds room.
    int e = io_uring_queue_init(2 * ENTRIES, &u->ring, 0);
    if (e < 0) {
        free(u);
        return error_set(err, -e, "io_uring: %s", strerror(-e));
    }
    u->aio.ops = &ops;
    u->last = &u->waiting;
    pthread_mutex_init(&u->lock, NULL);
    e = pthread_create(&u->reaper, NULL, reap, u);
    if (e) {
        io_uring_queue_exit(&u->ring);
        pthread_mutex_destroy(&u->lock);
        free(u);
        return error_set(err, e, "asynchronous I/O: cannot start a thread: %s", strerror(e));
    }
    *out = &u->aio;
    return 0;
}
