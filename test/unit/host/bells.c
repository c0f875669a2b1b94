// Doorbells: each rings its own function, on the bells' thread, and none is lost.
#include "host/bells.h"
#include "unit.h"
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { BELLS = 40, RINGS = 1000 };

static atomic_uint heard[BELLS];
static pthread_t on;

static void ring(int fd)
{
    assert_int_equal(write(fd, &(uint64_t){1}, 8), 8);
}

static void hear(void *ctx)
{
    on = pthread_self();
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

static void wait_for(atomic_uint *count, unsigned least)
{
    for (unsigned n = 0; n < 10000 && atomic_load(count) < least; n++)
        usleep(1000);
    assert_true(atomic_load(count) >= least);
}

static void each_rings_its_own(void **state)
{
    (void)state;
    struct bells *b;
    struct error err;
    int fd[BELLS];
    assert_int_equal(bells_create(&b, "bells", &err), 0);
    for (unsigned n = 0; n < BELLS; n++)
        assert_true((fd[n] = bells_add(b, hear, &heard[n], &err)) > 0);
    ring(fd[7]);
    wait_for(&heard[7], 1);
    assert_false(pthread_equal(on, pthread_self()));
    for (unsigned n = 0; n < BELLS; n++)
        assert_int_equal(heard[n], n == 7);
    for (unsigned n = 0; n < BELLS; n++)
        ring(fd[n]);
    for (unsigned n = 0; n < BELLS; n++)
        wait_for(&heard[n], 1 + (n == 7));
    bells_destroy(b);
}

static atomic_uint seen, rung;

static void look(void *ctx)
{
    (void)ctx;
    atomic_store(&seen, atomic_load(&rung));
}

// Rings may come together, but the last of them is always heard.
static void the_last_ring_is_heard(void **state)
{
    (void)state;
    struct bells *b;
    struct error err;
    assert_int_equal(bells_create(&b, "bells", &err), 0);
    int fd = bells_add(b, look, NULL, &err);
    for (unsigned n = 0; n < RINGS; n++) {
        atomic_fetch_add(&rung, 1);
        ring(fd);
    }
    wait_for(&seen, RINGS);
    ring(fd);
    bells_destroy(b); // whether it was heard or not
    bells_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rings_its_own),
        cmocka_unit_test(the_last_ring_is_heard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
