// Asynchronous page faults where memory is always there: the MSRs, and the order to look again after a machine was
// loaded.
#include "chip/async_pf.h"
#include "fake_vm.h"
#include "unit.h"

enum { ENABLE = 0x4b564d02, VECTOR = 0x4b564d06, READ = 0x4b564d07, PAGE = 0x2040, TOKEN = PAGE + 4 };

static struct fake_vm f;
static struct async_pf *a;
static uint64_t to;
static unsigned sent, vector;

static unsigned multicast(void *ctx, uint64_t cpus, uint8_t mode, uint8_t v)
{
    (void)ctx;
    assert_int_equal(mode, 0);
    to = cpus;
    vector = v;
    sent++;
    return 1;
}

static void begin(void)
{
    struct error err;
    sent = 0;
    fake_vm_init(&f, 2);
    f.vm.local_apic.multicast = multicast;
    assert_int_equal(async_pf_create(&f.vm, &a, &err), 0);
    fake_vm_reset(&f);
    device_release_all(&f.vm);
}

static uint32_t token(void)
{
    uint32_t t;
    memcpy(&t, f.ram + TOKEN, sizeof t);
    return t;
}

static void load(void)
{
    device_hold_all(&f.vm);
    assert_int_equal(a->dev.ops->loaded(&a->dev), 0);
    device_release_all(&f.vm);
}

static void registers(void **state)
{
    (void)state;
    uint64_t val;
    begin();
    for (unsigned bit = 0; bit < 6; bit++)
        assert_int_equal(vm_msr_write(&f.vm, 1, ENABLE, PAGE | 1u << bit), 0x34 >> bit & 1 ? -1 : 0);
    assert_int_equal(vm_msr_write(&f.vm, 1, VECTOR, 0x100), -1);
    assert_int_equal(vm_msr_write(&f.vm, 1, VECTOR, 0xf3), 0);
    assert_int_equal(vm_msr_write(&f.vm, 1, ENABLE, PAGE | 9), 0);
    assert_int_equal(vm_msr_write(&f.vm, 1, READ, 1), 0);
    assert_int_equal(vm_msr_read(&f.vm, 1, ENABLE, &val), 0);
    assert_int_equal(val, PAGE | 9);
    assert_int_equal(vm_msr_read(&f.vm, 1, VECTOR, &val), 0);
    assert_int_equal(val, 0xf3);
    assert_int_equal(vm_msr_read(&f.vm, 0, ENABLE, &val), 0);
    assert_int_equal(val, 0);
    a->dev.ops->took_init(&a->dev, 1);
    assert_int_equal(vm_msr_read(&f.vm, 1, ENABLE, &val), 0);
    assert_int_equal(val, 0);
    assert_int_equal(sent, 0);
    fake_vm_destroy(&f);
}

static void who_waited_looks_again(void **state)
{
    (void)state;
    begin();
    vm_msr_write(&f.vm, 1, VECTOR, 0xf3);
    vm_msr_write(&f.vm, 1, ENABLE, PAGE | 9);
    device_hold_all(&f.vm); // a pause is nothing
    device_release_all(&f.vm);
    assert_int_equal(sent, 0);
    load();
    assert_int_equal(sent, 1);
    assert_int_equal(to, 2);
    assert_int_equal(vector, 0xf3);
    assert_int_equal(token(), 0xffffffff);
    // Loaded again before the guest has read that one: it is told when it has.
    load();
    assert_int_equal(sent, 1);
    memset(f.ram + TOKEN, 0, 4);
    vm_msr_write(&f.vm, 1, READ, 1);
    assert_int_equal(sent, 2);
    assert_int_equal(token(), 0xffffffff);
    memset(f.ram + TOKEN, 0, 4);
    vm_msr_write(&f.vm, 1, READ, 1);
    assert_int_equal(sent, 2);
    fake_vm_destroy(&f);
}

static void odd_pages_and_states(void **state)
{
    (void)state;
    static const uint64_t nowhere[] = {FAKE_VM_RAM | 9, 1ull << 45 | 9, ~0x3full | 9, PAGE | 1, PAGE | 8};
    begin();
    for (unsigned n = 0; n < sizeof nowhere / sizeof *nowhere; n++) {
        assert_int_equal(vm_msr_write(&f.vm, 0, ENABLE, nowhere[n]), 0);
        load();
        vm_msr_write(&f.vm, 0, READ, 1);
    }
    assert_int_equal(sent, 0);
    assert_int_equal(f.writes, 0);
    a->enable[1] = 0x10;
    assert_true(a->dev.ops->loaded(&a->dev) < 0);
    a->enable[1] = 0;
    a->vector[63] = 0x100;
    assert_true(a->dev.ops->loaded(&a->dev) < 0);
    fake_vm_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers),
        cmocka_unit_test(who_waited_looks_again),
        cmocka_unit_test(odd_pages_and_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
