// The host's clocks: they move, never back, and the counter's frequency is what the monotonic clock says.
#include "host/clock.h"
#include "host/cpuid.h"
#include "host/random.h"
#include "unit.h"
#include <stdlib.h>
#include <time.h>

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

// Counter ticks against CLOCK_MONOTONIC_RAW over 100 ms, in ppm of the frequency that was found. NTP may steer
// CLOCK_MONOTONIC by up to 500 ppm, so the raw clock is the judge. A reading may be interrupted between the two clocks:
// take the best of some.
static int64_t drift_ppm(const struct host_counter *c)
{
    int64_t ticks[2], ns[2];
    for (int end = 0; end < 2; end++) {
        uint64_t width = UINT64_MAX;
        for (int i = 0; i < 50; i++) {
            struct timespec ts;
            uint64_t before = host_counter_read(c);
            clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
            uint64_t after = host_counter_read(c);
            if (after - before < width) {
                width = after - before;
                ticks[end] = (int64_t)(before + width / 2);
                ns[end] = ts.tv_sec * 1000000000 + ts.tv_nsec;
            }
        }
        if (!end)
            sleep_ms(100);
    }
    int64_t expected = (ns[1] - ns[0]) * (int64_t)c->khz / 1000000;
    return (ticks[1] - ticks[0] - expected) * 1000000 / expected;
}

static void counter_runs_at_its_frequency(void **state)
{
    (void)state;
    struct host_counter c;
    host_counter_find(&c, 0, NULL);
    print_message("%u kHz, from %s\n", c.khz, c.source);
    assert_in_range(c.khz, 1000, 10000000);
    int64_t ppm = drift_ppm(&c);
    print_message("drift %lld ppm\n", (long long)ppm);
    if (c.is_tsc) // CLOCK_MONOTONIC itself may be steered
        assert_in_range(labs(ppm), 0, 10);
}

static void a_hint_is_taken_if_it_is_right(void **state)
{
    (void)state;
    struct host_counter c, again;
    host_counter_find(&c, 0, NULL);
    if (!c.is_tsc)
        skip();
    uint64_t start = host_monotonic_ns();
    host_counter_find(&again, c.khz + c.khz / 20000, NULL); // 50 ppm off
    uint64_t took = host_monotonic_ns() - start;
    assert_int_equal(again.khz, c.khz + c.khz / 20000);
    print_message("%llu us\n", (unsigned long long)took / 1000);
    host_counter_find(&again, c.khz / 2, NULL); // wrong
    assert_true(labs((long)again.khz - (long)c.khz) < c.khz / 10000);
}

static void clocks_never_go_back(void **state)
{
    (void)state;
    struct host_counter c;
    host_counter_find(&c, 0, NULL);
    uint64_t ns = 0, ticks = 0;
    for (int i = 0; i < 100000; i++) {
        uint64_t now = host_monotonic_ns(), t = host_counter_read(&c);
        assert_true(now >= ns && t >= ticks);
        ns = now;
        ticks = t;
    }
    int64_t seconds;
    uint32_t nanoseconds;
    host_wall(&seconds, &nanoseconds);
    assert_true(llabs(seconds - time(NULL)) <= 1);
    assert_in_range(nanoseconds, 0, 999999999);
}

static void cpuid_is_the_hosts(void **state)
{
    (void)state;
    struct cpuid_regs r = host_cpuid(0, 0);
    assert_true(r.eax >= 1);
    assert_true(r.ebx && r.ecx && r.edx);  // the vendor's name
    assert_true(host_cpuid(1, 0).edx & 1); // FPU
}

static void random_bytes_differ(void **state)
{
    (void)state;
    uint8_t a[1000] = {0}, b[1000] = {0};
    host_random(a, sizeof a);
    host_random(b, sizeof b);
    assert_true(memcmp(a, b, sizeof a));
    unsigned zeros = 0;
    for (size_t i = 0; i < sizeof a; i++)
        zeros += !a[i];
    assert_in_range(zeros, 0, 40); // 4 are expected; chance of more than 40 is nil
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counter_runs_at_its_frequency), cmocka_unit_test(a_hint_is_taken_if_it_is_right),
        cmocka_unit_test(clocks_never_go_back),          cmocka_unit_test(cpuid_is_the_hosts),
        cmocka_unit_test(random_bytes_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
