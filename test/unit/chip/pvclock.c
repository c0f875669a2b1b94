// The paravirtual clock: a guest's arithmetic on the pages gives the machine's time, for many TSC frequencies.
#include "chip/pvclock.h"
#include "fake_vm.h"
#include "unit.h"

struct page {
    uint32_t version, pad;
    uint64_t tsc, ns;
    uint32_t mul;
    int8_t shift;
    uint8_t flags;
};

// What Linux does with it (pvclock_scale_delta).
static uint64_t guest_ns(const struct page *p, uint64_t tsc)
{
    uint64_t delta = tsc - p->tsc;
    delta = p->shift < 0 ? delta >> -p->shift : delta << p->shift;
    return p->ns + (uint64_t)((unsigned __int128)delta * p->mul >> 32);
}

static void tells_the_time(void **state)
{
    (void)state;
    static const uint32_t khz[] = {1000000, 999999, 1000001, 2500000, 2599998, 5000000, 31250, 1, 2000000, 4000000};
    for (unsigned i = 0; i < sizeof khz / sizeof khz[0]; i++) {
        struct fake_vm f;
        struct pvclock *p;
        struct error err;
        fake_vm_init(&f, 2);
        vm_clock_virtual(&f.vm.clock, khz[i]);
        assert_int_equal(pvclock_create(&f.vm, &p, &err), 0);
        fake_vm_reset(&f);
        const struct page *page = (const struct page *)(f.ram + 0x1040);
        for (unsigned minutes = 0; minutes < 50; minutes += 7) {
            fake_vm_advance(&f, 7 * 60000000000ull + 12345);
            assert_int_equal(vm_msr_write(&f.vm, 1, 0x4b564d01, 0x1041), 0);
            assert_int_equal(page->version & 1, 0);
            assert_int_equal(page->flags, 1);
            uint64_t want = vm_clock_ns(&f.vm.clock), got = guest_ns(page, vm_clock_tsc(&f.vm.clock));
            uint64_t tick = 1000000 / khz[i] * 2 + 1; // resolution, and 2^-31 of the time
            if (got > want + 1 || want - got > 2 * tick + (want >> 31))
                fail_msg("%u kHz: %llu instead of %llu", khz[i], (unsigned long long)got, (unsigned long long)want);
        }
        fake_vm_destroy(&f);
    }
}

static void pages(void **state)
{
    (void)state;
    struct fake_vm f, g;
    struct pvclock *p, *q;
    struct error err;
    uint64_t v;
    fake_vm_init(&f, 2);
    assert_int_equal(pvclock_create(&f.vm, &p, &err), 0);
    fake_vm_reset(&f);
    fake_vm_advance(&f, 5500000000);
    memset(f.ram, 0xaa, 0x3000);
    assert_int_equal(vm_msr_write(&f.vm, 0, 0x11, 0x2000), 0);
    uint32_t wall[3];
    memcpy(wall, f.ram + 0x2000, 12);
    assert_int_equal(wall[0], 0xaaaaaaac);
    assert_int_equal(wall[1], 946684800); // when the machine was switched on
    assert_int_equal(wall[2], 0);
    assert_int_equal(f.ram[0x200c], 0xaa);
    assert_int_equal(f.writes, 1); // the engine was told
    assert_int_equal(vm_msr_write(&f.vm, 1, 0x12, 0x1001), 0);
    assert_int_equal(f.ram[0x1020], 0xaa);
    assert_int_equal(f.written[1].gpa, 0x1000);
    assert_int_equal(vm_msr_read(&f.vm, 1, 0x4b564d01, &v), 0);
    assert_int_equal(v, 0x1001);
    assert_int_equal(vm_msr_read(&f.vm, 0, 0x4b564d01, &v), 0);
    assert_int_equal(v, 0);
    // Off, not aligned, half outside of memory, nowhere: nothing is written.
    static const uint64_t odd[] = {0x1000, 0x1003, FAKE_VM_RAM - 16 + 1, ~0ull, 1ull << 40 | 1};
    for (unsigned i = 0; i < sizeof odd / sizeof odd[0]; i++)
        assert_int_equal(vm_msr_write(&f.vm, 0, 0x4b564d01, odd[i]), 0);
    assert_int_equal(vm_msr_write(&f.vm, 0, 0x4b564d00, ~0ull), 0);
    assert_int_equal(f.writes, 2);
    assert_int_equal(vm_msr_write(&f.vm, 0, 0x4b564d01, 0x1065), 0); // aligned to 4 bytes only
    assert_int_equal(f.ram[0x1064 + 29], 1);
    fake_vm_init(&g, 2);
    assert_int_equal(pvclock_create(&g.vm, &q, &err), 0);
    assert_int_equal(fake_vm_copy_state(&p->dev, &q->dev), 0);
    assert_memory_equal(g.ram + 0x1008, f.ram + 0x1008, 24);
    fake_vm_reset(&f);
    assert_int_equal(vm_msr_read(&f.vm, 1, 0x12, &v), 0);
    assert_int_equal(v, 0);
    fake_vm_destroy(&f);
    fake_vm_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tells_the_time), cmocka_unit_test(pages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
