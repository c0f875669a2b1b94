// A place in a request's scattered memory, which is used up from front to back as the request is worked on.
#include "backend/qcow2/image.h"
#include <string.h>

uint64_t cursor_take(struct cursor *c, uint64_t length, struct iovec *iov, unsigned max, unsigned *n)
{
    uint64_t taken = 0;
    for (*n = 0; c->segs && taken < length && *n < max;) {
        uint64_t piece = c->seg->len - c->skip;
        if (piece > length - taken)
            piece = length - taken;
        if (piece)
            iov[(*n)++] = (struct iovec){(char *)c->seg->base + c->skip, piece};
        taken += piece;
        c->skip += piece;
        if (c->skip == c->seg->len) {
            c->seg++;
            c->segs--;
            c->skip = 0;
        }
    }
    return taken;
}

void cursor_zero(struct cursor *c, uint64_t length)
{
    struct iovec v;
    unsigned n = 1;
    while (length && n) {
        length -= cursor_take(c, length, &v, 1, &n);
        if (n)
            memset(v.iov_base, 0, v.iov_len);
    }
}

void cursor_put(struct cursor *c, const void *from, uint64_t length)
{
    struct iovec v;
    unsigned n = 1;
    while (length && n) {
        uint64_t piece = cursor_take(c, length, &v, 1, &n);
        if (n)
            memcpy(v.iov_base, from, piece);
        from = (const char *)from + piece;
        length -= piece;
    }
}
