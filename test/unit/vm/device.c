// Devices in a VM: order of reset and destruction, drains, MSRs, the locks around calls, counters by name.
#include "fake_vm.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct thing {
    struct device dev;
    uint64_t msr;
    bool was_locked; // at the last call
};

static char story[256];

static void tell(const char *verb, struct device *d)
{
    size_t n = strlen(story);
    snprintf(story + n, sizeof story - n, "%s %s%s; ", verb, d->name, d->lock.word ? " locked" : "");
}

static void reset(struct device *d)
{
    tell("reset", d);
}

static void drain(struct device *d)
{
    tell("drain", d);
}

static void destroy(struct device *d)
{
    tell("destroy", d);
}

static int msr_read(struct device *d, unsigned cpu, uint32_t msr, uint64_t *val)
{
    if (msr == 0x4b01)
        return -EINVAL;
    *val = ((struct thing *)d)->msr + cpu;
    ((struct thing *)d)->was_locked = d->lock.word;
    return 0;
}

static int msr_write(struct device *d, unsigned cpu, uint32_t msr, uint64_t val)
{
    (void)cpu, (void)msr;
    ((struct thing *)d)->msr = val;
    ((struct thing *)d)->was_locked = d->lock.word;
    return 0;
}

static uint64_t read_thing(struct device *d, struct bus_access a)
{
    (void)a;
    ((struct thing *)d)->was_locked = d->lock.word;
    return 0;
}

static const struct device_ops locked_ops = {.name = "thing",
                                             .reset = reset,
                                             .drain = drain,
                                             .destroy = destroy,
                                             .msr_read = msr_read,
                                             .msr_write = msr_write,
                                             .read = read_thing};
static const struct device_ops unlocked_ops = {
    .name = "free", .unlocked = true, .reset = reset, .destroy = destroy, .msr_read = msr_read, .read = read_thing};

static void lives_in_order(void **state)
{
    (void)state;
    struct fake_vm f;
    struct thing a = {0}, b = {0}, c = {0};
    story[0] = 0;
    fake_vm_init(&f, 1);
    device_add(&f.vm, &a.dev, &locked_ops, "a");
    device_add(&f.vm, &b.dev, &unlocked_ops, "b");
    device_add(&f.vm, &c.dev, &locked_ops, "a-name-that-is-much-too-long");
    assert_string_equal(c.dev.name, "a-name-that-is-much-too");
    fake_vm_reset(&f);
    assert_string_equal(story, "drain a; drain a-name-that-is-much-too; "
                               "reset a locked; reset b; reset a-name-that-is-much-too locked; ");
    story[0] = 0;
    fake_vm_destroy(&f);
    assert_string_equal(story, "drain a; drain a-name-that-is-much-too; "
                               "destroy a-name-that-is-much-too; destroy b; destroy a; ");
}

static void msrs_go_to_their_device(void **state)
{
    (void)state;
    struct fake_vm f;
    struct thing a = {.msr = 100}, b = {.msr = 200};
    uint64_t val = 0;
    fake_vm_init(&f, 2);
    device_add(&f.vm, &a.dev, &locked_ops, "a");
    device_add(&f.vm, &b.dev, &unlocked_ops, "b");
    assert_int_equal(vm_msr_add(&f.vm, 0x800, 0x8ff, &a.dev), 0);
    assert_int_equal(vm_msr_add(&f.vm, 0x4b00, 0x4b07, &b.dev), 0);
    assert_int_equal(vm_msr_add(&f.vm, 0x8ff, 0x900, &b.dev), -EEXIST);
    assert_int_equal(vm_msr_add(&f.vm, 0x700, 0xa00, &b.dev), -EEXIST);
    assert_int_equal(vm_msr_add(&f.vm, 2, 1, &b.dev), -EINVAL);
    assert_int_equal(vm_msr_read(&f.vm, 1, 0x8ff, &val), 0);
    assert_int_equal(val, 101);
    assert_true(a.was_locked);
    assert_int_equal(vm_msr_write(&f.vm, 0, 0x800, 7), 0);
    assert_int_equal(a.msr, 7);
    assert_int_equal(vm_msr_read(&f.vm, 0, 0x4b00, &val), 0);
    assert_false(b.was_locked);
    assert_int_equal(vm_msr_read(&f.vm, 0, 0x4b01, &val), -1); // the device's own refusal
    assert_int_equal(vm_msr_write(&f.vm, 0, 0x4b00, 0), -1);   // it takes no writes
    assert_int_equal(vm_msr_read(&f.vm, 0, 0x900, &val), -1);  // nobody's
    for (unsigned i = 2; i < VM_MSR_RANGES; i++)
        assert_int_equal(vm_msr_add(&f.vm, 0x10000 + i, 0x10000 + i, &a.dev), 0);
    assert_int_equal(vm_msr_add(&f.vm, 0x20000, 0x20000, &a.dev), -ENOSPC);
    fake_vm_destroy(&f);
}

static void accesses_hold_the_lock(void **state)
{
    (void)state;
    struct fake_vm f;
    struct thing a = {0}, b = {.was_locked = true};
    struct error err;
    fake_vm_init(&f, 1);
    device_add(&f.vm, &a.dev, &locked_ops, "a");
    device_add(&f.vm, &b.dev, &unlocked_ops, "b");
    assert_int_equal(bus_add(&f.vm.ports, &(struct bus_range){.base = 1, .size = 1, .dev = &a.dev}, &err), 0);
    assert_int_equal(bus_add(&f.vm.ports, &(struct bus_range){.base = 2, .size = 1, .dev = &b.dev}, &err), 0);
    fake_vm_in(&f, 1, 1);
    fake_vm_in(&f, 2, 1);
    fake_vm_out(&f, 2, 1, 1); // the device takes none
    assert_true(a.was_locked);
    assert_false(b.was_locked);
    assert_int_equal(a.dev.lock.word, 0);
    fake_vm_destroy(&f);
}

static void collect(void *ctx, const char *name, uint64_t value)
{
    size_t n = strlen(ctx);
    if (value)
        snprintf((char *)ctx + n, 1024 - n, "%s=%llu ", name, (unsigned long long)value);
}

static void counts_by_name(void **state)
{
    (void)state;
    struct fake_vm f;
    struct thing a = {0};
    struct error err;
    char text[1024] = "";
    fake_vm_init(&f, 1);
    device_add(&f.vm, &a.dev, &locked_ops, "rtc");
    assert_int_equal(bus_add(&f.vm.ports, &(struct bus_range){.base = 0x70, .size = 2, .dev = &a.dev}, &err), 0);
    fake_vm_in(&f, 0x70, 1);
    fake_vm_in(&f, 0x70, 1);
    fake_vm_out(&f, 0x70, 1, 1);
    vm_stats(&f.vm, collect, text);
    assert_string_equal(text, "port.rtc.0.reads=2 port.rtc.0.writes=1 ");
    fake_vm_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lives_in_order),
        cmocka_unit_test(msrs_go_to_their_device),
        cmocka_unit_test(accesses_hold_the_lock),
        cmocka_unit_test(counts_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
