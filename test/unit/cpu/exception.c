// The combining rule, against the table of the manual (Intel SDM vol. 3, table 6-5), and who pushes an error code.
#include "cpu/exception.h"
#include "unit.h"

static void combines(void **state)
{
    (void)state;
    static const uint8_t benign[] = {EXC_DB, EXC_NMI, EXC_BP, EXC_OF, EXC_BR, EXC_UD, EXC_NM,
                                     EXC_MF, EXC_AC,  EXC_MC, EXC_XM, 32,     255};
    static const uint8_t contributory[] = {EXC_DE, EXC_TS, EXC_NP, EXC_SS, EXC_GP, EXC_CP};
    for (unsigned i = 0; i < sizeof benign; i++)
        for (unsigned v = 0; v < 256; v++) {
            assert_int_equal(cpu_exception_combine(benign[i], (uint8_t)v), CPU_SERIAL);
            assert_int_equal(cpu_exception_combine((uint8_t)v, benign[i]), CPU_SERIAL);
        }
    for (unsigned i = 0; i < sizeof contributory; i++) {
        uint8_t c = contributory[i];
        for (unsigned j = 0; j < sizeof contributory; j++)
            assert_int_equal(cpu_exception_combine(c, contributory[j]), CPU_DOUBLE_FAULT);
        assert_int_equal(cpu_exception_combine(c, EXC_PF), CPU_SERIAL);
        assert_int_equal(cpu_exception_combine(EXC_PF, c), CPU_DOUBLE_FAULT);
        assert_int_equal(cpu_exception_combine(EXC_DF, c), CPU_TRIPLE_FAULT);
    }
    assert_int_equal(cpu_exception_combine(EXC_PF, EXC_PF), CPU_DOUBLE_FAULT);
    assert_int_equal(cpu_exception_combine(EXC_DF, EXC_PF), CPU_TRIPLE_FAULT);
}

static void error_codes(void **state)
{
    (void)state;
    for (unsigned v = 0; v < 256; v++) {
        bool has = v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21;
        assert_int_equal(cpu_exception_has_error((uint8_t)v), has);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(combines), cmocka_unit_test(error_codes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
