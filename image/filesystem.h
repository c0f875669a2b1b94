// Files inside of a file system that nobody has mounted: what is there, and what is in it. Read-only.
//
// Everything in a file system may be hostile. libext2fs (filesystem_ext4.c) was not written for that: outside of tests
// this runs in a process of its own, with limits (find.c).
//
// Example: filesystem_open(&reader, &partition, &fs) == 0 && fs->ops->list(fs, "/boot", on_name, ctx)
#pragma once
#include "image/partition.h"

struct filesystem;

struct filesystem_ops {
    const char *name;
    // Calls entry() with each name of the folder, until it returns false. -ENOENT, -ENOTDIR; -EIO: damaged.
    int (*list)(struct filesystem *f, const char *folder, bool (*entry)(void *ctx, const char *name), void *ctx);
    // Writes the file's bytes to fd. -EFBIG if there are more than `limit`.
    int (*copy)(struct filesystem *f, const char *path, int fd, uint64_t limit);
    void (*close)(struct filesystem *f);
};

struct filesystem {
    const struct filesystem_ops *ops;
    char uuid[40]; // as blkid writes it; empty: it has none
};

// -ENOENT if nothing is there that we can read. The reader stays the caller's and must outlive it.
int filesystem_open(struct reader *r, const struct partition *p, struct filesystem **out);

// For who is going to give up opening files: a library that is loaded when it is first called is loaded now.
void filesystem_load(void);

int ext4_open(struct reader *r, const struct partition *p, struct filesystem **out);
int fat_open(struct reader *r, const struct partition *p, struct filesystem **out);

// All of it; a negative errno else. What copy() uses.
int filesystem_write_out(int fd, const void *data, size_t length);
