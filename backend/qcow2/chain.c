// What lies below an image: a chain of read-only files, each raw or qcow2.
//
// An image must name its backing file's format. Where it does not, nothing is guessed: a guest that once wrote a raw
// disk can make it look like a qcow2 image, whose backing file may be any file of the host. QEMU guesses and warns.
//
// A chain that comes back to a file that is in it already (told by device and inode) is refused, as is one of more than
// CHAIN_MAX files. Backing files are locked against being opened for writing as long as somebody reads them.
#include "backend/disk_lock.h"
#include "backend/qcow2/image.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct raw_layer {
    struct layer layer;
    int fd;
};

int layer_read(struct layer *l, uint64_t offset, uint64_t length, struct cursor *to)
{
    uint64_t there = offset >= l->size ? 0 : l->size - offset < length ? l->size - offset : length;
    int e = there ? l->read(l, offset, there, to) : 0;
    if (!e)
        cursor_zero(to, length - there);
    return e;
}

static int raw_read(struct layer *l, uint64_t offset, uint64_t length, struct cursor *to)
{
    return cursor_read(to, ((struct raw_layer *)l)->fd, offset, length);
}

static void raw_close(struct layer *l)
{
    close(((struct raw_layer *)l)->fd);
    free(l);
}

static int raw_open(int fd, const char *path, struct layer **out, struct error *err)
{
    struct raw_layer *r = malloc(sizeof *r);
    if (!r) {
        close(fd);
        return error_set(err, ENOMEM, "disk %s: out of memory", path);
    }
    *r = (struct raw_layer){{raw_read, raw_close, file_size(fd)}, fd};
    *out = &r->layer;
    return 0;
}

static char *resolve(const char *image, const char *name)
{
    const char *slash = strrchr(image, '/');
    size_t folder = *name == '/' || !slash ? 0 : (size_t)(slash - image) + 1;
    char *path = malloc(folder + strlen(name) + 1);
    if (path) {
        memcpy(path, image, folder);
        strcpy(path + folder, name);
    }
    return path;
}

static int check_link(int fd, const char *path, const struct chain *above, struct chain *link, struct error *err)
{
    struct stat st;
    unsigned depth = 1;
    if (fstat(fd, &st))
        return error_set(err, errno, "disk %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return error_set(err, EINVAL, "disk %s: neither a file nor a block device", path);
    *link = (struct chain){above, st.st_dev, st.st_ino};
    for (const struct chain *c = above; c; c = c->above, depth++)
        if (c->dev == st.st_dev && c->ino == st.st_ino)
            return error_set(err, ELOOP, "disk %s: it is its own backing file, by way of others or not", path);
    return depth > CHAIN_MAX ? error_set(err, ELOOP, "disk %s: below more than %d others", path, CHAIN_MAX) : 0;
}

static int open_path(const char *path, const char *format, const struct chain *above, struct layer **out,
                     struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno, "disk %s: %s", path, strerror(errno));
    struct chain link;
    int e = check_link(fd, path, above, &link, err);
    if (!e)
        e = disk_lock(fd, false, path, err);
    if (e) {
        close(fd);
        return e;
    }
    if (!strcmp(format, "raw"))
        return raw_open(fd, path, out, err);
    struct qcow2 *q;
    e = image_open(fd, path, true, false, &link, &q, err);
    if (!e)
        *out = &q->layer;
    return e;
}

int chain_open(const char *image, const char *name, const char *format, const struct chain *above, struct layer **out,
               struct error *err)
{
    if (!strncmp(name, "file:", 5))
        name += 5;
    size_t scheme = strcspn(name, ":/");
    if (name[scheme] == ':')
        return error_set(err, ENOTSUP, "disk %s: its backing file %.80s is not a file", image, name);
    if (!*format)
        return error_set(
            err, EINVAL,
            "disk %s: it does not name its backing file's format; qemu-img rebase -u -F FORMAT -b ... does", image);
    if (strcmp(format, "raw") && strcmp(format, "qcow2"))
        return error_set(err, ENOTSUP, "disk %s: its backing file's format, %s, is neither raw nor qcow2", image,
                         format);
    char *path = resolve(image, name);
    if (!path)
        return error_set(err, ENOMEM, "disk %s: out of memory", image);
    int e = open_path(path, format, above, out, err);
    free(path);
    return e;
}
