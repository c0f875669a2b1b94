// The order in which changes of tables reach the file.
//
//   1. refcount blocks, then the reftable that points to new ones      clusters are taken
//   2. (guest data has been written by its requests)
//   3. L2 tables                                                       something points to them
//   4. L1                                                              something points to new L2 tables
//   5. refcounts of what nothing points to any more go down            clusters are given back, and may be used again
//
// fdatasync stands between steps that depend on each other. What step 5 changes stays in memory until the next commit:
// should it get lost, clusters are leaked. With lazy refcounts step 1 waits for the image to be closed; the header's
// dirty bit says so, and who opens the image next counts anew.
//
// A commit happens when the guest flushes, when a changed L2 table must make room, and when much waits to be freed. If
// it fails (the file system is full, say) everything stays in memory and dirty, and is tried again by the next.
#include "backend/qcow2/image.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int sync_file(const struct qcow2 *q)
{
    return fdatasync(q->fd) ? -errno : 0;
}

static int write_entries(const struct qcow2 *q, const uint64_t *table, uint64_t offset, struct dirty_entries *d)
{
    uint8_t *be = malloc((size_t)(d->to - d->from) * 8);
    if (!be)
        return -ENOMEM;
    for (uint32_t i = d->from; i < d->to; i++)
        store_be(be + (size_t)(i - d->from) * 8, 8, table[i]);
    int e = file_write(q->fd, be, (size_t)(d->to - d->from) * 8, offset + (uint64_t)d->from * 8);
    free(be);
    if (!e)
        *d = (struct dirty_entries){0, 0};
    return e;
}

static int write_refcounts(struct qcow2 *q)
{
    int e = cache_write_all(q, &q->rb);
    if (e || q->reftable_dirty.from == q->reftable_dirty.to)
        return e;
    if ((e = sync_file(q)))
        return e;
    return write_entries(q, q->reftable, q->h.reftable_offset, &q->reftable_dirty);
}

static bool lazy(const struct qcow2 *q)
{
    return q->h.incompatible & INCOMPATIBLE_DIRTY;
}

int commit(struct qcow2 *q)
{
    int e = lazy(q) ? 0 : write_refcounts(q);
    bool l1 = q->l1_dirty.from != q->l1_dirty.to;
    if (!e && (q->l2.dirty || l1 || q->freed_count))
        e = sync_file(q);
    if (!e && q->l2.dirty) {
        e = cache_write_all(q, &q->l2);
        if (!e && (l1 || q->freed_count))
            e = sync_file(q);
    }
    if (!e && l1) {
        e = write_entries(q, q->l1, q->h.l1_offset, &q->l1_dirty);
        if (!e && q->freed_count)
            e = sync_file(q);
    }
    if (!e && q->freed_count)
        e = refcount_free_pending(q);
    return e;
}

int commit_last(struct qcow2 *q)
{
    int e = commit(q);
    if (!e)
        e = write_refcounts(q);
    return e ? e : sync_file(q);
}

int commit_flush(struct qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    bool change = q->l2.dirty || q->rb.dirty || q->freed_count || q->l1_dirty.from != q->l1_dirty.to;
    pthread_mutex_unlock(&q->lock);
    // Most of what there is to be made stable is data: wait for that without holding up those that look at tables.
    int e = sync_file(q);
    if (e || !change)
        return e;
    pthread_mutex_lock(&q->lock);
    e = q->broken ? -EIO : commit(q);
    pthread_mutex_unlock(&q->lock);
    return e ? e : sync_file(q);
}
