// Hypercalls: KVM's numbers, arguments and error codes; and each only where its feature is offered.
#include "vm/hypercall.h"
#include "fake_vm.h"
#include "unit.h"
#include "vm/life.h"

enum { KICK_CPU = 5, SEND_IPI = 10, SCHED_YIELD = 11 };
#define ENOSYS_OF_KVM ((uint64_t)-1000)

static struct fake_vm f;
static struct {
    uint64_t cpus;
    uint8_t mode, vector;
    unsigned calls;
} sent;

static unsigned multicast(void *ctx, uint64_t cpus, uint8_t mode, uint8_t vector)
{
    (void)ctx;
    sent.cpus = cpus;
    sent.mode = mode;
    sent.vector = vector;
    sent.calls++;
    return 7;
}

static void begin(uint32_t features)
{
    fake_vm_init(&f, 2);
    f.model.leaf[f.model.count++] = (struct cpuid_leaf){CPU_LEAF_PARAVIRT, CPUID_ANY, {.eax = features}};
    f.vm.local_apic.multicast = multicast;
}

#define CALL(nr, ...) vm_hypercall(&f.vm, 0, nr, (const uint64_t[4]){__VA_ARGS__}, true)
#define CALL32(nr, ...) vm_hypercall(&f.vm, 0, nr, (const uint64_t[4]){__VA_ARGS__}, false)

static void unknown(void **state)
{
    (void)state;
    begin(0xffffffff & ~(1u << CPU_PV_UNHALT | 1u << CPU_PV_SEND_IPI | 1u << CPU_PV_SCHED_YIELD));
    static const uint64_t numbers[] = {0, 1, 2, 9, 12, KICK_CPU, SEND_IPI, SCHED_YIELD, 1ull << 32 | KICK_CPU, ~0ull};
    for (unsigned i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        assert_true(CALL(numbers[i], 1, 1) == ENOSYS_OF_KVM);
    assert_int_equal(sent.calls, 0);
    fake_vm_destroy(&f);
}

static void ipis(void **state)
{
    (void)state;
    static const struct {
        uint64_t low, high, first;
        uint64_t wide, narrow; // CPUs
    } sets[] = {
        {6, 0, 0, 6, 6},
        {1, 1, 4, 1u << 4, 1u << 4 | 1ull << 36},
        {~0ull, ~0ull, 0, ~0ull, ~0ull},
        {3, 0, 63, 1ull << 63, 1ull << 63},
        {~0ull, ~0ull, 64, 0, 0},
        {~0ull, ~0ull, 0xffffffff, 0, 0}, // does not come round
        {2, 0, 1ull << 32, 2, 2},         // 32 bits of it count
    };
    begin(1u << CPU_PV_SEND_IPI);
    for (unsigned i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        assert_int_equal(CALL(SEND_IPI, sets[i].low, sets[i].high, sets[i].first, 0x40fb), 7);
        assert_true(sent.cpus == sets[i].wide);
        assert_int_equal(sent.vector, 0xfb);
        assert_int_equal(sent.mode, 0);
        CALL32(SEND_IPI, sets[i].low, sets[i].high, sets[i].first, 0x40fb);
        assert_true(sent.cpus == sets[i].narrow);
    }
    CALL(SEND_IPI, 1, 0, 0, 0x400);
    assert_int_equal(sent.mode, 4); // NMI
    unsigned calls = sent.calls;
    assert_true(CALL(SEND_IPI, 1, 0, 0, 0x800) == (uint64_t)-22); // logical destination
    assert_true(CALL(SEND_IPI, 1, 0, 0, 0x40000) == (uint64_t)-22);
    assert_true(CALL(SEND_IPI, 1, 0, 0, 0x80000) == (uint64_t)-22);
    assert_int_equal(sent.calls, calls);
    f.vm.local_apic.multicast = NULL;
    assert_true(CALL(SEND_IPI, 1, 0, 0, 0x40) == (uint64_t)-95);
    fake_vm_destroy(&f);
}

// A kick is for the HLT that the CPU is in, or for the next.
static void kicks(void **state)
{
    (void)state;
    begin(1u << CPU_PV_UNHALT);
    assert_int_equal(CALL(KICK_CPU, 0, 2), 0); // no such CPU
    assert_int_equal(CALL(KICK_CPU, 0, ~0ull), 0);
    assert_false(f.vm.vcpu[0]->unhalt || f.vm.vcpu[1]->unhalt);
    assert_int_equal(CALL(KICK_CPU, 0, 1), 0);
    assert_true(f.vm.vcpu[1]->unhalt);
    assert_int_equal(fake_vm_signals(&f, 1), 0); // it runs, and is not disturbed
    vcpu_upcalls.halt(f.vm.vcpu[1], VCPU_UNHALT);
    assert_false(f.vm.vcpu[1]->unhalt);
    assert_int_equal(fake_vm_signals(&f, 1), VCPU_UNHALT);
    f.vm.vcpu[1]->asleep = true;
    assert_int_equal(CALL(KICK_CPU, 0, 1), 0);
    assert_int_equal(fake_vm_signals(&f, 1), VCPU_UNHALT);
    assert_false(f.vm.vcpu[1]->unhalt);
    fake_vm_destroy(&f);
}

static void yields(void **state)
{
    (void)state;
    begin(1u << CPU_PV_SCHED_YIELD);
    assert_int_equal(CALL(SCHED_YIELD, 1), 0);
    assert_int_equal(CALL(SCHED_YIELD, 0), 0);
    assert_int_equal(CALL(SCHED_YIELD, ~0ull), 0);
    fake_vm_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(unknown), cmocka_unit_test(ipis), cmocka_unit_test(kicks),
                                       cmocka_unit_test(yields)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
