// The 8254: what each mode counts and puts out, latches, read-back, the gate, and channel 0's interrupts.
#include "chip/pit.h"
#include "fake_vm.h"
#include "unit.h"

enum { GSI = 2 };

struct bench {
    struct fake_vm f;
    struct pit *pit;
    uint64_t clocks; // how far the test has gone
};

static void bench_init(struct bench *b)
{
    struct error err;
    memset(b, 0, sizeof *b);
    fake_vm_init(&b->f, 1);
    assert_int_equal(pit_create(&b->f.vm, GSI, &b->pit, &err), 0);
    fake_vm_reset(&b->f);
    b->f.rises[GSI] = b->f.falls[GSI] = 0;
}

// To exactly so many clocks from the beginning.
static void go(struct bench *b, uint64_t clocks)
{
    b->clocks += clocks;
    uint64_t ns = ((unsigned __int128)b->clocks * 1000000000 + PIT_HZ - 1) / PIT_HZ;
    fake_vm_advance(&b->f, ns - vm_clock_ns(&b->f.vm.clock));
}

static void out(struct bench *b, uint16_t port, uint8_t v)
{
    fake_vm_out(&b->f, port, 1, v);
}

static uint8_t in(struct bench *b, uint16_t port)
{
    return fake_vm_in(&b->f, port, 1);
}

static void program(struct bench *b, unsigned channel, unsigned mode, uint16_t count)
{
    out(b, 0x43, channel << 6 | 0x30 | mode << 1);
    out(b, 0x40 + channel, count);
    out(b, 0x40 + channel, count >> 8);
}

static uint16_t count(struct bench *b, unsigned channel)
{
    out(b, 0x43, channel << 6);
    uint8_t low = in(b, 0x40 + channel);
    return in(b, 0x40 + channel) << 8 | low;
}

static bool out2(struct bench *b)
{
    return in(b, 0x61) & 0x20;
}

static void mode_0(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    out(&b, 0x61, 1);
    program(&b, 2, 0, 1000);
    assert_false(out2(&b));
    go(&b, 400);
    assert_int_equal(count(&b, 2), 600);
    out(&b, 0x61, 0); // the gate holds the count
    go(&b, 5000);
    assert_int_equal(count(&b, 2), 600);
    out(&b, 0x61, 1);
    go(&b, 599);
    assert_false(out2(&b));
    go(&b, 1);
    assert_true(out2(&b));
    go(&b, 1);
    assert_int_equal(count(&b, 2), 0xffff); // goes on around
    assert_true(out2(&b));
    out(&b, 0x42, 16); // half a new count stops it
    assert_false(out2(&b));
    out(&b, 0x42, 0);
    go(&b, 16);
    assert_true(out2(&b));
    fake_vm_destroy(&b.f);
}

static void modes_1_and_5(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    program(&b, 2, 1, 100);
    assert_true(out2(&b));
    go(&b, 1000);
    assert_true(out2(&b));
    out(&b, 0x61, 1); // the trigger
    assert_false(out2(&b));
    go(&b, 60);
    out(&b, 0x61, 0);
    out(&b, 0x61, 1); // again
    go(&b, 99);
    assert_false(out2(&b));
    assert_int_equal(count(&b, 2), 1);
    go(&b, 1);
    assert_true(out2(&b));
    out(&b, 0x61, 0);
    program(&b, 2, 5, 100);
    out(&b, 0x61, 1);
    go(&b, 99);
    assert_true(out2(&b));
    go(&b, 1);
    assert_false(out2(&b));
    go(&b, 1);
    assert_true(out2(&b));
    fake_vm_destroy(&b.f);
}

static void mode_2(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    out(&b, 0x61, 1);
    program(&b, 2, 2, 1000);
    go(&b, 2500);
    assert_int_equal(count(&b, 2), 500);
    assert_true(out2(&b));
    go(&b, 499);
    assert_int_equal(count(&b, 2), 1);
    assert_false(out2(&b));
    go(&b, 1);
    assert_int_equal(count(&b, 2), 1000);
    go(&b, 10);
    out(&b, 0x42, 100); // counts from the next period on
    out(&b, 0x42, 0);
    assert_int_equal(count(&b, 2), 990);
    out(&b, 0x43, 0xe8); // status: null count, for the new one is not loaded
    assert_int_equal(in(&b, 0x42), 0xc0 | 0x30 | 2 << 1);
    go(&b, 990);
    assert_int_equal(count(&b, 2), 100);
    out(&b, 0x61, 0);
    assert_true(out2(&b));
    out(&b, 0x61, 1); // the gate's rise begins a period
    go(&b, 30);
    assert_int_equal(count(&b, 2), 70);
    fake_vm_destroy(&b.f);
}

static void mode_3(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    out(&b, 0x61, 1);
    program(&b, 2, 3, 1001);
    go(&b, 500);
    assert_true(out2(&b)); // high for 501
    assert_int_equal(count(&b, 2), 0);
    go(&b, 1);
    assert_false(out2(&b));
    assert_int_equal(count(&b, 2), 1000); // counts by two
    go(&b, 499);
    assert_false(out2(&b));
    go(&b, 1);
    assert_true(out2(&b));
    go(&b, 10);
    program(&b, 2, 3, 1000);
    go(&b, 600);
    out(&b, 0x42, 100); // from the end of this, the low half
    out(&b, 0x42, 0);
    go(&b, 399);
    assert_false(out2(&b));
    go(&b, 1);
    assert_true(out2(&b));
    go(&b, 50);
    assert_false(out2(&b));
    go(&b, 50);
    out(&b, 0x42, 200); // in the high half: from its end, so the low half is long
    out(&b, 0x42, 0);
    go(&b, 50);
    assert_false(out2(&b));
    go(&b, 99);
    assert_false(out2(&b));
    go(&b, 1);
    assert_true(out2(&b));
    fake_vm_destroy(&b.f);
}

static void latches(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    program(&b, 0, 2, 0); // 65536
    go(&b, 0x1234);
    out(&b, 0x43, 0);
    go(&b, 0x100);
    out(&b, 0x43, 0); // the first one stays
    assert_int_equal(in(&b, 0x40), (0x10000 - 0x1234) & 0xff);
    assert_int_equal(in(&b, 0x40), (0x10000 - 0x1234) >> 8);
    assert_int_equal(count(&b, 0), 0x10000 - 0x1334);
    assert_int_equal(in(&b, 0x40), (0x10000 - 0x1334) & 0xff); // unlatched: low, high
    assert_int_equal(in(&b, 0x40), (0x10000 - 0x1334) >> 8);
    out(&b, 0x43, 0xc2); // read-back: status, then count
    assert_int_equal(in(&b, 0x40), 0xb4);
    assert_int_equal(in(&b, 0x40), (0x10000 - 0x1334) & 0xff);
    assert_int_equal(in(&b, 0x40), (0x10000 - 0x1334) >> 8);
    out(&b, 0x43, 0x14); // low byte only
    out(&b, 0x40, 100);
    go(&b, 30);
    assert_int_equal(in(&b, 0x40), 70);
    assert_int_equal(in(&b, 0x40), 70);
    out(&b, 0x43, 0x24); // high byte only
    out(&b, 0x40, 2);
    go(&b, 1);
    assert_int_equal(in(&b, 0x40), 1);
    out(&b, 0x43, 0x35); // decimal
    out(&b, 0x40, 0x00);
    out(&b, 0x40, 0x20);
    go(&b, 1);
    assert_int_equal(count(&b, 0), 0x1999);
    assert_int_equal(in(&b, 0x43), 0xff);
    fake_vm_destroy(&b.f);
}

static void interrupts(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    program(&b, 0, 2, 11932);
    for (unsigned i = 1; i <= 5; i++) {
        b.f.rises[GSI] = 0;
        go(&b, 11931);
        assert_int_equal(b.f.rises[GSI], 0);
        go(&b, 1);
        assert_int_equal(b.f.rises[GSI], 1);
    }
    program(&b, 0, 0, 500);
    assert_false(b.f.line[GSI]);
    go(&b, 500);
    assert_true(b.f.line[GSI]);
    unsigned rises = b.f.rises[GSI];
    go(&b, 100000);
    assert_int_equal(b.f.rises[GSI], rises); // only one
    program(&b, 0, 4, 500);
    go(&b, 501);
    assert_int_equal(b.f.rises[GSI], rises + 1);
    go(&b, 100000);
    assert_int_equal(b.f.rises[GSI], rises + 1);
    // The shortest period does not drown the host.
    program(&b, 0, 2, 2);
    rises = b.f.rises[GSI];
    go(&b, PIT_HZ / 100);
    assert_in_range(b.f.rises[GSI] - rises, 50, 101);
    fake_vm_destroy(&b.f);
}

static void saves_and_loads(void **state)
{
    (void)state;
    struct bench b, c;
    bench_init(&b);
    bench_init(&c);
    program(&b, 0, 2, 1000);
    go(&b, 300);
    go(&c, 300);
    out(&b, 0x40, 0x55); // half of a count
    assert_int_equal(fake_vm_copy_state(&b.pit->dev, &c.pit->dev), 0);
    assert_int_equal(count(&c, 0), 700);
    c.f.rises[GSI] = 0;
    go(&c, 700);
    assert_int_equal(c.f.rises[GSI], 1);
    out(&c, 0x40, 0);
    go(&c, 1000);
    assert_int_equal(count(&c, 0), 0x55);
    b.pit->channel[1].count = 0; // would be divided by
    assert_true(fake_vm_copy_state(&b.pit->dev, &c.pit->dev) < 0);
    fake_vm_destroy(&b.f);
    fake_vm_destroy(&c.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mode_0),          cmocka_unit_test(modes_1_and_5), cmocka_unit_test(mode_2),
        cmocka_unit_test(mode_3),          cmocka_unit_test(latches),       cmocka_unit_test(interrupts),
        cmocka_unit_test(saves_and_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
