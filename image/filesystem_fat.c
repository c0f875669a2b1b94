// FAT12, FAT16 and FAT32 (Microsoft's FAT specification of 2005; ECMA-107), with long names: where some systems keep
// their kernels, in the EFI system partition.
//
// A chain of clusters ends after at most as many steps as there are clusters, however it is knotted.
#include "image/filesystem.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY = 32, ATTRIBUTE_VOLUME = 0x08, ATTRIBUTE_FOLDER = 0x10, ATTRIBUTE_LONG = 0x0f };
enum {
    LONG_CHARS = 13,
    LONG_PARTS = 20,
    NAME_BYTES = LONG_CHARS * LONG_PARTS + 1,
    ENTRIES_MAX = 65536,
    DEPTH_MAX = 16
};

struct fat {
    struct filesystem fs;
    struct reader *reader;
    uint64_t offset;  // of the partition
    uint64_t table;   // of the first FAT; bytes from the partition's start, as all that follow
    uint64_t folder;  // FAT12, FAT16: the root folder
    uint64_t data;    // cluster 2
    uint32_t entries; // FAT12, FAT16: of the root folder
    uint32_t root;    // FAT32: the root folder's first cluster
    uint32_t cluster; // bytes
    uint32_t clusters;
    unsigned bits; // 12, 16, 32
};

// A file or folder, read from its start to its end.
struct stream {
    struct fat *f;
    uint32_t cluster; // 0: FAT12's and FAT16's root folder
    uint32_t at;      // bytes into the cluster or root folder
    uint32_t steps;   // clusters that were walked
};

struct found {
    char name[NAME_BYTES];
    uint32_t cluster, size;
    bool folder;
};

static uint32_t le(const uint8_t *b, unsigned bytes)
{
    uint32_t v = 0;
    for (unsigned i = bytes; i--;)
        v = v << 8 | b[i];
    return v;
}

// The cluster that follows; 0: none. Negative: damaged.
static int next_cluster(struct fat *f, uint32_t cluster, uint32_t *next)
{
    uint8_t b[4] = {0};
    uint64_t bit = (uint64_t)cluster * f->bits;
    int e = reader_read(f->reader, b, f->bits == 32 ? 4 : 2, f->offset + f->table + bit / 8);
    if (e)
        return e;
    uint32_t v = le(b, 4);
    v = f->bits == 32 ? v & 0x0fffffff : f->bits == 16 ? v & 0xffff : bit % 8 ? v >> 4 & 0xfff : v & 0xfff;
    uint32_t last = f->bits == 32 ? 0x0ffffff8 : f->bits == 16 ? 0xfff8 : 0xff8;
    *next = v >= last ? 0 : v;
    return v >= last || (v >= 2 && v < f->clusters + 2) ? 0 : -EIO;
}

// Up to `length` bytes, none of them behind the cluster's end. 0: the end.
static int stream_read(struct stream *s, void *to, uint32_t length, uint32_t *got)
{
    struct fat *f = s->f;
    uint32_t room = s->cluster ? f->cluster : f->entries * ENTRY;
    *got = 0;
    if (s->at == room) {
        if (!s->cluster)
            return 0;
        uint32_t next;
        int e = next_cluster(f, s->cluster, &next);
        if (e || !next)
            return e;
        if (++s->steps > f->clusters)
            return -EIO;
        s->cluster = next;
        s->at = 0;
        room = f->cluster;
    }
    if (length > room - s->at)
        length = room - s->at;
    uint64_t base = s->cluster ? f->data + (uint64_t)(s->cluster - 2) * f->cluster : f->folder;
    int e = reader_read(f->reader, to, length, f->offset + base + s->at);
    if (e)
        return e;
    s->at += length;
    *got = length;
    return 0;
}

static void short_name(const uint8_t *e, char *name)
{
    unsigned n = 0;
    for (unsigned i = 0; i < 11; i++) {
        if (i == 8 && e[8] != ' ')
            name[n++] = '.';
        if (e[i] == ' ')
            continue;
        // Bits of the "reserved" byte say that a half is in lower case (Windows NT and Linux).
        bool lower = e[12] & (i < 8 ? 0x08 : 0x10);
        uint8_t c = i == 0 && e[0] == 0x05 ? 0xe5 : e[i];
        name[n++] = (char)(lower && c >= 'A' && c <= 'Z' ? c | 0x20 : c);
    }
    name[n] = 0;
}

static uint8_t checksum(const uint8_t *e)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < 11; i++)
        sum = (uint8_t)((sum << 7 | sum >> 1) + e[i]);
    return sum;
}

// A name in several entries, the last part first. Only ASCII is kept: other characters become '?'.
struct long_name {
    char text[NAME_BYTES];
    uint8_t sum;
    unsigned next; // the part that must follow; 0: complete, or none
    bool any;
};

static void long_part(struct long_name *l, const uint8_t *e)
{
    static const uint8_t place[LONG_CHARS] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    unsigned part = e[0] & 0x3f;
    if (e[0] & 0x40) {
        memset(l, 0, sizeof *l);
        l->next = part;
        l->sum = e[13];
        l->any = true;
    }
    if (!part || part > LONG_PARTS || part != l->next || l->sum != e[13]) {
        l->any = false;
        return;
    }
    for (unsigned i = 0; i < LONG_CHARS; i++) {
        uint32_t c = le(e + place[i], 2);
        l->text[(part - 1) * LONG_CHARS + i] = (char)(c == 0xffff ? 0 : c < 0x80 ? c : '?');
    }
    l->next--;
}

// The folder's next entry. 1: there is one, 0: the end.
static int next_entry(struct stream *s, struct found *out)
{
    struct long_name l = {.any = false};
    for (unsigned n = 0; n < ENTRIES_MAX; n++) {
        uint8_t e[ENTRY];
        uint32_t got;
        int r = stream_read(s, e, ENTRY, &got);
        if (r || got < ENTRY || !e[0])
            return r;
        if (e[0] == 0xe5) {
            l.any = false;
        } else if ((e[11] & 0x3f) == ATTRIBUTE_LONG) {
            long_part(&l, e);
        } else if (e[11] & ATTRIBUTE_VOLUME) {
            l.any = false;
        } else {
            if (l.any && !l.next && l.sum == checksum(e) && l.text[0])
                memcpy(out->name, l.text, sizeof out->name);
            else
                short_name(e, out->name);
            out->cluster = le(e + 26, 2) | (s->f->bits == 32 ? le(e + 20, 2) << 16 : 0);
            out->size = le(e + 28, 4);
            out->folder = e[11] & ATTRIBUTE_FOLDER;
            return 1;
        }
    }
    return -EIO;
}

static bool good_cluster(const struct fat *f, uint32_t cluster)
{
    return cluster >= 2 && cluster < f->clusters + 2;
}

static int open_folder(struct fat *f, const struct found *at, struct stream *s)
{
    *s = (struct stream){.f = f, .cluster = at->cluster};
    if (!at->folder)
        return -ENOTDIR;
    return at->cluster || f->bits == 32 ? (good_cluster(f, at->cluster) ? 0 : -EIO) : 0;
}

static int find(struct fat *f, const char *path, struct found *at)
{
    *at = (struct found){.cluster = f->root, .folder = true};
    for (unsigned depth = 0; depth < DEPTH_MAX; depth++) {
        path += strspn(path, "/");
        size_t length = strcspn(path, "/");
        struct stream s;
        if (!length)
            return 0;
        int e = open_folder(f, at, &s);
        if (e)
            return e;
        while ((e = next_entry(&s, at)) == 1)
            if (strlen(at->name) == length && !strncasecmp(at->name, path, length))
                break;
        if (e != 1)
            return e ? e : -ENOENT;
        path += length;
    }
    return -ELOOP;
}

static int list(struct filesystem *fs, const char *folder, bool (*entry)(void *ctx, const char *name), void *ctx)
{
    struct found at;
    struct stream s;
    int e = find((struct fat *)fs, folder, &at);
    if (!e)
        e = open_folder((struct fat *)fs, &at, &s);
    if (e)
        return e;
    for (unsigned n = 0; n < ENTRIES_MAX && (e = next_entry(&s, &at)) == 1; n++)
        if (!entry(ctx, at.name))
            return 0;
    return e == 1 ? -EIO : e;
}

static int copy(struct filesystem *fs, const char *path, int fd, uint64_t limit)
{
    struct fat *f = (struct fat *)fs;
    struct found at;
    int e = find(f, path, &at);
    if (!e && at.folder)
        e = -EINVAL;
    if (!e && at.size > limit)
        e = -EFBIG;
    if (!e && at.size && !good_cluster(f, at.cluster))
        e = -EIO;
    uint8_t *b = e ? NULL : malloc(f->cluster);
    if (!e && !b)
        e = -ENOMEM;
    struct stream s = {.f = f, .cluster = at.cluster};
    for (uint32_t left = at.size, got; !e && left; left -= got) {
        e = stream_read(&s, b, left < f->cluster ? left : f->cluster, &got);
        if (!e)
            e = got ? filesystem_write_out(fd, b, got) : -EIO;
    }
    free(b);
    return e;
}

static void close_fat(struct filesystem *fs)
{
    free(fs);
}

// What the boot sector (BIOS parameter block) says, if it makes sense for a partition of that length.
static bool layout(struct fat *f, const uint8_t *b, uint64_t length)
{
    uint64_t sector = le(b + 11, 2), per_cluster = b[13], reserved = le(b + 14, 2), fats = b[16];
    uint64_t total = le(b + 19, 2) ? le(b + 19, 2) : le(b + 32, 4),
             size = le(b + 22, 2) ? le(b + 22, 2) : le(b + 36, 4);
    if (b[510] != 0x55 || b[511] != 0xaa || (b[0] != 0xeb && b[0] != 0xe9) || sector < 512 || sector > 4096 ||
        (sector & (sector - 1)) || !per_cluster || (per_cluster & (per_cluster - 1)) || !reserved || !fats ||
        fats > 4 || !size || total * sector > length)
        return false;
    f->entries = le(b + 17, 2);
    uint64_t folder = (f->entries * ENTRY + sector - 1) / sector, before = reserved + fats * size + folder;
    if (before >= total)
        return false;
    uint64_t clusters = (total - before) / per_cluster;
    f->bits = clusters < 4085 ? 12 : clusters < 65525 ? 16 : 32;
    f->table = reserved * sector;
    f->folder = (reserved + fats * size) * sector;
    f->data = before * sector;
    f->cluster = (uint32_t)(per_cluster * sector);
    f->root = f->bits == 32 ? le(b + 44, 4) : 0;
    // The table must have room for them all, or entries would be read out of what follows it.
    uint64_t room = size * sector * 8 / f->bits;
    if (room < 3 || clusters >= 0x0ffffff0)
        return false;
    f->clusters = (uint32_t)(clusters < room - 2 ? clusters : room - 2);
    return f->bits < 32 ? f->entries > 0 : good_cluster(f, f->root);
}

int fat_open(struct reader *r, const struct partition *p, struct filesystem **out)
{
    static const struct filesystem_ops ops = {"FAT", list, copy, close_fat};
    uint8_t b[512];
    struct fat *f = calloc(1, sizeof *f);
    int e = f ? 0 : -ENOMEM;
    if (!e && p->length < sizeof b)
        e = -ENOENT;
    if (!e)
        e = reader_read(r, b, sizeof b, p->offset);
    if (!e) {
        *f = (struct fat){.fs.ops = &ops, .reader = r, .offset = p->offset};
        e = layout(f, b, p->length) ? 0 : -ENOENT;
    }
    if (e) {
        free(f);
        return e;
    }
    const uint8_t *id = b + (f->bits == 32 ? 67 : 39); // the volume's serial number
    snprintf(f->fs.uuid, sizeof f->fs.uuid, "%02X%02X-%02X%02X", id[3], id[2], id[1], id[0]);
    *out = &f->fs;
    return 0;
}
