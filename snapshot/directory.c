// Snapshot directories: see directory.h.
#include "snapshot/directory.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANIFEST_MAX = 4 << 20, STATE_MAX = 64 << 20 };
#define MANIFEST "snapshot.json"

// --- making one

// "/a/b" as "/a/.b.PID"
static char *making_name(const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char *s;
    return asprintf(&s, "%.*s.%s.%d", (int)(base - path), path, base, (int)getpid()) < 0 ? NULL : s;
}

static void writer_free(struct snapshot_writer *w)
{
    for (unsigned i = 0; i < w->files; i++)
        close(w->file[i]);
    if (w->fd >= 0)
        close(w->fd);
    free(w->path);
    free(w->making);
    *w = (struct snapshot_writer){.fd = -1};
}

int snapshot_begin(struct snapshot_writer *w, const char *path, struct error *err)
{
    *w = (struct snapshot_writer){.fd = -1, .path = strdup(path)};
    for (size_t n = w->path ? strlen(w->path) : 0; n > 1 && w->path[n - 1] == '/'; n--)
        w->path[n - 1] = 0;
    w->making = w->path ? making_name(w->path) : NULL;
    int e = 0;
    if (!w->making)
        e = error_set(err, ENOMEM, "snapshot %s: no memory", path);
    else if (access(w->path, F_OK) == 0)
        e = error_set(err, EEXIST, "snapshot %s: there is something of that name already", path);
    else if (mkdir(w->making, 0755) < 0)
        e = error_set(err, errno, "snapshot %s: %s", path, strerror(errno));
    else if ((w->fd = open(w->making, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        e = error_set(err, errno, "snapshot %s: %s", path, strerror(errno));
    if (e && w->making && e != -EEXIST)
        rmdir(w->making);
    if (e)
        writer_free(w);
    return e;
}

int snapshot_add(struct snapshot_writer *w, const char *name, struct error *err)
{
    if (w->files == SNAPSHOT_FILES)
        return error_set(err, ENOSPC, "snapshot %s: too many files", w->path);
    int fd = openat(w->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    if (fd < 0)
        return error_set(err, errno, "snapshot %s: %s: %s", w->path, name, strerror(errno));
    w->file[w->files++] = fd;
    return fd;
}

// So that the new name survives a loss of power.
static int sync_parent(const char *path)
{
    char *copy = strdup(path), *slash = copy ? strrchr(copy, '/') : NULL;
    if (slash)
        slash[slash == copy] = 0;
    int fd = copy ? open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int e = fd < 0 || fsync(fd) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    free(copy);
    return e;
}

static int write_manifest(struct snapshot_writer *w, const char *text, struct error *err)
{
    int fd = snapshot_add(w, MANIFEST, err);
    if (fd < 0)
        return fd;
    size_t length = strlen(text), done = 0;
    while (done < length) {
        ssize_t n = write(fd, text + done, length - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, errno, "snapshot %s: %s", w->path, strerror(errno));
        done += (size_t)n;
    }
    return 0;
}

int snapshot_commit(struct snapshot_writer *w, const char *manifest, struct error *err)
{
    int e = write_manifest(w, manifest, err);
    for (unsigned i = 0; i < w->files && !e; i++)
        if (fsync(w->file[i]) < 0)
            e = error_set(err, errno, "snapshot %s: %s", w->path, strerror(errno));
    if (!e && (fsync(w->fd) < 0 || renameat2(AT_FDCWD, w->making, AT_FDCWD, w->path, RENAME_NOREPLACE) < 0))
        e = error_set(err, errno, "snapshot %s: %s", w->path, strerror(errno));
    if (e) {
        snapshot_abandon(w);
        return e;
    }
    e = sync_parent(w->path);
    if (e)
        error_set(err, -e, "snapshot %s: %s", w->path, strerror(-e));
    writer_free(w);
    return e;
}

static int remove_files(int dir, bool (*ours)(const char *name))
{
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    if (!d)
        return -errno;
    int e = 0;
    for (struct dirent *f; !e && (f = readdir(d));)
        if (strcmp(f->d_name, ".") != 0 && strcmp(f->d_name, "..") != 0)
            e = ours && !ours(f->d_name) ? -ENOTEMPTY : unlinkat(dir, f->d_name, 0) < 0 ? -errno : 0;
    closedir(d);
    return e;
}

void snapshot_abandon(struct snapshot_writer *w)
{
    if (w->fd >= 0)
        remove_files(w->fd, NULL);
    if (w->making)
        rmdir(w->making);
    writer_free(w);
}

// --- opening one

static uint8_t *read_whole(int dir, const char *name, size_t limit, size_t *size, struct error *err)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    uint8_t *data = NULL;
    if (fd < 0 || fstat(fd, &st) < 0) {
        error_set(err, errno, "%s: %s", name, strerror(errno));
    } else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > limit) {
        error_set(err, EINVAL, "%s: not a file of a reasonable size", name);
    } else if (!(data = malloc((size_t)st.st_size + 1))) {
        error_set(err, ENOMEM, "%s: no memory", name);
    } else {
        size_t done = 0;
        for (ssize_t n; done < (size_t)st.st_size; done += (size_t)n)
            if ((n = pread(fd, data + done, (size_t)st.st_size - done, (off_t)done)) <= 0)
                break;
        data[done] = 0;
        *size = done;
    }
    if (fd >= 0)
        close(fd);
    return data;
}

int snapshot_open(struct snapshot *s, const char *path, struct error *err)
{
    size_t size = 0;
    *s = (struct snapshot){.fd = -1, .path = realpath(path, NULL)};
    if (s->path)
        s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->fd < 0) {
        int e = error_set(err, errno, "snapshot %s: %s", path, strerror(errno));
        snapshot_close(s);
        return e;
    }
    uint8_t *text = read_whole(s->fd, MANIFEST, MANIFEST_MAX, &size, err);
    int e = text ? snapshot_manifest_read(&s->m, (const char *)text, size, err) : -EINVAL;
    free(text);
    if (e) {
        error_prefix(err, "snapshot %s", path);
        snapshot_close(s);
    }
    return e;
}

void snapshot_close(struct snapshot *s)
{
    snapshot_manifest_free(&s->m);
    if (s->fd >= 0)
        close(s->fd);
    free(s->path);
    *s = (struct snapshot){.fd = -1};
}

int snapshot_part_open(const struct snapshot *s, const char *name, const struct snapshot_part *part, struct error *err)
{
    struct stat st;
    int fd = openat(s->fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return error_set(err, errno, "snapshot %s: %s: %s", s->path, name, strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != part->bytes) {
        close(fd);
        return error_set(err, EINVAL, "snapshot %s: %s is not the file of %llu bytes that it was", s->path, name,
                         (unsigned long long)part->bytes);
    }
    return fd;
}

static int check_part(const struct snapshot *s, const char *name, const struct snapshot_part *part, struct error *err)
{
    struct snapshot_part now = {0};
    int fd = snapshot_part_open(s, name, part, err);
    if (fd < 0)
        return fd;
    int e = part == &s->m.ram ? snapshot_memory_digest(fd, &now, err) : snapshot_file_digest(fd, INT64_MAX, &now, err);
    close(fd);
    if (!e && strcmp(now.xxh3, part->xxh3) != 0)
        e = error_set(err, EINVAL, "it is not what was saved: its digest is %s and was %s", now.xxh3, part->xxh3);
    if (e)
        error_prefix(err, "snapshot %s: %s", s->path, name);
    return e;
}

int snapshot_verify(const struct snapshot *s, struct error *err)
{
    int e = check_part(s, "state", &s->m.state, err);
    if (!e)
        e = check_part(s, "memory", &s->m.ram, err);
    if (!e && s->m.kernel.bytes)
        e = check_part(s, "kernel", &s->m.kernel, err);
    if (!e && s->m.initrd.bytes)
        e = check_part(s, "initrd", &s->m.initrd, err);
    for (unsigned i = 0; i < s->m.disks && !e; i++)
        if (s->m.disk[i].copied)
            e = check_part(s, s->m.disk[i].path, &s->m.disk[i].part, err);
    return e;
}

uint8_t *snapshot_state(const struct snapshot *s, size_t *size, struct error *err)
{
    if (s->m.state.bytes > STATE_MAX) {
        error_set(err, EINVAL, "snapshot %s: state of %llu bytes", s->path, (unsigned long long)s->m.state.bytes);
        return NULL;
    }
    if (check_part(s, "state", &s->m.state, err))
        return NULL;
    uint8_t *data = read_whole(s->fd, "state", STATE_MAX, size, err);
    if (!data)
        error_prefix(err, "snapshot %s", s->path);
    return data;
}

static bool is_ours(const char *name)
{
    static const char *const names[] = {MANIFEST, "state", "memory", "kernel", "initrd"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i]))
            return true;
    return !strncmp(name, "disk", 4);
}

int snapshot_remove(const char *path, struct error *err)
{
    struct snapshot s;
    int e = snapshot_open(&s, path, err);
    if (e)
        return e;
    e = remove_files(s.fd, is_ours);
    if (!e && rmdir(s.path) < 0)
        e = -errno;
    if (e)
        error_set(err, -e, "snapshot %s: %s", path, strerror(-e));
    snapshot_close(&s);
    return e;
}
