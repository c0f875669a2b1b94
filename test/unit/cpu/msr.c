// Model-specific registers: what may be written, what faults, what does not exist.
#include "cpu/msr.h"
#include "unit.h"

static const char *vendor;

static struct cpuid_regs everything(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r = {~0u, ~0u, ~0u, ~0u};
    if (leaf == 0) {
        r.eax = 0x1f;
        memcpy(&r.ebx, vendor, 4);
    } else if (leaf == 0x80000000) {
        r.eax = 0x80000021;
    } else if (leaf == 0xd) {
        r = subleaf ? (struct cpuid_regs){64, 1024, 0, 0} : (struct cpuid_regs){0xe7, 4096, 4096, 0};
    } else if (leaf == 0x80000008) {
        r.eax = 40;
    }
    return r;
}

static struct cpu_state s;
static struct cpu_model m;

static void begin(const char *model, const char *who)
{
    vendor = who;
    cpu_reset(&s, true);
    struct cpu_config c = {.cpus = 1, .tsc_khz = 1000000};
    assert_int_equal(cpu_model_make(&m, model, everything, &c, NULL), 0);
}

static int amd(void **state)
{
    (void)state;
    begin("x86-64-v3", "Auth");
    return 0;
}

static int intel(void **state)
{
    (void)state;
    begin("host", "Genu");
    return 0;
}

static uint64_t rd(uint32_t msr)
{
    uint64_t v = 0;
    assert_int_equal(cpu_msr_read(&s, &m, msr, &v), CPU_MSR_OK);
    return v;
}

static void ok(uint32_t msr, uint64_t val)
{
    assert_int_equal(cpu_msr_write(&s, &m, msr, val), CPU_MSR_OK);
    assert_int_equal(rd(msr), val);
}

// Refused, and the old value is still there.
static void gp(uint32_t msr, uint64_t val)
{
    uint64_t old = rd(msr);
    assert_int_equal(cpu_msr_write(&s, &m, msr, val), CPU_MSR_GP);
    assert_int_equal(rd(msr), old);
}

static void unknown(uint32_t msr)
{
    uint64_t v;
    assert_int_equal(cpu_msr_read(&s, &m, msr, &v), CPU_MSR_UNKNOWN);
    assert_int_equal(cpu_msr_write(&s, &m, msr, 0), CPU_MSR_UNKNOWN);
}

static void efer(void **state)
{
    (void)state;
    ok(MSR_EFER, EFER_SCE | EFER_NXE | EFER_LME | EFER_AIBRSE);
    gp(MSR_EFER, 1ull << 12); // SVME
    gp(MSR_EFER, 1ull << 13); // LMSLE
    gp(MSR_EFER, 1ull << 1);
    gp(MSR_EFER, 1ull << 63);
    s.cr0 |= CR0_PG | CR0_PE;
    s.efer |= EFER_LMA;
    gp(MSR_EFER, EFER_SCE); // LME while paging
    assert_int_equal(cpu_msr_write(&s, &m, MSR_EFER, EFER_LME | EFER_NXE), CPU_MSR_OK);
    assert_int_equal(s.efer, EFER_LME | EFER_NXE | EFER_LMA); // LMA is not for writing
}

static void addresses(void **state)
{
    (void)state;
    static const uint32_t msrs[] = {MSR_LSTAR,          MSR_CSTAR,        MSR_FS_BASE,     MSR_GS_BASE,
                                    MSR_KERNEL_GS_BASE, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP};
    for (unsigned i = 0; i < sizeof msrs / sizeof msrs[0]; i++) {
        s.cr4 = 0;
        ok(msrs[i], 0x00007fffffffffff);
        ok(msrs[i], 0xffff800000000000);
        gp(msrs[i], 0x0000800000000000);
        gp(msrs[i], 0xffff7fffffffffff);
        gp(msrs[i], 1ull << 63);
        s.cr4 = CR4_LA57;
        ok(msrs[i], 0x0000800000000000);
        gp(msrs[i], 0x0100000000000000);
    }
    assert_int_equal(s.seg[CPU_FS].base, 0x0000800000000000);
    ok(MSR_STAR, ~0ull);
    // bits that AMD drops
    assert_int_equal(cpu_msr_write(&s, &m, MSR_SFMASK, ~0ull), CPU_MSR_OK);
    assert_int_equal(rd(MSR_SFMASK), 0xffffffff);
    assert_int_equal(cpu_msr_write(&s, &m, MSR_TSC_AUX, 0x100000007), CPU_MSR_OK);
    assert_int_equal(rd(MSR_TSC_AUX), 7);
}

static void memory_types(void **state)
{
    (void)state;
    ok(MSR_PAT, 0x0706050401000606);
    gp(MSR_PAT, 2);
    gp(MSR_PAT, 3ull << 56);
    gp(MSR_PAT, 8ull << 8);
    gp(MSR_PAT, 0x86);
    assert_int_equal(rd(MSR_MTRRCAP), 0x508);
    assert_int_equal(cpu_msr_write(&s, &m, MSR_MTRRCAP, 0x508), CPU_MSR_GP);
    ok(MSR_MTRR_DEF_TYPE, 0xc06);
    gp(MSR_MTRR_DEF_TYPE, 0xc02);
    gp(MSR_MTRR_DEF_TYPE, 0x1006);
    ok(0x250, 0x0606060606060606);
    gp(0x250, 0x0706060606060606); // UC- is the PAT's alone
    ok(0x259, 0x0505050505050505);
    ok(0x26f, 0x0101010101010101);
    assert_int_equal(s.msr.mtrr_fixed[10], 0x0101010101010101);
    assert_int_equal(s.msr.mtrr_fixed[2], 0x0505050505050505);
    unknown(0x251);
    unknown(0x270);
    ok(0x200, 0x80000006);
    gp(0x200, 0x80000106);
    gp(0x200, 1ull << 40 | 6); // above MAXPHYADDR
    ok(0x20f, 0xff80000800);
    assert_int_equal(s.msr.mtrr_mask[7], 0xff80000800);
    gp(0x20f, 0x400);
    unknown(0x210);
}

static void machine_check(void **state)
{
    (void)state;
    assert_int_equal(rd(MSR_MCG_CAP), 0x100);
    ok(MSR_MCG_STATUS, 4);
    gp(MSR_MCG_STATUS, 8);
    ok(0x17b, ~0ull);
    gp(0x17b, 1);
    unknown(0x400); // no bank
}

static void not_the_cpus(void **state)
{
    (void)state;
    unknown(MSR_APIC_BASE);
    unknown(MSR_TSC_DEADLINE);
    unknown(0x802);
    unknown(0x4b564d01);
    unknown(MSR_TSC); // the engine's
    unknown(0xdeadbeef);
}

// Linux 5.10 to 6.12 reads or writes these on this vendor without a guard.
static void unguarded_amd(void **state)
{
    (void)state;
    assert_int_equal(rd(0xc0010010), 0);                                         // k8_check_syscfg_dram_mod_en
    assert_int_equal(rd(0xc0010015) >> 24 & 1, 1);                               // bsp_init_amd: TscFreqSel
    assert_int_equal(cpu_msr_write(&s, &m, 0xc001001f, 1ull << 46), CPU_MSR_OK); // amd_bus_cpu_online
    assert_int_equal(rd(0xc0011029), 2);
    assert_int_equal(rd(0xc0011020), 0);
    assert_int_equal(rd(MSR_UCODE_REV), 0x0a0011ff);
    assert_int_equal(cpu_msr_write(&s, &m, MSR_UCODE_REV, 0), CPU_MSR_OK);
    unknown(MSR_MISC_ENABLE);
    unknown(MSR_FEATURE_CONTROL);
    unknown(MSR_SPEC_CTRL);
    unknown(MSR_PRED_CMD);
    unknown(MSR_ARCH_CAPABILITIES);
    unknown(MSR_XSS);
    gp(MSR_DEBUGCTL, 1); // no branch records
    ok(MSR_DEBUGCTL, 2);
}

static void intel_msrs(void **state)
{
    (void)state;
    uint64_t v;
    assert_int_equal(rd(MSR_FEATURE_CONTROL), 1);
    assert_int_equal(cpu_msr_write(&s, &m, MSR_FEATURE_CONTROL, 5), CPU_MSR_GP);
    assert_int_equal(rd(MSR_MISC_ENABLE), 0x1801);
    ok(MSR_MISC_ENABLE, 0x11801);
    gp(MSR_MISC_ENABLE, 1ull << 34); // execute disable stays on
    gp(MSR_MISC_ENABLE, 0x11801 | 1 << 22);
    ok(MSR_SPEC_CTRL, 1);
    gp(MSR_SPEC_CTRL, 4);
    assert_int_equal(cpu_msr_write(&s, &m, MSR_PRED_CMD, 1), CPU_MSR_OK);
    assert_int_equal(cpu_msr_write(&s, &m, MSR_PRED_CMD, 2), CPU_MSR_GP);
    assert_int_equal(cpu_msr_read(&s, &m, MSR_PRED_CMD, &v), CPU_MSR_GP);
    assert_true(rd(MSR_ARCH_CAPABILITIES) & 1);         // RDCL_NO
    assert_false(rd(MSR_ARCH_CAPABILITIES) & 1 << 4);   // SSB_NO is not said
    assert_int_equal(rd(MSR_UCODE_REV), 0x10000000000); // read as its upper half
    assert_int_equal(cpu_msr_write(&s, &m, MSR_TSC_AUX, 1ull << 32), CPU_MSR_GP);
    gp(MSR_SFMASK, 1ull << 32);
    gp(MSR_EFER, EFER_AIBRSE);
    unknown(0xc0010015);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(efer, amd),         cmocka_unit_test_setup(addresses, amd),
        cmocka_unit_test_setup(memory_types, amd), cmocka_unit_test_setup(machine_check, amd),
        cmocka_unit_test_setup(not_the_cpus, amd), cmocka_unit_test_setup(unguarded_amd, amd),
        cmocka_unit_test_setup(intel_msrs, intel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
