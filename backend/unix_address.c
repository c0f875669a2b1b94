// Addresses of unix sockets: see unix_address.h.
#include "backend/unix_address.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int unix_address_open(struct unix_address *a, const char *path, struct error *err)
{
    *a = (struct unix_address){.sun.sun_family = AF_UNIX, .directory = -1};
    size_t length = strlen(path);
    const char *name = strrchr(path, '/');
    if (!length || length >= PATH_MAX || (name && !name[1]))
        return error_set(err, length < PATH_MAX ? EINVAL : ENAMETOOLONG, "socket %.120s: no path of a socket", path);
    if (length < sizeof a->sun.sun_path) {
        memcpy(a->sun.sun_path, path, length + 1);
        return 0;
    }
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%.*s/", name ? (int)(name - path) : 1, name ? path : ".");
    name = name ? name + 1 : path;
    a->directory = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (a->directory < 0)
        return error_set(err, errno, "%.200s: %s", folder, strerror(errno));
    int n = snprintf(a->sun.sun_path, sizeof a->sun.sun_path, "/proc/self/fd/%d/%s", a->directory, name);
    if ((size_t)n < sizeof a->sun.sun_path)
        return 0;
    unix_address_close(a);
    return error_set(err, ENAMETOOLONG, "socket %.120s: the name is too long", name);
}

void unix_address_close(struct unix_address *a)
{
    if (a->directory >= 0)
        close(a->directory);
    a->directory = -1;
}

int unix_address_connect(const struct unix_address *a, int flags)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        return -errno;
    if (!connect(fd, (const struct sockaddr *)&a->sun, sizeof a->sun))
        return fd;
    int e = errno;
    close(fd);
    return -e;
}

int unix_address_listen(const struct unix_address *a, int backlog)
{
    struct stat st;
    if (!lstat(a->sun.sun_path, &st)) {
        if (!S_ISSOCK(st.st_mode))
            return -EEXIST;
        int there = unix_address_connect(a, SOCK_NONBLOCK);
        if (there >= 0)
            close(there);
        if (there >= 0 || there == -EAGAIN)
            return -EADDRINUSE;
        if (there != -ECONNREFUSED)
            return there;
        unlink(a->sun.sun_path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    // The mode that a socket has when it is bound is that of its file: there is no moment at which others get in.
    if (fd >= 0 && !fchmod(fd, 0600) && !bind(fd, (const struct sockaddr *)&a->sun, sizeof a->sun) &&
        !listen(fd, backlog))
        return fd;
    int e = errno;
    if (fd >= 0)
        close(fd);
    return -e;
}
