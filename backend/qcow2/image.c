// An open image: everything that is made when one is opened, and how it ends.
//
// Opening for writing has effects of its own: features that must be kept up by whoever writes, and are unknown here
// (persistent bitmaps), are switched off, as the format asks ("autoclear"); an image that was not closed properly while
// its refcounts were lazy has them counted anew.
#include "backend/qcow2/image.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int layer_read_image(struct layer *l, uint64_t offset, uint64_t length, struct cursor *to)
{
    return image_read((struct qcow2 *)l, offset, length, to);
}

static void layer_close_image(struct layer *l)
{
    image_close((struct qcow2 *)l);
}

int image_broken(struct qcow2 *q)
{
    q->broken = true;
    if (!q->readonly)
        header_set_incompatible(q, q->h.incompatible | INCOMPATIBLE_CORRUPT);
    return -EIO;
}

static int clean_l2(struct qcow2 *q, struct table *t)
{
    (void)t; // its turn comes after the refcounts': all that is waiting goes
    return commit(q);
}

static int clean_rb(struct qcow2 *q, struct table *t)
{
    return cache_write(q, &q->rb, t);
}

static void destroy(struct qcow2 *q)
{
    if (q->backing)
        q->backing->close(q->backing);
    close(q->fd);
    cache_free(&q->l2);
    cache_free(&q->rb);
    for (unsigned i = 0; i < UNPACKED; i++)
        free(q->unpacked[i].data);
    pthread_cond_destroy(&q->ranges_moved);
    pthread_mutex_destroy(&q->unpacked_lock);
    pthread_mutex_destroy(&q->lock);
    free(q->freed);
    free(q->l1);
    free(q->reftable);
    free(q->path);
    free(q);
}

static int load(struct qcow2 *q, struct error *err)
{
    q->cluster = 1ull << q->h.cluster_bits;
    q->l2_bits = q->h.cluster_bits - 3;
    q->rb_bits = q->h.cluster_bits + 3 - q->h.refcount_order;
    q->layer.size = q->h.size;
    q->top = clusters_for(q, file_size(q->fd));
    q->reftable_entries = (uint32_t)((uint64_t)q->h.reftable_clusters << q->l2_bits);
    if (cache_init(&q->l2, (uint32_t)q->cluster, clean_l2) || cache_init(&q->rb, (uint32_t)q->cluster, clean_rb))
        return error_set(err, ENOMEM, "disk %s: out of memory", q->path);
    int e = file_read_table(q->fd, q->h.l1_offset, q->h.l1_entries, &q->l1);
    if (e)
        return error_set(err, -e, "disk %s: its L1 table can't be read: %s", q->path, strerror(-e));
    if (q->readonly)
        return 0; // refcounts are for those who write
    e = file_read_table(q->fd, q->h.reftable_offset, q->reftable_entries, &q->reftable);
    if (e)
        return error_set(err, -e, "disk %s: its refcount table can't be read: %s", q->path, strerror(-e));
    return 0;
}

static int prepare_writing(struct qcow2 *q, struct error *err)
{
    if (q->h.incompatible & INCOMPATIBLE_CORRUPT)
        return error_set(err, EIO,
                         "disk %s: marked as corrupt; it can be opened read-only (ro), or repaired: qemu-img "
                         "check -r all",
                         q->path);
    if (q->h.autoclear) {
        const uint8_t none[8] = {0};
        int e = file_write(q->fd, none, sizeof none, 88);
        if (e)
            return error_set(err, -e, "disk %s: %s", q->path, strerror(-e));
        q->h.autoclear = 0;
    }
    if (!(q->h.incompatible & INCOMPATIBLE_DIRTY))
        return 0;
    struct qcow2_check found;
    int e = image_check(q, true, &found, err);
    if (e)
        return e;
    if (found.corruptions)
        return error_set(err, EIO, "disk %s: it was not closed properly, and is corrupt: %s", q->path, found.first);
    if ((e = header_set_incompatible(q, q->h.incompatible & ~(uint64_t)INCOMPATIBLE_DIRTY)))
        return error_set(err, -e, "disk %s: %s", q->path, strerror(-e));
    return 0;
}

static int open_below(struct qcow2 *q, const struct chain *above, struct error *err)
{
    struct stat st;
    if (!*q->h.backing)
        return 0;
    if (fstat(q->fd, &st))
        return error_set(err, errno, "disk %s: %s", q->path, strerror(errno));
    struct chain self = {NULL, st.st_dev, st.st_ino};
    return chain_open(q->path, q->h.backing, q->h.backing_format, above ? above : &self, &q->backing, err);
}

int image_open(int fd, const char *path, bool readonly, bool top, const struct chain *above, struct qcow2 **out,
               struct error *err)
{
    struct stat st;
    struct qcow2 *q = calloc(1, sizeof *q);
    if (!q) {
        close(fd);
        return error_set(err, ENOMEM, "disk %s: out of memory", path);
    }
    q->layer = (struct layer){layer_read_image, layer_close_image, 0};
    q->fd = fd;
    q->readonly = readonly;
    q->device = fstat(fd, &st) == 0 && S_ISBLK(st.st_mode);
    q->ranges_end = &q->ranges;
    pthread_mutex_init(&q->lock, NULL);
    pthread_mutex_init(&q->unpacked_lock, NULL);
    pthread_cond_init(&q->ranges_moved, NULL);
    q->path = strdup(path);
    int e = q->path ? header_read(fd, path, &q->h, err) : error_set(err, ENOMEM, "disk %s: out of memory", path);
    if (!e && top && (q->h.size == 0 || q->h.size % 512))
        e = error_set(err, EINVAL, "disk %s: its size, %llu bytes, is %s", path, (unsigned long long)q->h.size,
                      q->h.size ? "not a multiple of 512" : "nothing");
    if (!e)
        e = load(q, err);
    if (!e)
        e = open_below(q, above, err);
    if (!e && !readonly)
        e = prepare_writing(q, err);
    if (e) {
        destroy(q);
        return e;
    }
    *out = q;
    return 0;
}

int image_settle(struct qcow2 *q)
{
    int e = 0;
    if (!q->readonly) {
        pthread_mutex_lock(&q->lock);
        e = q->broken ? -EIO : commit_last(q);
        if (!e)
            e = header_set_incompatible(q, q->h.incompatible & ~(uint64_t)INCOMPATIBLE_DIRTY);
        pthread_mutex_unlock(&q->lock);
    }
    return e;
}

int image_close(struct qcow2 *q)
{
    int e = image_settle(q);
    destroy(q);
    return e;
}
