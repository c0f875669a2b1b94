// Steal time: the page says when its CPU is away, and an order to flush that finds it away is carried out; what is no
// page of RAM is let be.
#include "chip/steal_time.h"
#include "fake_vm.h"
#include "unit.h"
#include "vm/life.h"

enum { MSR = 0x4b564d03, PAGE = 0x1040, AWAY = PAGE + 16 };

static struct fake_vm f;
static struct steal_time *s;

static void begin(void)
{
    struct error err;
    fake_vm_init(&f, 2);
    f.model.leaf[f.model.count++] = (struct cpuid_leaf){CPU_LEAF_PARAVIRT, CPUID_ANY, {.eax = 1u << CPU_PV_TLB_FLUSH}};
    assert_int_equal(steal_time_create(&f.vm, &s, &err), 0);
    fake_vm_reset(&f);
}

static uint32_t version(void)
{
    uint32_t v;
    memcpy(&v, f.ram + PAGE + 8, sizeof v);
    return v;
}

static void sleeps(unsigned cpu)
{
    f.vm.watch.sleeps(f.vm.watch.ctx, cpu);
}

static bool wakes(unsigned cpu)
{
    return f.vm.watch.wakes(f.vm.watch.ctx, cpu);
}

static void runs(unsigned cpu)
{
    f.vm.watch.runs(f.vm.watch.ctx, cpu);
}

static void away(void **state)
{
    (void)state;
    uint64_t v;
    begin();
    memset(f.ram + 0x1000, 0xaa, 0x100);
    sleeps(1); // nothing is switched on
    assert_false(wakes(1));
    assert_int_equal(f.writes, 0);
    assert_int_equal(vm_msr_write(&f.vm, 1, MSR, PAGE | 1), 0);
    assert_int_equal(vm_msr_read(&f.vm, 1, MSR, &v), 0);
    assert_int_equal(v, PAGE | 1);
    assert_int_equal(vm_msr_read(&f.vm, 0, MSR, &v), 0);
    assert_int_equal(v, 0);
    assert_int_equal(f.writes, 1); // the engine was told
    assert_int_equal(f.ram[AWAY], 0);
    assert_int_equal(version() & 1, 0);
    assert_int_equal(f.ram[AWAY + 1], 0xaa);
    assert_int_equal(f.ram[PAGE + 12], 0xaa); // flags are the guest's to zero

    sleeps(1);
    assert_int_equal(f.ram[AWAY], 1);
    assert_false(wakes(1));
    assert_int_equal(f.ram[AWAY], 0);
    sleeps(1);
    f.ram[AWAY] |= 2; // as the other CPU orders it
    assert_true(wakes(1));
    assert_int_equal(f.ram[AWAY], 0);
    sleeps(0); // the other has no page
    assert_int_equal(f.ram[AWAY], 0);
    vcpu_upcalls.init(f.vm.vcpu[1]); // INIT switches it off
    assert_int_equal(vm_msr_read(&f.vm, 1, MSR, &v), 0);
    assert_int_equal(v, 0);
    sleeps(1);
    assert_int_equal(f.ram[AWAY], 0);
    fake_vm_destroy(&f);
}

// While a CPU runs, its page is brought up to date, but not all the time.
static void up_to_date(void **state)
{
    (void)state;
    begin();
    assert_int_equal(vm_msr_write(&f.vm, 1, MSR, PAGE | 1), 0);
    uint32_t first = version();
    runs(1);
    assert_int_equal(version(), first);
    fake_vm_advance(&f, 999999);
    runs(1);
    assert_int_equal(version(), first);
    fake_vm_advance(&f, 1);
    runs(1);
    assert_int_equal(version(), first + 2);
    uint64_t a, b;
    memcpy(&a, f.ram + PAGE, 8);
    fake_vm_advance(&f, 1000000);
    runs(1);
    memcpy(&b, f.ram + PAGE, 8);
    assert_true(b >= a);
    assert_int_equal(vm_msr_write(&f.vm, 1, MSR, PAGE), 0); // off
    fake_vm_advance(&f, 1000000);
    runs(1);
    sleeps(1);
    assert_int_equal(version(), first + 4);
    assert_int_equal(f.ram[AWAY], 0);
    fake_vm_destroy(&f);
}

static void odd_pages(void **state)
{
    (void)state;
    begin();
    memset(f.ram, 0xaa, 0x3000);
    for (unsigned bit = 1; bit < 6; bit++) { // reserved
        assert_int_equal(vm_msr_write(&f.vm, 0, MSR, PAGE | 1 | 1u << bit), -1);
        assert_int_equal(vm_msr_write(&f.vm, 0, MSR, 1u << bit), -1);
    }
    static const uint64_t nowhere[] = {FAKE_VM_RAM | 1, ~0ull & ~0x3eull, 1ull << 40 | 1};
    for (unsigned i = 0; i < sizeof nowhere / sizeof nowhere[0]; i++) {
        assert_int_equal(vm_msr_write(&f.vm, 0, MSR, nowhere[i]), 0);
        sleeps(0);
        assert_false(wakes(0));
        fake_vm_advance(&f, 1000000);
        runs(0);
    }
    assert_int_equal(f.writes, 0);
    assert_int_equal(vm_msr_write(&f.vm, 0, MSR, (FAKE_VM_RAM - 64) | 1), 0); // the last one there is
    sleeps(0);
    assert_int_equal(f.ram[FAKE_VM_RAM - 64 + 16], 1);
    fake_vm_destroy(&f);
}

static void saved(void **state)
{
    (void)state;
    struct fake_vm g;
    struct steal_time *t;
    struct error err;
    uint64_t v;
    begin();
    assert_int_equal(vm_msr_write(&f.vm, 1, MSR, PAGE | 1), 0);
    fake_vm_init(&g, 2);
    assert_int_equal(steal_time_create(&g.vm, &t, &err), 0);
    assert_int_equal(fake_vm_copy_state(&s->dev, &t->dev), 0);
    g.vm.watch.sleeps(g.vm.watch.ctx, 1);
    assert_int_equal(g.ram[AWAY], 1);
    g.ram[AWAY] |= 2;
    assert_false(g.vm.watch.wakes(g.vm.watch.ctx, 1)); // g does not offer flushes
    s->msr[0] = 3;                                     // no guest could have written this
    assert_true(fake_vm_copy_state(&s->dev, &t->dev) < 0);
    fake_vm_reset(&f);
    assert_int_equal(vm_msr_read(&f.vm, 1, MSR, &v), 0);
    assert_int_equal(v, 0);
    fake_vm_destroy(&f);
    fake_vm_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(away), cmocka_unit_test(up_to_date),
                                       cmocka_unit_test(odd_pages), cmocka_unit_test(saved)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
