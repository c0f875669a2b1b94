// Raw disks: the bytes of a file or a block device are the bytes of the disk. See disk.h.
//
// Discard punches holes, writing zeroes lets the file system do it where it can and writes real zeroes where it can't,
// flush is fdatasync. On a guarded disk (disk.c), a write to its beginning goes by way of a copy of the first sector,
// which is looked at: the guest may change its own memory in between. Invariant: inflight counts submitted requests
// whose done() has not returned.
#include "backend/disk_raw.h"
#include "backend/disk_lock.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(struct disk_segment) == sizeof(struct iovec), "a disk segment is an iovec");
_Static_assert(offsetof(struct disk_segment, len) == offsetof(struct iovec, iov_len), "a disk segment is an iovec");

enum { SECTOR = 512, ZERO_CHUNK = 1 << 20, ZERO_SEGMENTS = 16 };

struct raw_disk {
    struct disk disk;
    int fd;
    bool guarded;
    struct aio *aio;
    void *zeroes; // ZERO_CHUNK bytes, for file systems without FALLOC_FL_ZERO_RANGE
    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned inflight; // guarded by lock
};

struct raw_request {
    struct aio_request aio;
    struct raw_disk *disk;
    struct disk_request *request;
    uint64_t at, end; // writing real zeroes: what is still to do
    struct iovec zero[ZERO_SEGMENTS];
    uint8_t first[SECTOR]; // of a guarded disk
    struct iovec iov[];    // a copy: the aio changes it; the first is for `first`
};

static void finish(struct raw_request *q, int result)
{
    struct raw_disk *d = q->disk;
    q->request->done(q->request, result);
    free(q);
    pthread_mutex_lock(&d->lock);
    if (--d->inflight == 0)
        pthread_cond_broadcast(&d->idle);
    pthread_mutex_unlock(&d->lock);
}

// Writes the next piece of zeroes; a whole request may be larger than one vector of them.
static void write_zeroes(struct raw_request *q)
{
    uint64_t left = q->end - q->at;
    unsigned n = 0;
    uint64_t length = 0;
    while (left && n < ZERO_SEGMENTS) {
        size_t piece = left < ZERO_CHUNK ? left : ZERO_CHUNK;
        q->zero[n++] = (struct iovec){q->disk->zeroes, piece};
        length += piece;
        left -= piece;
    }
    q->aio.op = AIO_WRITE;
    q->aio.offset = q->at;
    q->aio.length = length;
    q->aio.iov = q->zero;
    q->aio.iovs = n;
    q->at += length;
    aio_submit(q->disk->aio, &q->aio);
}

static bool unsupported(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL || result == -ENODEV;
}

static void on_done(struct aio_request *a, int result)
{
    struct raw_request *q = (struct raw_request *)a;
    switch (q->request->op) {
    case DISK_DISCARD: // a hint: a file system that can't is no error
        if (unsupported(result))
            result = 0;
        break;
    case DISK_WRITE_ZEROES:
        if ((result == 0 && q->aio.op == AIO_WRITE && q->at < q->end) ||
            (q->aio.op == AIO_ZERO && unsupported(result))) {
            write_zeroes(q);
            return;
        }
        break;
    default:
        break;
    }
    finish(q, result);
}

// Puts a copy in the place of the first sector's bytes. False if they must not be written.
static bool guard(struct raw_request *q)
{
    size_t have = 0;
    while (have < SECTOR && q->aio.iovs) {
        struct iovec *v = q->aio.iov;
        size_t piece = v->iov_len < SECTOR - have ? v->iov_len : SECTOR - have;
        memcpy(q->first + have, v->iov_base, piece);
        v->iov_base = (char *)v->iov_base + piece;
        v->iov_len -= piece;
        have += piece;
        if (!v->iov_len) {
            q->aio.iov++;
            q->aio.iovs--;
        }
    }
    q->aio.iov--; // there is one more than the request has segments, in front
    q->aio.iovs++;
    *q->aio.iov = (struct iovec){q->first, have};
    return have < DISK_MAGIC_BYTES || !disk_magic(q->first);
}

static void submit(struct disk *disk, struct disk_request *r)
{
    struct raw_disk *d = (struct raw_disk *)disk;
    bool vector = r->op == DISK_READ || r->op == DISK_WRITE;
    bool changes = r->op != DISK_READ && r->op != DISK_FLUSH;
    unsigned segs = vector ? r->segs : 0;
    if (changes && disk->readonly) {
        r->done(r, -EROFS);
        return;
    }
    if (r->op != DISK_FLUSH && (r->offset > disk->size || r->length > disk->size - r->offset)) {
        r->done(r, -EINVAL);
        return;
    }
    if (r->op == DISK_FLUSH && disk->readonly) {
        r->done(r, 0);
        return;
    }
    if (r->op != DISK_FLUSH && r->length == 0) {
        r->done(r, 0);
        return;
    }
    struct raw_request *q = malloc(sizeof *q + (segs + 1) * sizeof(struct iovec));
    if (!q) {
        r->done(r, -ENOMEM);
        return;
    }
    static const enum aio_op op[] = {AIO_READ, AIO_WRITE, AIO_SYNC, AIO_PUNCH, AIO_ZERO};
    if (segs)
        memcpy(q->iov + 1, r->seg, segs * sizeof(struct iovec));
    q->disk = d;
    q->request = r;
    q->at = r->offset;
    q->end = r->offset + r->length;
    q->aio = (struct aio_request){.op = op[r->op],
                                  .fd = d->fd,
                                  .offset = r->offset,
                                  .length = r->length,
                                  .iov = q->iov + 1,
                                  .iovs = segs,
                                  .done = on_done};
    if (d->guarded && r->op == DISK_WRITE && r->offset == 0 && !guard(q)) {
        free(q);
        r->done(r, -EPERM);
        return;
    }
    pthread_mutex_lock(&d->lock);
    d->inflight++;
    pthread_mutex_unlock(&d->lock);
    aio_submit(d->aio, &q->aio);
}

static void drain(struct disk *disk)
{
    struct raw_disk *d = (struct raw_disk *)disk;
    pthread_mutex_lock(&d->lock);
    while (d->inflight)
        pthread_cond_wait(&d->idle, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

static void close_disk(struct disk *disk)
{
    struct raw_disk *d = (struct raw_disk *)disk;
    drain(disk);
    close(d->fd);
    pthread_cond_destroy(&d->idle);
    pthread_mutex_destroy(&d->lock);
    free(d->zeroes);
    free(d);
}

static int hold(struct disk *disk, bool wanted)
{
    return disk_lock_hold(((struct raw_disk *)disk)->fd, wanted, !disk->readonly);
}

static int find_size(int fd, const struct disk_options *o, uint64_t *size, uint32_t *block, struct error *err)
{
    struct stat st;
    if (fstat(fd, &st))
        return error_set(err, errno, "disk %s: %s", o->path, strerror(errno));
    *block = 4096;
    if (S_ISBLK(st.st_mode)) {
        unsigned physical = 0;
        if (ioctl(fd, BLKGETSIZE64, size))
            return error_set(err, errno, "disk %s: its size can't be read: %s", o->path, strerror(errno));
        if (ioctl(fd, BLKPBSZGET, &physical) == 0 && physical >= 512)
            *block = physical;
    } else if (S_ISREG(st.st_mode)) {
        *size = (uint64_t)st.st_size;
    } else {
        return error_set(err, EINVAL, "disk %s: neither a file nor a block device", o->path);
    }
    if (*size == 0)
        return error_set(err, EINVAL, "disk %s: it is empty", o->path);
    if (*size % 512)
        return error_set(err, EINVAL, "disk %s: its size, %llu bytes, is not a multiple of 512", o->path,
                         (unsigned long long)*size);
    return 0;
}

int raw_disk_open(int fd, const struct disk_options *o, bool guarded, struct aio *aio, struct disk **out,
                  struct error *err)
{
    static const struct disk_ops ops = {submit, drain, close_disk, .hold = hold};
    struct raw_disk *d = NULL;
    uint64_t size = 0;
    uint32_t block = 0;
    int e = find_size(fd, o, &size, &block, err);
    if (e == 0)
        e = disk_lock(fd, !o->readonly, o->path, err);
    if (e == 0) {
        d = calloc(1, sizeof *d);
        if (d)
            d->zeroes = calloc(1, ZERO_CHUNK);
        if (!d || !d->zeroes)
            e = error_set(err, ENOMEM, "disk %s: out of memory", o->path);
    }
    if (e) {
        free(d);
        close(fd);
        return e;
    }
    d->disk =
        (struct disk){.ops = &ops, .size = size, .block_size = block, .readonly = o->readonly, .discard = !o->readonly};
    if (o->serial)
        strcpy(d->disk.serial, o->serial);
    d->fd = fd;
    d->guarded = guarded;
    d->aio = aio;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->idle, NULL);
    *out = &d->disk;
    return 0;
}
