// The event loop: sources, removal inside of callbacks, posts from other threads, the timer, stopping.
#include "host/loop.h"
#include "host/clock.h"
#include "host/thread.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

struct bed {
    struct loop *loop;
    int pair[2]; // a connected pair of sockets
    struct loop_source *a, *b;
    unsigned calls, events, posts;
    uint64_t when;
};

static int setup(void **state)
{
    static struct bed bed;
    memset(&bed, 0, sizeof bed);
    struct error err;
    assert_int_equal(loop_create(&bed.loop, &err), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, bed.pair), 0);
    *state = &bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    loop_destroy(bed->loop);
    close(bed->pair[0]);
    close(bed->pair[1]);
    return 0;
}

static void stop(void *ctx)
{
    loop_stop(((struct bed *)ctx)->loop);
}

static void read_and_stop(void *ctx, unsigned events)
{
    struct bed *bed = ctx;
    char c;
    bed->calls++;
    bed->events = events;
    ssize_t n = read(bed->pair[0], &c, 1);
    (void)n;
    loop_stop(bed->loop);
}

static void reports_what_is_ready(void **state)
{
    struct bed *bed = *state;
    bed->a = loop_fd(bed->loop, bed->pair[0], LOOP_READ, read_and_stop, bed);
    assert_int_equal(write(bed->pair[1], "x", 1), 1);
    loop_run(bed->loop);
    assert_int_equal(bed->calls, 1);
    assert_int_equal(bed->events, LOOP_READ);
    loop_fd_events(bed->a, LOOP_READ | LOOP_WRITE);
    loop_run(bed->loop);
    assert_int_equal(bed->events, LOOP_WRITE);
}

static void hang_up_counts_as_read(void **state)
{
    struct bed *bed = *state;
    bed->a = loop_fd(bed->loop, bed->pair[0], LOOP_READ, read_and_stop, bed);
    shutdown(bed->pair[1], SHUT_RDWR);
    loop_run(bed->loop);
    assert_true(bed->events & LOOP_READ);
    // Paused, it is not reported: only the posted stop ends the loop.
    loop_fd_events(bed->a, 0);
    bed->calls = 0;
    loop_timer(bed->loop, host_monotonic_ns() + 20000000, stop, bed);
    loop_run(bed->loop);
    assert_int_equal(bed->calls, 0);
    // And watched for writing only, a hang-up is told all the same.
    loop_fd_events(bed->a, LOOP_WRITE);
    loop_run(bed->loop);
    assert_int_equal(bed->events & LOOP_WRITE, LOOP_WRITE);
}

static void remove_both(void *ctx, unsigned events)
{
    struct bed *bed = ctx;
    (void)events;
    bed->calls++;
    loop_remove(bed->a);
    loop_remove(bed->b);
    loop_fd_events(bed->a, LOOP_READ); // ignored by now
    loop_timer(bed->loop, host_monotonic_ns() + 10000000, stop, bed);
}

// Both sources are ready in the same round; the first callback removes itself and the other.
static void removal_inside_of_a_callback(void **state)
{
    struct bed *bed = *state;
    bed->a = loop_fd(bed->loop, bed->pair[0], LOOP_WRITE, remove_both, bed);
    bed->b = loop_fd(bed->loop, bed->pair[1], LOOP_WRITE, remove_both, bed);
    loop_run(bed->loop);
    assert_int_equal(bed->calls, 1);
    // The descriptors can be watched anew.
    bed->a = loop_fd(bed->loop, bed->pair[0], LOOP_WRITE, read_and_stop, bed);
    assert_non_null(bed->a);
    loop_run(bed->loop);
    assert_int_equal(bed->calls, 2);
}

static void a_regular_file_is_refused(void **state)
{
    struct bed *bed = *state;
    int fd = open("/proc/self/exe", O_RDONLY);
    assert_null(loop_fd(bed->loop, fd, LOOP_READ, read_and_stop, bed));
    assert_int_equal(errno, EPERM);
    close(fd);
}

enum { POSTERS = 4, POSTS = 5000 };

struct poster {
    struct bed *bed;
    unsigned sent, received;
};

struct post {
    struct poster *from;
    unsigned number;
};

static struct post post[POSTERS][POSTS];

static void on_post(void *ctx)
{
    struct post *p = ctx;
    if (p->number == p->from->received) // in order
        p->from->received++;
    if (++p->from->bed->posts == POSTERS * POSTS)
        loop_stop(p->from->bed->loop);
}

static void post_all(void *ctx)
{
    struct poster *p = ctx;
    for (unsigned i = 0; i < POSTS; i++)
        loop_post(p->bed->loop, on_post, &post[p->sent][i]);
}

static void posts_from_threads_come_in_order(void **state)
{
    struct bed *bed = *state;
    struct poster poster[POSTERS];
    struct thread *thread[POSTERS];
    for (unsigned i = 0; i < POSTERS; i++) {
        poster[i] = (struct poster){.bed = bed, .sent = i};
        for (unsigned n = 0; n < POSTS; n++)
            post[i][n] = (struct post){&poster[i], n};
        assert_int_equal(thread_create(&thread[i], "poster", post_all, &poster[i], NULL), 0);
    }
    loop_run(bed->loop);
    for (unsigned i = 0; i < POSTERS; i++) {
        thread_join(thread[i]);
        assert_int_equal(poster[i].received, POSTS);
    }
}

static void note_time(void *ctx)
{
    struct bed *bed = ctx;
    bed->when = host_monotonic_ns();
    bed->calls++;
    loop_stop(bed->loop);
}

static void never_called(void *ctx)
{
    ((struct bed *)ctx)->posts++;
}

static void timer(void **state)
{
    struct bed *bed = *state;
    uint64_t start = host_monotonic_ns();
    loop_timer(bed->loop, start, never_called, bed); // already due, but replaced
    loop_timer(bed->loop, start + 5000000, note_time, bed);
    loop_run(bed->loop);
    assert_true(bed->when >= start + 5000000);
    assert_int_equal(bed->posts, 0);
    loop_timer(bed->loop, 0, note_time, bed); // the past
    loop_run(bed->loop);
    assert_int_equal(bed->calls, 2);
    loop_timer(bed->loop, host_monotonic_ns(), never_called, bed);
    loop_timer(bed->loop, HOST_NEVER, NULL, NULL);
    loop_post(bed->loop, stop, bed);
    loop_run(bed->loop);
    assert_int_equal(bed->posts, 0);
}

static void a_stop_before_the_run_is_not_lost(void **state)
{
    struct bed *bed = *state;
    loop_stop(bed->loop);
    loop_run(bed->loop);
    loop_post(bed->loop, stop, bed); // and is used up
    loop_run(bed->loop);
}

static void what_is_posted_and_never_run_is_freed(void **state)
{
    struct bed *bed = *state;
    loop_post(bed->loop, stop, bed);
    loop_fd(bed->loop, bed->pair[0], LOOP_READ, read_and_stop, bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reports_what_is_ready, setup, teardown),
        cmocka_unit_test_setup_teardown(hang_up_counts_as_read, setup, teardown),
        cmocka_unit_test_setup_teardown(removal_inside_of_a_callback, setup, teardown),
        cmocka_unit_test_setup_teardown(a_regular_file_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(posts_from_threads_come_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(timer, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stop_before_the_run_is_not_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_posted_and_never_run_is_freed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
