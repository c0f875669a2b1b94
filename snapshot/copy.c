// Copying files: see copy.h.
#include "snapshot/copy.h"
#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int copy_range(int from, int to, off_t at, off_t end)
{
    while (at < end) {
        off64_t in = at, out = at;
        ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - at), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO; // it has become shorter
        at += n;
    }
    return 0;
}

int snapshot_copy(int from, int to)
{
    struct stat st;
    if (ioctl(to, FICLONE, from) == 0)
        return 0;
    if (fstat(from, &st) < 0 || ftruncate(to, st.st_size) < 0)
        return -errno;
    off_t at = 0;
    while (at < st.st_size) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return 0;
        off_t hole = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
        off_t begin = data < 0 ? at : data, end = hole < 0 ? st.st_size : hole;
        int e = copy_range(from, to, begin, end);
        if (e)
            return e;
        at = end;
    }
    return 0;
}
