// Whether an image agrees with itself: counts who refers to each cluster of the file, and compares.
//
// Everything that can refer is walked: the header, L1 and L2 tables of the disk and of all snapshots, the snapshot
// table, the reftable and its blocks. Persistent bitmaps are not: their clusters count as leaks. An entry that leads
// nowhere, or a flag COPIED that is wrong, is a corruption; so is a refcount that is too low, since the cluster would
// be given away a second time. A refcount that is too high is a leak.
//
// Repairing writes the right refcounts, if nothing else is wrong: what an image with lazy refcounts needs after a
// crash.
//
// The walk ends however the tables are knotted: what is met more often than there are snapshots is not entered again,
// and after CORRUPTIONS_MAX the image is given up.
#include "backend/disk_lock.h"
#include "backend/qcow2/image.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CORRUPTIONS_MAX = 1000, CLUSTERS_MAX = 1 << 28, SNAPSHOT_FIXED = 40 };

struct tally {
    struct qcow2 *q;
    struct qcow2_check *out;
    uint32_t *count; // of each cluster of the file
    uint64_t clusters;
    uint8_t *l2; // one table
};

static void corrupt(struct tally *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void corrupt(struct tally *t, const char *fmt, ...)
{
    if (t->out->corruptions++)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t->out->first, sizeof t->out->first, fmt, ap);
    va_end(ap);
}

static bool hopeless(const struct tally *t)
{
    return t->out->corruptions > CORRUPTIONS_MAX;
}

// Counts a reference to bytes of the file; false if they are not there.
static bool refer(struct tally *t, uint64_t offset, uint64_t bytes, const char *what)
{
    uint64_t first = cluster_of(t->q, offset);
    if (!bytes)
        return true;
    if (offset > INT64_MAX - bytes || cluster_of(t->q, offset + bytes - 1) >= t->clusters) {
        corrupt(t, "%s at 0x%" PRIx64 " is behind the end of the file", what, offset);
        return false;
    }
    for (uint64_t c = first; c <= cluster_of(t->q, offset + bytes - 1); c++)
        if (t->count[c] < UINT32_MAX)
            t->count[c]++;
    return true;
}

static void walk_entry(struct tally *t, uint64_t entry, bool active)
{
    struct qcow2 *q = t->q;
    if (entry & ENTRY_COMPRESSED) {
        uint64_t offset, bytes;
        map_compressed(q, entry, &offset, &bytes);
        t->out->compressed += active;
        t->out->allocated += active;
        // The last one may be cut by the end of the file; it must begin in it.
        uint64_t end = t->clusters << q->h.cluster_bits;
        if (offset < end && bytes > end - offset)
            bytes = end - offset;
        refer(t, offset, bytes, "a compressed cluster");
        return;
    }
    uint64_t host = entry & ENTRY_OFFSET;
    if ((entry & ENTRY_RESERVED) || host % q->cluster || ((entry & ENTRY_ZERO) && q->h.version < 3)) {
        corrupt(t, "L2 entry 0x%" PRIx64 " makes no sense", entry);
        return;
    }
    if (host) {
        t->out->allocated += active;
        refer(t, host, q->cluster, "a cluster");
    }
}

static int read_l2(struct tally *t, uint64_t offset)
{
    struct iovec v = {t->l2, t->q->cluster};
    return file_readv(t->q->fd, &v, 1, offset);
}

static int walk_l1(struct tally *t, const uint64_t *l1, uint64_t entries, bool active)
{
    struct qcow2 *q = t->q;
    for (uint64_t i = 0; i < entries && !hopeless(t); i++) {
        uint64_t at = l1[i] & ENTRY_OFFSET;
        if ((l1[i] & ~(ENTRY_OFFSET | ENTRY_COPIED)) || at % q->cluster) {
            corrupt(t, "L1 entry 0x%" PRIx64 " makes no sense", l1[i]);
            continue;
        }
        if (!at || !refer(t, at, q->cluster, "an L2 table"))
            continue;
        if (t->count[cluster_of(q, at)] > q->h.snapshots + 1) {
            corrupt(t, "the L2 table at 0x%" PRIx64 " is used more than once", at);
            continue;
        }
        int e = read_l2(t, at);
        if (e)
            return e;
        for (uint64_t k = 0; k < q->cluster / 8 && !hopeless(t); k++)
            walk_entry(t, load_be(t->l2 + k * 8, 8), active);
    }
    return 0;
}

// Whether COPIED is set exactly where the count is 1, in what belongs to the disk as it is now.
static int check_flags(struct tally *t)
{
    struct qcow2 *q = t->q;
    for (uint64_t i = 0; i < q->h.l1_entries && !hopeless(t); i++) {
        uint64_t at = q->l1[i] & ENTRY_OFFSET;
        if (!at)
            continue;
        if (!(q->l1[i] & ENTRY_COPIED) != (t->count[cluster_of(q, at)] != 1))
            corrupt(t, "flag COPIED of the L2 table at 0x%" PRIx64 " is wrong", at);
        int e = read_l2(t, at);
        if (e)
            return e;
        for (uint64_t k = 0; k < q->cluster / 8 && !hopeless(t); k++) {
            uint64_t entry = load_be(t->l2 + k * 8, 8), host = entry & ENTRY_OFFSET;
            bool packed = entry & ENTRY_COMPRESSED; // what follows is then no offset of a cluster
            bool once = !packed && host && t->count[cluster_of(q, host)] == 1;
            if (!(entry & ENTRY_COPIED) == once)
                corrupt(t, "flag COPIED of L2 entry 0x%" PRIx64 " is wrong", entry);
        }
    }
    return 0;
}

// "Snapshots" in qcow2.txt: entries of different lengths, one after another.
static int walk_snapshots(struct tally *t)
{
    struct qcow2 *q = t->q;
    uint64_t at = q->h.snapshots_offset;
    for (uint32_t n = 0; n < q->h.snapshots && !hopeless(t); n++) {
        uint8_t b[SNAPSHOT_FIXED];
        int e = file_read(q->fd, b, sizeof b, at);
        if (e) {
            corrupt(t, "the snapshot table can't be read");
            return e == -EIO ? 0 : e;
        }
        uint64_t l1_offset = load_be(b, 8), entries = load_be(b + 8, 4), *l1;
        at += SNAPSHOT_FIXED + load_be(b + 36, 4) + load_be(b + 12, 2) + load_be(b + 14, 2);
        at = (at + 7) & ~7ull;
        if (entries * 8 > L1_BYTES_MAX || l1_offset % q->cluster || at > INT64_MAX / 2) {
            corrupt(t, "a snapshot's L1 table makes no sense");
            continue;
        }
        if (!refer(t, l1_offset, entries * 8, "a snapshot's L1 table"))
            continue;
        if (entries && t->count[cluster_of(q, l1_offset)] > 1) {
            corrupt(t, "a snapshot's L1 table at 0x%" PRIx64 " is used more than once", l1_offset);
            continue;
        }
        if ((e = file_read_table(q->fd, l1_offset, entries, &l1)))
            return e;
        e = walk_l1(t, l1, entries, false);
        free(l1);
        if (e)
            return e;
    }
    if (q->h.snapshots)
        refer(t, q->h.snapshots_offset, at - q->h.snapshots_offset, "the snapshot table");
    return 0;
}

static void walk_refcounts(struct tally *t)
{
    struct qcow2 *q = t->q;
    refer(t, q->h.reftable_offset, (uint64_t)q->h.reftable_clusters << q->h.cluster_bits, "the refcount table");
    for (uint32_t i = 0; i < q->reftable_entries && !hopeless(t); i++) {
        if (q->reftable[i] % q->cluster || q->reftable[i] > ENTRY_OFFSET)
            corrupt(t, "refcount table entry 0x%" PRIx64 " makes no sense", q->reftable[i]);
        else if (q->reftable[i] && refer(t, q->reftable[i], q->cluster, "a refcount block") &&
                 t->count[cluster_of(q, q->reftable[i])] > 1)
            corrupt(t, "the refcount block at 0x%" PRIx64 " is used more than once", q->reftable[i]);
    }
}

static int compare(struct tally *t, bool repair)
{
    struct qcow2 *q = t->q;
    unsigned bits = 1u << q->h.refcount_order;
    bool sound = !t->out->corruptions;
    for (uint64_t c = 0; c < t->clusters && !hopeless(t); c++) {
        uint64_t stored;
        int e = refcount_get(q, c, &stored);
        if (e)
            return e;
        if (stored == t->count[c])
            continue;
        if (repair && sound && (bits >= 32 || t->count[c] < 1ull << bits)) {
            if ((e = refcount_put(q, c, t->count[c])))
                return e;
        } else if (stored > t->count[c]) {
            t->out->leaks++;
        } else {
            corrupt(t, "cluster 0x%" PRIx64 " is used %" PRIu32 " times, its refcount is %" PRIu64, c, t->count[c],
                    stored);
        }
    }
    return 0;
}

static int walk(struct tally *t, bool repair)
{
    struct qcow2 *q = t->q;
    int e = 0;
    if (!q->reftable) // an image that is only read goes without
        e = file_read_table(q->fd, q->h.reftable_offset, q->reftable_entries, &q->reftable);
    if (e)
        return e;
    refer(t, 0, q->cluster, "the header");
    refer(t, q->h.l1_offset, (uint64_t)q->h.l1_entries * 8, "the L1 table");
    walk_refcounts(t);
    e = walk_l1(t, q->l1, q->h.l1_entries, true);
    if (!e)
        e = walk_snapshots(t);
    if (!e && !t->out->corruptions)
        e = check_flags(t);
    return e ? e : compare(t, repair);
}

int image_check(struct qcow2 *q, bool repair, struct qcow2_check *out, struct error *err)
{
    *out = (struct qcow2_check){0};
    struct tally t = {.q = q, .out = out, .clusters = clusters_for(q, file_size(q->fd))};
    if (t.clusters > CLUSTERS_MAX)
        return error_set(err, EFBIG, "disk %s: too large to be checked", q->path);
    t.count = calloc(t.clusters ? t.clusters : 1, sizeof *t.count);
    t.l2 = malloc(q->cluster);
    int e = -ENOMEM;
    if (t.count && t.l2) {
        pthread_mutex_lock(&q->lock);
        e = walk(&t, repair);
        if (!e && repair && !out->corruptions)
            e = commit_last(q);
        pthread_mutex_unlock(&q->lock);
    }
    free(t.count);
    free(t.l2);
    return e ? error_set(err, -e, "disk %s: checking it: %s", q->path, strerror(-e)) : 0;
}

int qcow2_check(const char *path, bool repair, struct qcow2_check *out, struct error *err)
{
    struct qcow2 *q;
    int fd = open(path, (repair ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno, "disk %s: %s", path, strerror(errno));
    int e = disk_lock(fd, repair, path, err);
    if (e) {
        close(fd);
        return e;
    }
    e = image_open(fd, path, !repair, true, NULL, &q, err);
    if (e)
        return e;
    e = image_check(q, repair, out, err);
    int closed = image_close(q);
    return e ? e : closed ? error_set(err, -closed, "disk %s: %s", path, strerror(-closed)) : 0;
}
