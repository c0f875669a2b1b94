// A minimal ISO 9660 volume (ECMA-119) with the names of Rock Ridge (IEEE P1282 over SUSP, P1281): one folder, few
// files.
//
//     sector 0    nothing (16 sectors)
//     16, 17      the primary volume descriptor; the end of descriptors
//     18, 19      path tables, little- and big-endian
//     20          the root folder
//     21...       the files, each from a sector on
//
// Numbers are there in both byte orders. There are no dates: the same files make the same bytes.
#include "image/seed.h"
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 2048, DESCRIPTOR = 16, TERMINATOR, PATHS_LITTLE, PATHS_BIG, ROOT, DATA };
enum { RECORD = 33, PATH_TABLE = 10, FLAG_FOLDER = 2 };

static void put(uint8_t *to, unsigned bytes, uint32_t v, bool big)
{
    for (unsigned i = 0; i < bytes; i++)
        to[big ? bytes - 1 - i : i] = (uint8_t)(v >> 8 * i);
}

static void put_both(uint8_t *to, unsigned bytes, uint32_t v)
{
    put(to, bytes, v, false);
    put(to + bytes, bytes, v, true);
}

static void put_text(uint8_t *to, size_t size, const char *text)
{
    memset(to, ' ', size);
    memcpy(to, text, strlen(text));
}

// A folder's record (ECMA-119, 9.1) without what Rock Ridge adds. Returns its length.
static size_t record(uint8_t *r, uint32_t sector, uint32_t size, bool folder, const void *name, size_t length)
{
    memset(r, 0, 256);
    put_both(r + 2, 4, sector);
    put_both(r + 10, 4, size);
    r[25] = folder ? FLAG_FOLDER : 0;
    put_both(r + 28, 2, 1);
    r[32] = (uint8_t)length;
    memcpy(r + RECORD, name, length);
    return (RECORD + length + 1) & ~(size_t)1;
}

// PX: mode, links, owner, group ("POSIX file attributes").
static size_t attributes(uint8_t *r, size_t at, uint32_t mode, uint32_t links)
{
    memcpy(r + at, "PX\x24\x01", 4);
    put_both(r + at + 4, 4, mode);
    put_both(r + at + 12, 4, links);
    return at + 36;
}

static size_t finish(uint8_t *r, size_t at)
{
    at = (at + 1) & ~(size_t)1;
    r[0] = (uint8_t)at;
    return at;
}

static size_t put_self(uint8_t *r, bool parent)
{
    uint8_t name = parent;
    size_t at = record(r, ROOT, SECTOR, true, &name, 1);
    if (!parent) { // "SP": Rock Ridge is in use from here on; "ER" names it
        memcpy(r + at, "SP\x07\x01\xbe\xef\x00", 7);
        at += 7;
        memcpy(r + at, "ER\x12\x01\x0a\x00\x00\x01RRIP_1991A", 18);
        at += 18;
    }
    return finish(r, attributes(r, at, 0040555, 2));
}

static size_t put_file(uint8_t *r, const struct iso_file *f, uint32_t sector)
{
    char name[16] = "";
    strncpy(name, f->short_name, 8);
    strcat(name, ".;1");
    size_t at = record(r, sector, (uint32_t)f->size, false, name, strlen(name)), length = strlen(f->name);
    at = attributes(r, at, 0100444, 1);
    memcpy(r + at, "NM", 2);
    r[at + 2] = (uint8_t)(5 + length);
    r[at + 3] = 1;
    memcpy(r + at + 5, f->name, length);
    return finish(r, at + 5 + length);
}

static void put_descriptor(uint8_t *d, const char *label, uint32_t sectors)
{
    static const char dates[] = "0000000000000000"; // "not specified"
    uint8_t root[256], self = 0;
    memcpy(d, "\1CD001\1", 7);
    put_text(d + 8, 32, "");
    put_text(d + 40, 32, label);
    put_both(d + 80, 4, sectors);
    put_both(d + 120, 2, 1);
    put_both(d + 124, 2, 1);
    put_both(d + 128, 2, SECTOR);
    put_both(d + 132, 4, PATH_TABLE);
    put(d + 140, 4, PATHS_LITTLE, false);
    put(d + 148, 4, PATHS_BIG, true);
    record(root, ROOT, SECTOR, true, &self, 1);
    root[0] = 34;
    memcpy(d + 156, root, 34);
    put_text(d + 190, 813 - 190, "");
    for (unsigned i = 0; i < 4; i++)
        memcpy(d + 813 + 17 * i, dates, 16);
    d[881] = 1;
    memcpy(d + SECTOR, "\377CD001\1", 7);
}

static void put_path_table(uint8_t *t, bool big)
{
    t[0] = 1; // the length of the root's name
    put(t + 2, 4, ROOT, big);
    put(t + 6, 2, 1, big);
}

int iso_make(const char *label, const struct iso_file *files, unsigned count, void **image, size_t *size)
{
    size_t sectors = DATA, folder = 0;
    uint8_t r[256 + 64];
    for (unsigned i = 0; i < count; i++) {
        if (strlen(files[i].name) > 128 || files[i].size > UINT32_MAX / 2 || sectors > UINT32_MAX / 2)
            return -EINVAL;
        sectors += (files[i].size + SECTOR - 1) / SECTOR;
    }
    uint8_t *b = calloc(sectors, SECTOR);
    if (!b)
        return -ENOMEM;
    put_descriptor(b + DESCRIPTOR * SECTOR, label, (uint32_t)sectors);
    put_path_table(b + PATHS_LITTLE * SECTOR, false);
    put_path_table(b + PATHS_BIG * SECTOR, true);
    uint8_t *root = b + ROOT * SECTOR;
    uint32_t sector = DATA;
    for (unsigned i = 0; i < count + 2; i++) {
        size_t n = i < 2 ? put_self(r, i == 1) : put_file(r, &files[i - 2], sector);
        if (folder + n > SECTOR) {
            free(b);
            return -EINVAL;
        }
        memcpy(root + folder, r, n);
        folder += n;
        if (i < 2)
            continue;
        const struct iso_file *f = &files[i - 2];
        if (f->size)
            memcpy(b + (size_t)sector * SECTOR, f->data, f->size);
        sector += (uint32_t)((f->size + SECTOR - 1) / SECTOR);
    }
    *image = b;
    *size = sectors * SECTOR;
    return 0;
}
