// Signals as events of the loop.
#include "host/signal.h"
#include "unit.h"
#include <signal.h>
#include <unistd.h>

struct bed {
    struct loop *loop;
    struct signal_watch *watch;
    int got[8];
    unsigned count;
};

static void on_signal(void *ctx, int signal)
{
    struct bed *bed = ctx;
    bed->got[bed->count++] = signal;
    if (signal == SIGUSR2) {
        signal_unwatch(bed->watch); // inside of its own callback
        loop_stop(bed->loop);
    }
}

static void come_on_the_loop(void **state)
{
    (void)state;
    struct bed bed = {0};
    struct error err;
    assert_int_equal(loop_create(&bed.loop, &err), 0);
    bed.watch = signal_watch(bed.loop, (int[]){SIGUSR1, SIGUSR2}, 2, on_signal, &bed, &err);
    assert_non_null(bed.watch);
    kill(getpid(), SIGUSR1);
    assert_int_equal(bed.count, 0); // not before the loop runs
    kill(getpid(), SIGUSR2);
    loop_run(bed.loop);
    assert_int_equal(bed.count, 2);
    assert_int_equal(bed.got[0], SIGUSR1);
    assert_int_equal(bed.got[1], SIGUSR2);
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    assert_false(sigismember(&now, SIGUSR1));
    loop_destroy(bed.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(come_on_the_loop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
