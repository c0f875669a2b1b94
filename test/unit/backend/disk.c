// Raw disks on both kinds of asynchronous I/O: contents, flush, discard, zeroes, bounds, locks and refusals.
#include "backend/disk.h"
#include "host/thread.h"
#include "unit.h"
#include "wait.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIZE = 1 << 20 };

struct fixture {
    struct aio *aio;
    char path[64];
};

static int setup(void **state, int (*make)(struct aio **, struct error *))
{
    struct fixture *f = calloc(1, sizeof *f);
    struct error e;
    if (make(&f->aio, &e)) {
        print_message("no such asynchronous I/O here: %s\n", e.text);
        f->aio = NULL;
    }
    strcpy(f->path, "/tmp/trapeze-disk-XXXXXX");
    int fd = mkstemp(f->path);
    if (fd < 0 || ftruncate(fd, SIZE))
        return -1;
    close(fd);
    *state = f;
    return 0;
}

static int make_threads(struct aio **a, struct error *e)
{
    return aio_create_threads(a, 3, e);
}

static int setup_threads(void **state)
{
    return setup(state, make_threads);
}

static int setup_uring(void **state)
{
    return setup(state, aio_create_uring);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->aio)
        f->aio->ops->destroy(f->aio);
    unlink(f->path);
    free(f);
    return 0;
}

static struct disk *open_ok(struct fixture *f, bool readonly)
{
    struct disk *d;
    struct error e;
    int r = disk_open(&(struct disk_options){.path = f->path, .readonly = readonly, .serial = "S1"}, f->aio, &d, &e);
    if (r)
        fail_msg("%s", e.text);
    return d;
}

static void contents(void **state)
{
    struct fixture *f = *state;
    if (!f->aio)
        skip();
    struct disk *d = open_ok(f, false);
    assert_int_equal(d->size, SIZE);
    assert_string_equal(d->serial, "S1");
    static uint8_t a[8192], b[8192];
    for (unsigned i = 0; i < sizeof a; i++)
        a[i] = (uint8_t)(i * 7 + i / 256);
    struct disk_segment w[3] = {{a, 512}, {a + 512, 3584}, {a + 4096, 4096}};
    assert_int_equal(submit(d, DISK_WRITE, 1536, 8192, w, 3), 0);
    assert_int_equal(submit(d, DISK_FLUSH, 0, 0, NULL, 0), 0);
    struct disk_segment r[2] = {{b, 1024}, {b + 1024, 7168}};
    assert_int_equal(submit(d, DISK_READ, 1536, 8192, r, 2), 0);
    assert_memory_equal(a, b, sizeof a);
    // Zeroes and holes read as zeroes, and their neighbours stay.
    assert_int_equal(submit(d, DISK_WRITE_ZEROES, 2048, 512, NULL, 0), 0);
    assert_int_equal(submit(d, DISK_DISCARD, 4096, 4096, NULL, 0), 0);
    assert_int_equal(submit(d, DISK_READ, 1536, 8192, r, 2), 0);
    memset(a + 512, 0, 512);
    memset(a + 4096 - 1536, 0, 4096);
    assert_memory_equal(a, b, sizeof a);
    d->ops->close(d);
}

static void bounds(void **state)
{
    struct fixture *f = *state;
    if (!f->aio)
        skip();
    struct disk *d = open_ok(f, false);
    uint8_t buf[1024];
    struct disk_segment s = {buf, sizeof buf};
    assert_int_equal(submit(d, DISK_READ, SIZE - 512, 1024, &s, 1), -EINVAL);
    assert_int_equal(submit(d, DISK_WRITE, UINT64_MAX - 511, 1024, &s, 1), -EINVAL);
    assert_int_equal(submit(d, DISK_DISCARD, SIZE, 512, NULL, 0), -EINVAL);
    // The file shrinks under us: reading the missing part gives zeroes, as a hole does.
    memset(buf, 1, sizeof buf);
    assert_int_equal(truncate(f->path, SIZE - 512), 0);
    assert_int_equal(submit(d, DISK_READ, SIZE - 1024, 1024, &s, 1), 0);
    assert_int_equal(buf[1023], 0);
    d->ops->close(d);
}

static void many_at_once(void **state)
{
    struct fixture *f = *state;
    if (!f->aio)
        skip();
    enum { N = 600 };
    struct disk *d = open_ok(f, false);
    static struct disk_request r[N];
    static struct disk_segment s[N];
    static uint64_t data[N][64], back[64];
    struct wait w = WAIT_INIT;
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 64; k++)
            data[i][k] = (uint64_t)i * 1000003 + (uint64_t)k;
        s[i] = (struct disk_segment){data[i], 512};
        r[i] = (struct disk_request){.op = DISK_WRITE,
                                     .offset = 512 * (uint64_t)i,
                                     .length = 512,
                                     .seg = &s[i],
                                     .segs = 1,
                                     .done = wait_done,
                                     .owner = &w};
        d->ops->submit(d, &r[i]);
    }
    d->ops->drain(d);
    assert_int_equal(w.done, N);
    for (int i = 0; i < N; i++) {
        struct disk_segment one = {back, 512};
        assert_int_equal(submit(d, DISK_READ, 512 * (uint64_t)i, 512, &one, 1), 0);
        assert_memory_equal(back, data[i], 512);
    }
    d->ops->close(d);
}

// Who submits is a vCPU: it hands the request over, and somebody else copies what is in the page cache.
static void submitting_copies_nothing(void **state)
{
    enum { LARGE = 128 << 20 };
    struct fixture *f = *state;
    if (!f->aio)
        skip();
    assert_int_equal(truncate(f->path, LARGE), 0);
    struct disk *d = open_ok(f, false);
    uint8_t *data = malloc(LARGE), *copy = malloc(LARGE);
    memset(data, 1, LARGE);
    memset(copy, 2, LARGE);
    uint64_t before = thread_cpu_ns();
    memcpy(copy, data, LARGE);
    __asm__ volatile("" : : "r"(copy) : "memory"); // the compiler is to believe that somebody looks at it
    uint64_t copying = thread_cpu_ns() - before;
    struct disk_segment seg = {data, LARGE};
    static const enum disk_op ops[] = {DISK_WRITE, DISK_READ};
    for (unsigned i = 0; i < 2; i++) {
        struct wait w = WAIT_INIT;
        struct disk_request r = {.op = ops[i], .length = LARGE, .seg = &seg, .segs = 1, .done = wait_done, .owner = &w};
        before = thread_cpu_ns();
        d->ops->submit(d, &r);
        uint64_t submitting = thread_cpu_ns() - before;
        d->ops->drain(d);
        assert_int_equal(w.failed, 0);
        if (submitting > copying / 2)
            fail_msg("submitting took %u us, copying as much %u us", (unsigned)(submitting / 1000),
                     (unsigned)(copying / 1000));
    }
    assert_int_equal(data[LARGE - 1], 1);
    free(data);
    free(copy);
    d->ops->close(d);
}

static void readonly_and_locks(void **state)
{
    struct fixture *f = *state;
    if (!f->aio)
        skip();
    struct disk *d = open_ok(f, true), *second;
    uint8_t buf[512] = {0};
    struct disk_segment s = {buf, sizeof buf};
    assert_int_equal(submit(d, DISK_WRITE, 0, 512, &s, 1), -EROFS);
    assert_int_equal(submit(d, DISK_DISCARD, 0, 512, NULL, 0), -EROFS);
    assert_int_equal(submit(d, DISK_READ, 0, 512, &s, 1), 0);
    struct disk *again = open_ok(f, true); // readers share
    struct error e;
    assert_int_equal(disk_open(&(struct disk_options){.path = f->path}, f->aio, &second, &e), -EBUSY);
    assert_non_null(strstr(e.text, "in use"));
    again->ops->close(again);
    d->ops->close(d);
    d = open_ok(f, false);
    assert_int_equal(disk_open(&(struct disk_options){.path = f->path, .readonly = true}, f->aio, &second, &e), -EBUSY);
    // Its lock can be lent: then another one may open it, and it is had again when that is closed.
    assert_int_equal(d->ops->hold(d, false), 0);
    second = open_ok(f, false);
    assert_int_equal(d->ops->hold(d, true), -EBUSY);
    second->ops->close(second);
    assert_int_equal(d->ops->hold(d, true), 0);
    assert_int_equal(disk_open(&(struct disk_options){.path = f->path}, f->aio, &second, &e), -EBUSY);
    d->ops->close(d);
}

static void refusals(void **state)
{
    struct fixture *f = *state;
    if (!f->aio)
        skip();
    struct disk *d;
    struct error e;
    assert_int_equal(disk_open(&(struct disk_options){.path = "/nonexistent/disk.img"}, f->aio, &d, &e), -ENOENT);
    assert_non_null(strstr(e.text, "/nonexistent/disk.img"));
    assert_int_equal(disk_open(&(struct disk_options){.path = "/tmp"}, f->aio, &d, &e), -EISDIR);
    assert_int_equal(disk_open(&(struct disk_options){.path = "/tmp", .readonly = true}, f->aio, &d, &e), -EINVAL);
    assert_int_equal(truncate(f->path, 1000), 0);
    assert_int_equal(disk_open(&(struct disk_options){.path = f->path}, f->aio, &d, &e), -EINVAL);
    assert_non_null(strstr(e.text, "1000 bytes, is not a multiple of 512"));
    assert_int_equal(truncate(f->path, 0), 0);
    assert_int_equal(disk_open(&(struct disk_options){.path = f->path}, f->aio, &d, &e), -EINVAL);
    assert_int_equal(
        disk_open(&(struct disk_options){.path = f->path, .serial = "123456789012345678901"}, f->aio, &d, &e), -EINVAL);
}

#define BOTH(test)                                                                                                     \
    cmocka_unit_test_setup_teardown(test, setup_threads, teardown),                                                    \
        cmocka_unit_test_setup_teardown(test, setup_uring, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {BOTH(contents),           BOTH(bounds),
                                       BOTH(many_at_once),       BOTH(submitting_copies_nothing),
                                       BOTH(readonly_and_locks), BOTH(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
