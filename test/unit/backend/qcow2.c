// qcow2 images, judged by QEMU's own tools: both write at random into the same images and must agree on every byte, and
// `qemu-img check` must find nothing wrong. Skipped where qemu-img is missing: what tells of formats and refusals is in
// qcow2_refusals.c.
//
// What a disk should hold is kept in a file beside it ("truth"), written by the same random steps.
#include "backend/qcow2/qcow2.h"
#include "backend/disk.h"
#include "unit.h"
#include "wait.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1 << 20, SIZE = 6 * MIB + 1536, PIECE = 192 << 10 };

static char folder[64];
static uint8_t truth[SIZE], back[SIZE];
static uint64_t seed = 88172645463325252ull;

static uint64_t dice(uint64_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (seed >> 11) % n;
}

static int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *fmt, ...)
{
    char command[2048];
    int n = snprintf(command, sizeof command, "cd %s && { ", folder);
    va_list ap;
    va_start(ap, fmt);
    n += vsnprintf(command + n, sizeof command - (size_t)n, fmt, ap);
    va_end(ap);
    snprintf(command + n, sizeof command - (size_t)n, "; } >log 2>&1");
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void shell_ok(int status)
{
    if (status) {
        char text[600] = "";
        char path[100];
        snprintf(path, sizeof path, "%s/log", folder);
        FILE *f = fopen(path, "r");
        size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
        text[n] = 0;
        fail_msg("status %d: %s", status, text);
    }
}

static bool no_qemu(void)
{
    if (!shell("qemu-img --version && qemu-io --version"))
        return false;
    print_message("qemu-img and qemu-io (qemu-utils) are missing\n");
    return true;
}

static const char *in_folder(const char *name)
{
    static char path[2][128];
    static unsigned turn;
    char *p = path[turn++ % 2];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

// --- requests

static int run(struct disk *d, enum disk_op op, uint64_t offset, uint64_t length, void *data)
{
    struct disk_segment seg[2] = {{data, length / 3}, {data ? (char *)data + length / 3 : NULL, length - length / 3}};
    return submit(d, op, offset, length, seg, 2);
}

static struct disk *open_ok(const char *name, bool readonly)
{
    struct disk *d = NULL;
    struct error e;
    struct disk_options o = {.path = in_folder(name), .readonly = readonly, .format = DISK_QCOW2};
    if (disk_open(&o, NULL, &d, &e))
        fail_msg("%s", e.text);
    return d;
}

static void compare(const uint8_t *a, const uint8_t *b, const char *who)
{
    for (size_t i = 0; i < SIZE; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte 0x%zx is %02x, should be %02x", who, i, a[i], b[i]);
}

static void verify_ours(const char *name)
{
    struct disk *d = open_ok(name, true);
    assert_int_equal(d->size, SIZE);
    for (uint64_t at = 0; at < SIZE;) { // in odd pieces
        uint64_t n = 512 * (1 + dice(300));
        n = n < SIZE - at ? n : SIZE - at;
        assert_int_equal(run(d, DISK_READ, at, n, back + at), 0);
        at += n;
    }
    d->ops->close(d);
    compare(back, truth, "read by us");
}

static void verify_theirs(const char *name)
{
    shell_ok(shell("qemu-img convert -f qcow2 -O raw %s %s.raw", name, name));
    char raw[64];
    snprintf(raw, sizeof raw, "%s.raw", name);
    int fd = open(in_folder(raw), O_RDONLY);
    assert_int_equal(read(fd, back, SIZE), SIZE);
    close(fd);
    compare(back, truth, "read by qemu-img");
}

static void check_clean(const char *name)
{
    struct qcow2_check c;
    struct error e;
    if (qcow2_check(in_folder(name), false, &c, &e))
        fail_msg("%s", e.text);
    if (c.corruptions || c.leaks)
        fail_msg("%s: %llu corruptions (%s), %llu leaks", name, (unsigned long long)c.corruptions, c.first,
                 (unsigned long long)c.leaks);
    shell_ok(shell("qemu-img check -f qcow2 %s", name));
}

// --- random steps

static void random_range(uint64_t *at, uint64_t *length)
{
    *length = 512 * (1 + dice(dice(4) ? 40 : PIECE / 512));
    *at = 512 * dice((SIZE - *length) / 512 + 1);
    if (!dice(3)) { // whole clusters are what discards are about
        *at &= ~65535ull;
        *length = (*length + 65535) & ~65535ull;
        if (*length > SIZE - *at)
            *length = SIZE - *at;
    }
}

static void our_step(struct disk *d)
{
    uint64_t at, length, what = dice(10);
    random_range(&at, &length);
    if (what < 6) {
        for (uint64_t i = 0; i < length; i++)
            truth[at + i] = (uint8_t)(dice(255) + 1);
        assert_int_equal(run(d, DISK_WRITE, at, length, truth + at), 0);
    } else if (what == 6) {
        memset(truth + at, 0, length);
        assert_int_equal(run(d, DISK_WRITE_ZEROES, at, length, NULL), 0);
    } else if (what == 7) { // a hint: old or zero, but nothing else
        assert_int_equal(run(d, DISK_DISCARD, at, length, NULL), 0);
        assert_int_equal(run(d, DISK_READ, at, length, back + at), 0);
        for (uint64_t i = at; i < at + length; i++)
            if (back[i] && back[i] != truth[i])
                fail_msg("discard made byte 0x%llx %02x", (unsigned long long)i, back[i]);
        memcpy(truth + at, back + at, length);
    } else if (what == 8) {
        assert_int_equal(run(d, DISK_FLUSH, 0, 0, NULL), 0);
    } else {
        assert_int_equal(run(d, DISK_READ, at, length, back + at), 0);
        assert_memory_equal(back + at, truth + at, length);
    }
}

static void our_turn(const char *name, unsigned steps)
{
    struct disk *d = open_ok(name, false);
    while (steps--)
        our_step(d);
    d->ops->close(d);
}

static void their_turn(const char *name, unsigned steps, uint64_t cluster)
{
    FILE *f = fopen(in_folder("script"), "w");
    while (steps--) {
        uint64_t at, length, what = dice(8);
        uint8_t value = (uint8_t)(1 + dice(255));
        random_range(&at, &length);
        if (!steps) {
            at = cluster * dice(SIZE / cluster - 2);
            length = cluster * (1 + dice(2));
        }
        if (!steps) {
            // Only what is not allocated can be written compressed, a cluster at a time; and only at the end, because
            // QEMU goes on packing into a cluster even if that has been freed and taken for something else.
            fprintf(f, "discard %llu %llu\n", (unsigned long long)at, (unsigned long long)length);
            for (uint64_t i = at; i < at + length; i += cluster)
                fprintf(f, "write -c -P %u %llu %llu\n", value, (unsigned long long)i, (unsigned long long)cluster);
        } else if (what == 6) {
            value = 0;
            fprintf(f, "write -z -u %llu %llu\n", (unsigned long long)at, (unsigned long long)length);
        } else {
            fprintf(f, "write -P %u %llu %llu\n", value, (unsigned long long)at, (unsigned long long)length);
        }
        memset(truth + at, value, length);
    }
    fclose(f);
    shell_ok(shell("qemu-io -d unmap -f qcow2 %s <script && ! grep -i -E 'failed|error' log", name));
}

static void both_sides(const char *options, uint64_t cluster)
{
    memset(truth, 0, SIZE);
    print_message("%s\n", options);
    shell_ok(shell("rm -f a; qemu-img create -q -f qcow2 -o %s a %d", options, SIZE));
    for (unsigned round = 0; round < 3; round++) {
        our_turn("a", 60);
        check_clean("a");
        verify_theirs("a");
        verify_ours("a");
        their_turn("a", 30, cluster);
        verify_ours("a");
        check_clean("a");
    }
}

static void random_both_sides(void **state)
{
    (void)state;
    if (no_qemu())
        skip();
    both_sides("cluster_size=65536", 65536);
    both_sides("cluster_size=512", 512);
    both_sides("cluster_size=2M", 2 * MIB);
    both_sides("cluster_size=4096,compat=0.10", 4096);
    both_sides("cluster_size=65536,lazy_refcounts=on", 65536);
    both_sides("cluster_size=16384,refcount_bits=1", 16384);
    both_sides("cluster_size=1024,refcount_bits=64", 1024);
    both_sides("cluster_size=65536,compression_type=zstd", 65536);
    both_sides("cluster_size=65536,preallocation=metadata", 65536);
}

// --- creating

static void created(void **state)
{
    (void)state;
    struct error e;
    static const uint32_t clusters[] = {512, 4096, 65536, 2 * MIB};
    for (unsigned i = 0; i < sizeof clusters / sizeof *clusters; i++) {
        unlink(in_folder("c"));
        memset(truth, 0, SIZE);
        struct qcow2_options o = {
            .path = in_folder("c"), .size = SIZE, .cluster = clusters[i], .lazy_refcounts = i & 1};
        if (qcow2_create(&o, &e))
            fail_msg("%s", e.text);
        assert_int_equal(qcow2_create(&o, &e), -EEXIST);
        verify_ours("c");
        our_turn("c", 50);
        verify_ours("c");
        if (!no_qemu()) {
            check_clean("c");
            verify_theirs("c");
        }
    }
    // A large one: many refcount blocks and a large L1 table from the start.
    unlink(in_folder("c"));
    struct qcow2_options o = {.path = in_folder("c"), .size = 256ull << 30, .cluster = 512};
    assert_int_equal(qcow2_create(&o, &e), -EFBIG);
    o.cluster = 1024;
    assert_int_equal(qcow2_create(&o, &e), 0);
    if (!no_qemu())
        check_clean("c");
}

static void overlays(void **state)
{
    (void)state;
    struct error e;
    if (no_qemu())
        skip();
    for (size_t i = 0; i < SIZE; i++)
        truth[i] = (uint8_t)dice(256);
    // A raw base that is shorter than what lies on it, a qcow2 in between with compressed clusters, one of ours on top.
    int fd = open(in_folder("base"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, truth, SIZE / 2 + 100), SIZE / 2 + 100);
    close(fd);
    memset(truth + SIZE / 2 + 100, 0, SIZE - SIZE / 2 - 100);
    shell_ok(shell("rm -f m o o2; qemu-img create -q -f qcow2 -b base -F raw m %d", SIZE));
    their_turn("m", 20, 65536);
    unlink(in_folder("o"));
    struct qcow2_options o = {.path = in_folder("o"), .backing = "m", .backing_format = "qcow2"};
    if (qcow2_create(&o, &e))
        fail_msg("%s", e.text);
    verify_ours("o");
    for (unsigned round = 0; round < 3; round++) {
        our_turn("o", 60);
        verify_ours("o");
        verify_theirs("o");
        check_clean("o");
        their_turn("o", 20, 65536);
        verify_ours("o");
    }
    // The base is being read: nobody may open it for writing.
    struct disk *d = open_ok("o", false), *second;
    assert_int_equal(disk_open(&(struct disk_options){.path = in_folder("m")}, NULL, &second, &e), -EBUSY);
    d->ops->close(d);
    // Version 2 can't say zero: writing zeroes writes them, discarding leaves what is there.
    shell_ok(shell("qemu-img create -q -f qcow2 -o compat=0.10 -b m -F qcow2 o2"));
    shell_ok(shell("qemu-img convert -O raw m m.raw"));
    fd = open(in_folder("m.raw"), O_RDONLY);
    assert_int_equal(read(fd, truth, SIZE), SIZE);
    close(fd);
    our_turn("o2", 100);
    verify_ours("o2");
    verify_theirs("o2");
    check_clean("o2");
}

static void compressed(void **state)
{
    (void)state;
    if (no_qemu())
        skip();
    for (size_t i = 0; i < SIZE; i++)
        truth[i] = (uint8_t)(i / 1000 % 7 ? i / 50000 : dice(256));
    int fd = open(in_folder("plain"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, truth, SIZE), SIZE);
    close(fd);
    static const char *const how[] = {"compression_type=zlib", "compression_type=zstd", "cluster_size=2M",
                                      "cluster_size=512"};
    for (unsigned i = 0; i < 4; i++) {
        shell_ok(shell("rm -f z; qemu-img convert -c -f raw -O qcow2 -o %s plain z", how[i]));
        verify_ours("z");
        check_clean("z");
        our_turn("z", 60);
        verify_ours("z");
        verify_theirs("z");
        check_clean("z");
        fd = open(in_folder("plain"), O_RDONLY);
        assert_int_equal(read(fd, truth, SIZE), SIZE);
        close(fd);
    }
}

static void snapshots_stay(void **state)
{
    (void)state;
    static uint8_t then[SIZE];
    if (no_qemu())
        skip();
    memset(truth, 0, SIZE);
    shell_ok(shell("rm -f s; qemu-img create -q -f qcow2 -o cluster_size=4096 s %d", SIZE));
    our_turn("s", 100);
    their_turn("s", 20, 4096);
    shell_ok(shell("qemu-img snapshot -c first s"));
    memcpy(then, truth, SIZE);
    check_clean("s");
    our_turn("s", 200);
    check_clean("s");
    verify_ours("s");
    verify_theirs("s");
    shell_ok(shell("qemu-img snapshot -a first s"));
    memcpy(truth, then, SIZE);
    verify_ours("s");
    our_turn("s", 50);
    shell_ok(shell("qemu-img snapshot -d first s"));
    check_clean("s");
    verify_theirs("s");
}

// The file grows until its reftable has to: clusters of 512 bytes have a small one.
static void grows(void **state)
{
    (void)state;
    struct error e;
    enum { BIG = 96 * MIB };
    unlink(in_folder("g"));
    struct qcow2_options o = {.path = in_folder("g"), .size = BIG, .cluster = 512};
    assert_int_equal(qcow2_create(&o, &e), 0);
    struct disk *d = open_ok("g", false);
    for (uint64_t at = 0; at < BIG; at += MIB) {
        memset(back, (int)(at / MIB + 1), MIB);
        assert_int_equal(run(d, DISK_WRITE, at, MIB, back), 0);
    }
    d->ops->close(d);
    d = open_ok("g", true);
    for (uint64_t at = 0; at < BIG; at += MIB) {
        assert_int_equal(run(d, DISK_READ, at, MIB, back), 0);
        for (unsigned i = 0; i < MIB; i++)
            assert_int_equal(back[i], (uint8_t)(at / MIB + 1));
    }
    d->ops->close(d);
    struct qcow2_check c;
    assert_int_equal(qcow2_check(in_folder("g"), false, &c, &e), 0);
    assert_int_equal(c.corruptions, 0);
    assert_int_equal(c.leaks, 0);
    if (!no_qemu())
        check_clean("g");
}

// Many requests at a time, whose sectors share clusters.
static void many_at_once(void **state)
{
    (void)state;
    struct error e;
    enum { N = 1500 };
    static struct disk_request r[N];
    static struct disk_segment s[N];
    struct wait w = WAIT_INIT;
    memset(truth, 0, SIZE);
    unlink(in_folder("p"));
    struct qcow2_options o = {.path = in_folder("p"), .size = SIZE, .cluster = 4096};
    assert_int_equal(qcow2_create(&o, &e), 0);
    struct disk *d = open_ok("p", false);
    for (unsigned i = 0; i < N; i++) {
        uint64_t at = 1024 * (uint64_t)((i * 1009u) % N) * 4;
        for (unsigned k = 0; k < 1024; k++)
            truth[at + k] = (uint8_t)(dice(255) + 1);
        s[i] = (struct disk_segment){truth + at, 1024};
        r[i] = (struct disk_request){.op = i % 50 ? DISK_WRITE : DISK_FLUSH,
                                     .offset = at,
                                     .length = 1024,
                                     .seg = &s[i],
                                     .segs = 1,
                                     .done = wait_done,
                                     .owner = &w};
        if (i % 50 == 0)
            memset(truth + at, 0, 1024);
        d->ops->submit(d, &r[i]);
    }
    d->ops->drain(d);
    assert_int_equal(w.done, N);
    assert_int_equal(w.failed, 0);
    d->ops->close(d);
    verify_ours("p");
    if (!no_qemu())
        check_clean("p");
}

// The host's disk is full (a limit on the file's size does as well): requests fail, and nothing else is harmed.
static void host_is_full(void **state)
{
    (void)state;
    struct error e;
    struct rlimit before, small = {MIB, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    for (uint32_t cluster = 512; cluster <= 65536; cluster *= 128) {
        memset(truth, 0, SIZE);
        unlink(in_folder("f"));
        struct qcow2_options o = {.path = in_folder("f"), .size = SIZE, .cluster = cluster};
        assert_int_equal(qcow2_create(&o, &e), 0);
        struct disk *d = open_ok("f", false);
        our_step(d);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        small.rlim_max = before.rlim_max;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        unsigned failed = 0;
        for (unsigned i = 0; i < 200; i++) {
            uint64_t at, length;
            random_range(&at, &length);
            memset(back + at, (int)i, length);
            if (run(d, DISK_WRITE, at, length, back + at)) {
                failed++;
                assert_int_equal(run(d, DISK_READ, at, length, back + at), 0); // parts of it may have been written
            }
            memcpy(truth + at, back + at, length);
            if (i % 20 == 19)
                run(d, DISK_FLUSH, 0, 0, NULL);
        }
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_true(failed > 0);
        d->ops->close(d);
        verify_ours("f");
        if (!no_qemu()) {
            check_clean("f");
            verify_theirs("f");
        }
    }
}

// --- kill -9

// A child writes block after block, each with its number in it, and tells through a pipe which have been flushed.
static void write_until_killed(const char *name, int tell)
{
    struct disk *d = open_ok(name, false);
    static uint8_t block[20 << 10];
    for (uint32_t n = 0;; n++) {
        uint64_t at = (uint64_t)(n * 7919u % (SIZE / sizeof block)) * sizeof block;
        memset(block, (int)(n % 255 + 1), sizeof block);
        if (run(d, DISK_WRITE, at, sizeof block, block))
            _exit(1);
        if (n % 16 == 5 && run(d, DISK_DISCARD, dice(SIZE / 65536) * 65536, 65536, NULL))
            _exit(1);
        if (n % 24 == 23) {
            if (run(d, DISK_FLUSH, 0, 0, NULL))
                _exit(1);
            (void)!write(tell, &n, sizeof n);
        }
    }
}

static void killed(const char *options)
{
    for (unsigned round = 0; round < 6; round++) {
        shell_ok(shell("[ -e k -a %u -ne 0 ] || { rm -f k; qemu-img create -q -f qcow2 -o %s k %d; }", round, options,
                       SIZE));
        int tell[2];
        assert_int_equal(pipe(tell), 0);
        pid_t child = fork();
        if (!child)
            write_until_killed("k", tell[1]);
        close(tell[1]);
        uint32_t n;
        assert_int_equal(read(tell[0], &n, sizeof n), sizeof n);
        usleep((useconds_t)dice(60000));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        close(tell[0]);
        // 0: clean; 3: leaks. With lazy refcounts it is dirty, and whoever opens it next counts.
        struct qcow2_check c;
        struct error e;
        if (!strstr(options, "lazy")) {
            assert_int_equal(qcow2_check(in_folder("k"), false, &c, &e), 0);
            if (c.corruptions)
                fail_msg("%s", c.first);
            status = shell("qemu-img check -f qcow2 k");
            if (status != 3)
                shell_ok(status);
        }
        struct disk *d = open_ok("k", false);
        for (uint64_t at = 0; at < SIZE; at += MIB / 2) {
            uint64_t length = SIZE - at < MIB / 2 ? SIZE - at : MIB / 2;
            assert_int_equal(run(d, DISK_READ, at, length, back), 0);
        }
        assert_int_equal(run(d, DISK_WRITE, 0, 512, back), 0);
        d->ops->close(d);
        status = shell("qemu-img check -f qcow2 k");
        if (status != 3 || strstr(options, "lazy"))
            shell_ok(status);
        assert_int_equal(qcow2_check(in_folder("k"), true, &c, &e), 0);
        assert_int_equal(c.corruptions, 0);
        check_clean("k");
    }
}

static void killed_while_writing(void **state)
{
    (void)state;
    if (no_qemu())
        skip();
    killed("cluster_size=65536");
    killed("cluster_size=512");
    killed("cluster_size=4096,lazy_refcounts=on");
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/trapeze-qcow2-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(created),      cmocka_unit_test(random_both_sides), cmocka_unit_test(overlays),
        cmocka_unit_test(compressed),   cmocka_unit_test(snapshots_stay),    cmocka_unit_test(grows),
        cmocka_unit_test(many_at_once), cmocka_unit_test(host_is_full),      cmocka_unit_test(killed_while_writing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
