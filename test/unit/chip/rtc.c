// The clock: reading and setting the time in all formats, its flags and interrupts, alarms, CMOS RAM, saving. The
// virtual wall clock starts at 2000-01-01 00:00:00, a Saturday.
#include "chip/rtc.h"
#include "fake_vm.h"
#include "unit.h"

enum { GSI = 8 };
enum { S = 1000000000 };

struct bench {
    struct fake_vm f;
    struct rtc *rtc;
};

static void bench_init(struct bench *b)
{
    struct error err;
    memset(b, 0, sizeof *b);
    fake_vm_init(&b->f, 1);
    assert_int_equal(rtc_create(&b->f.vm, GSI, &b->rtc, &err), 0);
    fake_vm_reset(&b->f);
}

static uint8_t get(struct bench *b, uint8_t reg)
{
    fake_vm_out(&b->f, 0x70, 1, reg);
    return fake_vm_in(&b->f, 0x71, 1);
}

static void set(struct bench *b, uint8_t reg, uint8_t v)
{
    fake_vm_out(&b->f, 0x70, 1, reg);
    fake_vm_out(&b->f, 0x71, 1, v);
}

static void assert_time(struct bench *b, unsigned century, unsigned year, unsigned month, unsigned day,
                        unsigned weekday, unsigned hour, unsigned minute, unsigned second)
{
    assert_int_equal(get(b, 0x32), century);
    assert_int_equal(get(b, 9), year);
    assert_int_equal(get(b, 8), month);
    assert_int_equal(get(b, 7), day);
    assert_int_equal(get(b, 6), weekday);
    assert_int_equal(get(b, 4), hour);
    assert_int_equal(get(b, 2), minute);
    assert_int_equal(get(b, 0), second);
}

static void reading(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    assert_time(&b, 0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0);
    assert_int_equal(get(&b, 0x0d), 0x80);
    fake_vm_advance(&b.f, (59 * 86400ull + 13 * 3600 + 45 * 60 + 59) * S); // over a leap day
    assert_time(&b, 0x20, 0x00, 0x02, 0x29, 3, 0x13, 0x45, 0x59);
    set(&b, 0x0b, 0x06); // binary
    assert_time(&b, 20, 0, 2, 29, 3, 13, 45, 59);
    set(&b, 0x0b, 0x00); // BCD, 12 hours
    assert_int_equal(get(&b, 4), 0x81);
    fake_vm_advance(&b.f, 11 * 3600ull * S);
    assert_int_equal(get(&b, 4), 0x12); // midnight
    fake_vm_advance(&b.f, 12 * 3600ull * S);
    assert_int_equal(get(&b, 4), 0x92); // noon
    fake_vm_destroy(&b.f);
}

static void update_in_progress(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    fake_vm_advance(&b.f, S - 300000);
    assert_int_equal(get(&b, 0x0a), 0x26);
    fake_vm_advance(&b.f, 100000);
    assert_int_equal(get(&b, 0x0a), 0xa6);
    fake_vm_advance(&b.f, 200000);
    assert_int_equal(get(&b, 0x0a), 0x26);
    assert_int_equal(get(&b, 0), 1);
    fake_vm_destroy(&b.f);
}

static void setting(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    // As Linux does it: SET, divider reset, the time, and on again: half a second to the next update.
    set(&b, 0x0b, 0x82);
    set(&b, 0x0a, 0x76);
    static const uint8_t time[][2] = {{0x32, 0x19}, {9, 0x99}, {8, 0x12}, {7, 0x31}, {4, 0x23}, {2, 0x59}, {0, 0x58}};
    for (unsigned i = 0; i < 7; i++)
        set(&b, time[i][0], time[i][1]);
    fake_vm_advance(&b.f, 10ull * S); // stands still
    assert_int_equal(get(&b, 0), 0x58);
    set(&b, 0x0b, 0x02);
    set(&b, 0x0a, 0x26);
    fake_vm_advance(&b.f, S / 2 - 1);
    assert_time(&b, 0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58);
    fake_vm_advance(&b.f, 1);
    assert_int_equal(get(&b, 0), 0x59);
    fake_vm_advance(&b.f, S);
    assert_time(&b, 0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0);
    // A single register of the running clock.
    set(&b, 4, 0x15);
    assert_int_equal(get(&b, 4), 0x15);
    set(&b, 8, 0x02);
    set(&b, 7, 0x30); // February 30: March 1
    assert_int_equal(get(&b, 8), 0x03);
    assert_int_equal(get(&b, 7), 0x01);
    // The battery keeps it over a reset.
    fake_vm_reset(&b.f);
    assert_int_equal(get(&b, 4), 0x15);
    // All values of all registers are survived.
    for (unsigned reg = 0; reg < 128; reg++)
        for (unsigned v = 0; v < 256; v += 5)
            set(&b, reg, v);
    fake_vm_advance(&b.f, 86400ull * S);
    get(&b, 0);
    fake_vm_destroy(&b.f);
}

static void update_interrupt(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    fake_vm_advance(&b.f, 100);
    get(&b, 0x0c);
    assert_int_equal(get(&b, 0x0c), 0);
    fake_vm_advance(&b.f, S);
    assert_int_equal(get(&b, 0x0c), 0x50); // flags come without interrupts, too
    set(&b, 0x0b, 0x12);
    fake_vm_advance(&b.f, S - 101);
    assert_false(b.f.line[GSI]);
    fake_vm_advance(&b.f, 1);
    assert_true(b.f.line[GSI]);
    assert_int_equal(get(&b, 0x0c) & 0x90, 0x90);
    assert_false(b.f.line[GSI]);
    assert_int_equal(b.f.rises[GSI], 1);
    fake_vm_advance(&b.f, 10ull * S); // unread, it stays up
    assert_int_equal(b.f.rises[GSI], 2);
    set(&b, 0x0b, 0x92); // SET clears its enable bit
    assert_int_equal(get(&b, 0x0b), 0x82);
    fake_vm_destroy(&b.f);
}

static void periodic_interrupt(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    set(&b, 0x0a, 0x2f); // 2 Hz
    set(&b, 0x0b, 0x42);
    unsigned n = 0;
    for (unsigned i = 0; i < 100; i++) {
        fake_vm_advance(&b.f, S / 10);
        if (b.f.line[GSI]) {
            n++;
            assert_int_equal(get(&b, 0x0c) & 0xc0, 0xc0);
        }
    }
    assert_int_equal(n, 20);
    set(&b, 0x0a, 0x20); // none
    get(&b, 0x0c);
    fake_vm_advance(&b.f, 10ull * S);
    assert_false(b.f.line[GSI]);
    set(&b, 0x0a, 0x21); // 1: as 8, 256 Hz
    fake_vm_advance(&b.f, 3906250);
    assert_true(b.f.line[GSI]);
    fake_vm_destroy(&b.f);
}

// The next period may begin while register C is being read. The line has to go down all the same: without an edge there
// is no further interrupt. The host's clock goes on during the reading, as it does for guests.
static void reading_takes_the_line_down(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    vm_clock_host(&b.f.vm.clock, 0, NULL);
    set(&b, 0x0a, 0x23); // 8192 Hz
    set(&b, 0x0b, 0x42);
    for (uint64_t end = vm_clock_ns(&b.f.vm.clock) + S / 10; vm_clock_ns(&b.f.vm.clock) < end;) {
        get(&b, 0x0c);
        assert_false(b.f.line[GSI]);
    }
    fake_vm_destroy(&b.f);
}

static void alarms(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    set(&b, 1, 0x05);
    set(&b, 3, 0x30);
    set(&b, 5, 0x02);
    set(&b, 0x0b, 0x22);
    get(&b, 0x0c);
    fake_vm_advance(&b.f, (2 * 3600 + 30 * 60 + 4) * (uint64_t)S);
    assert_false(b.f.line[GSI]);
    fake_vm_advance(&b.f, S);
    assert_true(b.f.line[GSI]);
    assert_int_equal(get(&b, 0x0c) & 0xa0, 0xa0);
    fake_vm_advance(&b.f, 86399ull * S);
    assert_false(b.f.line[GSI]);
    fake_vm_advance(&b.f, S);
    assert_true(b.f.line[GSI]);
    get(&b, 0x0c);
    // "Any": every hour and every minute at second 10.
    set(&b, 1, 0x10);
    set(&b, 3, 0xff);
    set(&b, 5, 0xc0);
    unsigned n = 0;
    for (unsigned i = 0; i < 7200; i += 5) {
        fake_vm_advance(&b.f, 5ull * S);
        if (b.f.line[GSI]) {
            n++;
            assert_int_equal(get(&b, 0), 0x10);
            get(&b, 0x0c);
        }
    }
    assert_int_equal(n, 120);
    // Minute 7 of any hour, any second: once a second there.
    set(&b, 1, 0xff);
    set(&b, 3, 0x07);
    n = 0;
    for (unsigned i = 0; i < 3600; i++) {
        fake_vm_advance(&b.f, S);
        if (b.f.line[GSI]) {
            n++;
            get(&b, 0x0c);
        }
    }
    assert_int_equal(n, 60);
    set(&b, 3, 0x75); // never
    get(&b, 0x0c);
    fake_vm_advance(&b.f, 86400ull * S);
    assert_false(b.f.line[GSI]);
    fake_vm_destroy(&b.f);
}

static void ram(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    for (unsigned i = 14; i < 128; i++)
        if (i != RTC_CENTURY)
            set(&b, i | 0x80, i * 3);
    fake_vm_reset(&b.f);
    for (unsigned i = 14; i < 128; i++)
        if (i != RTC_CENTURY)
            assert_int_equal(get(&b, i), (uint8_t)(i * 3));
    assert_int_equal(fake_vm_in(&b.f, 0x70, 1), 0xff);
    fake_vm_destroy(&b.f);
}

static void saves_and_loads(void **state)
{
    (void)state;
    struct bench b, c;
    bench_init(&b);
    bench_init(&c);
    set(&b, 4, 0x21);
    set(&b, 0x20, 0x77);
    set(&b, 0x0b, 0x12);
    assert_int_equal(fake_vm_copy_state(&b.rtc->dev, &c.rtc->dev), 0);
    assert_int_equal(get(&c, 4), 0x21);
    assert_int_equal(get(&c, 0x20), 0x77);
    fake_vm_advance(&c.f, S);
    assert_true(c.f.line[GSI]);
    b.rtc->offset_seconds = INT64_MIN;
    assert_true(fake_vm_copy_state(&b.rtc->dev, &c.rtc->dev) < 0);
    fake_vm_destroy(&b.f);
    fake_vm_destroy(&c.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reading),
        cmocka_unit_test(update_in_progress),
        cmocka_unit_test(setting),
        cmocka_unit_test(update_interrupt),
        cmocka_unit_test(periodic_interrupt),
        cmocka_unit_test(reading_takes_the_line_down),
        cmocka_unit_test(alarms),
        cmocka_unit_test(ram),
        cmocka_unit_test(saves_and_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
