// The interrupt router: the OR of shared lines, edges, messages.
#include "fake_vm.h"
#include "unit.h"

static int setup(void **state)
{
    static struct fake_vm f;
    fake_vm_init(&f, 1);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    fake_vm_destroy(*state);
    return 0;
}

static void a_line_goes_up_and_down(void **state)
{
    struct fake_vm *f = *state;
    struct irq_line l;
    irq_line_init(&l, &f->vm, 4);
    irq_set(&l, false);
    assert_int_equal(f->falls[4], 0);
    irq_set(&l, true);
    irq_set(&l, true);
    assert_true(f->line[4]);
    assert_int_equal(f->rises[4], 1);
    irq_set(&l, false);
    assert_false(f->line[4]);
    irq_pulse(&l);
    assert_int_equal(f->rises[4], 2);
    assert_int_equal(f->falls[4], 2);
}

static void a_shared_line_is_the_or(void **state)
{
    struct fake_vm *f = *state;
    struct irq_line l[IRQ_SOURCES];
    for (unsigned i = 0; i < IRQ_SOURCES; i++)
        irq_line_init(&l[i], &f->vm, 10);
    for (unsigned i = 0; i < IRQ_SOURCES; i++)
        irq_set(&l[i], true);
    irq_pulse(&l[3]); // no edge while others hold it up, but then its own level is down
    assert_int_equal(f->rises[10], 1);
    for (unsigned i = 0; i < IRQ_SOURCES; i++) {
        assert_true(f->line[10]);
        irq_set(&l[i], false);
    }
    assert_false(f->line[10]);
    assert_int_equal(f->falls[10], 1);
}

static void too_many_or_no_such_line(void **state)
{
    struct fake_vm *f = *state;
    struct irq_line l[IRQ_SOURCES + 1], other;
    for (unsigned i = 0; i < IRQ_SOURCES; i++)
        irq_line_init(&l[i], &f->vm, 10);
    assert_int_equal(f->log_lines, 0);
    irq_line_init(&l[IRQ_SOURCES], &f->vm, 10);
    irq_line_init(&other, &f->vm, IRQ_GSI_MAX);
    assert_int_equal(f->log_lines, 2);
    irq_set(&l[IRQ_SOURCES], true); // goes nowhere
    irq_pulse(&other);
    assert_false(f->line[10]);
}

static void messages_pass_through(void **state)
{
    struct fake_vm *f = *state;
    f->log.trace = TRACE_INTERRUPTS;
    irq_msi(&f->vm, 0xfee01000, 0x4041);
    assert_int_equal(f->msis, 1);
    assert_int_equal(f->msi[0].address, 0xfee01000);
    assert_int_equal(f->msi[0].data, 0x4041);
    assert_string_equal(f->last_log, "trace: message 0xfee01000 data 0x4041");
    f->vm.irq.to.msi = NULL; // a machine without local APICs
    irq_msi(&f->vm, 0xfee01000, 0x4041);
    assert_int_equal(f->msis, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_line_goes_up_and_down, setup, teardown),
        cmocka_unit_test_setup_teardown(a_shared_line_is_the_or, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many_or_no_such_line, setup, teardown),
        cmocka_unit_test_setup_teardown(messages_pass_through, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
