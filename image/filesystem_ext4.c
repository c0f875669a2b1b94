// ext2, ext3 and ext4 through libext2fs, which reads blocks from us: so the file system may lie in a partition of a
// qcow2 image over another one.
//
// The library finds its source by a name: ours is the address of the struct, in hexadecimal. A journal that has not
// been replayed is ignored: a file that was written just before a crash may be found as it was before.
#include "image/filesystem.h"
#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_FIRST = 1024, BLOCK_MAX = 64 << 10, COPY = 256 << 10 };

struct ext4 {
    struct filesystem fs;
    struct reader *reader;
    uint64_t offset, length;
    ext2_filsys handle;
};

// --- blocks, for the library

static errcode_t channel_open(const char *name, int flags, io_channel *out);

static errcode_t channel_close(io_channel c)
{
    if (--c->refcount > 0)
        return 0;
    free(c->name);
    free(c);
    return 0;
}

static errcode_t channel_set_blksize(io_channel c, int size)
{
    if (size < 512 || size > BLOCK_MAX)
        return EXT2_ET_INVALID_ARGUMENT;
    c->block_size = size;
    return 0;
}

// A negative count is one of bytes.
static errcode_t channel_read64(io_channel c, unsigned long long block, int count, void *data)
{
    struct ext4 *x = c->private_data;
    uint64_t size = (uint64_t)c->block_size, bytes = count < 0 ? (uint64_t) - (int64_t)count : (uint64_t)count * size;
    if (block > x->length / size || bytes > x->length - block * size)
        return EXT2_ET_SHORT_READ;
    return reader_read(x->reader, data, bytes, x->offset + block * size) ? EXT2_ET_SHORT_READ : 0;
}

static errcode_t channel_read(io_channel c, unsigned long block, int count, void *data)
{
    return channel_read64(c, block, count, data);
}

static errcode_t channel_write64(io_channel c, unsigned long long block, int count, const void *data)
{
    (void)c, (void)block, (void)count, (void)data;
    return EXT2_ET_RO_FILSYS;
}

static errcode_t channel_write(io_channel c, unsigned long block, int count, const void *data)
{
    return channel_write64(c, block, count, data);
}

static errcode_t channel_flush(io_channel c)
{
    (void)c;
    return 0;
}

static struct struct_io_manager manager = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "trapeze disk",
    .open = channel_open,
    .close = channel_close,
    .set_blksize = channel_set_blksize,
    .read_blk = channel_read,
    .write_blk = channel_write,
    .flush = channel_flush,
    .read_blk64 = channel_read64,
    .write_blk64 = channel_write64,
};

static errcode_t channel_open(const char *name, int flags, io_channel *out)
{
    (void)flags;
    io_channel c = calloc(1, sizeof *c);
    char *copy = strdup(name);
    if (!c || !copy) {
        free(c);
        free(copy);
        return EXT2_ET_NO_MEMORY;
    }
    c->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    c->manager = &manager;
    c->name = copy;
    c->block_size = BLOCK_FIRST;
    c->refcount = 1;
    c->private_data = (void *)(uintptr_t)strtoull(name, NULL, 16); // NOLINT: see above
    *out = c;
    return 0;
}

// --- files

static int number(errcode_t e)
{
    switch (e) {
    case 0:
        return 0;
    case EXT2_ET_FILE_NOT_FOUND:
        return -ENOENT;
    case EXT2_ET_NO_DIRECTORY:
        return -ENOTDIR;
    case EXT2_ET_NO_MEMORY:
        return -ENOMEM;
    case EXT2_ET_SYMLINK_LOOP:
        return -ELOOP;
    default:
        return -EIO;
    }
}

static int find(struct ext4 *x, const char *path, ext2_ino_t *inode)
{
    return number(ext2fs_namei_follow(x->handle, EXT2_ROOT_INO, EXT2_ROOT_INO, path, inode));
}

struct listing {
    bool (*entry)(void *ctx, const char *name);
    void *ctx;
};

static int on_entry(struct ext2_dir_entry *d, int offset, int block_size, char *block, void *ctx)
{
    struct listing *l = ctx;
    char name[EXT2_NAME_LEN + 1];
    unsigned length = (unsigned)ext2fs_dirent_name_len(d);
    (void)offset, (void)block_size, (void)block;
    memcpy(name, d->name, length);
    name[length] = 0;
    return l->entry(l->ctx, name) ? 0 : DIRENT_ABORT;
}

static int list(struct filesystem *f, const char *folder, bool (*entry)(void *ctx, const char *name), void *ctx)
{
    struct ext4 *x = (struct ext4 *)f;
    struct listing l = {entry, ctx};
    ext2_ino_t inode;
    int e = find(x, folder, &inode);
    return e ? e : number(ext2fs_dir_iterate(x->handle, inode, 0, NULL, on_entry, &l));
}

static int copy_open(ext2_file_t file, int fd, uint64_t limit)
{
    uint64_t done = 0;
    char *b = malloc(COPY);
    int e = b ? 0 : -ENOMEM;
    while (!e) {
        unsigned n = 0;
        e = number(ext2fs_file_read(file, b, COPY, &n));
        if (e || !n)
            break;
        done += n;
        e = done > limit ? -EFBIG : filesystem_write_out(fd, b, n);
    }
    free(b);
    return e;
}

static int copy(struct filesystem *f, const char *path, int fd, uint64_t limit)
{
    struct ext4 *x = (struct ext4 *)f;
    struct ext2_inode inode;
    ext2_ino_t n;
    ext2_file_t file;
    int e = find(x, path, &n);
    if (!e)
        e = number(ext2fs_read_inode(x->handle, n, &inode));
    if (!e && !LINUX_S_ISREG(inode.i_mode))
        e = -EINVAL;
    if (!e && EXT2_I_SIZE(&inode) > limit)
        e = -EFBIG;
    if (!e)
        e = number(ext2fs_file_open(x->handle, n, 0, &file));
    if (e)
        return e;
    e = copy_open(file, fd, limit);
    ext2fs_file_close(file);
    return e;
}

static void close_ext4(struct filesystem *f)
{
    struct ext4 *x = (struct ext4 *)f;
    ext2fs_free(x->handle);
    free(x);
}

int ext4_open(struct reader *r, const struct partition *p, struct filesystem **out)
{
    static const struct filesystem_ops ops = {"ext4", list, copy, close_ext4};
    struct ext4 *x = calloc(1, sizeof *x);
    if (!x)
        return -ENOMEM;
    *x = (struct ext4){.fs.ops = &ops, .reader = r, .offset = p->offset, .length = p->length};
    char name[24];
    snprintf(name, sizeof name, "%" PRIxPTR, (uintptr_t)x);
    errcode_t e = ext2fs_open(name, EXT2_FLAG_64BITS, 0, 0, &manager, &x->handle);
    if (e) {
        free(x);
        return e == EXT2_ET_BAD_MAGIC || e == EXT2_ET_SHORT_READ ? -ENOENT : number(e) == -ENOENT ? -EIO : number(e);
    }
    const uint8_t *u = x->handle->super->s_uuid;
    int at = 0;
    for (unsigned i = 0; i < 16; i++)
        at += snprintf(x->fs.uuid + at, sizeof x->fs.uuid - (size_t)at, "%s%02x",
                       i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
    *out = &x->fs;
    return 0;
}

void filesystem_load(void)
{
    ext2fs_free(NULL); // which does nothing
}
