// Escape keys and the output buffer.
#include "backend/keys.h"
#include "backend/output.h"
#include "unit.h"
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

static char pressed[16];
static size_t presses;

static void on_key(void *ctx, enum key_action a)
{
    (void)ctx;
    pressed[presses++] = "qbh"[a];
}

static void escapes(void **state)
{
    (void)state;
    struct keys k;
    keys_init(&k, on_key, NULL);
    presses = 0;
    uint8_t one[] = "ls\x01xpwd\x01\x01 a\x01";
    size_t n = keys_filter(&k, one, sizeof one - 1);
    assert_int_equal(n, 8);
    assert_memory_equal(one, "lspwd\x01 a", n);
    uint8_t two[] = "p\x01hz"; // the escape went over two reads
    n = keys_filter(&k, two, sizeof two - 1);
    assert_int_equal(n, 1);
    assert_int_equal(two[0], 'z');
    assert_int_equal(presses, 3);
    assert_memory_equal(pressed, "qbh", 3);
}

static size_t read_all(int fd, char *buf, size_t size)
{
    size_t n = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (n < size && poll(&p, 1, 300) > 0) {
        ssize_t got = read(fd, buf + n, size - n);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    return n;
}

static void passes_everything_in_order(void **state)
{
    (void)state;
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    struct output *o;
    struct error e;
    assert_int_equal(output_create(&o, fd[1], OUTPUT_WAIT, &e), 0);
    enum { N = 20000 };
    static uint32_t in[N], back[N];
    for (uint32_t i = 0; i < N; i++) {
        in[i] = i * 2654435761u;
        output_write(o, &in[i], sizeof in[i]);
    }
    assert_int_equal(read_all(fd[0], (char *)back, sizeof back), sizeof back);
    assert_memory_equal(in, back, sizeof in);
    output_destroy(o);
    close(fd[0]);
    close(fd[1]);
}

static void keeps_the_newest_for_a_late_reader(void **state)
{
    (void)state;
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    struct output *o;
    struct error e;
    assert_int_equal(output_create(&o, -1, OUTPUT_DROP, &e), 0);
    enum { N = 200000 };
    for (uint32_t i = 0; i < N; i++)
        output_write(o, &i, sizeof i);
    output_fd(o, fd[1]);
    static uint32_t back[N];
    size_t n = read_all(fd[0], (char *)back, sizeof back) / sizeof *back;
    assert_true(n > 50000 && n < N); // 256 KiB of 800 KB
    for (size_t i = 0; i < n; i++)
        assert_int_equal(back[i], N - n + i);
    output_destroy(o);
    close(fd[0]);
    close(fd[1]);
}

static void a_full_pipe_never_hangs_the_end(void **state)
{
    (void)state;
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    struct output *o;
    struct error e;
    assert_int_equal(output_create(&o, fd[1], OUTPUT_DROP, &e), 0);
    static char block[400000];
    output_write(o, block, sizeof block); // far more than the pipe and the buffer take
    output_destroy(o);
    close(fd[0]);
    close(fd[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escapes),
        cmocka_unit_test(passes_everything_in_order),
        cmocka_unit_test(keeps_the_newest_for_a_late_reader),
        cmocka_unit_test(a_full_pipe_never_hangs_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
