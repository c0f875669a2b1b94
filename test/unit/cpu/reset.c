// RESET, INIT and SIPI, against the table of the manual (Intel SDM vol. 3, table 10-1).
#include "cpu/state.h"
#include "unit.h"

static void reset_state(void **state)
{
    (void)state;
    struct cpu_state s;
    memset(&s, 0xa5, sizeof s);
    cpu_reset(&s, true);
    assert_int_equal(s.rip, 0xfff0);
    assert_int_equal(s.rflags, 2);
    assert_int_equal(s.cr0, 0x60000010);
    assert_int_equal(s.cr2 | s.cr3 | s.cr4 | s.efer, 0);
    assert_int_equal(s.seg[CPU_CS].selector, 0xf000);
    assert_int_equal(s.seg[CPU_CS].base, 0xffff0000);
    for (int i = 0; i < CPU_SEG_COUNT; i++) {
        assert_int_equal(s.seg[i].limit, 0xffff);
        assert_int_equal(s.seg[i].attr, i == CPU_CS ? 0x9b : 0x93);
    }
    assert_int_equal(s.gdtr.limit, 0xffff);
    assert_int_equal(s.idtr.limit, 0xffff);
    assert_int_equal(s.tr.attr, 0x8b);
    assert_int_equal(s.ldtr.attr, 0x82);
    assert_int_equal(s.dr6, 0xffff0ff0);
    assert_int_equal(s.dr7, 0x400);
    assert_int_equal(s.xcr0, 1);
    assert_int_equal(s.msr.pat, 0x0007040600070406);
    assert_int_equal(s.ev.activity, CPU_RUNNING);
    assert_int_equal(cpu_cpl(&s), 0);
    static const uint8_t legacy[8] = {0x40, 0, 0, 0, 0xff};
    assert_memory_equal(s.xsave, legacy, 8);
    assert_int_equal(s.xsave[512], 1); // x87 is not in its initial state: FCW
    cpu_reset(&s, false);
    assert_int_equal(s.ev.activity, CPU_WAIT_SIPI);
}

static void init_keeps(void **state)
{
    (void)state;
    struct cpu_state s;
    cpu_reset(&s, true);
    s.cr0 = CR0_PE | CR0_PG | CR0_CD;
    s.cr3 = 0x1000;
    s.efer = EFER_LME | EFER_LMA | EFER_SCE;
    s.msr.lstar = 0x1234;
    s.msr.tsc_adjust = 7;
    s.msr.mtrr_def_type = 0xc06;
    s.xcr0 = 7;
    s.xsave[160] = 0x55;
    s.gpr[CPU_R9] = 1;
    s.ev.nmi_masked = true;
    s.ev.activity = CPU_SHUTDOWN;
    cpu_init(&s, false);
    assert_int_equal(s.cr0, CR0_CD | CR0_ET);
    assert_int_equal(s.cr3 | s.efer | s.gpr[CPU_R9], 0);
    assert_int_equal(s.msr.lstar, 0x1234);
    assert_int_equal(s.msr.tsc_adjust, 7);
    assert_int_equal(s.msr.mtrr_def_type, 0xc06);
    assert_int_equal(s.xcr0, 7);
    assert_int_equal(s.xsave[160], 0x55);
    assert_false(s.ev.nmi_masked);
    assert_int_equal(s.ev.activity, CPU_WAIT_SIPI);
}

static void startup(void **state)
{
    (void)state;
    struct cpu_state s;
    cpu_reset(&s, false);
    cpu_startup(&s, 0x9a);
    assert_int_equal(s.seg[CPU_CS].selector, 0x9a00);
    assert_int_equal(s.seg[CPU_CS].base, 0x9a000);
    assert_int_equal(s.rip, 0);
    assert_int_equal(s.ev.activity, CPU_RUNNING);
    cpu_startup(&s, 0x11); // a second one is ignored
    assert_int_equal(s.seg[CPU_CS].base, 0x9a000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(reset_state), cmocka_unit_test(init_keeps),
                                       cmocka_unit_test(startup)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
