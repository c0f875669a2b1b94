// ACPI fixed hardware: power-off, power button and SCI, the PM timer and its status bit, saving.
#include "chip/acpi_pm.h"
#include "fake_vm.h"
#include "unit.h"

enum { SCI = 9 };

struct bench {
    struct fake_vm f;
    struct acpi_pm *pm;
};

static void bench_init(struct bench *b)
{
    struct error err;
    memset(b, 0, sizeof *b);
    fake_vm_init(&b->f, 1);
    assert_int_equal(acpi_pm_create(&b->f.vm, SCI, &b->pm, &err), 0);
    fake_vm_reset(&b->f);
}

static void power_off(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    assert_int_equal(fake_vm_in(&b.f, 0x604, 2), 1); // ACPI mode
    fake_vm_out(&b.f, 0x604, 2, 5 << 10 | 1 << 13);  // some other sleep state: there is none
    assert_int_equal(b.f.vm.end, VM_END_NONE);
    assert_int_equal(fake_vm_in(&b.f, 0x604, 2), 5 << 10 | 1);
    fake_vm_out(&b.f, 0x604, 2, 0);
    assert_int_equal(b.f.vm.end, VM_END_NONE);
    fake_vm_out(&b.f, 0x604, 2, 0x2000);
    assert_int_equal(b.f.vm.end, VM_END_POWEROFF);
    fake_vm_destroy(&b.f);
}

static void power_off_by_bytes(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    fake_vm_out(&b.f, 0x605, 1, 0x20);
    assert_int_equal(b.f.vm.end, VM_END_POWEROFF);
    fake_vm_destroy(&b.f);
}

static void power_button(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    acpi_pm_power_button(b.pm);
    assert_false(b.f.line[SCI]); // nobody asked to be told
    assert_int_equal(fake_vm_in(&b.f, 0x600, 2), 1 << 8);
    fake_vm_out(&b.f, 0x602, 2, 1 << 8);
    assert_true(b.f.line[SCI]);
    assert_int_equal(fake_vm_in(&b.f, 0x600, 4), 1 << 24 | 1 << 8);
    fake_vm_out(&b.f, 0x600, 2, 1 << 5); // another bit: nothing
    assert_true(b.f.line[SCI]);
    fake_vm_out(&b.f, 0x601, 1, 1);
    assert_false(b.f.line[SCI]);
    assert_int_equal(fake_vm_in(&b.f, 0x600, 2), 0);
    acpi_pm_power_button(b.pm);
    assert_true(b.f.line[SCI]);
    fake_vm_reset(&b.f);
    assert_false(b.f.line[SCI]);
    fake_vm_destroy(&b.f);
}

static void timer(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b);
    fake_vm_advance(&b.f, 1000000000);
    assert_int_equal(fake_vm_in(&b.f, 0x608, 4), 3579545);
    assert_int_equal(fake_vm_in(&b.f, 0x608, 2), 3579545 & 0xffff);
    assert_int_equal(fake_vm_in(&b.f, 0x60a, 1), 3579545 >> 16);
    fake_vm_out(&b.f, 0x608, 4, 0); // read-only
    fake_vm_out(&b.f, 0x602, 2, 1);
    // The top bit changes after 2^31 counts: 599.93 s.
    fake_vm_advance(&b.f, 598000000000);
    assert_false(b.f.line[SCI]);
    assert_int_equal(fake_vm_in(&b.f, 0x600, 2), 0);
    fake_vm_advance(&b.f, 1000000000);
    assert_true(b.f.line[SCI]);
    assert_int_equal(fake_vm_in(&b.f, 0x600, 2), 1);
    fake_vm_out(&b.f, 0x600, 2, 1);
    assert_false(b.f.line[SCI]);
    fake_vm_advance(&b.f, 600000000000);
    assert_true(b.f.line[SCI]);
    fake_vm_destroy(&b.f);
}

static void saves_and_loads(void **state)
{
    (void)state;
    struct bench b, c;
    bench_init(&b);
    bench_init(&c);
    fake_vm_out(&b.f, 0x602, 2, 1 << 8);
    acpi_pm_power_button(b.pm);
    assert_int_equal(fake_vm_copy_state(&b.pm->dev, &c.pm->dev), 0);
    assert_true(c.f.line[SCI]);
    b.pm->msb_seen = 1000000; // in the future
    assert_true(fake_vm_copy_state(&b.pm->dev, &c.pm->dev) < 0);
    fake_vm_destroy(&b.f);
    fake_vm_destroy(&c.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_off), cmocka_unit_test(power_off_by_bytes), cmocka_unit_test(power_button),
        cmocka_unit_test(timer),     cmocka_unit_test(saves_and_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
