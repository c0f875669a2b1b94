// See store.h.
#include "image/store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

// --- paths

static int no_path(struct error *err)
{
    return error_set(err, ENAMETOOLONG, "the path of the folder of images or snapshots is too long");
}

static int make_path(char *path, struct error *err)
{
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash)
            *slash = 0;
        int e = mkdir(path, 0777) && errno != EEXIST ? errno : 0;
        if (e)
            return error_set(err, e, "%s: %s", path, strerror(e));
        if (!slash)
            return 0;
        *slash = '/';
    }
}

int store_folder(const char *of, char *path, size_t size, struct error *err)
{
    const char *base = getenv("XDG_DATA_HOME"), *below = "";
    if (!base || base[0] != '/') { // a relative one is to be ignored (XDG Base Directory Specification)
        base = getenv("HOME");
        below = "/.local/share";
    }
    if (!base || base[0] != '/') {
        struct passwd *p = getpwuid(getuid());
        base = p ? p->pw_dir : NULL;
    }
    if (!base || base[0] != '/')
        return error_set(err, ENODEV, "neither XDG_DATA_HOME nor HOME says where %s are", of);
    int n = snprintf(path, size, "%s%s/trapeze/%s", base, below, of);
    return n >= 0 && (size_t)n < size ? 0 : no_path(err);
}

int store_open(struct store *s, struct error *err)
{
    s->fd = -1;
    int e = store_folder("images", s->path, sizeof s->path - 128, err);
    if (!e)
        e = make_path(s->path, err);
    if (e)
        return e;
    s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return s->fd < 0 ? error_set(err, errno, "%s: %s", s->path, strerror(errno)) : 0;
}

void store_close(struct store *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static const char *disk_name(enum disk_format format)
{
    return format == DISK_QCOW2 ? "disk.qcow2" : "disk.raw";
}

// The store's path leaves room for all of these.
static void join(char path[PATH_MAX], const char *a, const char *b, const char *c)
{
    int n = snprintf(path, PATH_MAX, "%s/%s%s%s", a, b, c ? "/" : "", c ? c : "");
    if (n < 0 || n >= PATH_MAX)
        path[0] = 0;
}

void store_disk(const struct store *s, const struct image_record *r, char path[PATH_MAX])
{
    join(path, s->path, r->name, disk_name(r->format));
}

void store_draft_disk(const struct draft *d, enum disk_format format, char path[PATH_MAX])
{
    join(path, d->path, disk_name(format), NULL);
}

// --- reading

int store_get(const struct store *s, const char *name, struct image_record *out, struct error *err)
{
    char path[PATH_MAX];
    if (!image_name_good(name))
        return error_set(err, EINVAL, "image %.40s: no name of an image", name);
    join(path, s->path, name, "image.json");
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? error_set(err, ENOENT, "image %s: there is none (trapeze image ls lists them)", name)
                               : error_set(err, errno, "image %s: %s: %s", name, path, strerror(errno));
    struct error why;
    int e = image_record_read(fd, path, out, &why);
    close(fd);
    if (e)
        return error_set(err, -e, "image %s: %s", name, why.text);
    strcpy(out->name, name);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct image_record *)a)->name, ((const struct image_record *)b)->name);
}

int store_list(const struct store *s, struct image_record **out, unsigned *count,
               void (*bad)(void *ctx, const struct error *e), void *ctx, struct error *err)
{
    unsigned room = 0;
    struct image_record *all = NULL;
    DIR *folder = opendir(s->path);
    *out = NULL;
    *count = 0;
    if (!folder)
        return error_set(err, errno, "%s: %s", s->path, strerror(errno));
    for (struct dirent *d; (d = readdir(folder));) {
        struct error why;
        if (!image_name_good(d->d_name))
            continue;
        if (*count == room) {
            room = room ? 2 * room : 16;
            struct image_record *more = realloc(all, room * sizeof *all);
            if (!more) {
                free(all);
                closedir(folder);
                return error_set(err, ENOMEM, "out of memory");
            }
            all = more;
        }
        if (!store_get(s, d->d_name, &all[*count], &why))
            ++*count;
        else if (bad)
            bad(ctx, &why);
    }
    closedir(folder);
    if (*count)
        qsort(all, *count, sizeof *all, by_name);
    *out = all;
    return 0;
}

// --- removing

// Folders of images hold files only, but what an interrupted build left may be deeper. Links are not followed.
static int remove_below(int parent, const char *name)
{
    if (!unlinkat(parent, name, 0) || errno == ENOENT)
        return 0;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder) {
        int e = -errno;
        if (fd >= 0)
            close(fd);
        return e;
    }
    int e = 0;
    for (struct dirent *d; !e && (d = readdir(folder));)
        if (strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
            e = remove_below(fd, d->d_name);
    closedir(folder);
    return e ? e : unlinkat(parent, name, AT_REMOVEDIR) ? -errno : 0;
}

// Whoever has a disk open holds a lock on its file (backend/disk.h), machines and readers alike.
static bool in_use(const struct store *s, const struct image_record *r)
{
    char path[PATH_MAX];
    store_disk(s, r, path);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    bool used = fd >= 0 && fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
    if (fd >= 0)
        close(fd);
    return used;
}

int store_remove(const struct store *s, const char *name, struct error *err)
{
    struct image_record r;
    char gone[IMAGE_NAME + 8];
    if (!image_name_good(name))
        return error_set(err, EINVAL, "image %.40s: no name of an image", name);
    int e = store_get(s, name, &r, err);
    if (e == -ENOENT && faccessat(s->fd, name, F_OK, AT_SYMLINK_NOFOLLOW))
        return e;
    // One whose description is bad can be removed, too.
    if (!e && in_use(s, &r))
        return error_set(err, EBUSY, "image %s: a machine is running on it", name);
    // Half an image must not be seen: it goes under another name first.
    snprintf(gone, sizeof gone, ".%s.gone", name);
    e = remove_below(s->fd, gone);
    if (!e && renameat(s->fd, name, s->fd, gone))
        e = -errno;
    if (!e)
        e = remove_below(s->fd, gone);
    return e ? error_set(err, -e, "image %s: removing it: %s", name, strerror(-e)) : 0;
}

// --- making

// What interruptions left behind: folders that begin with a dot and that nobody has locked.
static void sweep(const struct store *s)
{
    DIR *folder = opendir(s->path);
    for (struct dirent *d; folder && (d = readdir(folder));) {
        const char *end = strrchr(d->d_name, '.');
        if (d->d_name[0] != '.' || end == d->d_name || (strcmp(end, ".new") && strcmp(end, ".gone")))
            continue;
        int fd = openat(s->fd, d->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (!flock(fd, LOCK_EX | LOCK_NB))
            remove_below(s->fd, d->d_name);
        close(fd);
    }
    if (folder)
        closedir(folder);
}

static bool same_file(int a, int parent, const char *name)
{
    struct stat x, y;
    return !fstat(a, &x) && !fstatat(parent, name, &y, AT_SYMLINK_NOFOLLOW) && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

// The folder .NAME.new, ours alone. It may have been renamed or swept away while we waited for its lock: then again.
static int take_folder(const struct store *s, const char *folder)
{
    for (;;) {
        if (mkdirat(s->fd, folder, 0777) && errno != EEXIST)
            return -errno;
        int fd = openat(s->fd, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return -errno;
        while (flock(fd, LOCK_EX))
            if (errno != EINTR) {
                int e = -errno;
                close(fd);
                return e;
            }
        if (same_file(fd, s->fd, folder))
            return fd;
        close(fd);
    }
}

// Empties a folder that an interrupted process left to us.
static int empty(int fd)
{
    int again = dup(fd), e = 0;
    DIR *folder = again < 0 ? NULL : fdopendir(again);
    if (!folder)
        return -errno;
    rewinddir(folder);
    for (struct dirent *d; !e && (d = readdir(folder));)
        if (strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
            e = remove_below(fd, d->d_name);
    closedir(folder);
    return e;
}

static bool exists(const struct draft *d)
{
    return !faccessat(d->store->fd, d->name, F_OK, AT_SYMLINK_NOFOLLOW);
}

static int there_already(const struct draft *d, struct error *err)
{
    return error_set(err, EEXIST, "image %s: there is one already (trapeze image rm removes it)", d->name);
}

int store_begin(const struct store *s, const char *name, bool replace, struct draft *d, struct error *err)
{
    char folder[IMAGE_NAME + 8];
    if (!image_name_good(name))
        return error_set(err, EINVAL,
                         "image %.40s: a name must be 1 to 32 letters, digits, dots, dashes or underscores", name);
    *d = (struct draft){.store = s, .replace = replace, .fd = -1};
    strcpy(d->name, name);
    snprintf(folder, sizeof folder, ".%s.new", name);
    join(d->path, s->path, folder, NULL);
    if (!replace && exists(d))
        return there_already(d, err);
    sweep(s);
    d->fd = take_folder(s, folder);
    int e = d->fd < 0 ? d->fd : empty(d->fd);
    if (e) {
        store_abort(d);
        return error_set(err, -e, "image %s: %s: %s", name, d->path, strerror(-e));
    }
    if (!replace && exists(d)) { // who had the lock before us has made it
        store_abort(d);
        return there_already(d, err);
    }
    return 0;
}

void store_abort(struct draft *d)
{
    char folder[IMAGE_NAME + 8];
    snprintf(folder, sizeof folder, ".%s.new", d->name);
    if (d->fd < 0)
        return;
    if (same_file(d->fd, d->store->fd, folder))
        remove_below(d->store->fd, folder);
    close(d->fd);
    d->fd = -1;
}

static int sync_file(const struct draft *d, const char *name)
{
    int fd = openat(d->fd, name, O_RDONLY | O_CLOEXEC);
    int e = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return e;
}

static int write_record(const struct draft *d, const struct image_record *r, struct error *err)
{
    int fd = openat(d->fd, "image.json", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_set(err, errno, "image %s: image.json: %s", d->name, strerror(errno));
    int e = image_record_write(fd, r, "image.json", err);
    if (!e && fsync(fd))
        e = error_set(err, errno, "image %s: image.json: %s", d->name, strerror(errno));
    close(fd);
    return e;
}

int store_commit(struct draft *d, struct image_record *r, struct error *err)
{
    char folder[IMAGE_NAME + 8], disk[PATH_MAX];
    const struct store *s = d->store;
    snprintf(folder, sizeof folder, ".%s.new", d->name);
    store_draft_disk(d, r->format, disk);
    strcpy(r->name, d->name);
    int e = file_sha256(disk, r->sha256, err);
    if (!e)
        e = write_record(d, r, err);
    if (e) {
        store_abort(d);
        return e;
    }
    e = sync_file(d, disk_name(r->format));
    if (!e && fsync(d->fd))
        e = -errno;
    bool exchange = !e && d->replace && exists(d);
    if (!e && renameat2(s->fd, folder, s->fd, d->name, exchange ? RENAME_EXCHANGE : RENAME_NOREPLACE))
        e = errno == EINVAL && !exchange && !renameat(s->fd, folder, s->fd, d->name) ? 0 : -errno;
    if (e == -EEXIST) {
        store_abort(d);
        return there_already(d, err);
    }
    if (!e && fsync(s->fd))
        e = -errno;
    if (!e && exchange) // what is called .NAME.new now is the old one
        remove_below(s->fd, folder);
    if (e)
        error_set(err, -e, "image %s: %s", d->name, strerror(-e));
    store_abort(d);
    return e;
}
