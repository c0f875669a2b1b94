// Timers under the virtual clock: order, re-arming, cancelling, and timers that never rest.
#include "fake_vm.h"
#include "unit.h"
#include <stdlib.h>

enum { TIMERS = 50 };

struct ticker {
    struct device dev;
    struct vm_timer timer[TIMERS];
    unsigned fired[TIMERS];
    uint64_t when[TIMERS], last;
    uint64_t period; // re-arms itself
    int cancels;     // a timer that it cancels when it fires, or -1
    bool ordered;
};

static void on_timer(struct device *d, struct vm_timer *t)
{
    struct ticker *k = (struct ticker *)d;
    unsigned i = (unsigned)(t - k->timer);
    uint64_t now = vm_clock_ns(&d->vm->clock);
    if (now < k->last)
        k->ordered = false;
    k->last = now;
    k->fired[i]++;
    k->when[i] = now;
    if (k->period)
        vm_timer_set(t, now + k->period);
    if (k->cancels >= 0)
        vm_timer_cancel(&k->timer[k->cancels]);
}

static void on_timer_backwards(struct device *d, struct vm_timer *t)
{
    ((struct ticker *)d)->fired[0]++;
    vm_timer_set(t, 0);
}

static const struct device_ops ticker_ops = {.name = "ticker"};

struct bed {
    struct fake_vm f;
    struct ticker k;
};

static int setup(void **state)
{
    static struct bed bed;
    memset(&bed, 0, sizeof bed);
    bed.k.cancels = -1;
    bed.k.ordered = true;
    fake_vm_init(&bed.f, 4);
    device_add(&bed.f.vm, &bed.k.dev, &ticker_ops, "ticker");
    for (unsigned i = 0; i < TIMERS; i++) {
        vm_timer_init(&bed.k.timer[i], &bed.k.dev, on_timer);
        if (i % 3 == 0) // some belong to vCPUs
            vm_timer_bind(&bed.k.timer[i], i % 4);
    }
    *state = &bed;
    return 0;
}

static int teardown(void **state)
{
    fake_vm_destroy(&((struct bed *)*state)->f);
    return 0;
}

static void runs_in_order_at_the_right_time(void **state)
{
    struct bed *bed = *state;
    uint64_t deadline[TIMERS];
    srandom(1);
    for (unsigned i = 0; i < TIMERS; i++) {
        deadline[i] = (uint64_t)random() % 1000 * 1000;
        vm_timer_set(&bed->k.timer[i], 1); // set twice: only the second counts
        vm_timer_set(&bed->k.timer[i], deadline[i]);
    }
    for (unsigned i = 0; i < TIMERS; i += 7)
        vm_timer_cancel(&bed->k.timer[i]);
    fake_vm_advance(&bed->f, 400000);
    for (unsigned i = 0; i < TIMERS; i++)
        assert_int_equal(bed->k.fired[i], i % 7 && deadline[i] <= 400000);
    fake_vm_advance(&bed->f, 700000);
    assert_int_equal(vm_clock_ns(&bed->f.vm.clock), 1100000);
    for (unsigned i = 0; i < TIMERS; i++) {
        assert_int_equal(bed->k.fired[i], i % 7 != 0);
        if (i % 7)
            assert_int_equal(bed->k.when[i], deadline[i]);
    }
    assert_true(bed->k.ordered);
}

static void periodic(void **state)
{
    struct bed *bed = *state;
    bed->k.period = 1000;
    vm_timer_set(&bed->k.timer[0], 1000);
    vm_timer_set(&bed->k.timer[1], 1500);
    fake_vm_advance(&bed->f, 1000000);
    assert_int_equal(bed->k.fired[0], 1000);
    assert_int_equal(bed->k.fired[1], 999);
}

static void cancelled_by_another_at_the_same_time(void **state)
{
    struct bed *bed = *state;
    bed->k.cancels = 2;
    vm_timer_set(&bed->k.timer[1], 1000);
    vm_timer_set(&bed->k.timer[2], 1000);
    vm_timer_set(&bed->k.timer[4], 900);
    fake_vm_advance(&bed->f, 2000);
    assert_int_equal(bed->k.fired[1], 1);
    assert_int_equal(bed->k.fired[2], 0);
}

static void never_and_past(void **state)
{
    struct bed *bed = *state;
    vm_timer_set(&bed->k.timer[1], VM_TIMER_NEVER);
    fake_vm_advance(&bed->f, 1ull << 60);
    assert_int_equal(bed->k.fired[1], 0);
    vm_timer_set(&bed->k.timer[1], 5); // long past
    fake_vm_advance(&bed->f, 0);
    assert_int_equal(bed->k.fired[1], 1);
}

static void one_that_never_rests_is_bounded(void **state)
{
    struct bed *bed = *state;
    struct vm_timer t;
    vm_timer_init(&t, &bed->k.dev, on_timer_backwards);
    vm_timer_set(&t, 0);
    fake_vm_advance(&bed->f, 1000);
    assert_true(bed->k.fired[0] >= 1000 && bed->k.fired[0] <= 40 * 1001);
    assert_int_equal(vm_clock_ns(&bed->f.vm.clock), 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(runs_in_order_at_the_right_time, setup, teardown),
        cmocka_unit_test_setup_teardown(periodic, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelled_by_another_at_the_same_time, setup, teardown),
        cmocka_unit_test_setup_teardown(never_and_past, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_never_rests_is_bounded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
