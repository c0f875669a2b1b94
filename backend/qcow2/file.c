// Reading and writing exact amounts of a file, and its big-endian numbers.
//
// Interrupted and short transfers are continued. Tables must be there (file_read: -EIO if they are not); data past the
// end of the file is zeroes, since an image need not be filled up to the end of its last cluster.
#include "backend/qcow2/image.h"
#include <errno.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void advance(struct iovec **iov, unsigned *n, size_t bytes)
{
    while (*n && bytes >= (*iov)->iov_len) {
        bytes -= (*iov)->iov_len;
        ++*iov;
        --*n;
    }
    if (*n) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + bytes;
        (*iov)->iov_len -= bytes;
    }
}

static int transfer(int fd, struct iovec *iov, unsigned n, uint64_t offset, bool write, bool exact)
{
    advance(&iov, &n, 0);
    while (n) {
        int count = n < IOV_MAX ? (int)n : IOV_MAX;
        if (offset > INT64_MAX)
            return -EIO;
        ssize_t got = write ? pwritev(fd, iov, count, (off_t)offset) : preadv(fd, iov, count, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0) {
            if (write || exact)
                return -EIO;
            for (unsigned i = 0; i < n; i++)
                memset(iov[i].iov_base, 0, iov[i].iov_len);
            return 0;
        }
        offset += (uint64_t)got;
        advance(&iov, &n, (size_t)got);
    }
    return 0;
}

int file_read(int fd, void *to, size_t length, uint64_t offset)
{
    struct iovec v = {to, length};
    return transfer(fd, &v, 1, offset, false, true);
}

int file_write(int fd, const void *from, size_t length, uint64_t offset)
{
    struct iovec v = {(void *)(uintptr_t)from, length};
    return transfer(fd, &v, 1, offset, true, true);
}

int file_readv(int fd, struct iovec *iov, unsigned n, uint64_t offset)
{
    return transfer(fd, iov, n, offset, false, false);
}

int file_writev(int fd, struct iovec *iov, unsigned n, uint64_t offset)
{
    return transfer(fd, iov, n, offset, true, true);
}

uint64_t file_size(int fd)
{
    struct stat st;
    uint64_t size = 0;
    if (fstat(fd, &st))
        return 0;
    if (S_ISBLK(st.st_mode))
        return ioctl(fd, BLKGETSIZE64, &size) ? 0 : size;
    return S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
}

uint64_t load_be(const void *at, unsigned bytes)
{
    const uint8_t *b = at;
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | b[i];
    return v;
}

void store_be(void *at, unsigned bytes, uint64_t value)
{
    uint8_t *b = at;
    for (unsigned i = bytes; i-- > 0; value >>= 8)
        b[i] = (uint8_t)value;
}

int file_read_table(int fd, uint64_t offset, uint64_t entries, uint64_t **out)
{
    uint64_t *t = calloc(entries ? entries : 1, 8);
    int e = t ? file_read(fd, t, entries * 8, offset) : -ENOMEM;
    if (e) {
        free(t);
        return e;
    }
    for (uint64_t i = 0; i < entries; i++)
        t[i] = load_be(&t[i], 8);
    *out = t;
    return 0;
}
