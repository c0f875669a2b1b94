// The keyboard controller: what drivers ask when they look for it, the interrupt, resets, saving.
#include "chip/i8042.h"
#include "fake_vm.h"
#include "unit.h"

enum { GSI = 1 };

struct bench {
    struct fake_vm f;
    struct i8042 *k;
};

static void bench_init(struct bench *b)
{
    struct error err;
    memset(b, 0, sizeof *b);
    fake_vm_init(&b->f, 1);
    assert_int_equal(i8042_create(&b->f.vm, GSI, &b->k, &err), 0);
    fake_vm_reset(&b->f);
}

static void command(struct bench *b, uint8_t v)
{
    fake_vm_out(&b->f, 0x64, 1, v);
}

static void data(struct bench *b, uint8_t v)
{
    fake_vm_out(&b->f, 0x60, 1, v);
}

static int answer(struct bench *b)
{
    return fake_vm_in(&b->f, 0x64, 1) & 1 ? (int)fake_vm_in(&b->f, 0x60, 1) : -1;
}

static void controller(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    assert_int_equal(fake_vm_in(&b.f, 0x64, 1), 0x14);
    command(&b, 0xaa);
    assert_int_equal(answer(&b), 0x55);
    command(&b, 0xab);
    assert_int_equal(answer(&b), 0);
    command(&b, 0x20);
    assert_int_equal(answer(&b), 0x64);
    command(&b, 0x60);
    data(&b, 0x05);
    command(&b, 0x20);
    assert_int_equal(answer(&b), 0x05);
    assert_int_equal(answer(&b), -1);
    // No mouse: what is looped back lacks the mouse's mark, and the port test fails.
    command(&b, 0xd3);
    data(&b, 0x5a);
    assert_int_equal(fake_vm_in(&b.f, 0x64, 1) & 0x21, 0x01);
    assert_int_equal(answer(&b), 0x5a);
    command(&b, 0xa9);
    assert_int_not_equal(answer(&b), 0);
    command(&b, 0xd4);
    data(&b, 0xff);
    assert_int_equal(answer(&b), 0xfe);
    assert_int_equal(b.f.vm.end, VM_END_NONE);
    fake_vm_destroy(&b.f);
}

static void keyboard(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    command(&b, 0x60);
    data(&b, 0x05); // with interrupts
    data(&b, 0xff);
    assert_true(b.f.line[GSI]);
    assert_int_equal(answer(&b), 0xfa);
    assert_int_equal(b.f.rises[GSI], 2); // each byte is an edge
    assert_int_equal(answer(&b), 0xaa);
    assert_false(b.f.line[GSI]);
    data(&b, 0xf2);
    assert_int_equal(answer(&b), 0xfa);
    assert_int_equal(answer(&b), 0xab);
    assert_int_equal(answer(&b), 0x83);
    data(&b, 0xed);
    assert_int_equal(answer(&b), 0xfa);
    data(&b, 0x07);
    assert_int_equal(answer(&b), 0xfa);
    data(&b, 0xf0);
    answer(&b);
    data(&b, 0);
    assert_int_equal(answer(&b), 0xfa);
    assert_int_equal(answer(&b), 2);
    data(&b, 0xee);
    assert_int_equal(answer(&b), 0xee);
    data(&b, 0x11); // unknown
    assert_int_equal(answer(&b), 0xfe);
    for (unsigned i = 0; i < 100; i++)
        data(&b, 0xf2); // nobody reads
    unsigned n = 0;
    while (answer(&b) >= 0)
        n++;
    assert_int_equal(n, I8042_QUEUE);
    fake_vm_destroy(&b.f);
}

static void resets(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    command(&b, 0xfe);
    assert_int_equal(b.f.vm.end, VM_END_RESET);
    fake_vm_destroy(&b.f);
    bench_init(&b);
    command(&b, 0xd0);
    assert_int_equal(answer(&b), 3);
    command(&b, 0xd1);
    data(&b, 1); // A20 only
    assert_int_equal(fake_vm_in(&b.f, 0x92, 1), 0);
    fake_vm_out(&b.f, 0x92, 1, 2);
    command(&b, 0xd0);
    assert_int_equal(answer(&b), 3);
    assert_int_equal(b.f.vm.end, VM_END_NONE);
    fake_vm_out(&b.f, 0x92, 1, 3);
    assert_int_equal(b.f.vm.end, VM_END_RESET);
    fake_vm_destroy(&b.f);
    bench_init(&b);
    command(&b, 0xd1);
    data(&b, 0xfe);
    assert_int_equal(b.f.vm.end, VM_END_RESET);
    fake_vm_destroy(&b.f);
}

static void saves_and_loads(void **state)
{
    (void)state;
    struct bench b, c;
    bench_init(&b);
    bench_init(&c);
    command(&b, 0x60);
    data(&b, 0x05);
    data(&b, 0xee);
    assert_int_equal(fake_vm_copy_state(&b.k->dev, &c.k->dev), 0);
    assert_true(c.f.line[GSI]);
    assert_int_equal(answer(&c), 0xee);
    b.k->queue_start = I8042_QUEUE;
    assert_true(fake_vm_copy_state(&b.k->dev, &c.k->dev) < 0);
    fake_vm_destroy(&b.f);
    fake_vm_destroy(&c.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(controller),
        cmocka_unit_test(keyboard),
        cmocka_unit_test(resets),
        cmocka_unit_test(saves_and_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
