// Asynchronous I/O by a pool of threads that block in ordinary system calls: works on every kernel. See aio.h.
//
// Invariant: a request is either in the queue (guarded by lock), or in the hands of exactly one worker.
#include "backend/aio.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_THREADS = 16 };

struct aio_threads {
    struct aio aio;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct aio_request *first, **last; // guarded by lock
    bool stopping;                     // guarded by lock
    unsigned threads;
    pthread_t thread[MAX_THREADS];
};

// Moves all bytes of a READ or WRITE, however many system calls that takes.
static int transfer(struct aio_request *r)
{
    while (r->length) {
        int n = r->iovs < IOV_MAX ? (int)r->iovs : IOV_MAX;
        ssize_t got = r->op == AIO_READ ? preadv(r->fd, r->iov, n, (off_t)r->offset)
                                        : pwritev(r->fd, r->iov, n, (off_t)r->offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0) { // the file ends here
            if (r->op == AIO_WRITE)
                return -EIO;
            aio_zero_rest(r);
            return 0;
        }
        aio_advance(r, (uint64_t)got);
    }
    return 0;
}

static int perform(struct aio_request *r)
{
    int mode;
    switch (r->op) {
    case AIO_READ:
    case AIO_WRITE:
        return transfer(r);
    case AIO_SYNC:
        return fdatasync(r->fd) ? -errno : 0;
    case AIO_PUNCH:
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        break;
    case AIO_ZERO:
        mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
        break;
    default:
        return -EINVAL;
    }
    return fallocate(r->fd, mode, (off_t)r->offset, (off_t)r->length) ? -errno : 0;
}

static void *worker(void *ctx)
{
    struct aio_threads *t = ctx;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->first && !t->stopping)
            pthread_cond_wait(&t->work, &t->lock);
        struct aio_request *r = t->first;
        if (!r)
            break; // stopping, and nothing is left
        t->first = r->next;
        if (!t->first)
            t->last = &t->first;
        pthread_mutex_unlock(&t->lock);
        r->done(r, perform(r));
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void submit(struct aio *a, struct aio_request *r)
{
    struct aio_threads *t = (struct aio_threads *)a;
    r->next = NULL;
    pthread_mutex_lock(&t->lock);
    *t->last = r;
    t->last = &r->next;
    pthread_mutex_unlock(&t->lock);
    pthread_cond_signal(&t->work);
}

static void destroy(struct aio *a)
{
    struct aio_threads *t = (struct aio_threads *)a;
    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    pthread_mutex_unlock(&t->lock);
    pthread_cond_broadcast(&t->work);
    for (unsigned i = 0; i < t->threads; i++)
        pthread_join(t->thread[i], NULL);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

int aio_create_threads(struct aio **out, unsigned threads, struct error *err)
{
    static const struct aio_ops ops = {"threads", submit, destroy};
    struct aio_threads *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(err, ENOMEM, "asynchronous I/O: out of memory");
    t->aio.ops = &ops;
    t->last = &t->first;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    int failed = 0;
    while (t->threads < threads && t->threads < MAX_THREADS) {
        failed = pthread_create(&t->thread[t->threads], NULL, worker, t);
        if (failed)
            break;
        t->threads++;
    }
    if (!t->threads) {
        destroy(&t->aio);
        return error_set(err, failed, "asynchronous I/O: cannot start a thread: %s", strerror(failed));
    }
    *out = &t->aio;
    return 0;
}
