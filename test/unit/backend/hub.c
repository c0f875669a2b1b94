// A console's hub: readers with positions of their own, a log of bounded size, input from several ends, and nobody who
// waits for anybody.
#include "backend/hub.h"
#include "host/thread.h"
#include "unit.h"
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RING = 256 << 10, LIMIT = 64 << 10 };

static struct loop *loop;
static struct hub *hub;
static struct error err;
static char folder_name[40];
static int folder;

// What stands below: a console that the user named.
static char below_got[64];
static size_t below_size;

static void below_write(struct stream *s, const void *data, size_t size)
{
    (void)s;
    if (below_size + size <= sizeof below_got) {
        memcpy(below_got + below_size, data, size);
        below_size += size;
    }
}

static void below_nothing(struct stream *s)
{
    (void)s;
}

static const struct stream_ops below_ops = {below_write, below_nothing, below_nothing, below_nothing};
static struct stream below = {.ops = &below_ops};

// The guest's device: takes `room` bytes.
static char typed[8192];
static size_t typed_size, room;

static size_t receive(void *ctx, const uint8_t *data, size_t size)
{
    (void)ctx;
    size_t n = size < room ? size : room;
    memcpy(typed + typed_size, data, n);
    typed_size += n;
    room -= n;
    return n;
}

static int setup(void **state)
{
    (void)state;
    strcpy(folder_name, "/tmp/trapeze-hub-XXXXXX");
    assert_non_null(mkdtemp(folder_name));
    folder = open(folder_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    typed_size = below_size = 0;
    room = sizeof typed;
    assert_int_equal(loop_create(&loop, &err), 0);
    const struct hub_options o = {.below = &below, .loop = loop, .folder = folder, .log = "log", .limit = LIMIT};
    assert_int_equal(hub_create(&o, &hub, &err), 0);
    hub_stream(hub)->receive = receive;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[80];
    hub_destroy(hub);
    loop_destroy(loop);
    close(folder);
    snprintf(command, sizeof command, "rm -rf %s", folder_name);
    return system(command);
}

static void print(const char *text, size_t size)
{
    hub_stream(hub)->ops->write(hub_stream(hub), text, size);
}

static void flush(void)
{
    hub_stream(hub)->ops->flush(hub_stream(hub));
}

static size_t read_all(uint64_t *position, char *data, size_t size)
{
    size_t n, all = 0;
    while (all < size && (n = hub_read(hub, position, data + all, size - all)))
        all += n;
    return all;
}

static size_t log_size(const char *name)
{
    struct stat st;
    return fstatat(folder, name, &st, 0) ? 0 : (size_t)st.st_size;
}

static void stop(void *ctx)
{
    (void)ctx;
    loop_stop(loop);
}

static void run_loop(void) // what is posted already
{
    loop_post(loop, stop, NULL);
    loop_run(loop);
}

static void many_ends(void **state)
{
    (void)state;
    char data[64], log[64];
    uint64_t one = 0, two = 0;
    print("hello\n", 6);
    assert_int_equal(read_all(&one, data, sizeof data), 6);
    print("world\n", 6);
    assert_int_equal(read_all(&one, data, sizeof data), 6);
    assert_memory_equal(data, "world\n", 6);
    assert_int_equal(read_all(&two, data, sizeof data), 12);
    assert_memory_equal(data, "hello\nworld\n", 12);
    assert_int_equal(below_size, 12);
    flush();
    assert_int_equal(log_size("log"), 12);
    int fd = openat(folder, "log", O_RDONLY | O_CLOEXEC);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(read(fd, log, sizeof log), 12);
    assert_memory_equal(log, "hello\nworld\n", 12);
    close(fd);
}

static void slow_readers_lose_the_oldest(void **state)
{
    (void)state;
    static char block[1000], data[2 * RING];
    uint64_t position = 0;
    for (int i = 0; i < 400; i++) {
        memset(block, 'a' + i % 26, sizeof block);
        print(block, sizeof block);
    }
    size_t n = read_all(&position, data, sizeof data);
    assert_int_equal(n, RING);
    assert_int_equal(position, 400000);
    assert_int_equal(data[n - 1], 'a' + 399 % 26);
}

static void the_log_is_bounded(void **state)
{
    (void)state;
    static char block[5000];
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 100; i++) {
        print(block, sizeof block);
        flush();
        assert_true(log_size("log") <= LIMIT / 2 && log_size("log.1") <= LIMIT / 2);
    }
    assert_int_equal(log_size("log.1"), LIMIT / 2);
    assert_true(log_size("log") > 0);
}

static void a_log_that_cannot_be_written(void **state)
{
    (void)state;
    static char block[5000];
    uint64_t position = 0;
    char data[10];
    memset(block, 'x', sizeof block);
    // In the way of both names.
    assert_int_equal(mkdirat(folder, "log.1", 0700), 0);
    unlinkat(folder, "log", 0);
    assert_int_equal(mkdirat(folder, "log", 0700), 0);
    for (int i = 0; i < 20; i++)
        print(block, sizeof block);
    flush();
    assert_int_equal(hub_read(hub, &position, data, sizeof data), sizeof data);
}

static void the_tail(void **state)
{
    (void)state;
    char data[64];
    assert_int_equal(hub_tail(hub, 100), 0);
    print("one\ntwo\nthree\nfo", 16);
    uint64_t position = hub_tail(hub, 10);
    size_t n = read_all(&position, data, sizeof data);
    assert_int_equal(n, 8);
    assert_memory_equal(data, "three\nfo", 8);
    assert_int_equal(hub_tail(hub, 100), 0);
    position = hub_tail(hub, 1); // no line starts in it
    assert_int_equal(position, 15);
}

static _Atomic unsigned told;

static void on_change(void *ctx)
{
    (void)ctx;
    told++;
}

static void typing(void **state)
{
    (void)state;
    static char much[10000];
    memset(much, 'k', sizeof much);
    told = 0;
    hub_watch(hub, on_change, NULL);
    assert_int_equal(hub_type(hub, "ls\n", 3), 3);
    run_loop();
    assert_int_equal(typed_size, 3);
    assert_memory_equal(typed, "ls\n", 3);
    // From below, too.
    assert_int_equal(below.receive(below.ctx, (const uint8_t *)"x", 1), 1);
    assert_int_equal(typed[3], 'x');
    // A guest that reads nothing is given no more than fits, and who types hears of room.
    room = 0;
    size_t n = hub_type(hub, much, sizeof much);
    assert_in_range(n, 1, 4096);
    assert_int_equal(hub_type(hub, "y", 1), 0);
    run_loop();
    assert_int_equal(typed_size, 4);
    assert_int_equal(told, 0);
    room = 1000;
    hub_stream(hub)->ops->ready(hub_stream(hub));
    run_loop();
    assert_int_equal(typed_size, 1004);
    assert_int_equal(told, 1);
    assert_in_range(hub_type(hub, much, sizeof much), 1, 1000);
}

static void who_waits_is_told_once(void **state)
{
    (void)state;
    char data[16];
    uint64_t position = 0;
    told = 0;
    hub_watch(hub, on_change, NULL);
    print("a", 1);
    assert_int_equal(told, 0); // nobody has asked
    assert_int_equal(read_all(&position, data, sizeof data), 1);
    print("b", 1);
    print("c", 1);
    assert_int_equal(told, 1);
    hub_watch(hub, NULL, NULL);
    read_all(&position, data, sizeof data);
    print("d", 1);
    assert_int_equal(told, 1);
}

int main(void)
{
#define HUB_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        HUB_TEST(many_ends),
        HUB_TEST(slow_readers_lose_the_oldest),
        HUB_TEST(the_log_is_bounded),
        HUB_TEST(a_log_that_cannot_be_written),
        HUB_TEST(the_tail),
        HUB_TEST(typing),
        HUB_TEST(who_waits_is_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
