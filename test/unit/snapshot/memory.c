// Memory files: holes where pages are zero, the same digest whatever the source, and mapped again as what was written.
#include "snapshot/memory.h"
#include "host/memory.h"
#include "snapshot/copy.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIZE = 8 << 20 };

static int scratch(void)
{
    char name[] = "/tmp/trapeze-test-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    return fd;
}

static void assert_same(const struct snapshot_part *a, const struct snapshot_part *b)
{
    assert_int_equal(a->bytes, b->bytes);
    assert_int_equal(a->stored, b->stored);
    assert_string_equal(a->xxh3, b->xxh3);
}

// Pages in several places: single, in a row longer than one write, the last one.
static void scribble(uint8_t *base)
{
    base[5] = 1;
    base[4096 * 7 + 4095] = 2;
    memset(base + (1 << 20), 3, (2 << 20) + 4096);
    base[SIZE - 1] = 4;
    base[4096 * 100] = 9; // touched, and zero again
    base[4096 * 100] = 0;
}

static void round_trip(void **state)
{
    (void)state;
    struct host_ram shared, private, mapped;
    struct error err = {.text = ""};
    struct snapshot_part a, b, again;
    assert_int_equal(host_ram_create(&shared, "test", SIZE, true, &err), 0);
    assert_int_equal(host_ram_create(&private, "test", SIZE, false, &err), 0);
    scribble(shared.base);
    scribble(private.base);
    int fa = scratch(), fb = scratch(), fc = scratch();
    assert_int_equal(snapshot_memory_write(fa, shared.base, SIZE, shared.fd, &a, &err), 0);
    assert_int_equal(snapshot_memory_write(fb, private.base, SIZE, -1, &b, &err), 0);
    assert_same(&a, &b);
    assert_int_equal(a.bytes, SIZE);
    assert_int_equal(a.stored, (2 << 20) + 4 * 4096);
    struct stat st;
    assert_int_equal(fstat(fa, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    assert_true(st.st_blocks * 512 < 4 << 20);
    assert_int_equal(snapshot_memory_digest(fa, &again, &err), 0);
    assert_same(&a, &again);
    // A copy whose holes lie elsewhere.
    assert_int_equal(snapshot_copy(fa, fc), 0);
    assert_int_equal(pwrite(fc, "\0", 1, 4096 * 50), 1);
    assert_int_equal(snapshot_memory_digest(fc, &again, &err), 0);
    assert_string_equal(a.xxh3, again.xxh3);
    assert_int_equal(host_ram_map(&mapped, fa, SIZE, &err), 0);
    assert_memory_equal(mapped.base, shared.base, SIZE);
    mapped.base[0] = 77; // private: the file stays
    assert_int_equal(snapshot_memory_digest(fa, &again, &err), 0);
    assert_string_equal(a.xxh3, again.xxh3);
    assert_int_equal(pwrite(fa, "x", 1, 4096 * 60), 1);
    assert_int_equal(snapshot_memory_digest(fa, &again, &err), 0);
    assert_string_not_equal(a.xxh3, again.xxh3);
    host_ram_destroy(&shared);
    host_ram_destroy(&private);
    host_ram_destroy(&mapped);
    close(fa);
    close(fb);
    close(fc);
}

// A page that moved is another memory, though all its bytes are there.
static void moved_page(void **state)
{
    (void)state;
    struct host_ram ram;
    struct error err;
    struct snapshot_part a, b;
    assert_int_equal(host_ram_create(&ram, "test", SIZE, true, &err), 0);
    int fd = scratch();
    ram.base[4096] = 1;
    assert_int_equal(snapshot_memory_write(fd, ram.base, SIZE, ram.fd, &a, &err), 0);
    ram.base[4096] = 0;
    ram.base[8192] = 1;
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(snapshot_memory_write(fd, ram.base, SIZE, ram.fd, &b, &err), 0);
    assert_string_not_equal(a.xxh3, b.xxh3);
    host_ram_destroy(&ram);
    close(fd);
}

static void refused(void **state)
{
    (void)state;
    struct host_ram ram;
    struct error err;
    struct snapshot_part p;
    int fd = scratch();
    assert_int_equal(snapshot_memory_digest(fd, &p, &err), -EINVAL);
    assert_int_equal(ftruncate(fd, 4097), 0);
    assert_int_equal(snapshot_memory_digest(fd, &p, &err), -EINVAL);
    assert_int_equal(host_ram_map(&ram, fd, 8192, &err), -EINVAL); // shorter than what is mapped: would kill us later
    assert_int_equal(host_ram_map(&ram, fd, 4097, &err), -EINVAL);
    assert_int_equal(snapshot_file_digest(fd, 4096, &p, &err), -EFBIG);
    assert_int_equal(snapshot_file_digest(fd, 4097, &p, &err), 0);
    assert_int_equal(p.bytes, 4097);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(moved_page),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
