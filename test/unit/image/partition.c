// Partition tables: GPT with its backup, MBR with logical partitions, none, and hostile ones. zlib is the judge of
// checksums.
#include "image/partition.h"
#include "unit.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

enum { SECTORS = 4096, SECTOR = 512 };

struct bed {
    uint8_t disk[SECTORS * SECTOR];
};

static struct bed *bed(void)
{
    struct bed *b = calloc(1, sizeof *b);
    assert_non_null(b);
    return b;
}

static void put(uint8_t *to, unsigned bytes, uint64_t v)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(v >> 8 * i);
}

static void mbr_entry(uint8_t *sector, unsigned i, uint8_t type, uint32_t first, uint32_t count)
{
    uint8_t *e = sector + 446 + 16 * i;
    e[4] = type;
    put(e + 8, 4, first);
    put(e + 12, 4, count);
    sector[510] = 0x55;
    sector[511] = 0xaa;
}

static void gpt(struct bed *b, uint64_t at, uint64_t table)
{
    uint8_t *h = b->disk + at * SECTOR, *t = b->disk + table * SECTOR;
    static const uint8_t root[16] = {0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d,
                                     0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09};
    memcpy(t, root, 16);
    memset(t + 16, 0x11, 16);
    put(t + 32, 8, 100);
    put(t + 40, 8, 199);
    memset(t + 2 * 128, 0x22, 32); // the third
    put(t + 2 * 128 + 32, 8, 200);
    put(t + 2 * 128 + 40, 8, 299);
    memset(t + 3 * 128, 0x33, 32); // beyond the disk
    put(t + 3 * 128 + 32, 8, 300);
    put(t + 3 * 128 + 40, 8, SECTORS);
    memcpy(h, "EFI PART\0\0\1\0", 12);
    put(h + 12, 4, 92);
    put(h + 72, 8, table);
    put(h + 80, 4, 128);
    put(h + 84, 4, 128);
    put(h + 88, 4, crc32(0, t, 128 * 128));
    put(h + 16, 4, crc32(0, h, 92));
    mbr_entry(b->disk, 0, 0xee, 1, SECTORS - 1);
}

static void scan(struct bed *b, struct partition_table *t)
{
    char path[] = "/tmp/trapeze-partition-XXXXXX";
    struct reader r;
    struct error e;
    int fd = mkstemp(path);
    assert_int_equal(write(fd, b->disk, sizeof b->disk), sizeof b->disk);
    close(fd);
    if (reader_open(&r, path, DISK_RAW, &e) || partitions_read(&r, t, &e))
        fail_msg("%s", e.text);
    reader_close(&r);
    unlink(path);
    free(b);
}

static void check(const struct partition *p, unsigned number, uint64_t first, uint64_t count, const char *id)
{
    char text[PARTITION_ID];
    partition_id(p, text);
    assert_int_equal(p->number, number);
    assert_int_equal(p->offset, first * SECTOR);
    assert_int_equal(p->length, count * SECTOR);
    assert_string_equal(text, id);
}

static void check_gpt(const struct partition_table *t)
{
    assert_int_equal(t->count, 2);
    check(&t->part[0], 1, 100, 100, "11111111-1111-1111-1111-111111111111");
    check(&t->part[1], 3, 200, 100, "22222222-2222-2222-2222-222222222222");
    assert_true(partition_is_root(&t->part[0]));
    assert_false(partition_is_root(&t->part[1]));
}

static void gpt_is_read(void **state)
{
    (void)state;
    struct partition_table t;
    struct bed *b = bed();
    gpt(b, 1, 2);
    scan(b, &t);
    check_gpt(&t);
}

static void backup_is_read(void **state)
{
    (void)state;
    struct partition_table t;
    struct bed *b = bed();
    gpt(b, 1, 2);
    gpt(b, SECTORS - 1, SECTORS - 33);
    b->disk[SECTOR + 30] ^= 1; // the first header
    scan(b, &t);
    check_gpt(&t);
    b = bed();
    gpt(b, 1, 2);
    gpt(b, SECTORS - 1, SECTORS - 33);
    b->disk[2 * SECTOR + 40] ^= 1; // the first table
    scan(b, &t);
    check_gpt(&t);
}

static void broken_gpt_is_none(void **state)
{
    (void)state;
    struct partition_table t;
    struct bed *b = bed();
    gpt(b, 1, 2);
    put(b->disk + SECTOR + 80, 4, 0xffffffff); // entries without end
    put(b->disk + SECTOR + 16, 4, 0);
    put(b->disk + SECTOR + 16, 4, crc32(0, b->disk + SECTOR, 92));
    scan(b, &t);
    assert_int_equal(t.count, 0);
}

static void mbr_is_read(void **state)
{
    (void)state;
    struct partition_table t;
    struct bed *b = bed();
    put(b->disk + 440, 4, 0xdeadbeef);
    mbr_entry(b->disk, 0, 0x83, 10, 20);
    mbr_entry(b->disk, 1, 0x05, 1000, 1000);
    mbr_entry(b->disk, 2, 0x83, 4000, 1000); // beyond the disk
    mbr_entry(b->disk + 1000 * SECTOR, 0, 0x83, 2, 100);
    mbr_entry(b->disk + 1000 * SECTOR, 1, 0x05, 200, 100);
    mbr_entry(b->disk + 1200 * SECTOR, 0, 0x82, 1, 50);
    scan(b, &t);
    assert_int_equal(t.count, 3);
    check(&t.part[0], 1, 10, 20, "deadbeef-01");
    check(&t.part[1], 5, 1002, 100, "deadbeef-05");
    check(&t.part[2], 6, 1201, 50, "deadbeef-06");
}

static void knotted_chain_ends(void **state)
{
    (void)state;
    struct partition_table t;
    struct bed *b = bed();
    mbr_entry(b->disk, 0, 0x05, 1000, 1000);
    mbr_entry(b->disk + 1000 * SECTOR, 0, 0x83, 2, 100);
    mbr_entry(b->disk + 1000 * SECTOR, 1, 0x05, 200, 100);
    mbr_entry(b->disk + 1200 * SECTOR, 0, 0x83, 2, 100);
    mbr_entry(b->disk + 1200 * SECTOR, 1, 0x05, 200, 100); // itself
    scan(b, &t);
    assert_int_equal(t.count, PARTITIONS_MAX);
}

static void whole_disk(void **state)
{
    (void)state;
    struct partition_table t;
    scan(bed(), &t);
    assert_int_equal(t.count, 1);
    check(&t.part[0], 0, 0, SECTORS, "");
    // A boot sector ends as an MBR does, but there is code where the table would be.
    struct bed *b = bed();
    memset(b->disk, 0x90, SECTOR);
    b->disk[510] = 0x55;
    b->disk[511] = 0xaa;
    scan(b, &t);
    assert_int_equal(t.count, 1);
    assert_int_equal(t.part[0].number, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt_is_read), cmocka_unit_test(backup_is_read),     cmocka_unit_test(broken_gpt_is_none),
        cmocka_unit_test(mbr_is_read), cmocka_unit_test(knotted_chain_ends), cmocka_unit_test(whole_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
