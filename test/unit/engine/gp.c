// Corners of general-purpose instructions that comparing with real processors has found.
#include "bed.h"
#include "window.h"

#define RUN(b, code) (bed_load(b, code, code##_end), bed_go(b))

GUEST(bt, 64, "bt %ecx, %eax; bt $3, %ebx; hlt");
GUEST(bts, 64, "bts %ecx, %edx; hlt");

// BT writes no register, so no upper half is cleared.
static void bit_test_only_looks(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RAX] = 0x1234567800000010;
    b.s.gpr[CPU_RBX] = 0xfedcba9800000008;
    b.s.gpr[CPU_RCX] = 4 + 32;
    RUN(&b, bt);
    assert_true(b.s.rflags & RFLAGS_CF);
    assert_true(b.s.gpr[CPU_RAX] == 0x1234567800000010);
    assert_true(b.s.gpr[CPU_RBX] == 0xfedcba9800000008);
    b.s.gpr[CPU_RDX] = 0x1234567800000000;
    RUN(&b, bts);
    assert_true(b.s.gpr[CPU_RDX] == 0x10);
    bed_close(&b);
}

GUEST(cmpxchg, 64, "cmpxchg %ecx, %ebx; hlt");

// Of destination and accumulator only the one that is written loses its upper half.
static void compare_and_exchange(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    for (unsigned equal = 0; equal < 2; equal++) {
        b.s.gpr[CPU_RAX] = 0x1111111100000005;
        b.s.gpr[CPU_RBX] = equal ? 0x2222222200000005 : 0x2222222200000006;
        b.s.gpr[CPU_RCX] = 0x3333333300000007;
        RUN(&b, cmpxchg);
        assert_true(!(b.s.rflags & RFLAGS_ZF) == !equal);
        assert_true(b.s.gpr[CPU_RAX] == (equal ? 0x1111111100000005 : 6));
        assert_true(b.s.gpr[CPU_RBX] == (equal ? 7 : 0x2222222200000006));
    }
    bed_close(&b);
}

GUEST(cmpxchg8b, 64, "lock cmpxchg8b (%rsi); hlt");
GUEST(enter, 64, "enter $1, $0; hlt");

static void alignment_checks(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 2; n++) {
        struct bed b;
        bed_open(&b, BED_LONG);
        b.s.cr0 |= CR0_AM;
        b.s.rflags |= RFLAGS_AC;
        b.s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, 0xafb, 0xffffffff, 0};
        b.s.seg[CPU_SS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
        b.s.gpr[CPU_RSI] = BED_DATA + 4;
        if (n)
            RUN(&b, enter);
        else
            RUN(&b, cmpxchg8b);
        assert_int_equal(bed_vector(&b), EXC_AC);
        bed_close(&b);
    }
}

// A quotient that does not fit is the guest's #DE, not ours.
GUEST(div8, 64, "div %bl; hlt");
GUEST(idiv64, 64, "idiv %rbx; hlt");

static void division(void **state)
{
    (void)state;
    static const struct {
        uint64_t high, low, by;
        int vector;
    } cases[] = {
        {0, 7, 2, -1},     {~0ull, -7ull, 2, -1}, {0, 7, 0, EXC_DE},         {~0ull, 1ull << 63, ~0ull, EXC_DE},
        {1, 0, 2, EXC_DE}, {1, 0, 3, -1},         {~0ull, 0, -2ull, EXC_DE}, {~0ull, 0, 2, -1},
    };
    struct bed b;
    for (unsigned n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        bed_open(&b, BED_LONG);
        b.s.gpr[CPU_RDX] = cases[n].high;
        b.s.gpr[CPU_RAX] = cases[n].low;
        b.s.gpr[CPU_RBX] = cases[n].by;
        RUN(&b, idiv64);
        assert_int_equal(bed_vector(&b), cases[n].vector);
        if (cases[n].vector < 0) {
            __int128 dividend = (__int128)((unsigned __int128)cases[n].high << 64 | cases[n].low);
            assert_true((__int128)(int64_t)b.s.gpr[CPU_RAX] == dividend / (int64_t)cases[n].by);
            assert_true((__int128)(int64_t)b.s.gpr[CPU_RDX] == dividend % (int64_t)cases[n].by);
        }
        bed_close(&b);
    }
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RAX] = 0x1ff;
    b.s.gpr[CPU_RBX] = 2;
    RUN(&b, div8);
    assert_int_equal(bed_vector(&b), -1);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x1ff); // 255, remainder 1
    b.s.gpr[CPU_RAX] = 0x200;
    RUN(&b, div8);
    assert_int_equal(bed_vector(&b), EXC_DE);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bit_test_only_looks),
        cmocka_unit_test(compare_and_exchange),
        cmocka_unit_test(alignment_checks),
        cmocka_unit_test(division),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
