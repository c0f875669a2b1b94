// Disks out of disks: in another format, or larger. What is zero stays unwritten, so the new file is as small as it can
// be.
#include "backend/qcow2/qcow2.h"
#include "image/make.h"
#include "image/reader.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 20, BLOCK = 64 << 10 };

static bool is_zero(const char *b, size_t n)
{
    return !b[0] && !memcmp(b, b + 1, n - 1);
}

// --- disks

static int create(const char *path, enum disk_format format, uint64_t size, struct error *err)
{
    if (format == DISK_QCOW2)
        return qcow2_create(&(struct qcow2_options){.path = path, .size = size}, err);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    int e = ftruncate(fd, (off_t)size) ? error_set(err, errno, "%s: %s", path, strerror(errno)) : 0;
    close(fd);
    if (e)
        unlink(path);
    return e;
}

static int copy_contents(struct reader *from, struct disk *to, const char *path, const struct progress *progress,
                         struct error *err)
{
    char *b = malloc(PIECE);
    int e = b ? 0 : error_set(err, ENOMEM, "out of memory");
    for (uint64_t at = 0; !e && at < from->size; at += PIECE) {
        uint64_t n = from->size - at < PIECE ? from->size - at : PIECE;
        progress_tell(progress, "copying", at, from->size);
        e = reader_read(from, b, n, at);
        if (e) {
            error_set(err, -e, "reading the disk: %s", strerror(-e));
            break;
        }
        for (uint64_t k = 0, m; !e && k < n; k += m) {
            m = n - k < BLOCK ? n - k : BLOCK;
            if (!is_zero(b + k, m) && (e = disk_do(to, DISK_WRITE, b + k, m, at + k)))
                error_set(err, -e, "%s: %s", path, strerror(-e));
        }
    }
    if (!e && (e = disk_do(to, DISK_FLUSH, NULL, 0, 0)))
        error_set(err, -e, "%s: %s", path, strerror(-e));
    free(b);
    return e;
}

int image_convert(const char *from, enum disk_format from_format, const char *to, enum disk_format to_format,
                  uint64_t size, const struct progress *progress, struct error *err)
{
    struct reader r;
    struct aio *aio = NULL;
    struct disk *d = NULL;
    int e = reader_open(&r, from, from_format, err);
    if (e)
        return e;
    if (!size)
        size = r.size;
    e = size < r.size
            ? error_set(err, EINVAL, "%s: can't be smaller than its %llu bytes", from, (unsigned long long)r.size)
            : create(to, to_format, size, err);
    if (!e) {
        e = aio_create(&aio, err);
        if (!e)
            e = disk_open(&(struct disk_options){.path = to, .format = to_format}, aio, &d, err);
        if (!e)
            e = copy_contents(&r, d, to, progress, err);
        if (d)
            d->ops->close(d);
        if (aio)
            aio->ops->destroy(aio);
        if (e)
            unlink(to);
    }
    reader_close(&r);
    return e;
}

// --- files

static int copy_range(int in, int out, off_t at, off_t end, char *b)
{
    while (at < end) {
        size_t want = end - at < PIECE ? (size_t)(end - at) : PIECE;
        ssize_t n = pread(in, b, want, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO; // it became shorter
        if (!is_zero(b, (size_t)n))
            for (ssize_t done = 0, m; done < n; done += m)
                if ((m = pwrite(out, b + done, (size_t)(n - done), at + done)) < 0)
                    return -errno;
        at += n;
    }
    return 0;
}

// Between holes, as lseek tells them; a file system that doesn't know them has none.
static int copy_data(int in, int out, off_t size, const struct progress *progress)
{
    char *b = malloc(PIECE);
    int e = b ? 0 : -ENOMEM;
    off_t at = 0;
    while (!e && at < size) {
        off_t data = lseek(in, at, SEEK_DATA), end;
        if (data < 0 && errno == ENXIO)
            break;
        if (data < 0)
            data = at;
        end = lseek(in, data, SEEK_HOLE);
        if (end < 0 || end > size)
            end = size;
        for (at = data; !e && at < end; at += 64 * PIECE) {
            progress_tell(progress, "copying", (uint64_t)at, (uint64_t)size);
            e = copy_range(in, out, at, end - at < 64 * PIECE ? end : at + 64 * PIECE, b);
        }
        at = end;
    }
    free(b);
    return e;
}

int image_copy_file(const char *from, const char *to, const struct progress *progress, struct error *err)
{
    struct stat st;
    int in = open(from, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (in < 0 || fstat(in, &st) || (!S_ISREG(st.st_mode) && (errno = EINVAL))) {
        int e = error_set(err, errno, "%s: %s", from, errno == EINVAL ? "not a file" : strerror(errno));
        if (in >= 0)
            close(in);
        return e;
    }
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int e = out < 0 ? -errno : 0;
    if (!e && ioctl(out, FICLONE, in)) {
        e = copy_data(in, out, st.st_size, progress);
        // Whole sectors: what lies behind the end reads as zeroes.
        if (!e && ftruncate(out, (st.st_size + 511) & ~(off_t)511))
            e = -errno;
    }
    if (out >= 0)
        close(out);
    close(in);
    if (e) {
        error_set(err, -e, "%s: %s", to, strerror(-e));
        if (out >= 0)
            unlink(to);
    }
    return e;
}
