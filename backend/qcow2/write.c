// Changing guest data: writing, zeroing, discarding.
//
// What lies in clusters of our own is written in place, sharing the range with others. The rest gets new clusters, with
// the range alone: the bytes are written there, with what surrounds them in their clusters copied from where they were
// (copy on write), and only then does the L2 table turn to them. A write that fails leaves the old contents.
//
//     write 4 KiB into an absent 64 KiB cluster:   | from the backing file | new 4 KiB | from the backing file |
//
// New clusters behind the end of the file read as zeroes anyway, and need none to be written around the data.
//
// Zeroing whole clusters only sets a flag (version 3); discarding does the same, or lets the cluster be absent where
// that reads as zeroes. Both give the clusters back. Parts of clusters are zeroed by writing, and a discard of them
// only asks the file system for a hole.
#include "backend/qcow2/image.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { FREED_MAX = 4096, ZERO_PIECE = 1 << 20 };

// With the lock held, before something changes.
static int may_change(struct qcow2 *q)
{
    if (q->broken)
        return -EIO;
    return q->freed_count > FREED_MAX ? commit(q) : 0;
}

// Data must never go over what describes the image, whatever an L2 table says.
static bool over_tables(const struct qcow2 *q, uint64_t host, uint64_t length)
{
    uint64_t l1 = (uint64_t)q->h.l1_entries * 8, reftable = (uint64_t)q->h.reftable_clusters << q->h.cluster_bits;
    return host < q->cluster || (host < q->h.l1_offset + l1 && q->h.l1_offset < host + length) ||
           (host < q->h.reftable_offset + reftable && q->h.reftable_offset < host + length);
}

// Copies guest bytes as they are now to a place in the file.
static int copy_old(struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t host)
{
    if (!length)
        return 0;
    uint8_t *b = calloc(1, length);
    if (!b)
        return -ENOMEM;
    uint64_t there = offset >= q->h.size ? 0 : q->h.size - offset < length ? q->h.size - offset : length;
    struct disk_segment s = {b, there};
    struct cursor c = {&s, 1, 0};
    int e = there ? image_read(q, offset, there, &c) : 0;
    if (!e)
        e = file_write(q->fd, b, length, host);
    free(b);
    return e;
}

// Fills new clusters: [offset, offset + length) from the request, what is around it in the clusters from before.
static int fill(struct qcow2 *q, const struct extent *x, uint64_t offset, uint64_t length, uint64_t host,
                struct cursor *from)
{
    uint64_t head = offset & (q->cluster - 1), tail = -(offset + length) & (q->cluster - 1);
    bool zeroes = x->kind == EXTENT_ZERO || (x->kind == EXTENT_ABSENT && !q->backing);
    bool hole = !q->device && file_size(q->fd) <= host; // reads as zeroes, all of it
    int e = 0;
    if (!(zeroes && hole)) {
        e = copy_old(q, offset - head, head, host);
        if (!e)
            e = copy_old(q, offset + length, tail, host + head + length);
    }
    return e ? e : cursor_write(from, q->fd, host + head, length);
}

// Writes to clusters that are not ours yet, as many as can be had in one piece. The range is locked alone; with the
// lock held, which is let go for the data. *length: how much of it was written.
static int write_new(struct qcow2 *q, const struct extent *x, uint64_t offset, uint64_t *length, struct cursor *from)
{
    uint64_t within = offset & (q->cluster - 1), first, got, done = 0;
    uint64_t want = clusters_for(q, within + x->length);
    int e = may_change(q);
    if (!e)
        e = refcount_alloc(q, want, &first, &got);
    if (e)
        return e;
    *length = (got << q->h.cluster_bits) - within;
    if (*length > x->length)
        *length = x->length;
    uint64_t host = first << q->h.cluster_bits;
    pthread_mutex_unlock(&q->lock);
    e = fill(q, x, offset, *length, host, from);
    pthread_mutex_lock(&q->lock);
    if (!e)
        e = map_set(q, offset, got, host | ENTRY_COPIED, &done);
    if (done < got) {
        int dropped = refcount_drop(q, first + done, got - done);
        e = e ? e : dropped ? dropped : -EIO;
    }
    return e;
}

int image_write(struct qcow2 *q, uint64_t offset, uint64_t length, const struct cursor *from)
{
    struct cursor c = *from;
    struct range r;
    bool alone = false;
    int e = 0;
    pthread_mutex_lock(&q->lock);
    range_lock(q, &r, offset, length, false);
    while (!e && length) {
        struct extent x;
        e = q->broken ? -EIO : map_find(q, offset, length, &x);
        if (e)
            break;
        if (x.kind == EXTENT_DATA && x.copied) {
            if (over_tables(q, x.host, x.length)) {
                e = image_broken(q);
                break;
            }
            pthread_mutex_unlock(&q->lock);
            e = cursor_write(&c, q->fd, x.host, x.length);
            pthread_mutex_lock(&q->lock);
        } else if (!alone) { // come again alone: what was found may have changed by then
            range_unlock(q, &r);
            range_lock(q, &r, offset, length, true);
            alone = true;
            continue;
        } else {
            uint64_t written = 0;
            e = write_new(q, &x, offset, &written, &c);
            x.length = written;
        }
        offset += x.length;
        length -= x.length;
    }
    range_unlock(q, &r);
    pthread_mutex_unlock(&q->lock);
    return e;
}

static int write_zeroes(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    uint64_t room = length < ZERO_PIECE ? length : ZERO_PIECE;
    void *zeroes = calloc(1, room ? room : 1);
    int e = zeroes ? 0 : -ENOMEM;
    while (!e && length) {
        struct disk_segment s = {zeroes, length < room ? length : room};
        e = image_write(q, offset, s.len, &(struct cursor){&s, 1, 0});
        offset += s.len;
        length -= s.len;
    }
    free(zeroes);
    return e;
}

// Whether [offset, offset + length) reads as zeroes already.
static int reads_zero(struct qcow2 *q, uint64_t offset, uint64_t length, bool *yes)
{
    int e = 0;
    *yes = true;
    pthread_mutex_lock(&q->lock);
    while (!e && length && *yes) {
        struct extent x;
        e = map_find(q, offset, length, &x);
        if (e)
            break;
        *yes = x.kind == EXTENT_ZERO || (x.kind == EXTENT_ABSENT && !q->backing);
        offset += x.length;
        length -= x.length;
    }
    pthread_mutex_unlock(&q->lock);
    return e;
}

// The whole clusters in a range: the last cluster of a disk counts as whole if all of it that is disk is in it.
static bool whole_clusters(const struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t *from, uint64_t *to)
{
    uint64_t end = offset + length;
    *from = (offset + q->cluster - 1) & ~(q->cluster - 1);
    *to = end == q->h.size ? (end + q->cluster - 1) & ~(q->cluster - 1) : end & ~(q->cluster - 1);
    return *from < *to;
}

// Lets whole clusters read as zeroes. What is absent already, with nothing below, is left alone: no tables for it.
static int clear_clusters(struct qcow2 *q, uint64_t from, uint64_t to)
{
    struct range r;
    int e = 0;
    uint64_t entry = q->backing ? ENTRY_ZERO : 0;
    pthread_mutex_lock(&q->lock);
    range_lock(q, &r, from, to - from, true);
    while (!e && from < to) {
        struct extent x;
        uint64_t done = 0;
        e = may_change(q);
        if (!e)
            e = map_find(q, from, to - from, &x);
        if (e)
            break;
        if (x.kind == EXTENT_ABSENT && !q->backing) {
            from += x.length;
            continue;
        }
        e = map_set(q, from, x.length >> q->h.cluster_bits, entry, &done);
        from += done << q->h.cluster_bits;
    }
    range_unlock(q, &r);
    pthread_mutex_unlock(&q->lock);
    return e;
}

int image_zero(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    uint64_t from, to, end = offset + length;
    bool flags = q->h.version >= 3 || !q->backing; // version 2 can't say zero over a backing file
    if (!flags || !whole_clusters(q, offset, length, &from, &to))
        from = to = end;
    bool zero = false;
    int e = from > offset ? reads_zero(q, offset, from - offset, &zero) : 0;
    if (!e && from > offset && !zero)
        e = write_zeroes(q, offset, from - offset);
    if (!e && from < to)
        e = clear_clusters(q, from, to);
    if (!e && to < end)
        e = reads_zero(q, to, end - to, &zero);
    if (!e && to < end && !zero)
        e = write_zeroes(q, to, end - to);
    return e;
}

// A hole where part of a cluster of our own is.
static int punch(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    struct range r;
    struct extent x;
    pthread_mutex_lock(&q->lock);
    range_lock(q, &r, offset, length, false);
    int e = q->broken ? -EIO : map_find(q, offset, length, &x);
    bool ours = !e && x.kind == EXTENT_DATA && x.copied && x.length == length && !over_tables(q, x.host, length);
    pthread_mutex_unlock(&q->lock);
    if (ours)
        (void)!fallocate(q->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)x.host, (off_t)length);
    pthread_mutex_lock(&q->lock);
    range_unlock(q, &r);
    pthread_mutex_unlock(&q->lock);
    return e;
}

int image_discard(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    uint64_t from, to, end = offset + length;
    if (q->h.version < 3 && q->backing)
        return 0; // the backing file's old contents must not come up again
    if (!whole_clusters(q, offset, length, &from, &to)) {
        from = from < end ? from : end;
        to = from;
    }
    int e = from > offset ? punch(q, offset, from - offset) : 0;
    if (!e && from < to)
        e = clear_clusters(q, from, to);
    if (!e && to < end)
        e = punch(q, to, end - to);
    return e;
}
