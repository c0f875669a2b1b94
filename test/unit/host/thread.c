// Threads and futexes: names, blocked signals, waits that end in time, wakes that are not lost.
#include "host/thread.h"
#include "host/clock.h"
#include "unit.h"
#include <pthread.h>
#include <signal.h>

static void look_around(void *ctx)
{
    char *name = ctx;
    sigset_t blocked;
    pthread_getname_np(pthread_self(), name, 16);
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    name[31] = (char)sigismember(&blocked, SIGTERM);
}

static void has_a_name_and_no_signals(void **state)
{
    (void)state;
    char name[32] = {0};
    struct thread *t;
    for (int i = 0; i < 50; i++) { // the name must be there when the thread begins
        assert_int_equal(thread_create(&t, "a-name-that-is-too-long", look_around, name, NULL), 0);
        thread_join(t);
        assert_string_equal(name, "a-name-that-is-");
        assert_int_equal(name[31], 1);
    }
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    assert_false(sigismember(&blocked, SIGTERM));
}

static void waits_end(void **state)
{
    (void)state;
    _Atomic uint32_t word = 1;
    uint64_t start = host_monotonic_ns();
    futex_wait(&word, 0, HOST_NEVER); // another value: at once
    futex_wait(&word, 1, start);      // the past: at once
    while (host_monotonic_ns() < start + 3000000)
        futex_wait(&word, 1, start + 3000000);
    assert_true(host_monotonic_ns() - start < 1000000000);
}

enum { ROUNDS = 20000 };

struct pingpong {
    _Atomic uint32_t turn;
};

static void pong(void *ctx)
{
    struct pingpong *p = ctx;
    for (unsigned i = 0; i < ROUNDS; i++) {
        while (p->turn != 1)
            futex_wait(&p->turn, 0, HOST_NEVER);
        p->turn = 0;
        futex_wake(&p->turn, 1);
    }
}

static void no_wake_is_lost(void **state)
{
    (void)state;
    struct pingpong p = {0};
    struct thread *t;
    assert_int_equal(thread_create(&t, "pong", pong, &p, NULL), 0);
    uint64_t start = host_monotonic_ns();
    for (unsigned i = 0; i < ROUNDS; i++) {
        p.turn = 1;
        futex_wake(&p.turn, 1);
        while (p.turn != 0)
            futex_wait(&p.turn, 1, HOST_NEVER);
    }
    print_message("%llu ns a round trip\n", (unsigned long long)(host_monotonic_ns() - start) / ROUNDS);
    thread_join(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_a_name_and_no_signals),
        cmocka_unit_test(waits_end),
        cmocka_unit_test(no_wake_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
