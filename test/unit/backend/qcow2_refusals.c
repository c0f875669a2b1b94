// What of qcow2 is refused, each with one line that says what and why; and which format a disk is taken for.
//
// Images are made by qcow2_create and then damaged, byte by byte as the format's description numbers them; so this
// needs no tools of QEMU's.
#include "backend/disk.h"
#include "backend/qcow2/qcow2.h"
#include "unit.h"
#include "wait.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIZE = 1 << 20 };

static char folder[64], image[80], base[80];
static struct error err;

static void poke(const char *path, uint64_t at, unsigned bytes, uint64_t value)
{
    uint8_t b[8];
    for (unsigned i = bytes; i-- > 0; value >>= 8)
        b[i] = (uint8_t)value;
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, b, bytes, (off_t)at), bytes);
    close(fd);
}

static void make(const char *path, const char *backing, const char *format)
{
    unlink(path);
    struct qcow2_options o = {.path = path, .size = SIZE, .backing = backing, .backing_format = format};
    if (qcow2_create(&o, &err))
        fail_msg("%s", err.text);
}

static int try(const char *path, bool readonly, struct disk **d)
{
    err.text[0] = 0;
    return disk_open(&(struct disk_options){.path = path, .readonly = readonly, .format = DISK_QCOW2}, NULL, d, &err);
}

static void refused(const char *path, int code, const char *words)
{
    struct disk *d;
    int e = try(path, true, &d);
    if (e != -code || !strstr(err.text, words))
        fail_msg("%d, %s; should be %d, %s", e, err.text, -code, words);
    assert_null(strchr(err.text, '\n'));
    assert_int_equal(try(path, false, &d), -code);
}

static void headers(void **state)
{
    (void)state;
    static const struct {
        uint64_t at, bytes, value;
        int code;
        const char *words;
    } bad[] = {
        {0, 4, 0x51464900, EINVAL, "not a qcow2 image"},
        {4, 4, 4, ENOTSUP, "version 4"},
        {20, 4, 8, EINVAL, "clusters of 2^8"},
        {20, 4, 22, EINVAL, "clusters of 2^22"},
        {24, 8, 1ull << 40, EINVAL, "too short"},
        {24, 8, 1000, EINVAL, "not a multiple of 512"},
        {24, 8, 0, EINVAL, "nothing"},
        {32, 4, 1, ENOTSUP, "encrypted"},
        {36, 4, 0xffffffff, EFBIG, "too large"},
        {40, 8, 1 << 16 | 512, EINVAL, "L1 table cannot be at"},
        {40, 8, 1ull << 50, EIO, "L1 table can't be read"},
        {48, 8, 0, EINVAL, "refcount table cannot be at"},
        {56, 4, 0, EINVAL, "refcount table has 0"},
        {56, 4, 1 << 20, EINVAL, "refcount table has"},
        {60, 4, 1 << 20, EINVAL, "snapshot table"},
        {72, 8, 4, ENOTSUP, "external data file"},
        {72, 8, 16, ENOTSUP, "extended L2 entries"},
        {72, 8, 1ull << 40, ENOTSUP, "bit 40"},
        {96, 4, 7, EINVAL, "refcounts of 2^7"},
        {100, 4, 20, EINVAL, "header of 20"},
        {104, 1, 9, ENOTSUP, "compression type 9"},
        {104, 1, 1, EINVAL, "without its feature bit"},
        {116, 4, 0x7fffffff, EINVAL, "longer than the header"},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        make(image, NULL, NULL);
        poke(image, bad[i].at, (unsigned)bad[i].bytes, bad[i].value);
        refused(image, bad[i].code, bad[i].words);
    }
    // Marked as corrupt: it can be read.
    struct disk *d;
    make(image, NULL, NULL);
    poke(image, 72, 8, 2);
    assert_int_equal(try(image, false, &d), -EIO);
    assert_non_null(strstr(err.text, "marked as corrupt"));
    assert_int_equal(try(image, true, &d), 0);
    d->ops->close(d);
}

static void backing_files(void **state)
{
    (void)state;
    struct qcow2_options o = {.path = image, .backing = "nowhere", .backing_format = "raw"};
    unlink(image);
    assert_int_equal(qcow2_create(&o, &err), -ENOENT);
    o.backing_format = NULL;
    assert_int_equal(qcow2_create(&o, &err), -EINVAL);
    assert_non_null(strstr(err.text, "does not name its backing file's format"));
    o.backing_format = "vmdk";
    assert_int_equal(qcow2_create(&o, &err), -ENOTSUP);
    o.backing = "nbd:host:10809";
    assert_int_equal(qcow2_create(&o, &err), -ENOTSUP);
    assert_int_equal(access(image, F_OK), -1);
    // One that is below itself, by way of another.
    make(base, NULL, NULL);
    make(image, "base", "qcow2");
    char second[96];
    snprintf(second, sizeof second, "%s/second", folder);
    unlink(second);
    assert_int_equal(rename(base, second), 0);
    make(base, "second", "qcow2");
    unlink(second);
    assert_int_equal(symlink("image", second), 0);
    refused(image, ELOOP, "its own backing file");
    // A chain without end.
    char above[16] = "", path[100];
    for (int i = 0; i < 70; i++) {
        snprintf(path, sizeof path, "%s/n%d", folder, i);
        unlink(path);
        o = (struct qcow2_options){.path = path, .size = SIZE, .cluster = 512};
        if (i) {
            o.backing = above;
            o.backing_format = "qcow2";
        }
        int e = qcow2_create(&o, &err);
        if (e) {
            assert_int_equal(e, -ELOOP);
            assert_true(i > 60);
            return;
        }
        snprintf(above, sizeof above, "n%d", i);
    }
    fail();
}

static int transfer(struct disk *d, enum disk_op op, uint64_t at, struct disk_segment *seg, unsigned segs)
{
    uint64_t length = 0;
    for (unsigned i = 0; i < segs; i++)
        length += seg[i].len;
    return submit(d, op, at, length, seg, segs);
}

// Tables that lead astray: the requests fail, the image is marked, and nothing is written over what describes it.
static void knots(void **state)
{
    (void)state;
    struct disk *d;
    struct qcow2_check c;
    static uint8_t data[4096];
    struct disk_segment s = {data, sizeof data};
    make(image, NULL, NULL);
    assert_int_equal(try(image, false, &d), 0);
    assert_int_equal(transfer(d, DISK_WRITE, 0, &s, 1), 0);
    d->ops->close(d);
    assert_int_equal(qcow2_check(image, false, &c, &err), 0);
    assert_int_equal(c.corruptions + c.leaks, 0);
    assert_int_equal(c.allocated, 1);
    // header 0, reftable 1, block 2, L1 3, then what the write took: data or L2 table, 4 and 5
    uint64_t l1 = 3 << 16;
    uint8_t b[8];
    int fd = open(image, O_RDONLY);
    assert_int_equal(pread(fd, b, 8, (off_t)l1), 8);
    close(fd);
    uint64_t l2 = (uint64_t)b[5] << 16;
    poke(image, l2, 8, 1ull << 63 | l1); // data in the L1 table
    assert_int_equal(qcow2_check(image, false, &c, &err), 0);
    assert_true(c.corruptions > 0);
    assert_int_equal(try(image, false, &d), 0);
    assert_int_equal(transfer(d, DISK_WRITE, 0, &s, 1), -EIO);
    assert_int_equal(transfer(d, DISK_WRITE, SIZE / 2, &s, 1), -EIO);
    d->ops->close(d);
    assert_int_equal(try(image, false, &d), -EIO); // marked
    poke(image, 72, 8, 0);
    poke(image, l2, 8, 0x1000000000000000); // a reserved bit
    assert_int_equal(try(image, false, &d), 0);
    assert_int_equal(transfer(d, DISK_READ, 0, &s, 1), -EIO);
    d->ops->close(d);
    poke(image, l2, 8, 0);
    poke(image, 2 << 16, 8, 0); // nothing is in use, the block says
    assert_int_equal(try(image, false, &d), 0);
    assert_int_equal(transfer(d, DISK_WRITE, 0, &s, 1), -EIO);
    d->ops->close(d);
}

// A guest can't turn its raw disk into an image of another format, unless somebody said that it is raw.
static void formats(void **state)
{
    (void)state;
    struct aio *aio;
    struct disk *d;
    static uint8_t sector[4096] = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 3};
    assert_int_equal(aio_create_threads(&aio, 1, &err), 0);
    unlink(base);
    int fd = open(base, O_RDWR | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    struct disk_options o = {.path = base};
    assert_int_equal(disk_open(&o, aio, &d, &err), 0);
    struct disk_segment whole = {sector, 4096}, cut[3] = {{sector, 1}, {sector + 1, 1023}, {sector + 1024, 512}};
    assert_int_equal(transfer(d, DISK_WRITE, 0, &whole, 1), -EPERM);
    assert_int_equal(transfer(d, DISK_WRITE, 0, cut, 3), -EPERM);
    assert_int_equal(transfer(d, DISK_WRITE, 512, &whole, 1), 0);
    sector[3] = 0xfa;
    sector[1500] = 77;
    assert_int_equal(transfer(d, DISK_WRITE, 0, cut, 3), 0);
    uint8_t back[1536];
    assert_int_equal(pread(fd, back, sizeof back, 0), sizeof back);
    assert_memory_equal(back, sector, sizeof back);
    d->ops->close(d);
    sector[3] = 0xfb;
    o.format = DISK_RAW;
    assert_int_equal(disk_open(&o, aio, &d, &err), 0);
    assert_int_equal(transfer(d, DISK_WRITE, 0, &whole, 1), 0);
    d->ops->close(d);
    assert_int_equal(disk_open(&o, aio, &d, &err), 0); // still raw, if that is said
    assert_int_equal(d->size, SIZE);
    d->ops->close(d);
    o.format = DISK_PROBE;
    assert_true(disk_open(&o, aio, &d, &err) < 0); // not, if not: and no proper qcow2 image either
    close(fd);
    make(image, NULL, NULL);
    o.path = image;
    assert_int_equal(disk_open(&o, aio, &d, &err), 0);
    assert_int_equal(d->size, SIZE);
    struct disk *second;
    assert_int_equal(disk_open(&o, aio, &second, &err), -EBUSY);
    d->ops->close(d);
    aio->ops->destroy(aio);
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/trapeze-qcow2-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(image, sizeof image, "%s/image", folder);
    snprintf(base, sizeof base, "%s/base", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(headers), cmocka_unit_test(backing_files),
                                       cmocka_unit_test(knots), cmocka_unit_test(formats)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
