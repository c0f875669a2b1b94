// See disk_lock.h.
#include "backend/disk_lock.h"
#include <errno.h>
#include <fcntl.h>

int disk_lock_hold(int fd, bool hold, bool write)
{
    struct flock l = {.l_type = !hold ? F_UNLCK : write ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &l) < 0 && (errno == EAGAIN || errno == EACCES) ? -EBUSY : 0;
}

int disk_lock(int fd, bool write, const char *path, struct error *err)
{
    if (disk_lock_hold(fd, true, write) == 0)
        return 0;
    return error_set(err, EBUSY, "disk %s: in use by another virtual machine", path);
}
