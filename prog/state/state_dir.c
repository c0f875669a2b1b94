// See state_dir.h.
#include "prog/state/state_dir.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    TRIES = 1000,       // names that are tried; renames that are repeated
    DEPTH = 16,         // of folders that are removed
    UNFINISHED = 60,    // seconds after which a directory under a dot is a dead process's
    WHOLE = 1024 * 1024 // bytes of a small file
};

bool state_name_valid(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(name);
    return n >= 1 && n <= STATE_NAME_MAX && strspn(name, letters) == n && !strchr("._-", name[0]);
}

// --- the directory of all

static int root_path(char path[PATH_MAX], struct error *err)
{
    const char *base = getenv("XDG_STATE_HOME"), *below = "";
    if (!base || base[0] != '/') { // a relative one is to be ignored (XDG Base Directory Specification)
        base = getenv("HOME");
        below = "/.local/state";
    }
    if (!base || base[0] != '/') {
        struct passwd *p = getpwuid(getuid());
        base = p ? p->pw_dir : NULL;
    }
    if (!base || base[0] != '/')
        return error_set(err, ENOENT, "state directory: neither XDG_STATE_HOME nor HOME is set");
    int n = snprintf(path, PATH_MAX, "%s%s/trapeze", base, below);
    return n < PATH_MAX ? 0 : error_set(err, ENAMETOOLONG, "state directory %.80s...: the name is too long", path);
}

static int make_path(char *path)
{
    for (char *c = path + 1; *c; c++)
        if (*c == '/') {
            *c = 0;
            int failed = mkdir(path, 0700) && errno != EEXIST && errno != EROFS && errno != EACCES;
            *c = '/';
            if (failed)
                return -1;
        }
    return mkdir(path, 0700) && errno != EEXIST ? -1 : 0;
}

// A descriptor of the directory of all machines, or a negative errno. `make`: it is made where it isn't there.
static int root_open(bool make, char path[PATH_MAX], struct error *err)
{
    int e = root_path(path, err);
    if (e)
        return e;
    if (make && make_path(path))
        return error_set(err, errno, "state directory %s: %s", path, strerror(errno));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : error_set(err, errno, "state directory %s: %s", path, strerror(errno));
}

int state_dir_root(char *path, struct error *err)
{
    int fd = root_open(true, path, err);
    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

// --- the lock

static int try_lock(int fd)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_SETLK, &l);
}

// See state_dir_owner, of the machine in the directory `at`.
static pid_t owner_at(int at)
{
    int fd = openat(at, "pid", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return 0;
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    pid_t pid = fcntl(fd, F_GETLK, &l) || l.l_type == F_UNLCK ? 0 : l.l_pid > 0 ? l.l_pid : -1;
    close(fd);
    return pid;
}

pid_t state_dir_owner(const struct state_dir *d)
{
    return owner_at(d->fd);
}

static void write_pid(int fd)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    // For people only: no matter if it fails.
    if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) < 0)
        return;
}

// --- removing

static int remove_contents(int fd, unsigned depth);

static int remove_entry(int at, const char *name, unsigned depth)
{
    if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -1;
    int fd = depth ? openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (fd < 0 || remove_contents(fd, depth - 1))
        return -1;
    return unlinkat(at, name, AT_REMOVEDIR);
}

// Takes fd.
static int remove_contents(int fd, unsigned depth)
{
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -1;
    }
    int failed = 0;
    for (struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            failed |= remove_entry(dirfd(dir), e->d_name, depth);
    int why = errno;
    closedir(dir);
    errno = why;
    return failed;
}

// A name in the directory of all that no machine has.
static void hidden_name(char name[40], const char *what)
{
    static unsigned count;
    snprintf(name, 40, ".%s-%d-%u", what, (int)getpid(), count++);
}

// Takes away a directory that no living process has.
static int remove_dead(int root, const char *name)
{
    char hidden[40];
    hidden_name(hidden, "gone");
    return renameat(root, name, root, hidden) || remove_entry(root, hidden, DEPTH) ? -1 : 0;
}

// Removes it if its owner is dead, and (`old`) nobody has touched it for a while, or else it is marked as temporary.
static void sweep_one(int root, const char *name, bool old)
{
    struct stat st;
    int fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return;
    bool due = old ? fstat(fd, &st) == 0 && time(NULL) - st.st_mtime > UNFINISHED
                   : faccessat(fd, "temporary", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (due && owner_at(fd) == 0) {
        // Who starts it at this moment has the lock first, or finds that the directory has moved away.
        int lock = openat(fd, "pid", O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (lock < 0 || try_lock(lock) == 0)
            remove_dead(root, name);
        if (lock >= 0)
            close(lock);
    }
    close(fd);
}

static void sweep(int root)
{
    int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return;
    for (struct dirent *e; (e = readdir(dir));)
        if (!strncmp(e->d_name, ".new-", 5) || !strncmp(e->d_name, ".gone-", 6))
            sweep_one(root, e->d_name, true);
        else if (state_name_valid(e->d_name))
            sweep_one(root, e->d_name, false);
    closedir(dir);
}

// --- opening and making

static int open_at(struct state_dir *d, int root, const char *root_name, const char *name)
{
    *d = (struct state_dir){.fd = -1, .lock = -1};
    snprintf(d->name, sizeof d->name, "%.32s", name);
    d->fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (d->fd < 0)
        return -errno;
    if (asprintf(&d->path, "%s/%s", root_name, name) < 0) {
        d->path = NULL;
        return -ENOMEM;
    }
    return 0;
}

int state_dir_open(struct state_dir *d, const char *name, struct error *err)
{
    char path[PATH_MAX];
    *d = (struct state_dir){.fd = -1, .lock = -1};
    if (!state_name_valid(name))
        return error_set(err, ENOENT, "%.80s: no machine can have this name", name);
    int root = root_open(false, path, err);
    int e = root;
    if (root >= 0) {
        e = open_at(d, root, path, name);
        close(root);
    }
    if (e) {
        state_dir_close(d);
        return e == -ENOENT || e == -ENOTDIR
                   ? error_set(err, ENOENT, "%s: there is no machine of this name (trapeze ps -a lists all)", name)
                   : error_set(err, -e, "machine %s: %s", name, strerror(-e));
    }
    return 0;
}

// Makes the hidden directory complete and locks it.
static int furnish(struct state_dir *d, int root, const char *hidden, bool temporary)
{
    if (mkdirat(root, hidden, 0700) && errno != EEXIST)
        return -errno;
    d->fd = openat(root, hidden, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (d->fd < 0)
        return -errno;
    d->lock = openat(d->fd, "pid", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock < 0 || try_lock(d->lock))
        return -errno;
    write_pid(d->lock);
    if (temporary) {
        int fd = openat(d->fd, "temporary", O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return -errno;
        close(fd);
    }
    return 0;
}

static int publish(struct state_dir *d, int root, const char *hidden, const char *name)
{
    for (unsigned n = 1; n <= TRIES; n++) {
        if (name)
            snprintf(d->name, sizeof d->name, "%.32s", name);
        else
            snprintf(d->name, sizeof d->name, "vm%u", n);
        if (renameat2(root, hidden, root, d->name, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno == EINVAL && faccessat(root, d->name, F_OK, AT_SYMLINK_NOFOLLOW)) {
            // A file system without that flag: rename replaces only an empty directory, which no machine's is.
            if (renameat(root, hidden, root, d->name) == 0)
                return 0;
        }
        if (name || (errno != EEXIST && errno != ENOTEMPTY && errno != EINVAL))
            return -errno;
    }
    return -EEXIST;
}

// What an error of publish means.
static int publish_failed(int e, int root, const char *path, const char *name, struct error *err)
{
    if (e != -EEXIST || !name)
        return error_set(err, -e, "state directory %s: %s", path, strerror(-e));
    int fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    bool lives = fd >= 0 && owner_at(fd);
    if (fd >= 0)
        close(fd);
    return error_set(err, EEXIST,
                     lives ? "%s: a machine of this name is running"
                           : "%s: there is a machine of this name (trapeze start runs it again, trapeze rm removes it)",
                     name);
}

int state_dir_draft(struct state_dir *d, bool temporary, struct error *err)
{
    char path[PATH_MAX], hidden[40];
    *d = (struct state_dir){.fd = -1, .lock = -1};
    int root = root_open(true, path, err);
    if (root < 0)
        return root;
    sweep(root);
    hidden_name(hidden, "new");
    snprintf(d->name, sizeof d->name, "%.32s", hidden);
    int e = furnish(d, root, d->name, temporary);
    if (!e && asprintf(&d->path, "%s/%s", path, d->name) < 0) {
        d->path = NULL;
        e = -ENOMEM;
    }
    if (e) {
        remove_entry(root, d->name, DEPTH);
        error_set(err, -e, "state directory %s: %s", path, strerror(-e));
        state_dir_close(d);
    }
    close(root);
    return e;
}

int state_dir_publish(struct state_dir *d, const char *name, struct error *err)
{
    char path[PATH_MAX], hidden[STATE_NAME_MAX + 1], *named;
    if (name && !state_name_valid(name))
        return error_set(err, EINVAL, "%.80s: no machine can have this name", name);
    int root = root_open(false, path, err);
    if (root < 0)
        return root;
    strcpy(hidden, d->name);
    int e = publish(d, root, hidden, name);
    if (!e && asprintf(&named, "%s/%s", path, d->name) < 0) {
        renameat(root, d->name, root, hidden);
        e = -ENOMEM;
    }
    if (e) {
        strcpy(d->name, hidden);
        publish_failed(e, root, path, name, err);
    } else {
        free(d->path);
        d->path = named;
    }
    close(root);
    return e;
}

int state_dir_create(struct state_dir *d, const char *name, bool temporary, struct error *err)
{
    *d = (struct state_dir){.fd = -1, .lock = -1};
    if (name && !state_name_valid(name))
        return error_set(err, EINVAL, "%.80s: no machine can have this name", name);
    int e = state_dir_draft(d, temporary, err);
    if (!e && (e = state_dir_publish(d, name, err))) {
        state_dir_remove(d, NULL);
        state_dir_close(d);
    }
    return e;
}

// Whether d is still the directory of its name: it may have been removed, and made anew, since it was opened.
static bool still_there(const struct state_dir *d)
{
    struct stat mine, named;
    return fstat(d->fd, &mine) == 0 && lstat(d->path, &named) == 0 && mine.st_ino == named.st_ino &&
           mine.st_dev == named.st_dev;
}

int state_dir_lock(struct state_dir *d, struct error *err)
{
    if (d->lock >= 0)
        return 0;
    int fd = openat(d->fd, "pid", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    int e = fd < 0 || try_lock(fd) ? errno : 0;
    if (!e && !still_there(d))
        e = ENOENT;
    if (e) {
        if (fd >= 0)
            close(fd);
        return e == EAGAIN || e == EACCES ? error_set(err, EBUSY, "%s: the machine is running", d->name)
               : e == ENOENT              ? error_set(err, e, "%s: the machine has just been removed", d->name)
                                          : error_set(err, e, "%s/pid: %s", d->path, strerror(e));
    }
    d->lock = fd;
    write_pid(fd);
    return 0;
}

int state_dir_remove(struct state_dir *d, struct error *err)
{
    char path[PATH_MAX];
    int e = state_dir_lock(d, err);
    if (e)
        return e;
    int root = root_open(false, path, err);
    if (root < 0)
        return root;
    if (remove_dead(root, d->name))
        e = error_set(err, errno, "%s: removing it: %s", d->name, strerror(errno));
    close(root);
    return e;
}

void state_dir_close(struct state_dir *d)
{
    if (d->lock >= 0)
        close(d->lock);
    if (d->fd >= 0)
        close(d->fd);
    free(d->path);
    *d = (struct state_dir){.fd = -1, .lock = -1};
}

// --- all of them

static int by_name(const void *a, const void *b)
{
    return strverscmp(*(char *const *)a, *(char *const *)b);
}

int state_dir_list(char ***names, struct error *err)
{
    char path[PATH_MAX];
    enum { STEP = STATE_NAME_MAX + 1 };
    *names = NULL;
    int root = root_open(false, path, err);
    DIR *dir = root < 0 ? NULL : fdopendir(root);
    if (!dir && root >= 0)
        close(root);
    if (!dir && root != -ENOENT)
        return root < 0 ? root : error_set(err, ENOMEM, "out of memory");
    char(*all)[STEP] = NULL;
    size_t count = 0, room = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!state_name_valid(e->d_name))
            continue;
        if (count == room) {
            void *more = realloc(all, (room = 2 * room + 16) * STEP);
            if (!more)
                break;
            all = more;
        }
        strcpy(all[count++], e->d_name);
    }
    if (dir)
        closedir(dir);
    char **list = malloc((count + 1) * sizeof *list + count * STEP);
    if (!list) {
        free(all);
        return error_set(err, ENOMEM, "out of memory");
    }
    char *text = (char *)(list + count + 1);
    for (size_t i = 0; i < count; i++)
        list[i] = memcpy(text + i * STEP, all[i], STEP);
    list[count] = NULL;
    free(all);
    qsort(list, count, sizeof *list, by_name);
    *names = list;
    return 0;
}

// --- files in it

void state_dir_socket(const struct state_dir *d, const char *file, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    char *path = address->sun_path;
    if (snprintf(path, sizeof address->sun_path, "%s/%s", d->path, file) >= (int)sizeof address->sun_path)
        snprintf(path, sizeof address->sun_path, "/proc/self/fd/%d/%s", d->fd, file);
}

char *state_dir_read(const struct state_dir *d, const char *file)
{
    int fd = openat(d->fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;
    if (fd < 0)
        return NULL;
    int e = fstat(fd, &st) ? errno : !S_ISREG(st.st_mode) ? EINVAL : st.st_size > WHOLE ? EFBIG : 0;
    char *text = e ? NULL : malloc((size_t)st.st_size + 1);
    ssize_t n = text ? read(fd, text, (size_t)st.st_size) : -1;
    if (n < 0) {
        e = e ? e : errno ? errno : ENOMEM;
        free(text);
        text = NULL;
    } else {
        text[n] = 0;
    }
    close(fd);
    errno = e;
    return text;
}

int state_dir_write(const struct state_dir *d, const char *file, const char *text, struct error *err)
{
    char fresh[64];
    snprintf(fresh, sizeof fresh, ".%.40s-%d", file, (int)getpid());
    int fd = openat(d->fd, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    size_t size = strlen(text), done = 0;
    int e = fd < 0 ? errno : 0;
    while (!e && done < size) {
        ssize_t n = write(fd, text + done, size - done);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR)
            e = n ? errno : EIO;
    }
    if (fd >= 0 && close(fd) && !e)
        e = errno;
    if (!e && renameat(d->fd, fresh, d->fd, file))
        e = errno;
    if (!e)
        return 0;
    if (fd >= 0)
        unlinkat(d->fd, fresh, 0);
    return error_set(err, e, "%s/%s: %s", d->path, file, strerror(e));
}
