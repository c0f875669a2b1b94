// States that come from outside: what a CPU can be in is taken, each thing that it cannot is refused by name.
#include "cpu/check.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>

// A host that has everything but leaves beyond those of a model.
static struct cpuid_regs any_host(uint32_t leaf, uint32_t subleaf)
{
    (void)subleaf;
    if (leaf == 0 || leaf == 0x80000000)
        return (struct cpuid_regs){.eax = leaf + 0x21, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65};
    return (struct cpuid_regs){UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
}

static void make_model(struct cpu_model *m)
{
    struct error err = {.text = ""};
    if (cpu_model_make(m, "x86-64-v3", any_host, &(struct cpu_config){.cpus = 1, .tsc_khz = 1000000}, &err))
        fail_msg("%s", err.text);
}

// In the middle of a 64-bit kernel.
static struct cpu_state long_mode(void)
{
    struct cpu_state s;
    cpu_reset(&s, true);
    s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_WP | CR0_NE;
    s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE;
    s.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    s.cr3 = 0x1000;
    s.xcr0 = 7;
    s.seg[CPU_CS].attr = CPU_SEG_P | CPU_SEG_S | CPU_SEG_CODE | CPU_SEG_WRITE | CPU_SEG_L;
    s.seg[CPU_CS].base = 0;
    s.seg[CPU_GS].base = 0xffff888000000000;
    s.rip = 0xffffffff81000000;
    s.msr.lstar = 0xffffffff81000040;
    return s;
}

static void taken(void **state)
{
    (void)state;
    struct cpu_model m;
    struct error err = {.text = ""};
    make_model(&m);
    struct cpu_state s;
    for (unsigned boot = 0; boot < 2; boot++) {
        cpu_reset(&s, boot);
        if (cpu_state_check(&s, &m, &err))
            fail_msg("%s", err.text);
    }
    s = long_mode();
    if (cpu_state_check(&s, &m, &err))
        fail_msg("%s", err.text);
}

static void refused(void **state)
{
    (void)state;
    struct cpu_model m;
    make_model(&m);
    struct cpu_state s;
#define REFUSED(expected, change)                                                                                      \
    do {                                                                                                               \
        struct error err = {.text = "nothing"};                                                                        \
        s = long_mode();                                                                                               \
        change;                                                                                                        \
        assert_int_equal(cpu_state_check(&s, &m, &err), -EINVAL);                                                      \
        assert_string_equal(err.text, expected);                                                                       \
    } while (0)
#define HOLDS ": no such CPU can hold that"
    REFUSED("RFLAGS" HOLDS, s.rflags |= 8);
    REFUSED("RFLAGS" HOLDS, s.rflags &= ~2ull);
    REFUSED("CR0" HOLDS, s.cr0 |= 1ull << 32);
    REFUSED("CR0" HOLDS, s.cr0 &= ~CR0_PE);
    REFUSED("CR4" HOLDS, s.cr4 |= CR4_PKE);
    REFUSED("EFER" HOLDS, s.efer |= 1ull << 12);
    REFUSED("CR0, CR4, EFER and RFLAGS together" HOLDS, s.efer &= ~EFER_LMA);
    REFUSED("CR0, CR4, EFER and RFLAGS together" HOLDS, s.cr4 &= ~CR4_PAE);
    REFUSED("CR0, CR4, EFER and RFLAGS together" HOLDS, s.rflags |= RFLAGS_VM);
    REFUSED("CR3" HOLDS, s.cr3 = 1ull << 60);
    REFUSED("XCR0" HOLDS, s.xcr0 = 5);
    REFUSED("XCR0" HOLDS, s.xcr0 = 0x207);
    REFUSED("debug registers" HOLDS, s.dr7 = 1ull << 32);
    REFUSED("segment registers" HOLDS, s.seg[CPU_GS].base = 0x1234888000000000);
    REFUSED("segment registers" HOLDS, s.seg[CPU_DS].base = 1ull << 32);
    REFUSED("segment registers" HOLDS, s.seg[CPU_DS].attr = 0x1000);
    REFUSED("CS" HOLDS, s.seg[CPU_CS].attr |= CPU_SEG_DB);
    REFUSED("descriptor tables" HOLDS, s.idtr.base = 0x1234888000000000);
    REFUSED("RIP" HOLDS, s.rip = 0x1234888000000000);
    REFUSED("MSR 0xc0000082: no such CPU can hold 0x800000000000", s.msr.lstar = 0x800000000000);
    REFUSED("MSR 0x277: no such CPU can hold 0x2", s.msr.pat = 2);
    REFUSED("pending events" HOLDS, s.ev.activity = CPU_SHUTDOWN + 1);
    REFUSED("pending events" HOLDS, s.ev.shadow = 3);
    REFUSED("MXCSR" HOLDS, s.xsave[26] = 1);
    REFUSED("header of the XSAVE area" HOLDS, s.xsave[513] = 2); // a component that the model does not have
    REFUSED("header of the XSAVE area" HOLDS, s.xsave[527] = 0x80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(taken), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
