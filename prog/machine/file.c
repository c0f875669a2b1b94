// See file.h. A file that somebody may change is read, not mapped: a mapping would change, or fault, if somebody
// changed the file while the machine is running, and it is needed again at every reset.
#include "prog/machine/file.h"
#include "host/memory.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_all(int fd, char *data, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = read(fd, data + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO; // it became shorter
        done += (size_t)n;
    }
    return 0;
}

int file_map(struct file *f, const char *what, const char *path, struct error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno, "%s %s: %s", what, path, strerror(errno));
    int e = fstat(fd, &st) ? errno : 0;
    if (!e && S_ISDIR(st.st_mode))
        e = EISDIR;
    char *data = NULL;
    if (e) {
        e = error_set(err, e, "%s %s: %s", what, path, strerror(e));
    } else if (!S_ISREG(st.st_mode)) {
        e = error_set(err, EINVAL, "%s %s: not a file", what, path);
    } else if (!st.st_size) {
        e = error_set(err, ENOEXEC, "%s %s: the file is empty", what, path);
    } else if (!(data = malloc((size_t)st.st_size))) {
        e = error_set(err, ENOMEM, "%s %s: no memory for its %lld bytes", what, path, (long long)st.st_size);
    } else if (host_memory_populate(data, (uint64_t)st.st_size), (e = read_all(fd, data, (size_t)st.st_size))) {
        e = error_set(err, e, "%s %s: %s", what, path, strerror(e));
        free(data);
    } else {
        *f = (struct file){data, (size_t)st.st_size, false};
    }
    close(fd);
    return e;
}

int file_view(struct file *f, const char *what, const char *path, struct error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    void *data = MAP_FAILED;
    if (fd >= 0 && !fstat(fd, &st))
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int e = data == MAP_FAILED ? error_set(err, errno, "%s %s: %s", what, path, strerror(errno)) : 0;
    if (!e)
        *f = (struct file){data, (size_t)st.st_size, true};
    if (fd >= 0)
        close(fd);
    return e;
}

void file_unmap(struct file *f)
{
    if (f->viewed)
        munmap((void *)f->data, f->size);
    else
        free((void *)f->data);
    *f = (struct file){0};
}
