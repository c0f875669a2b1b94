// Reading guest data: run by run, from the image's file, from below it, or from nowhere (zeroes).
//
// What is not in the image is read from the backing file where there is one. The caller holds a range lock on the top
// image, so that what was found stays where it is while it is read; images below are never written.
#include "backend/qcow2/image.h"
#include <errno.h>

int image_read(struct qcow2 *q, uint64_t offset, uint64_t length, struct cursor *to)
{
    int e = 0;
    while (!e && length) {
        struct extent x;
        pthread_mutex_lock(&q->lock);
        e = map_find(q, offset, length, &x);
        pthread_mutex_unlock(&q->lock);
        if (e)
            return e;
        switch (x.kind) {
        case EXTENT_DATA:
            e = cursor_read(to, q->fd, x.host, x.length);
            break;
        case EXTENT_COMPRESSED:
            e = compressed_read(q, x.host, offset & (q->cluster - 1), x.length, to);
            break;
        case EXTENT_ABSENT:
            if (q->backing) {
                e = layer_read(q->backing, offset, x.length, to);
                break;
            }
            cursor_zero(to, x.length);
            break;
        case EXTENT_ZERO:
            cursor_zero(to, x.length);
            break;
        }
        offset += x.length;
        length -= x.length;
    }
    return e;
}
