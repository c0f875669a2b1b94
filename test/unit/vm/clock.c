// The virtual clock: exact conversions, scaling, pauses, and many threads that read it while it is paused and resumed.
#include "vm/clock.h"
#include "host/clock.h"
#include "host/thread.h"
#include "unit.h"
#include "vm/timer.h"
#include <stdlib.h>
#include <time.h>

static void sleep_us(long us)
{
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static void converts_exactly(void **state)
{
    (void)state;
    static const uint32_t khz[] = {1000, 1000000, 2596138, 3000000, 4294967295};
    struct vm_clock c;
    srandom(7);
    for (size_t i = 0; i < sizeof khz / sizeof khz[0]; i++) {
        vm_clock_virtual(&c, khz[i]);
        for (int n = 0; n < 100000; n++) {
            uint64_t tsc = ((uint64_t)random() << 31 | (uint64_t)random()) >> random() % 62;
            unsigned __int128 ns = ((unsigned __int128)tsc * 1000000 + khz[i] - 1) / khz[i];
            assert_true(vm_clock_tsc_to_ns(&c, tsc) == (ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns));
            // Waiting for a deadline in ns that was made from ticks is never too short.
            uint64_t at = vm_clock_tsc_to_ns(&c, tsc);
            if (at < UINT64_MAX / 10) {
                c.virtual_ns = at;
                assert_true(vm_clock_tsc(&c) >= tsc);
                if (at) {
                    c.virtual_ns = at - 1;
                    assert_true(vm_clock_tsc(&c) < tsc);
                }
            }
        }
        assert_true(vm_clock_tsc_to_ns(&c, 0) == 0);
        assert_true(vm_clock_tsc_to_ns(&c, 1) == (khz[i] >= 1000000 ? 1 : 1000));
    }
    vm_clock_virtual(&c, 1000);
    assert_true(vm_clock_tsc_to_ns(&c, UINT64_MAX) == VM_TIMER_NEVER);
}

static void virtual_time_stands(void **state)
{
    (void)state;
    struct vm_clock c;
    vm_clock_virtual(&c, 2000000);
    sleep_us(1000);
    assert_int_equal(vm_clock_ns(&c), 0);
    c.virtual_ns = 1500000000;
    assert_int_equal(vm_clock_tsc(&c), 3000000000);
    int64_t seconds;
    uint32_t nanoseconds;
    vm_clock_wall(&c, &seconds, &nanoseconds);
    assert_int_equal(seconds, 946684801);
    assert_int_equal(nanoseconds, 500000000);
}

// The guest's clock against the host's over 50 ms, one to one and with another frequency.
static void runs_with_the_host(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct vm_clock c;
        vm_clock_host(&c, 0, NULL);
        if (i)
            vm_clock_host(&c, i == 1 ? c.tsc_khz / 2 + 7 : c.tsc_khz * 5 / 4, NULL);
        uint64_t ns = vm_clock_ns(&c), tsc = vm_clock_tsc(&c), host = host_monotonic_ns();
        assert_true(ns < 100000000); // begins at zero
        sleep_us(50000);
        uint64_t ns2 = vm_clock_ns(&c), tsc2 = vm_clock_tsc(&c), host2 = host_monotonic_ns();
        int64_t off = (int64_t)(ns2 - ns) - (int64_t)(host2 - host);
        print_message("%u kHz: %lld ns off\n", c.tsc_khz, (long long)off);
        // NTP may steer the host's clock by 500 ppm, 25 us; the rest is for being interrupted between the readings.
        assert_true(llabs(off) < 5000000);
        assert_true(llabs((int64_t)(tsc2 - tsc) - (int64_t)((ns2 - ns) * c.tsc_khz / 1000000)) <
                    5000000ll * c.tsc_khz / 1000000);
    }
}

static void a_pause_takes_no_time(void **state)
{
    (void)state;
    struct vm_clock c;
    vm_clock_host(&c, 0, NULL);
    vm_clock_pause(&c);
    uint64_t tsc = vm_clock_tsc(&c);
    sleep_us(20000);
    vm_clock_pause(&c); // once is enough
    assert_true(vm_clock_tsc(&c) == tsc);
    vm_clock_resume(&c);
    uint64_t after = vm_clock_tsc(&c);
    assert_true(after >= tsc && after - tsc < (uint64_t)c.tsc_khz * 15);
    vm_clock_resume(&c);
    assert_true(vm_clock_tsc(&c) >= after && vm_clock_tsc(&c) - tsc < (uint64_t)c.tsc_khz * 15);
}

struct reader {
    struct vm_clock *clock;
    _Atomic uint32_t *done;
    uint64_t backwards;
    _Atomic uint64_t reads;
};

static void read_on(void *ctx)
{
    struct reader *r = ctx;
    uint64_t last = 0;
    while (!*r->done) {
        uint64_t now = vm_clock_tsc(r->clock);
        r->backwards += now < last;
        last = now;
        r->reads++;
    }
}

static void never_goes_back_for_any_reader(void **state)
{
    (void)state;
    struct vm_clock c;
    _Atomic uint32_t done = 0;
    vm_clock_host(&c, 0, NULL);
    struct reader reader[2];
    struct thread *thread[2];
    for (int i = 0; i < 2; i++) {
        reader[i] = (struct reader){.clock = &c, .done = &done};
        assert_int_equal(thread_create(&thread[i], "reader", read_on, &reader[i], NULL), 0);
    }
    while (!reader[0].reads || !reader[1].reads) // on a busy host that may be a while
        sleep_us(100);
    for (int i = 0; i < 3000; i++) {
        vm_clock_pause(&c);
        if (i % 100 == 0)
            sleep_us(100);
        vm_clock_resume(&c);
        if (i % 100 == 0)
            sleep_us(100);
    }
    done = 1;
    for (int i = 0; i < 2; i++) {
        thread_join(thread[i]);
        assert_int_equal(reader[i].backwards, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(converts_exactly),
        cmocka_unit_test(virtual_time_stands),
        cmocka_unit_test(runs_with_the_host),
        cmocka_unit_test(a_pause_takes_no_time),
        cmocka_unit_test(never_goes_back_for_any_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
