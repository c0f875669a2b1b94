// Guest memory: zeroed, aligned, fenced, sealed, and refused with a clear word when there is not enough.
#include "host/memory.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 8 << 20 };

static void is_memory(void **state)
{
    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        struct host_ram m;
        struct error err;
        assert_int_equal(host_ram_create(&m, "test-ram", SIZE, shared, &err), 0);
        assert_int_equal((uintptr_t)m.base % (2 << 20), 0);
        assert_int_equal(m.size, SIZE);
        for (size_t i = 0; i < SIZE; i += 4096)
            assert_int_equal(m.base[i], 0);
        memset(m.base, 0xaa, SIZE);
        host_ram_destroy(&m);
        host_ram_destroy(&m);
    }
}

static void tells_what_is_resident(void **state)
{
    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        struct host_ram m;
        assert_int_equal(host_ram_create(&m, "test-ram", SIZE, shared, NULL), 0);
        assert_int_equal(host_ram_resident(&m), 0);
        memset(m.base, 1, SIZE / 4);
        uint64_t some = host_ram_resident(&m);
        assert_in_range(some, SIZE / 4, SIZE / 2); // huge pages may bring more than was touched
        memset(m.base, 1, SIZE);
        assert_int_equal(host_ram_resident(&m), SIZE);
        host_ram_destroy(&m);
    }
}

// Touches p in a child; true if that kills it.
static int faults(volatile uint8_t *p)
{
    pid_t child = fork();
    if (!child) {
        signal(SIGSEGV, SIG_DFL);
        *p = 1;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status);
}

static void is_fenced(void **state)
{
    (void)state;
    struct host_ram m;
    assert_int_equal(host_ram_create(&m, "test-ram", SIZE, true, NULL), 0);
    assert_true(faults(m.base - 1));
    assert_true(faults(m.base + SIZE));
    assert_false(faults(m.base));
    assert_false(faults(m.base + SIZE - 1));
    host_ram_destroy(&m);
}

static void can_be_shared_but_not_cut(void **state)
{
    (void)state;
    struct host_ram m;
    assert_int_equal(host_ram_create(&m, "test-ram", SIZE, true, NULL), 0);
    uint8_t *other = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);
    assert_true(other != MAP_FAILED);
    m.base[12345] = 42;
    assert_int_equal(other[12345], 42);
    assert_int_equal(ftruncate(m.fd, 4096), -1);
    assert_int_equal(ftruncate(m.fd, 2 * SIZE), -1);
    munmap(other, SIZE);
    host_ram_destroy(&m);
    assert_int_equal(host_ram_create(&m, "test-ram", SIZE, false, NULL), 0);
    assert_int_equal(m.fd, -1);
    host_ram_destroy(&m);
}

static void refuses_what_cannot_be(void **state)
{
    (void)state;
    struct host_ram m;
    struct error err;
    for (int shared = 0; shared < 2; shared++) {
        assert_int_equal(host_ram_create(&m, "test-ram", 0, shared, &err), -EINVAL);
        assert_int_equal(host_ram_create(&m, "test-ram", 4097, shared, &err), -EINVAL);
        assert_int_equal(host_ram_create(&m, "test-ram", UINT64_MAX & ~4095ull, shared, &err), -EINVAL);
        assert_int_equal(host_ram_create(&m, "test-ram", 1ull << 46, shared, &err), -ENOMEM);
        assert_memory_equal(err.text, "guest memory: 67108864 MiB wanted, but the host has only ", 57);
        host_ram_destroy(&m); // harmless
    }
    assert_true(host_memory_available() > SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_memory),
        cmocka_unit_test(tells_what_is_resident),
        cmocka_unit_test(is_fenced),
        cmocka_unit_test(can_be_shared_but_not_cut),
        cmocka_unit_test(refuses_what_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
