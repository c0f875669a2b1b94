// The IOAPIC: registers, edges, levels with remote IRR and EOI, saving.
#include "chip/ioapic.h"
#include "fake_vm.h"
#include "unit.h"

struct bench {
    struct fake_vm f;
    struct ioapic *io;
    struct apic_message last;
    unsigned sent;
};

static void on_send(void *ctx, const struct apic_message *m)
{
    struct bench *b = ctx;
    b->last = *m;
    b->sent++;
}

static void bench_init(struct bench *b)
{
    struct error err;
    memset(b, 0, sizeof *b);
    fake_vm_init(&b->f, 1);
    assert_int_equal(ioapic_create(&b->f.vm, 3, b, on_send, &b->io, &err), 0);
    fake_vm_reset(&b->f);
}

static uint32_t get(struct bench *b, uint8_t index)
{
    fake_vm_write(&b->f, IOAPIC_MMIO_BASE, 4, index);
    return fake_vm_read(&b->f, IOAPIC_MMIO_BASE + 0x10, 4);
}

static void set(struct bench *b, uint8_t index, uint32_t v)
{
    fake_vm_write(&b->f, IOAPIC_MMIO_BASE, 4, index);
    fake_vm_write(&b->f, IOAPIC_MMIO_BASE + 0x10, 4, v);
}

static void entry(struct bench *b, unsigned pin, uint64_t v)
{
    set(b, 0x11 + 2 * pin, v >> 32);
    set(b, 0x10 + 2 * pin, v);
}

static void registers(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    assert_int_equal(get(&b, 0), 3 << 24);
    assert_int_equal(get(&b, 1), 0x00170020);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        assert_int_equal(get(&b, 0x10 + 2 * i), 0x10000);
    entry(&b, 23, ~0ull);
    assert_int_equal(get(&b, 0x10 + 46), 0x1afff);
    assert_int_equal(get(&b, 0x11 + 46), 0xff000000);
    set(&b, 0x40, 5); // beyond the entries
    assert_int_equal(get(&b, 0x40), 0);
    assert_int_equal(get(&b, 0xff), 0);
    set(&b, 1, 0);
    assert_int_equal(get(&b, 1), 0x00170020);
    fake_vm_destroy(&b.f);
}

static void edges(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    ioapic_set(b.io, 4, true); // masked: lost
    entry(&b, 4, 2ull << 56 | 0x931);
    assert_int_equal(b.sent, 0);
    ioapic_set(b.io, 4, true); // no edge
    ioapic_set(b.io, 4, false);
    assert_int_equal(b.sent, 0);
    ioapic_set(b.io, 4, true);
    assert_int_equal(b.sent, 1);
    assert_int_equal(b.last.dest, 2);
    assert_int_equal(b.last.vector, 0x31);
    assert_int_equal(b.last.mode, APIC_LOWEST);
    assert_true(b.last.logical);
    assert_false(b.last.level);
    entry(&b, 5, 0xff00000000000400); // an NMI to all
    ioapic_set(b.io, 5, true);
    assert_int_equal(b.last.mode, APIC_NMI);
    assert_int_equal(b.last.dest, APIC_EVERYBODY);
    ioapic_set(b.io, 24, true); // no such pin
    ioapic_set(b.io, 63, true);
    assert_int_equal(b.sent, 2);
    fake_vm_destroy(&b.f);
}

static void levels(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    ioapic_set(b.io, 16, true);
    entry(&b, 16, 0x8041);
    assert_int_equal(b.sent, 1); // asserted while masked: delivered when unmasked
    assert_true(b.last.level);
    assert_int_equal(get(&b, 0x30), 0xc041); // remote IRR
    ioapic_set(b.io, 16, false);
    ioapic_set(b.io, 16, true);
    assert_int_equal(b.sent, 1); // one is under way
    ioapic_eoi(b.io, 0x42);
    assert_int_equal(b.sent, 1);
    ioapic_eoi(b.io, 0x41);
    assert_int_equal(b.sent, 2);
    ioapic_set(b.io, 16, false);
    fake_vm_write(&b.f, IOAPIC_MMIO_BASE + 0x40, 4, 0x41); // the EOI register
    assert_int_equal(get(&b, 0x30), 0x8041);
    ioapic_set(b.io, 16, true);
    assert_int_equal(b.sent, 3);
    // How old software clears remote IRR: edge and masked for a moment.
    set(&b, 0x30, 0x10041);
    set(&b, 0x30, 0x18041);
    assert_int_equal(get(&b, 0x30), 0x18041);
    assert_int_equal(b.sent, 3);
    set(&b, 0x30, 0x8041);
    assert_int_equal(b.sent, 4);
    // Two pins with one vector.
    entry(&b, 17, 0x8041);
    ioapic_set(b.io, 17, true);
    ioapic_eoi(b.io, 0x41);
    assert_int_equal(b.sent, 7);
    fake_vm_destroy(&b.f);
}

// A level that stays up does not keep the CPU from everything else.
static void storm(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    entry(&b, 16, 0x8041);
    ioapic_set(b.io, 16, true);
    for (unsigned i = 0; i < 10000; i++)
        ioapic_eoi(b.io, 0x41);
    assert_in_range(b.sent, 10, 100);
    unsigned before = b.sent;
    for (unsigned i = 0; i < 100; i++) {
        fake_vm_advance(&b.f, 1000000);
        ioapic_eoi(b.io, 0x41);
    }
    assert_int_equal(b.sent, before + 100);
    ioapic_set(b.io, 16, false);
    fake_vm_advance(&b.f, 1000000);
    assert_int_equal(b.sent, before + 100);
    ioapic_set(b.io, 16, true); // over: at once again
    ioapic_eoi(b.io, 0x41);
    assert_int_equal(b.sent, before + 102);
    fake_vm_destroy(&b.f);
}

static void saves_and_loads(void **state)
{
    (void)state;
    struct bench b, c;
    bench_init(&b);
    bench_init(&c);
    entry(&b, 16, 0x8041);
    ioapic_set(b.io, 16, true);
    b.io->entry[3] = ~0ull; // reserved bits
    assert_int_equal(fake_vm_copy_state(&b.io->dev, &c.io->dev), 0);
    assert_int_equal(c.sent, 0);
    ioapic_set(c.io, 16, true); // its owner says again what it is: nothing new
    assert_int_equal(c.sent, 0);
    ioapic_eoi(c.io, 0x41);
    assert_int_equal(c.sent, 1);
    assert_int_equal(get(&c, 0x16), 0x1efff);
    fake_vm_destroy(&b.f);
    fake_vm_destroy(&c.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers), cmocka_unit_test(edges),           cmocka_unit_test(levels),
        cmocka_unit_test(storm),     cmocka_unit_test(saves_and_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
