// See filesystem.h.
#include "image/filesystem.h"
#include <errno.h>
#include <unistd.h>

int filesystem_open(struct reader *r, const struct partition *p, struct filesystem **out)
{
    int e = ext4_open(r, p, out);
    return e == -ENOENT ? fat_open(r, p, out) : e;
}

int filesystem_write_out(int fd, const void *data, size_t length)
{
    while (length) {
        ssize_t n = write(fd, data, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        data = (const char *)data + n;
        length -= (size_t)n;
    }
    return 0;
}
