// A qcow2 image as a disk: requests go into a queue, from which a few threads take them and do them one after another.
//
// submit() only puts a request into the queue: looking up where bytes are may have to read tables, and writing may have
// to copy; none of that is to hold up the vCPU that rang. WORKERS requests are in the works at a time.
//
// Invariant: inflight counts submitted requests whose done() has not returned.
#include "backend/disk_lock.h"
#include "backend/qcow2/image.h"
#include "host/thread.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WORKERS = 4 };

struct qcow2_disk {
    struct disk disk;
    struct qcow2 *image;
    pthread_mutex_t lock; // guards the queue, inflight and stopping
    pthread_cond_t work, idle;
    struct disk_request *first, **last;
    unsigned inflight;
    bool stopping;
    unsigned threads;
    struct thread *thread[WORKERS];
};

static int perform(struct qcow2_disk *d, const struct disk_request *r)
{
    struct cursor c = {r->seg, r->segs, 0};
    struct qcow2 *q = d->image;
    struct range range;
    int e;
    switch (r->op) {
    case DISK_READ:
        pthread_mutex_lock(&q->lock);
        range_lock(q, &range, r->offset, r->length, false);
        pthread_mutex_unlock(&q->lock);
        e = image_read(q, r->offset, r->length, &c);
        pthread_mutex_lock(&q->lock);
        range_unlock(q, &range);
        pthread_mutex_unlock(&q->lock);
        return e;
    case DISK_WRITE:
        return image_write(q, r->offset, r->length, &c);
    case DISK_FLUSH:
        return commit_flush(q);
    case DISK_DISCARD:
        return image_discard(q, r->offset, r->length);
    case DISK_WRITE_ZEROES:
        return image_zero(q, r->offset, r->length);
    }
    return -EINVAL;
}

static void work(void *ctx)
{
    struct qcow2_disk *d = ctx;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        while (!d->first && !d->stopping)
            pthread_cond_wait(&d->work, &d->lock);
        struct disk_request *r = d->first;
        if (!r)
            break; // stopping, and nothing is left
        d->first = r->next;
        if (!d->first)
            d->last = &d->first;
        pthread_mutex_unlock(&d->lock);
        r->done(r, perform(d, r));
        pthread_mutex_lock(&d->lock);
        if (--d->inflight == 0)
            pthread_cond_broadcast(&d->idle);
    }
    pthread_mutex_unlock(&d->lock);
}

// What needs no work at all is answered at once. True if there is something to do.
static bool wanted(const struct disk *disk, const struct disk_request *r, int *result)
{
    *result = 0;
    if (r->op == DISK_FLUSH)
        return !disk->readonly;
    if (r->op != DISK_READ && disk->readonly)
        *result = -EROFS;
    else if (r->offset > disk->size || r->length > disk->size - r->offset)
        *result = -EINVAL;
    return !*result && r->length;
}

static void submit(struct disk *disk, struct disk_request *r)
{
    struct qcow2_disk *d = (struct qcow2_disk *)disk;
    int result;
    if (!wanted(disk, r, &result)) {
        r->done(r, result);
        return;
    }
    r->next = NULL;
    pthread_mutex_lock(&d->lock);
    *d->last = r;
    d->last = &r->next;
    d->inflight++;
    pthread_mutex_unlock(&d->lock);
    pthread_cond_signal(&d->work);
}

static void drain(struct disk *disk)
{
    struct qcow2_disk *d = (struct qcow2_disk *)disk;
    pthread_mutex_lock(&d->lock);
    while (d->inflight)
        pthread_cond_wait(&d->idle, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

static void close_disk(struct disk *disk)
{
    struct qcow2_disk *d = (struct qcow2_disk *)disk;
    pthread_mutex_lock(&d->lock);
    d->stopping = true;
    pthread_mutex_unlock(&d->lock);
    pthread_cond_broadcast(&d->work);
    for (unsigned i = 0; i < d->threads; i++)
        thread_join(d->thread[i]);
    image_close(d->image);
    pthread_cond_destroy(&d->work);
    pthread_cond_destroy(&d->idle);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static int hold(struct disk *disk, bool wanted)
{
    struct qcow2 *q = ((struct qcow2_disk *)disk)->image;
    int e = wanted ? 0 : image_settle(q);
    return e ? e : disk_lock_hold(q->fd, wanted, !q->readonly);
}

int qcow2_disk_open(int fd, const struct disk_options *o, struct disk **out, struct error *err)
{
    static const struct disk_ops ops = {submit, drain, close_disk, .hold = hold};
    struct stat st;
    struct qcow2 *q;
    int e = 0;
    if (fstat(fd, &st))
        e = error_set(err, errno, "disk %s: %s", o->path, strerror(errno));
    else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        e = error_set(err, EINVAL, "disk %s: neither a file nor a block device", o->path);
    if (!e)
        e = disk_lock(fd, !o->readonly, o->path, err);
    if (e) {
        close(fd);
        return e;
    }
    e = image_open(fd, o->path, o->readonly, true, NULL, &q, err);
    if (e)
        return e;
    struct qcow2_disk *d = calloc(1, sizeof *d);
    if (!d) {
        image_close(q);
        return error_set(err, ENOMEM, "disk %s: out of memory", o->path);
    }
    d->disk = (struct disk){.ops = &ops,
                            .size = q->h.size,
                            .block_size = q->cluster < 4096 ? (uint32_t)q->cluster : 4096,
                            .readonly = o->readonly,
                            .discard = !o->readonly};
    if (o->serial)
        strcpy(d->disk.serial, o->serial); // its length has been checked: disk_open
    d->image = q;
    d->last = &d->first;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->work, NULL);
    pthread_cond_init(&d->idle, NULL);
    while (d->threads < WORKERS && !(e = thread_create(&d->thread[d->threads], "qcow2", work, d, err)))
        d->threads++;
    if (!d->threads) {
        close_disk(&d->disk);
        return e;
    }
    *out = &d->disk;
    return 0;
}
