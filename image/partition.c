// See partition.h.
//
// An MBR with an entry of type 0xee says that there is a GPT. If its header or entries don't bear their checksums, the
// backup at the disk's end is taken; without either, the disk has no partitions that we would trust.
#include "image/partition.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512, ENTRIES_BYTES_MAX = 1 << 20, ENTRY_MIN = 128 };
enum { MBR_TABLE = 446, MBR_ENTRY = 16, MBR_PROTECTIVE = 0xee };

static uint64_t le(const uint8_t *b, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = bytes; i--;)
        v = v << 8 | b[i];
    return v;
}

// CRC-32 of IEEE 802.3, as UEFI wants it.
static uint32_t crc32_of(const uint8_t *b, size_t n)
{
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= b[i];
        for (unsigned k = 0; k < 8; k++)
            c = c >> 1 ^ (0xedb88320 & -(c & 1));
    }
    return ~c;
}

static struct partition *add(struct partition_table *t, const struct reader *r, unsigned number, uint64_t first,
                             uint64_t sectors)
{
    uint64_t disk = r->size / SECTOR;
    if (!sectors || first >= disk || sectors > disk - first || t->count == PARTITIONS_MAX)
        return NULL;
    struct partition *p = &t->part[t->count++];
    *p = (struct partition){.number = number, .offset = first * SECTOR, .length = sectors * SECTOR};
    return p;
}

// True if there was a sound GPT header at that sector.
static bool read_gpt(struct reader *r, struct partition_table *t, uint64_t at)
{
    static const uint8_t unused[16];
    uint8_t h[SECTOR];
    if (at >= r->size / SECTOR || reader_read(r, h, SECTOR, at * SECTOR) || memcmp(h, "EFI PART", 8))
        return false;
    uint64_t length = le(h + 12, 4), entries = le(h + 80, 4), entry = le(h + 84, 4), table = le(h + 72, 8);
    uint32_t crc = (uint32_t)le(h + 16, 4);
    memset(h + 16, 0, 4);
    if (length < 92 || length > SECTOR || crc32_of(h, length) != crc || entry < ENTRY_MIN || !entries ||
        entries > ENTRIES_BYTES_MAX / entry || table >= r->size / SECTOR)
        return false;
    uint8_t *b = malloc(entries * entry);
    bool good = b && !reader_read(r, b, entries * entry, table * SECTOR) &&
                crc32_of(b, entries * entry) == (uint32_t)le(h + 88, 4);
    for (uint64_t i = 0; good && i < entries; i++) {
        const uint8_t *e = b + i * entry;
        uint64_t first = le(e + 32, 8), last = le(e + 40, 8);
        if (!memcmp(e, unused, 16) || last < first || last == UINT64_MAX)
            continue;
        struct partition *p = add(t, r, (unsigned)i + 1, first, last - first + 1);
        if (!p)
            continue;
        p->gpt = true;
        memcpy(p->type, e, 16);
        memcpy(p->guid, e + 16, 16);
    }
    free(b);
    return good;
}

static bool is_extended(uint8_t type)
{
    return type == 0x05 || type == 0x0f || type == 0x85;
}

// A linked list of tables, each with a partition and the next table (relative to the first).
static void read_logical(struct reader *r, struct partition_table *t, uint64_t start, uint32_t signature)
{
    uint64_t at = start;
    for (unsigned n = 5; n < 5 + PARTITIONS_MAX; n++) {
        uint8_t b[SECTOR];
        if (at >= r->size / SECTOR || reader_read(r, b, SECTOR, at * SECTOR) || b[510] != 0x55 || b[511] != 0xaa)
            return;
        const uint8_t *e = b + MBR_TABLE;
        struct partition *p = e[4] ? add(t, r, n, at + le(e + 8, 4), le(e + 12, 4)) : NULL;
        if (p) {
            p->mbr_type = e[4];
            p->signature = signature;
        }
        e += MBR_ENTRY;
        if (!is_extended(e[4]) || !le(e + 8, 4))
            return;
        at = start + le(e + 8, 4);
    }
}

// Boot sectors of file systems end with the same two bytes: only what every entry of a table has tells one.
static bool is_mbr(const uint8_t *b)
{
    bool any = false;
    if (b[510] != 0x55 || b[511] != 0xaa)
        return false;
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *e = b + MBR_TABLE + i * MBR_ENTRY;
        if (e[0] & 0x7f)
            return false;
        any |= e[4] && le(e + 12, 4);
    }
    return any;
}

int partitions_read(struct reader *r, struct partition_table *t, struct error *err)
{
    uint8_t b[SECTOR];
    *t = (struct partition_table){0};
    int e = reader_read(r, b, SECTOR, 0);
    if (e)
        return error_set(err, -e, "reading the partition table: %s", strerror(-e));
    if (!is_mbr(b)) {
        add(t, r, 0, 0, r->size / SECTOR);
        return 0;
    }
    for (unsigned i = 0; i < 4; i++)
        if (b[MBR_TABLE + i * MBR_ENTRY + 4] == MBR_PROTECTIVE) {
            if (!read_gpt(r, t, 1)) {
                t->count = 0;
                read_gpt(r, t, r->size / SECTOR - 1);
            }
            return 0;
        }
    uint32_t signature = (uint32_t)le(b + 440, 4);
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *entry = b + MBR_TABLE + i * MBR_ENTRY;
        if (is_extended(entry[4])) {
            read_logical(r, t, le(entry + 8, 4), signature);
            continue;
        }
        struct partition *p = entry[4] ? add(t, r, i + 1, le(entry + 8, 4), le(entry + 12, 4)) : NULL;
        if (p) {
            p->mbr_type = entry[4];
            p->signature = signature;
        }
    }
    return 0;
}

void guid_text(const uint8_t g[16], char text[37])
{
    snprintf(text, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", g[3], g[2], g[1], g[0],
             g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]);
}

void partition_id(const struct partition *p, char id[PARTITION_ID])
{
    id[0] = 0;
    if (p->gpt)
        guid_text(p->guid, id);
    else if (p->number)
        snprintf(id, PARTITION_ID, "%08x-%02x", p->signature, p->number);
}

bool partition_is_root(const struct partition *p)
{
    char type[37];
    guid_text(p->type, type);
    return p->gpt && !strcmp(type, "4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
}
