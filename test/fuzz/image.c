// What strangers write about and into images: image.json, files of keys, partition tables, FAT file systems. Whatever
// it is, reading it ends, within memory, and what comes out is within bounds.
//
// The first byte chooses. A FAT file system is a good one, with folders, a long name and a chain of clusters, that the
// input damages: pieces of position and bytes. ext4 is not here: libext2fs is not ours to hold to this, so it runs in a
// process of its own, and its test changes bytes there (test/unit/image/find.c).
#include "image/filesystem.h"
#include "image/record.h"
#include "image/seed.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __builtin_trap();                                                                                          \
    } while (0)

enum { DISK = 64 << 10, SECTOR = 512, FAT = SECTOR, ROOT = 2 * SECTOR, FIRST = 3 * SECTOR };

static int memory_file(const void *data, size_t size)
{
    int fd = memfd_create("input", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static void record(const uint8_t *data, size_t size)
{
    struct image_record r;
    struct error e;
    int fd = memory_file(data, size);
    if (!image_record_read(fd, "image.json", &r, &e))
        CHECK(r.size && r.size % 512 == 0 && strlen(r.sha256) == IMAGE_HASH - 1 && strlen(r.source) < IMAGE_TEXT);
    else
        CHECK(!strchr(e.text, '\n'));
    close(fd);
}

static void keys(const uint8_t *data, size_t size)
{
    struct seed s = {.instance = "i", .hostname = "h", .user_data = data, .user_data_size = size};
    struct error e;
    void *image;
    size_t bytes;
    seed_keys(&s, (const char *)data, size, "file", &e);
    CHECK(s.keys <= SEED_KEYS_MAX);
    if (!seed_make(&s, &image, &bytes, &e)) {
        CHECK(bytes % 2048 == 0);
        free(image);
    }
    seed_free(&s);
}

// --- disks

static void put(uint8_t *to, unsigned bytes, uint32_t v)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(v >> 8 * i);
}

static void entry(uint8_t *e, const char *name, uint8_t attributes, uint32_t cluster, uint32_t size)
{
    memcpy(e, name, 11);
    e[11] = attributes;
    put(e + 26, 2, cluster);
    put(e + 28, 4, size);
}

static void link_cluster(uint8_t *disk, uint32_t cluster, uint32_t next) // FAT12: twelve bits each
{
    uint8_t *at = disk + FAT + cluster * 3 / 2;
    uint32_t v = at[0] | at[1] << 8;
    put(at, 2, cluster & 1 ? (v & 0xf) | next << 4 : (v & 0xf000) | next);
}

// FAT12, a sector a cluster: /BOOT with "vmlinuz-6.1" (a long name), which is in clusters 3, 5, 4.
static void good_fat(uint8_t *disk)
{
    memset(disk, 0, DISK);
    disk[0] = 0xeb;
    put(disk + 11, 2, SECTOR);
    disk[13] = 1;
    put(disk + 14, 2, 1);
    disk[16] = 1;
    put(disk + 17, 2, 16);
    put(disk + 19, 2, DISK / SECTOR);
    put(disk + 22, 2, 1);
    put(disk + 510, 2, 0xaa55);
    entry(disk + ROOT, "BOOT       ", 0x10, 2, 0);
    link_cluster(disk, 2, 0xfff);
    link_cluster(disk, 3, 5);
    link_cluster(disk, 5, 4);
    link_cluster(disk, 4, 0xfff);
    static const char name[] = "vmlinuz-6.1";
    static const uint8_t place[] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    uint8_t *e = disk + FIRST, sum = 0;
    entry(e + 32, "VMLINU~1   ", 0x20, 3, 3 * SECTOR - 10);
    for (unsigned i = 0; i < 11; i++)
        sum = (uint8_t)((sum << 7 | sum >> 1) + e[32 + i]);
    e[0] = 0x41;
    e[11] = 0x0f;
    e[13] = sum;
    for (unsigned i = 0; i < sizeof place; i++)
        put(e + place[i], 2, i < sizeof name ? (uint32_t)name[i] : 0xffff);
}

struct names {
    unsigned count;
    bool kernel;
};

static bool on_name(void *ctx, const char *name)
{
    struct names *n = ctx;
    n->kernel |= !strcmp(name, "vmlinuz-6.1");
    CHECK(strlen(name) < 512);
    return ++n->count < 100000;
}

static void disk(const uint8_t *bytes, bool untouched)
{
    struct reader r;
    struct partition_table t;
    struct error e;
    char path[32];
    int fd = memory_file(bytes, DISK);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(!reader_open(&r, path, DISK_RAW, &e) && !partitions_read(&r, &t, &e));
    CHECK(t.count <= PARTITIONS_MAX);
    for (unsigned i = 0; i < t.count; i++) {
        struct filesystem *fs;
        struct names n = {.count = 0};
        CHECK(t.part[i].offset < DISK && t.part[i].length <= DISK - t.part[i].offset);
        if (fat_open(&r, &t.part[i], &fs))
            continue;
        int out = memfd_create("out", MFD_CLOEXEC);
        fs->ops->list(fs, "/", on_name, &n);
        fs->ops->list(fs, "/boot", on_name, &n);
        int copied = fs->ops->copy(fs, "/boot/vmlinuz-6.1", out, DISK);
        CHECK(lseek(out, 0, SEEK_END) <= DISK);
        CHECK(!untouched || (n.kernel && !copied && lseek(out, 0, SEEK_END) == 3 * SECTOR - 10));
        fs->ops->close(fs);
        close(out);
    }
    CHECK(!untouched || t.count == 1);
    reader_close(&r);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[DISK];
    if (!size)
        return 0;
    uint8_t kind = *data++ % 4;
    size--;
    switch (kind) {
    case 0:
        record(data, size);
        break;
    case 1:
        keys(data, size);
        break;
    case 2:
        memset(bytes, 0, sizeof bytes);
        memcpy(bytes, data, size < DISK ? size : DISK);
        disk(bytes, false);
        break;
    default:
        good_fat(bytes);
        bool untouched = size < 3;
        for (; size >= 3; data += 3, size -= 3)
            bytes[(data[0] | data[1] << 8) % (data[0] & 1 ? 4 * SECTOR : DISK)] = data[2];
        disk(bytes, untouched);
        break;
    }
    return 0;
}
