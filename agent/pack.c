// Writing archives: see archive.h.
#include "agent/archive.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 64 << 10 };

struct packer {
    int fd;
    struct error *err;
    void (*told)(const char *line);
    bool left_out;
    size_t size;
    uint8_t out[ROOM];
};

static int flush(struct packer *p)
{
    for (size_t at = 0; at < p->size;) {
        ssize_t n = write(p->fd, p->out + at, p->size - at);
        if (n < 0 && errno != EINTR)
            return error_set(p->err, errno, "copying: %s", strerror(errno));
        at += n > 0 ? (size_t)n : 0;
    }
    p->size = 0;
    return 0;
}

static int put(struct packer *p, const void *data, size_t size)
{
    if (size > sizeof p->out - p->size) {
        int e = flush(p);
        if (e)
            return e;
    }
    memcpy(p->out + p->size, data, size); // nobody puts more than ROOM
    p->size += size;
    return 0;
}

static int put_number(struct packer *p, uint64_t n, unsigned bytes)
{
    uint8_t b[8];
    for (unsigned i = 0; i < bytes; i++)
        b[i] = (uint8_t)(n >> 8 * i);
    return put(p, b, bytes);
}

static int put_text(struct packer *p, const char *text, size_t size)
{
    int e = put_number(p, size, 2);
    return e ? e : put(p, text, size);
}

static int put_entry(struct packer *p, char kind, const struct stat *st, const char *name)
{
    int e = put(p, &kind, 1);
    if (!e && kind != 'L')
        e = put_number(p, st->st_mode & 07777, 4);
    if (!e)
        e = put_number(p, (uint64_t)st->st_mtim.tv_sec, 8);
    if (!e)
        e = put_number(p, (uint64_t)st->st_mtim.tv_nsec, 4);
    return e ? e : put_text(p, name, strlen(name));
}

static void leave_out(struct packer *p, const char *name, const char *why)
{
    struct error line;
    error_set(&line, EIO, "%.160s: %s: left out", name, why);
    p->left_out = true;
    p->told(line.text);
}

static int put_contents(struct packer *p, int fd, const char *name)
{
    for (;;) {
        int e = sizeof p->out - p->size < 4096 ? flush(p) : 0;
        if (e)
            return e;
        size_t room = sizeof p->out - p->size - 4;
        ssize_t n = read(fd, p->out + p->size + 4, room);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(p->err, errno, "%.160s: %s", name, strerror(errno));
        e = put_number(p, (uint64_t)n, 4);
        p->size += (size_t)n;
        if (e || !n)
            return e;
        if ((size_t)n < room && (e = flush(p)))
            return e; // a pipe: what is there goes out
    }
}

static int put_link(struct packer *p, int at, const char *name, const char *shown, const struct stat *st)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(at, name, target, sizeof target);
    if (n < 0 || n == sizeof target) {
        leave_out(p, shown, n < 0 ? strerror(errno) : "link too long");
        return 0;
    }
    int e = put_entry(p, 'L', st, shown);
    return e ? e : put_text(p, target, (size_t)n);
}

static int put_tree(struct packer *p, int at, const char *name, const char *shown, bool follow, unsigned depth);

static int put_folder(struct packer *p, int fd, const char *shown, const struct stat *st, unsigned depth)
{
    DIR *d = fdopendir(fd); // owns fd now
    if (!d) {
        close(fd);
        return error_set(p->err, errno, "%.160s: %s", shown, strerror(errno));
    }
    int e = put_entry(p, 'D', st, shown);
    struct dirent *entry;
    while (!e && (entry = readdir(d)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            e = put_tree(p, dirfd(d), entry->d_name, entry->d_name, false, depth + 1);
    closedir(d);
    return e ? e : put(p, "U", 1);
}

// What is at `name` in the directory `at`, under the name `shown`.
static int put_tree(struct packer *p, int at, const char *name, const char *shown, bool follow, unsigned depth)
{
    struct stat st;
    if (fstatat(at, name, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW)) {
        if (!depth)
            return error_set(p->err, errno, "%.160s: %s", name, strerror(errno));
        leave_out(p, shown, strerror(errno));
        return 0;
    }
    if (S_ISLNK(st.st_mode))
        return put_link(p, at, name, shown, &st);
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
        if (!depth)
            return error_set(p->err, EINVAL, "%.160s: neither a file nor a directory", name);
        leave_out(p, shown, "neither a file nor a directory");
        return 0;
    }
    if (S_ISDIR(st.st_mode) && depth >= ARCHIVE_DEPTH)
        return error_set(p->err, ELOOP, "%.160s: more than %d directories deep", shown, ARCHIVE_DEPTH);
    // Another thing may have come into its place meanwhile: nothing is waited for there, and it is looked at again.
    int fd = openat(at, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (follow ? 0 : O_NOFOLLOW));
    if (fd < 0 || fstat(fd, &st)) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        if (!depth)
            return error_set(p->err, e, "%.160s: %s", name, strerror(e));
        leave_out(p, shown, strerror(e));
        return 0;
    }
    if (S_ISDIR(st.st_mode))
        return put_folder(p, fd, shown, &st, depth);
    int e = put_entry(p, 'F', &st, shown);
    if (!e)
        e = put_contents(p, fd, shown);
    close(fd);
    return e;
}

// The last component of a path: a/b/ -> b; "/" and "." have none.
static const char *own_name(const char *path, char name[NAME_MAX + 1])
{
    size_t end = strlen(path);
    while (end && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start && path[start - 1] != '/')
        start--;
    size_t size = end - start < NAME_MAX ? end - start : NAME_MAX;
    memcpy(name, path + start, size);
    name[size] = 0;
    bool none = !size || !strcmp(name, ".") || !strcmp(name, "..");
    return none ? strcpy(name, "copy") : name;
}

int archive_pack(int fd, const char *path, void (*told)(const char *line), struct error *err)
{
    struct packer *p = malloc(sizeof *p);
    if (!p)
        return error_set(err, ENOMEM, "out of memory");
    *p = (struct packer){.fd = fd, .err = err, .told = told};
    int e = put(p, ARCHIVE_MAGIC, sizeof ARCHIVE_MAGIC - 1);
    if (!e && !strcmp(path, "-")) {
        struct stat st = {.st_mode = S_IFREG | 0644};
        clock_gettime(CLOCK_REALTIME, &st.st_mtim);
        e = put_entry(p, 'F', &st, "copy");
        if (!e)
            e = put_contents(p, STDIN_FILENO, "standard input");
    } else if (!e) {
        char name[NAME_MAX + 1];
        e = put_tree(p, AT_FDCWD, path, own_name(path, name), true, 0);
    }
    if (!e)
        e = put(p, "E", 1);
    if (!e)
        e = flush(p);
    if (!e && p->left_out)
        e = error_set(err, EIO, "%.160s: not everything could be copied", path);
    free(p);
    return e;
}
