// Opening a disk, whatever its format. See disk.h.
//
// Where the format is not named, the first bytes tell: qcow2 images begin with QFI\xfb. That alone would be dangerous.
// A guest owns the bytes of its raw disk; it could write a qcow2 header there whose backing file is any file of the
// host, and read that file after the next start. So a raw disk that was found out like that is guarded: its guest
// cannot write those bytes to its beginning. Naming the format (format=raw) needs no guard, and nothing is looked at.
#include "backend/disk.h"
#include "backend/disk_raw.h"
#include "backend/qcow2/qcow2.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

bool disk_magic(const void *first)
{
    return !memcmp(first, "QFI\xfb", DISK_MAGIC_BYTES);
}

int disk_open(const struct disk_options *o, struct aio *aio, struct disk **out, struct error *err)
{
    if (o->serial && strlen(o->serial) > 20)
        return error_set(err, EINVAL, "disk %s: serial %s is longer than 20 characters", o->path, o->serial);
    int fd = open(o->path, (o->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno, "disk %s: %s", o->path, strerror(errno));
    char first[DISK_MAGIC_BYTES];
    bool qcow2 = o->format == DISK_QCOW2;
    if (o->format == DISK_PROBE)
        qcow2 = pread(fd, first, sizeof first, 0) == sizeof first && disk_magic(first);
    if (qcow2)
        return qcow2_disk_open(fd, o, out, err);
    return raw_disk_open(fd, o, o->format == DISK_PROBE, aio, out, err);
}
