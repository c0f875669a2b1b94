// The 8259 pair: edges and levels, priorities, the ways to end an interrupt, cascade, polling, saving.
#include "chip/pic.h"
#include "fake_vm.h"
#include "unit.h"
#include <errno.h>

struct bench {
    struct fake_vm f;
    struct pic *pic;
    bool intr;
    unsigned changes;
};

static void on_intr(void *ctx, bool level)
{
    struct bench *b = ctx;
    b->intr = level;
    b->changes++;
}

static void out(struct bench *b, uint16_t port, uint8_t v)
{
    fake_vm_out(&b->f, port, 1, v);
}

static uint8_t in(struct bench *b, uint16_t port)
{
    return fake_vm_in(&b->f, port, 1);
}

static void initialize(struct bench *b, uint8_t icw4)
{
    static const uint16_t port[] = {0x20, 0xa0};
    static const uint8_t base[] = {0x20, 0x28}, wires[] = {4, 2};
    for (unsigned i = 0; i < 2; i++) {
        out(b, port[i], 0x11);
        out(b, port[i] + 1, base[i]);
        out(b, port[i] + 1, wires[i]);
        out(b, port[i] + 1, icw4);
    }
}

static void bench_init(struct bench *b, uint8_t icw4)
{
    struct error err;
    memset(b, 0, sizeof *b);
    fake_vm_init(&b->f, 1);
    assert_int_equal(pic_create(&b->f.vm, b, on_intr, &b->pic, &err), 0);
    fake_vm_reset(&b->f);
    initialize(b, icw4);
}

static void edges(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    pic_set(b.pic, 4, true);
    assert_true(b.intr);
    assert_int_equal(in(&b, 0x20), 0x10); // IRR
    assert_int_equal(pic_ack(b.pic), 0x24);
    assert_false(b.intr);
    out(&b, 0x20, 0x0b);
    assert_int_equal(in(&b, 0x20), 0x10); // ISR
    out(&b, 0x20, 0x20);
    assert_int_equal(in(&b, 0x20), 0);
    assert_false(b.intr); // still up, but no new edge
    pic_set(b.pic, 4, false);
    pic_set(b.pic, 4, true);
    pic_set(b.pic, 4, false); // a pulse stays latched
    assert_true(b.intr);
    assert_int_equal(pic_ack(b.pic), 0x24);
    assert_int_equal(pic_ack(b.pic), -1);
    fake_vm_destroy(&b.f);
}

static void masks_and_priorities(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    out(&b, 0x21, 0x10);
    pic_set(b.pic, 4, true);
    assert_false(b.intr);
    assert_int_equal(in(&b, 0x21), 0x10);
    out(&b, 0x21, 0);
    assert_true(b.intr);
    assert_int_equal(pic_ack(b.pic), 0x24);
    pic_set(b.pic, 5, true); // lower
    assert_false(b.intr);
    pic_set(b.pic, 1, true); // higher: nests
    assert_int_equal(pic_ack(b.pic), 0x21);
    out(&b, 0x20, 0x20); // ends 1, the higher one
    out(&b, 0x20, 0x0b);
    assert_int_equal(in(&b, 0x20), 0x10);
    out(&b, 0x20, 0x64); // specific EOI of 4
    assert_true(b.intr);
    assert_int_equal(pic_ack(b.pic), 0x25);
    fake_vm_destroy(&b.f);
}

static void rotation(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    pic_set(b.pic, 1, true);
    assert_int_equal(pic_ack(b.pic), 0x21);
    out(&b, 0x20, 0xa0); // rotate on non-specific EOI: 1 becomes the last
    for (unsigned i = 0; i < 8; i++) {
        pic_set(b.pic, i, false);
        if (i != 2)
            pic_set(b.pic, i, true);
    }
    static const uint8_t order[] = {0x23, 0x24, 0x25, 0x26, 0x27, 0x20, 0x21};
    for (unsigned i = 0; i < sizeof order; i++) {
        assert_int_equal(pic_ack(b.pic), order[i]);
        out(&b, 0x20, 0x60 | (order[i] & 7));
    }
    out(&b, 0x20, 0xc0 | 4); // set priority: 5 is first
    pic_set(b.pic, 3, false);
    pic_set(b.pic, 6, false);
    pic_set(b.pic, 3, true);
    pic_set(b.pic, 6, true);
    assert_int_equal(pic_ack(b.pic), 0x26);
    fake_vm_destroy(&b.f);
}

static void levels(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    out(&b, 0x4d0, 0xff);
    out(&b, 0x4d1, 0xff);
    assert_int_equal(in(&b, 0x4d0), 0xf8);
    assert_int_equal(in(&b, 0x4d1), 0xde);
    pic_set(b.pic, 5, true);
    assert_int_equal(pic_ack(b.pic), 0x25);
    out(&b, 0x20, 0x20);
    assert_true(b.intr); // as long as the line is up
    pic_set(b.pic, 5, false);
    assert_false(b.intr);
    assert_int_equal(pic_ack(b.pic), -1);
    fake_vm_destroy(&b.f);
}

static void cascade(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    pic_set(b.pic, 10, true);
    assert_true(b.intr);
    assert_int_equal(in(&b, 0x20), 4);
    assert_int_equal(pic_ack(b.pic), 0x2a);
    pic_set(b.pic, 8, true); // higher on the slave, but the master's line 2 is in service
    assert_false(b.intr);
    pic_set(b.pic, 3, true);
    assert_false(b.intr);
    pic_set(b.pic, 0, true);
    assert_int_equal(pic_ack(b.pic), 0x20);
    out(&b, 0x20, 0x20);
    out(&b, 0x20, 0x20);
    assert_int_equal(pic_ack(b.pic), 0x28);
    out(&b, 0xa0, 0x20);
    out(&b, 0x20, 0x20);
    assert_int_equal(pic_ack(b.pic), 0x23);
    pic_set(b.pic, 2, true); // no such input
    pic_set(b.pic, 16, true);
    out(&b, 0x20, 0x20);
    assert_int_equal(pic_ack(b.pic), -1);
    fake_vm_destroy(&b.f);
}

static void special_modes(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0x11); // special fully nested: the slave may nest in itself
    pic_set(b.pic, 10, true);
    assert_int_equal(pic_ack(b.pic), 0x2a);
    pic_set(b.pic, 3, true); // but nobody below it
    assert_false(b.intr);
    pic_set(b.pic, 8, true);
    assert_true(b.intr);
    assert_int_equal(pic_ack(b.pic), 0x28);
    fake_vm_destroy(&b.f);

    bench_init(&b, 1); // special mask: a masked line in service holds up nobody
    pic_set(b.pic, 1, true);
    assert_int_equal(pic_ack(b.pic), 0x21);
    out(&b, 0x21, 2);
    pic_set(b.pic, 6, true);
    assert_false(b.intr);
    out(&b, 0x20, 0x68);
    assert_true(b.intr);
    assert_int_equal(pic_ack(b.pic), 0x26);
    out(&b, 0x20, 0x20); // ends 6, not the masked 1
    out(&b, 0x20, 0x0b);
    assert_int_equal(in(&b, 0x20), 2);
    fake_vm_destroy(&b.f);

    bench_init(&b, 3); // automatic EOI, with rotation
    out(&b, 0x20, 0x80);
    pic_set(b.pic, 0, true);
    pic_set(b.pic, 1, true);
    assert_int_equal(pic_ack(b.pic), 0x20);
    pic_set(b.pic, 0, false);
    pic_set(b.pic, 0, true); // 0 is the last now
    assert_int_equal(pic_ack(b.pic), 0x21);
    assert_int_equal(pic_ack(b.pic), 0x20);
    assert_int_equal(pic_ack(b.pic), -1);
    fake_vm_destroy(&b.f);
}

static void polling(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    out(&b, 0x20, 0x0c);
    assert_int_equal(in(&b, 0x20) & 0x80, 0);
    pic_set(b.pic, 6, true);
    out(&b, 0x20, 0x0c);
    assert_int_equal(in(&b, 0x20), 0x86);
    assert_false(b.intr);
    assert_int_equal(in(&b, 0x20), 0); // an ordinary read again: IRR
    out(&b, 0x20, 0x0b);
    assert_int_equal(in(&b, 0x20), 0x40);
    fake_vm_destroy(&b.f);
}

static void initialization(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    out(&b, 0x21, 0xff);
    pic_set(b.pic, 3, true);
    out(&b, 0x20, 0x11); // forgets edges and the mask; nothing comes before it is through
    assert_int_equal(in(&b, 0x21), 0);
    pic_set(b.pic, 4, true);
    assert_false(b.intr);
    out(&b, 0x21, 0x43);
    out(&b, 0x21, 4);
    out(&b, 0x21, 1);
    assert_true(b.intr);
    assert_int_equal(pic_ack(b.pic), 0x44); // the vector's low bits are the line
    fake_vm_destroy(&b.f);
}

static void saves_and_loads(void **state)
{
    (void)state;
    struct bench b, c;
    bench_init(&b, 1);
    bench_init(&c, 1);
    out(&b, 0x21, 0x01);
    pic_set(b.pic, 12, true);
    assert_int_equal(fake_vm_copy_state(&b.pic->dev, &c.pic->dev), 0);
    assert_true(c.intr);
    assert_int_equal(in(&c, 0x21), 1);
    assert_int_equal(pic_ack(c.pic), 0x2c);
    b.pic->chip[1].lowest = 8;
    assert_int_equal(fake_vm_copy_state(&b.pic->dev, &c.pic->dev), -EINVAL);
    fake_vm_destroy(&b.f);
    fake_vm_destroy(&c.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(edges),           cmocka_unit_test(masks_and_priorities),
        cmocka_unit_test(rotation),        cmocka_unit_test(levels),
        cmocka_unit_test(cascade),         cmocka_unit_test(special_modes),
        cmocka_unit_test(polling),         cmocka_unit_test(initialization),
        cmocka_unit_test(saves_and_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
