// See reader.h. Disks take requests of whole sectors and answer when they like; here each is waited for, and what does
// not begin and end at a sector goes through a buffer.
#include "image/reader.h"
#include <errno.h>
#include <semaphore.h>
#include <string.h>

enum { SECTOR = 512 };

struct waiting {
    sem_t ready;
    int result;
};

static void on_done(struct disk_request *r, int result)
{
    struct waiting *w = r->owner;
    w->result = result;
    sem_post(&w->ready);
}

int disk_do(struct disk *d, enum disk_op op, void *memory, uint64_t length, uint64_t offset)
{
    struct waiting w;
    struct disk_segment s = {memory, length};
    struct disk_request r = {
        .op = op, .offset = offset, .length = length, .seg = &s, .segs = memory ? 1 : 0, .done = on_done, .owner = &w};
    sem_init(&w.ready, 0, 0);
    d->ops->submit(d, &r);
    while (sem_wait(&w.ready))
        ; // a signal
    // The poster may still be inside of sem_post; drain() waits until it has left done().
    d->ops->drain(d);
    sem_destroy(&w.ready);
    return w.result;
}

int reader_open(struct reader *r, const char *path, enum disk_format format, struct error *err)
{
    *r = (struct reader){0};
    // Threads and not io_uring: there may be a filter of system calls around (find.c).
    int e = aio_create_threads(&r->aio, 1, err);
    if (!e)
        e = disk_open(&(struct disk_options){.path = path, .readonly = true, .format = format}, r->aio, &r->disk, err);
    if (e)
        reader_close(r);
    else
        r->size = r->disk->size;
    return e;
}

void reader_close(struct reader *r)
{
    if (r->disk)
        r->disk->ops->close(r->disk);
    if (r->aio)
        r->aio->ops->destroy(r->aio);
    *r = (struct reader){0};
}

int reader_read(struct reader *r, void *to, uint64_t length, uint64_t offset)
{
    if (offset > r->size || length > r->size - offset)
        return -EINVAL;
    while (length) {
        uint64_t skip = offset % SECTOR, n;
        int e;
        if (!skip && length >= SECTOR) {
            n = length - length % SECTOR;
            e = disk_do(r->disk, DISK_READ, to, n, offset);
        } else {
            uint8_t b[SECTOR];
            n = SECTOR - skip < length ? SECTOR - skip : length;
            e = disk_do(r->disk, DISK_READ, b, SECTOR, offset - skip);
            memcpy(to, b + skip, n);
        }
        if (e)
            return e;
        to = (uint8_t *)to + n;
        offset += n;
        length -= n;
    }
    return 0;
}
