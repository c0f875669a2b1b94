// See find.h. This file knows how kernels are called and which one to take; find_apart.c puts that into a process.
#include "image/find.h"
#include "image/filesystem.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_MAX = 4096, NAME_MAX_BYTES = 128 };

// What a distribution may call the initial RAM disk of version V: Debian; openSUSE; Fedora; Alpine; others.
static const struct {
    const char *before, *after;
} initrds[] = {{"initrd.img-", ""}, {"initrd-", ""}, {"initramfs-", ".img"}, {"initramfs-", ""}, {"initrd-", ".img"}};

enum { INITRDS = sizeof initrds / sizeof *initrds };

struct candidate {
    unsigned partition; // index in the table
    char folder[8], version[NAME_MAX_BYTES], initrd[NAME_MAX_BYTES + 16];
    bool any;
};

struct names {
    unsigned count;
    char (*name)[NAME_MAX_BYTES];
};

static bool printable(const char *s)
{
    for (; *s; s++)
        if (*s <= ' ' || *s > '~')
            return false;
    return true;
}

// Keeps what may be a kernel or a RAM disk. Not the kernels that are there to repair the others or dump them.
static bool on_name(void *ctx, const char *name)
{
    static const char *const no[] = {"rescue", "recovery", "kdump", ".old", ".bak", ".dpkg-"};
    struct names *n = ctx;
    if (strncmp(name, "vmlinuz-", 8) && strncmp(name, "initrd", 6) && strncmp(name, "initramfs", 9))
        return true;
    for (unsigned i = 0; i < sizeof no / sizeof *no; i++)
        if (strstr(name, no[i]))
            return true;
    if (strlen(name) < NAME_MAX_BYTES && printable(name))
        strcpy(n->name[n->count++], name);
    return n->count < NAMES_MAX;
}

static bool has(const struct names *n, const char *name)
{
    for (unsigned i = 0; i < n->count; i++)
        if (!strcmp(n->name[i], name))
            return true;
    return false;
}

static void find_initrd(const struct names *n, const char *version, char initrd[NAME_MAX_BYTES + 16])
{
    for (unsigned k = 0; k < INITRDS; k++) {
        snprintf(initrd, NAME_MAX_BYTES + 16, "%s%s%s", initrds[k].before, version, initrds[k].after);
        if (has(n, initrd))
            return;
    }
    initrd[0] = 0;
}

// One with a RAM disk is better than one without: a kernel that is being installed has none yet.
static bool better(const struct candidate *a, const struct candidate *b)
{
    if (!b->any || !b->initrd[0] != !a->initrd[0])
        return !b->any || a->initrd[0];
    return strverscmp(a->version, b->version) > 0;
}

static int look(struct filesystem *fs, unsigned partition, const char *folder, struct names *n, struct candidate *best)
{
    n->count = 0;
    int e = fs->ops->list(fs, folder, on_name, n);
    if (e)
        return e == -ENOENT || e == -ENOTDIR ? 0 : e;
    for (unsigned i = 0; i < n->count; i++) {
        if (strncmp(n->name[i], "vmlinuz-", 8))
            continue;
        struct candidate c = {.partition = partition, .any = true};
        strcpy(c.folder, folder);
        strcpy(c.version, n->name[i] + 8);
        find_initrd(n, c.version, c.initrd);
        if (better(&c, best))
            *best = c;
    }
    return 0;
}

static bool nothing(void *ctx, const char *name)
{
    (void)ctx, (void)name;
    return false;
}

static bool has_folder(struct filesystem *fs, const char *path)
{
    return fs->ops->list(fs, path, nothing, NULL) == 0;
}

struct survey {
    struct partition_table table;
    bool root[PARTITIONS_MAX]; // it has /etc
    char uuid[PARTITIONS_MAX][40];
    bool any; // a file system that we can read
    struct candidate best;
};

static int survey(struct reader *r, struct survey *s, struct names *n, struct error *err)
{
    int e = partitions_read(r, &s->table, err);
    for (unsigned i = 0; i < s->table.count && !e; i++) {
        struct filesystem *fs;
        e = filesystem_open(r, &s->table.part[i], &fs);
        if (e == -ENOENT) {
            e = 0;
            continue;
        }
        if (!e) {
            s->any = true;
            strcpy(s->uuid[i], fs->uuid);
            s->root[i] = has_folder(fs, "/etc");
            e = look(fs, i, "/boot", n, &s->best);
            if (!e)
                e = look(fs, i, "/", n, &s->best);
            fs->ops->close(fs);
        }
        if (e)
            e = error_set(err, -e, "the file system in partition %u is damaged, or of a kind that can't be read",
                          s->table.part[i].number);
    }
    return e;
}

// Without a RAM disk there is nobody who would find a UUID: only the kernel itself, which knows partitions.
static int name_root(const struct survey *s, struct boot_found *out, struct error *err)
{
    const struct candidate *c = &s->best;
    unsigned at = c->partition;
    for (unsigned i = 0; !s->root[at] && i < s->table.count; i++)
        if (s->root[i])
            at = i;
    bool known = s->root[at];
    for (unsigned i = 0; !known && i < s->table.count; i++)
        if (partition_is_root(&s->table.part[i])) {
            at = i;
            known = true;
        }
    if (!known)
        return error_set(err, ENOENT, "there is a kernel, but no root file system to be seen");
    char id[PARTITION_ID];
    partition_id(&s->table.part[at], id);
    if (c->initrd[0] && s->uuid[at][0])
        snprintf(out->root, sizeof out->root, "UUID=%s", s->uuid[at]);
    else if (id[0])
        snprintf(out->root, sizeof out->root, "PARTUUID=%s", id);
    else
        snprintf(out->root, sizeof out->root, "/dev/vda");
    return 0;
}

static int copy_out(struct reader *r, const struct survey *s, int kernel_fd, int initrd_fd,
                    const struct boot_found *out, struct error *err)
{
    struct filesystem *fs;
    int e = filesystem_open(r, &s->table.part[s->best.partition], &fs);
    if (e)
        return error_set(err, -e, "%s: %s", out->kernel, strerror(-e));
    if (kernel_fd >= 0 && (e = fs->ops->copy(fs, out->kernel, kernel_fd, BOOT_KERNEL_MAX)))
        error_set(err, -e, "%s: %s", out->kernel, strerror(-e));
    if (!e && initrd_fd >= 0 && out->initrd[0] && (e = fs->ops->copy(fs, out->initrd, initrd_fd, BOOT_INITRD_MAX)))
        error_set(err, -e, "%s: %s", out->initrd, strerror(-e));
    fs->ops->close(fs);
    return e;
}

int find_boot_in(struct reader *r, int kernel_fd, int initrd_fd, struct boot_found *out, struct error *err)
{
    struct survey *s = calloc(1, sizeof *s);
    struct names n = {.name = malloc(NAMES_MAX * sizeof *n.name)};
    int e = s && n.name ? 0 : error_set(err, ENOMEM, "out of memory");
    *out = (struct boot_found){.kernel_fd = -1, .initrd_fd = -1};
    if (!e)
        e = survey(r, s, &n, err);
    if (!e && !s->any)
        e = error_set(err, ENOENT, "no ext4 or FAT file system in it");
    if (!e && !s->best.any)
        e = error_set(err, ENOENT, "no kernel in it (vmlinuz-* in /boot or / of an ext4 or FAT file system)");
    if (!e) {
        const struct candidate *c = &s->best;
        const char *slash = strcmp(c->folder, "/") ? "/" : "";
        snprintf(out->kernel, sizeof out->kernel, "%s%svmlinuz-%s", c->folder, slash, c->version);
        if (c->initrd[0])
            snprintf(out->initrd, sizeof out->initrd, "%s%s%s", c->folder, slash, c->initrd);
        e = name_root(s, out, err);
    }
    if (!e)
        e = copy_out(r, s, kernel_fd, initrd_fd, out, err);
    free(n.name);
    free(s);
    return e;
}
