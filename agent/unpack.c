// Reading archives, which may say anything: see archive.h.
#include "agent/archive.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOM = 64 << 10, FOLDER_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

struct folder { // that is being filled
    int fd;
    uint32_t mode;
    struct timespec time;
};

struct unpacker {
    int fd;
    struct error *err;
    const char *path; // where to
    bool to_output;   // "-"
    bool into;        // path is a directory that is there: things are put into it
    unsigned depth;   // folders that are open
    struct folder folder[ARCHIVE_DEPTH];
    size_t start, end;
    uint8_t in[ROOM];
};

struct entry {
    uint32_t mode;
    struct timespec time;
    char name[NAME_MAX + 1];
};

static int fail(struct unpacker *u, int code, const char *name, const char *why)
{
    if (!u->depth)
        name = ""; // it goes by the path
    return error_set(u->err, code, "%.160s%s%.60s: %s", u->path, *name ? ": " : "", name, why);
}

static int damaged(struct unpacker *u)
{
    return fail(u, EPROTO, "", "what came is no archive, or a damaged one");
}

// ---- bytes

// More than nothing is in the buffer afterwards. -EPIPE: the stream has ended.
static int fill(struct unpacker *u)
{
    while (u->start == u->end) {
        ssize_t n = read(u->fd, u->in, sizeof u->in);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail(u, n ? errno : EPIPE, "", n ? strerror(errno) : "the copy was broken off");
        u->start = 0;
        u->end = (size_t)n;
    }
    return 0;
}

static int get(struct unpacker *u, void *data, size_t size)
{
    for (uint8_t *p = data; size;) {
        int e = fill(u);
        if (e)
            return e;
        size_t n = u->end - u->start < size ? u->end - u->start : size;
        memcpy(p, u->in + u->start, n);
        u->start += n;
        p += n;
        size -= n;
    }
    return 0;
}

static int get_number(struct unpacker *u, uint64_t *n, unsigned bytes)
{
    uint8_t b[8];
    int e = get(u, b, bytes);
    *n = 0;
    for (unsigned i = 0; i < bytes && !e; i++)
        *n |= (uint64_t)b[i] << 8 * i;
    return e;
}

// Into at most `room` bytes with the 0 at its end; none may be within.
static int get_text(struct unpacker *u, char *text, size_t room)
{
    uint64_t size;
    int e = get_number(u, &size, 2);
    if (!e && (!size || size >= room))
        return damaged(u);
    if (!e)
        e = get(u, text, size);
    if (e)
        return e;
    text[size] = 0;
    return strlen(text) == size ? 0 : damaged(u);
}

static int get_entry(struct unpacker *u, char kind, struct entry *entry)
{
    uint64_t mode = 0, seconds, ns;
    int e = kind == 'L' ? 0 : get_number(u, &mode, 4);
    if (!e)
        e = get_number(u, &seconds, 8);
    if (!e)
        e = get_number(u, &ns, 4);
    if (!e)
        e = get_text(u, entry->name, sizeof entry->name);
    if (e)
        return e;
    if (strchr(entry->name, '/') || !strcmp(entry->name, ".") || !strcmp(entry->name, "..") || ns > 999999999)
        return damaged(u);
    entry->mode = (uint32_t)mode & 0777;
    entry->time = (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)ns};
    return 0;
}

// ---- things

// Where the next thing goes: a directory's descriptor, and the name there. The first one has the name that was asked
// for, unless it goes into a directory.
static int place(const struct unpacker *u, const struct entry *entry, const char **name)
{
    *name = u->depth ? entry->name : u->path;
    return u->depth ? u->folder[u->depth - 1].fd : AT_FDCWD;
}

static int write_all(struct unpacker *u, int fd, const char *name, size_t size)
{
    while (size) {
        ssize_t n = write(fd, u->in + u->start, size);
        if (n < 0 && errno != EINTR)
            return fail(u, errno, name, strerror(errno));
        u->start += n > 0 ? (size_t)n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int get_contents(struct unpacker *u, int fd, const char *name)
{
    uint64_t left;
    int e;
    while (!(e = get_number(u, &left, 4)) && left)
        while (left) {
            if ((e = fill(u)))
                return e;
            size_t n = u->end - u->start < left ? u->end - u->start : (size_t)left;
            if ((e = write_all(u, fd, name, n)))
                return e;
            left -= n;
        }
    return e;
}

// A file for writing. In a directory what is there already is replaced, unless it is a file. (A path that the user
// named himself is opened as he would have it: through a link, into a pipe or a device.)
static int open_file(int at, const char *name, bool named)
{
    const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY;
    if (named)
        return openat(at, name, flags, 0600);
    struct stat st;
    if (!fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        unlinkat(at, name, 0);
    return openat(at, name, flags | O_NOFOLLOW | O_NONBLOCK, 0600);
}

static int take_file(struct unpacker *u)
{
    struct entry entry;
    const char *name = "standard output";
    int e = get_entry(u, 'F', &entry);
    if (e)
        return e;
    int at = place(u, &entry, &name);
    int fd = u->to_output ? STDOUT_FILENO : open_file(at, name, at == AT_FDCWD);
    if (fd < 0)
        return fail(u, errno, entry.name, strerror(errno));
    e = get_contents(u, fd, entry.name);
    if (u->to_output)
        return e;
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, entry.time};
    struct stat st;
    if (!e && !fstat(fd, &st) && S_ISREG(st.st_mode) && (fchmod(fd, entry.mode) || futimens(fd, times)))
        e = fail(u, errno, entry.name, strerror(errno));
    if (close(fd) && !e)
        e = fail(u, errno, entry.name, strerror(errno));
    return e;
}

static int take_link(struct unpacker *u)
{
    struct entry entry;
    char target[PATH_MAX];
    const char *name;
    int e = get_entry(u, 'L', &entry);
    if (!e)
        e = get_text(u, target, sizeof target);
    if (e)
        return e;
    if (u->to_output)
        return fail(u, EISDIR, entry.name, "no file, and only a file can go to standard output");
    int at = place(u, &entry, &name);
    struct stat st;
    if (!fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) && !S_ISDIR(st.st_mode))
        unlinkat(at, name, 0);
    if (symlinkat(target, at, name))
        return fail(u, errno, entry.name, strerror(errno));
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, entry.time};
    utimensat(at, name, times, AT_SYMLINK_NOFOLLOW); // a file system without times of links is none to fail for
    return 0;
}

static int take_folder(struct unpacker *u)
{
    struct entry entry;
    const char *name;
    int e = get_entry(u, 'D', &entry);
    if (e)
        return e;
    if (u->to_output)
        return fail(u, EISDIR, entry.name, "a directory, and only a file can go to standard output");
    if (u->depth == ARCHIVE_DEPTH)
        return fail(u, ELOOP, entry.name, "too many directories deep");
    int at = place(u, &entry, &name);
    if (mkdirat(at, name, 0700) && errno != EEXIST)
        return fail(u, errno, entry.name, strerror(errno));
    int fd = openat(at, name, FOLDER_FLAGS);
    if (fd < 0)
        return fail(u, errno, entry.name, strerror(errno));
    u->folder[u->depth++] = (struct folder){fd, entry.mode, entry.time};
    return 0;
}

// Its mode and time come last: filling it changes the one and may need another than the other.
static int leave_folder(struct unpacker *u)
{
    if (u->depth <= (u->into ? 1u : 0u))
        return damaged(u);
    const struct folder *f = &u->folder[--u->depth];
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, f->time};
    int e = fchmod(f->fd, (mode_t)f->mode) || futimens(f->fd, times) ? fail(u, errno, "", strerror(errno)) : 0;
    close(f->fd);
    return e;
}

// One thing with all that is in it; after that there must be nothing but the end.
static int take_things(struct unpacker *u)
{
    const unsigned ground = u->into ? 1 : 0;
    bool done = false;
    for (;;) {
        char kind;
        int e = get(u, &kind, 1);
        if (e)
            return e;
        if (done)
            return kind == 'E' ? 0 : damaged(u);
        e = kind == 'F'   ? take_file(u)
            : kind == 'L' ? take_link(u)
            : kind == 'D' ? take_folder(u)
            : kind == 'U' ? leave_folder(u)
                          : damaged(u);
        if (e)
            return e;
        done = u->depth == ground;
    }
}

int archive_unpack(int fd, const char *path, struct error *err)
{
    struct unpacker *u = malloc(sizeof *u);
    if (!u)
        return error_set(err, ENOMEM, "out of memory");
    *u = (struct unpacker){.fd = fd, .err = err, .path = path, .to_output = !strcmp(path, "-")};
    char magic[sizeof ARCHIVE_MAGIC - 1];
    int e = get(u, magic, sizeof magic);
    if (!e && memcmp(magic, ARCHIVE_MAGIC, sizeof magic))
        e = damaged(u);
    // It may be a link to a directory: the user named it.
    int into = e || u->to_output ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (into >= 0) {
        u->into = true;
        u->folder[u->depth++].fd = into;
    }
    if (!e)
        e = take_things(u);
    while (u->depth)
        close(u->folder[--u->depth].fd);
    free(u);
    return e;
}
