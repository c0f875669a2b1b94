// Waiting for a disk's requests, which are done on another thread.
//
//     int e = submit(disk, DISK_READ, 0, 512, seg, 1);
//
// Of several at once: each gets wait_done and the same struct wait, which counts them and keeps a failure.
#pragma once
#include "vm/disk.h"
#include <pthread.h>

struct wait {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int done, failed; // failed: a result that was not 0, or 0
};

#define WAIT_INIT                                                                                                      \
    {                                                                                                                  \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0                                                      \
    }

static void wait_done(struct disk_request *r, int result)
{
    struct wait *w = r->owner;
    pthread_mutex_lock(&w->lock);
    w->done++;
    w->failed = result ? result : w->failed;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static int submit(struct disk *d, enum disk_op op, uint64_t offset, uint64_t length, struct disk_segment *seg,
                  unsigned segs)
{
    struct wait w = WAIT_INIT;
    struct disk_request r = {
        .op = op, .offset = offset, .length = length, .seg = seg, .segs = segs, .done = wait_done, .owner = &w};
    d->ops->submit(d, &r);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    return w.failed;
}
