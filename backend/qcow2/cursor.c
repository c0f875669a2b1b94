// A place in a request's scattered memory, which is used up from front to back as the request is worked on.
#include "backend/qcow2/image.h"
#include <errno.h>
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

// Between the file's [offset, offset + length) and the memory.
static int move(struct cursor *c, int fd, uint64_t offset, uint64_t length,
                int (*transfer)(int, struct iovec *, unsigned, uint64_t))
{
    int e = 0;
    while (!e && length) {
        struct iovec iov[IOVS];
        unsigned n;
        uint64_t piece = cursor_take(c, length, iov, IOVS, &n);
        if (!piece)
            return -EINVAL;
        e = transfer(fd, iov, n, offset);
        offset += piece;
        length -= piece;
    }
    return e;
}

int cursor_read(struct cursor *to, int fd, uint64_t offset, uint64_t length)
{
    return move(to, fd, offset, length, file_readv);
}

int cursor_write(struct cursor *from, int fd, uint64_t offset, uint64_t length)
{
    return move(from, fd, offset, length, file_writev);
}
