// CPU models: what a guest reads from CPUID, on a host that we make up.
#include "cpu/model.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>

enum { EAX, EBX, ECX, EDX };

// A host with everything, or with some feature taken away.
struct fake_host {
    const char *vendor;
    uint32_t leaf, reg, clear; // taken away
    uint32_t xsave_now;
};
static struct fake_host fake; // a callback without context: the tests run one after the other

static struct cpuid_regs fake_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r = {~0u, ~0u, ~0u, ~0u};
    if (leaf == 0) {
        r.eax = 0x1f;
        memcpy(&r.ebx, fake.vendor, 4);
        memcpy(&r.edx, fake.vendor + 4, 4);
        memcpy(&r.ecx, fake.vendor + 8, 4);
    } else if (leaf == 0x80000000) {
        r.eax = 0x80000021;
    } else if (leaf == 1) {
        r.eax = 0x00a20f12;
    } else if (leaf == 7 && subleaf == 0) {
        r.eax = 1;
    } else if (leaf == 0x80000008) {
        r.eax = 0x3030;
    } else if (leaf == 0xd) {
        static const struct cpuid_regs d[8] = {{0xe7, 0, 0xa88, 0}, {0xf, 0, 0, 0},    {256, 576, 0, 0},
                                               {0, 0, 0, 0},        {0, 0, 0, 0},      {64, 1088, 0, 0},
                                               {512, 1152, 0, 0},   {1024, 1664, 0, 0}};
        r = subleaf < 8 ? d[subleaf] : (struct cpuid_regs){0};
        if (subleaf == 0)
            r.ebx = fake.xsave_now;
    } else if (leaf >= 0x80000002 && leaf <= 0x80000004) {
        memcpy(&r, "Host CPU brand16", 16);
    }
    uint32_t *regs[] = {&r.eax, &r.ebx, &r.ecx, &r.edx};
    if (leaf == fake.leaf)
        *regs[fake.reg] &= ~fake.clear;
    return r;
}

static int setup(void **state)
{
    (void)state;
    fake = (struct fake_host){.vendor = "AuthenticAMD", .xsave_now = 2688};
    return 0;
}

static struct cpu_model made(const char *name, struct cpu_config config)
{
    struct cpu_model m;
    struct error e = {""};
    if (cpu_model_make(&m, name, fake_cpuid, &config, &e))
        fail_msg("%s", e.text);
    return m;
}

static struct cpuid_regs ask(const struct cpu_model *m, const struct cpu_state *s, unsigned id, uint32_t leaf,
                             uint32_t subleaf)
{
    struct cpuid_regs r;
    cpu_cpuid(m, s, id, leaf, subleaf, &r);
    return r;
}

static const struct cpu_config two = {.cpus = 2, .tsc_khz = 2596138, .paravirt = true};

static void identity(void **state)
{
    (void)state;
    struct cpu_state s;
    cpu_reset(&s, true);
    struct cpu_model m = made("x86-64-v3", two);
    struct cpuid_regs r = ask(&m, &s, 0, 0, 0);
    assert_memory_equal(&r.ebx, "Auth", 4);
    assert_memory_equal(&r.edx, "enti", 4);
    assert_memory_equal(&r.ecx, "cAMD", 4);
    assert_int_equal(r.eax, 0x1f);
    char brand[49] = "";
    for (unsigned i = 0; i < 3; i++) {
        r = ask(&m, &s, 0, 0x80000002 + i, 0);
        memcpy(brand + 16 * i, &r, 16);
    }
    assert_string_equal(brand, "Trapeze virtual CPU x86-64-v3");
    // family 19h: the manual's arithmetic
    r = ask(&m, &s, 0, 1, 0);
    assert_int_equal((r.eax >> 8 & 15) + (r.eax >> 20 & 255), 0x19);
    assert_int_equal(ask(&m, &s, 0, 0x80000001, 0).eax, r.eax);
    // no feature of the host shines through that the model does not have
    assert_false(cpu_model_has(&m, 7, 0, EBX, 16));
    assert_false(cpu_model_has(&m, 1, 0, ECX, 3)); // MONITOR
    // but the operating system's ones are there
    assert_true(cpu_model_has(&m, 7, 0, EBX, 20));  // SMAP
    assert_true(cpu_model_has(&m, 1, 0, ECX, 31));  // hypervisor
    assert_false(cpu_model_has(&m, 7, 0, ECX, 16)); // LA57 only on request
    assert_int_equal(m.phys_bits, 40);
    assert_int_equal(ask(&m, &s, 0, 0x80000008, 0).eax, 0x3028);
}

// The same model on different hosts is the same, bit for bit.
static void same_everywhere(void **state)
{
    (void)state;
    struct cpu_model a = made("x86-64-v3", two);
    fake.vendor = "GenuineIntel";
    fake.leaf = 7, fake.reg = EBX, fake.clear = 1u << 16 | 1u << 29; // no AVX-512, no SHA
    fake.xsave_now = 832;
    struct cpu_model b = made("x86-64-v3", two);
    assert_memory_equal(a.leaf, b.leaf, a.count * sizeof a.leaf[0]);
    assert_int_equal(a.count, b.count);
    assert_int_equal(a.xcr0_mask, 7);
    assert_int_equal(a.cr4_mask, b.cr4_mask);
}

static void levels(void **state)
{
    (void)state;
    struct cpu_model v2 = made("x86-64-v2", two), v3 = made("x86-64-v3", two);
    static const struct {
        uint32_t leaf, reg, bit;
        bool in2;
    } bits[] = {// psABI: v2
                {1, ECX, 13, true},
                {0x80000001, ECX, 0, true},
                {1, ECX, 23, true},
                {1, ECX, 0, true},
                {1, ECX, 19, true},
                {1, ECX, 20, true},
                {1, ECX, 9, true},
                // v3
                {1, ECX, 28, false},
                {7, EBX, 5, false},
                {7, EBX, 3, false},
                {7, EBX, 8, false},
                {1, ECX, 29, false},
                {1, ECX, 12, false},
                {0x80000001, ECX, 5, false},
                {1, ECX, 22, false},
                {1, ECX, 26, false}};
    for (unsigned i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        assert_true(cpu_model_has(&v3, bits[i].leaf, 0, bits[i].reg, bits[i].bit));
        assert_int_equal(cpu_model_has(&v2, bits[i].leaf, 0, bits[i].reg, bits[i].bit), bits[i].in2);
    }
    assert_false(v2.cr4_mask & CR4_OSXSAVE);
    assert_true(v3.cr4_mask & CR4_OSXSAVE);
}

static void refuses(void **state)
{
    (void)state;
    struct cpu_model m;
    struct error e;
    fake.leaf = 7, fake.reg = EBX, fake.clear = 1u << 3 | 1u << 5;
    assert_int_equal(cpu_model_make(&m, "x86-64-v3", fake_cpuid, &two, &e), -ENOTSUP);
    assert_string_equal(e.text, "CPU model x86-64-v3: this host lacks bmi1, avx2");
    assert_int_equal(cpu_model_make(&m, NULL, fake_cpuid, &two, &e), 0); // the best that goes
    assert_string_equal(m.name, "x86-64-v2");
    assert_int_equal(cpu_model_make(&m, "host", fake_cpuid, &two, &e), 0); // whatever the host has
    assert_false(cpu_model_has(&m, 7, 0, EBX, 5));
    assert_false(cpu_model_has(&m, 7, 0, EBX, 16)); // AVX-512 needs AVX2
    fake.leaf = 0;
    fake.xsave_now = 576; // the host's kernel has not switched AVX on
    assert_int_equal(cpu_model_make(&m, "x86-64-v3", fake_cpuid, &two, &e), -ENOTSUP);
    assert_non_null(strstr(e.text, "lacks avx"));
    assert_int_equal(cpu_model_make(&m, "pentium", fake_cpuid, &two, &e), -EINVAL);
    assert_string_equal(e.text, "CPU model 'pentium' is unknown: take x86-64-v2, x86-64-v3 or host");
    assert_int_equal(cpu_model_make(&m, "x86-64-v", fake_cpuid, &two, &e), -EINVAL);
    assert_int_equal(cpu_model_make(&m, "", fake_cpuid, &two, &e), -EINVAL);
    struct cpu_config none = {.cpus = 0}, many = {.cpus = CPU_MAX + 1};
    assert_int_equal(cpu_model_make(&m, "host", fake_cpuid, &none, &e), -EINVAL);
    assert_int_equal(cpu_model_make(&m, "host", fake_cpuid, &many, &e), -EINVAL);
}

static void changes(void **state)
{
    (void)state;
    struct error e;
    struct cpu_model m = made("x86-64-v3,+la57,-avx", two);
    assert_true(cpu_model_has(&m, 7, 0, ECX, 16));
    assert_true(m.cr4_mask & CR4_LA57);
    assert_false(cpu_model_has(&m, 1, 0, ECX, 28));
    assert_false(cpu_model_has(&m, 7, 0, EBX, 5)); // AVX2 goes with AVX
    assert_int_equal(m.xcr0_mask, 3);
    m = made("x86-64-v2,+avx2", two); // and brings what it needs
    assert_true(cpu_model_has(&m, 1, 0, ECX, 28));
    assert_true(cpu_model_has(&m, 1, 0, ECX, 26));
    fake.leaf = 7, fake.reg = EBX, fake.clear = 1u << 29;
    assert_int_equal(cpu_model_make(&m, "x86-64-v3,+sha", fake_cpuid, &two, &e), -ENOTSUP);
    assert_string_equal(e.text, "CPU model x86-64-v3,+sha: this host lacks sha");
    assert_int_equal(cpu_model_make(&m, "host,+sha", fake_cpuid, &two, &e), -ENOTSUP);
    assert_int_equal(cpu_model_make(&m, "x86-64-v3,+magic", fake_cpuid, &two, &e), -EINVAL);
    assert_string_equal(e.text, "CPU model: unknown feature 'magic'");
    assert_int_equal(cpu_model_make(&m, "x86-64-v3,avx", fake_cpuid, &two, &e), -EINVAL);
    assert_int_equal(cpu_model_make(&m, "x86-64-v3,", fake_cpuid, &two, &e), -EINVAL);
    assert_int_equal(cpu_model_make(&m, "x86-64-v3,-lm", fake_cpuid, &two, &e), -EINVAL);
}

static void topology(void **state)
{
    (void)state;
    struct cpu_state s;
    cpu_reset(&s, true);
    for (unsigned cpus = 1; cpus <= CPU_MAX; cpus++) {
        struct cpu_model m = made("x86-64-v3", (struct cpu_config){.cpus = cpus});
        unsigned id = cpus - 1;
        struct cpuid_regs r = ask(&m, &s, id, 1, 0);
        assert_int_equal(r.ebx >> 24, id);
        assert_int_equal(r.ebx >> 16 & 255, cpus);
        assert_int_equal(r.edx >> 28 & 1, cpus > 1);
        r = ask(&m, &s, id, 0xb, 0);
        assert_int_equal(r.eax, 0);
        assert_int_equal(r.ebx, 1);
        assert_int_equal(r.ecx, 0x100);
        assert_int_equal(r.edx, id);
        r = ask(&m, &s, id, 0xb, 1);
        assert_int_equal(r.ecx, 0x201);
        assert_int_equal(r.ebx, cpus);
        assert_true(1u << r.eax >= cpus && (cpus == 1 || 1u << (r.eax - 1) < cpus));
        assert_int_equal(ask(&m, &s, id, 0x80000008, 0).ecx, (cpus - 1) | r.eax << 12);
        r = ask(&m, &s, id, 0xb, 2);
        assert_int_equal(r.ecx, 2);
        assert_int_equal(r.edx, id);
        assert_int_equal(r.eax | r.ebx, 0);
        r = ask(&m, &s, id, 0x8000001d, 3); // the L3 is everyone's
        assert_int_equal(r.eax >> 14, cpus - 1);
        uint64_t bytes = (uint64_t)((r.ebx & 0xfff) + 1) * ((r.ebx >> 22) + 1) * (r.ecx + 1);
        assert_int_equal(bytes, 16 << 20);
        assert_int_equal(ask(&m, &s, id, 0x8000001d, 4).eax, 0);
        r = ask(&m, &s, id, 0x8000001e, 0);
        assert_int_equal(r.eax, id);
        assert_int_equal(r.ebx, id);
    }
}

static void dynamic(void **state)
{
    (void)state;
    struct cpu_state s;
    cpu_reset(&s, true);
    struct cpu_model m = made("host", two);
    assert_int_equal(m.xcr0_mask, 0xe7);
    assert_false(ask(&m, &s, 0, 1, 0).ecx >> 27 & 1);
    s.cr4 |= CR4_OSXSAVE;
    assert_true(ask(&m, &s, 0, 1, 0).ecx >> 27 & 1);
    struct cpuid_regs r = ask(&m, &s, 0, 0xd, 0);
    assert_int_equal(r.eax, 0xe7);
    assert_int_equal(r.ebx, 576);
    assert_int_equal(r.ecx, 2688);
    s.xcr0 = 7;
    assert_int_equal(ask(&m, &s, 0, 0xd, 0).ebx, 832);
    assert_int_equal(ask(&m, &s, 0, 0xd, 1).ebx, 832);
    s.xcr0 = 0xe7;
    assert_int_equal(ask(&m, &s, 0, 0xd, 0).ebx, 2688);
    assert_int_equal(ask(&m, &s, 0, 0xd, 1).ebx, 576 + 256 + 64 + 512 + 1024); // compacted
    assert_int_equal(cpu_xsave_offset(&m, 2), 576);
    assert_int_equal(cpu_xsave_offset(&m, 7), 1664);
    assert_int_equal(cpu_xsave_offset(&m, 9), 0);
    assert_int_equal(cpu_xsave_size(&m, 3), 576);
}

static void clocks(void **state)
{
    (void)state;
    struct cpu_state s;
    cpu_reset(&s, true);
    static const uint32_t khz[] = {1000, 999983, 1000000, 2596138, 3000000, 4294967, 4294968, 5000001};
    for (unsigned i = 0; i < sizeof khz / sizeof khz[0]; i++) {
        struct cpu_model m = made("x86-64-v3", (struct cpu_config){.cpus = 1, .tsc_khz = khz[i], .paravirt = true});
        struct cpuid_regs r = ask(&m, &s, 0, 0x15, 0);
        assert_int_equal(r.ecx, CPU_CRYSTAL_KHZ * 1000u);
        assert_int_equal((uint64_t)khz[i] * r.eax, (uint64_t)CPU_CRYSTAL_KHZ * r.ebx);
        r = ask(&m, &s, 0, 0x40000010, 0);
        assert_int_equal(r.eax, khz[i]);
    }
    fake.vendor = "GenuineIntel"; // there Linux multiplies in 32 bits
    for (unsigned i = 0; i < sizeof khz / sizeof khz[0]; i++) {
        struct cpu_model m = made("host", (struct cpu_config){.cpus = 1, .tsc_khz = khz[i]});
        struct cpuid_regs r = ask(&m, &s, 0, 0x15, 0);
        assert_true((uint64_t)CPU_CRYSTAL_KHZ * r.ebx <= 0xffffffff);
        double got = (double)CPU_CRYSTAL_KHZ * r.ebx / r.eax;
        assert_true(got > khz[i] * (1 - 2.4e-4) && got < khz[i] * (1 + 2.4e-4));
    }
    struct cpu_model m = made("x86-64-v3", two);
    struct cpuid_regs r = ask(&m, &s, 0, 0x40000000, 0);
    assert_int_equal(r.eax, 0x40000010);
    assert_memory_equal(&r.ebx, "KVMKVMKVM\0\0\0", 12);
    assert_int_equal(ask(&m, &s, 0, 0x40000001, 0).eax, 0x0100006b);
    struct cpu_model more = made("x86-64-v3,-kvm-pv-eoi,+kvm-pv-ipi,+kvm-pv-tlb-flush,-kvm-steal-time", two);
    assert_int_equal(ask(&more, &s, 0, 0x40000001, 0).eax, 0x0100080b); // no TLB flush without steal time
    assert_true(cpu_model_has(&m, 0x80000007, 0, EDX, 8));
    m = made("x86-64-v3", (struct cpu_config){.cpus = 1});
    assert_int_equal(ask(&m, &s, 0, 0x40000000, 0).ebx, 0);
    assert_int_equal(ask(&m, &s, 0, 0x40000001, 0).eax, 0);
    assert_false(cpu_model_has_paravirt(&m, CPU_PV_EOI));
}

// CPUID looks at ECX only in leaves that have subleaves: software leaves anything in it for the others.
static void ignores_ecx(void **state)
{
    (void)state;
    struct cpu_model m = made(NULL, (struct cpu_config){.cpus = 2, .tsc_khz = 2000000, .paravirt = true});
    struct cpu_state s = {0};
    static const uint32_t leaves[] = {0, 1, 0x15, 0x16, 0x40000000, 0x80000000, 0x80000001, 0x80000008};
    for (unsigned i = 0; i < sizeof leaves / sizeof *leaves; i++) {
        struct cpuid_regs a, b;
        cpu_cpuid(&m, &s, 0, leaves[i], 0, &a);
        cpu_cpuid(&m, &s, 0, leaves[i], 0x12345678, &b);
        assert_memory_equal(&a, &b, sizeof a);
        assert_true(a.eax | a.ebx | a.ecx | a.edx);
    }
}

static void out_of_range(void **state)
{
    (void)state;
    struct cpu_state s;
    cpu_reset(&s, true);
    struct cpu_model m = made("x86-64-v3", two);
    struct cpuid_regs r = ask(&m, &s, 1, 0x20, 0);
    assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
    r = ask(&m, &s, 1, 0x80000022, 0);
    assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
    fake.vendor = "GenuineIntel"; // there: the highest basic leaf, 0x1f
    m = made("host", two);
    r = ask(&m, &s, 1, 0x20, 1);
    assert_int_equal(r.ecx, 0x201);
    assert_int_equal(r.edx, 1);
    r = ask(&m, &s, 1, 0x80000009, 0);
    assert_int_equal(r.edx, 1);
}

static void intel_host(void **state)
{
    (void)state;
    struct cpu_state s;
    cpu_reset(&s, true);
    fake.vendor = "GenuineIntel";
    struct cpu_model m = made("host", two);
    assert_int_equal(m.vendor, CPU_VENDOR_INTEL);
    assert_true(cpu_model_has(&m, 7, 0, EDX, 29));
    assert_false(cpu_model_has(&m, 0x80000021, 0, EAX, 8));
    struct cpuid_regs r = ask(&m, &s, 0, 4, 0);
    assert_int_equal(r.eax & 31, 1);
    assert_int_equal(r.eax >> 26, 1); // ids of two cores
    r = ask(&m, &s, 0, 0x80000002, 0);
    assert_memory_equal(&r, "Host CPU brand16", 16);
    assert_int_equal(m.phys_bits, 48);
}

// Under hardware virtualization: its leaves decide on system features, not on what engines do by themselves.
static void hardware(void **state)
{
    (void)state;
    enum { PCID = 1u << 17, RDPID = 1u << 22, X2APIC = 1u << 21, SSE41 = 1u << 19 };
    struct cpuid_leaf leaves[] = {
        {1, CPUID_ANY, {~0u, ~0u, ~0u & ~(PCID | X2APIC), ~0u}},
        {7, 0, {1, ~0u, ~0u & ~RDPID, ~0u}},
        {7, 1, {~0u, ~0u, ~0u, ~0u}},
        {0xd, 1, {~0u, ~0u, ~0u, ~0u}},
        {0x80000001, CPUID_ANY, {~0u, ~0u, ~0u, ~0u}},
    };
    struct cpu_config config = {.cpus = 1, .tsc_khz = 1000000, .hardware = leaves, .hardware_leaves = 5};
    struct error e;
    struct cpu_model m;
    assert_int_equal(cpu_model_make(&m, "x86-64-v2", fake_cpuid, &config, &e), -ENOTSUP);
    assert_non_null(strstr(e.text, "lacks pcid, rdpid")); // the local APIC is our own
    m = made("x86-64-v2,-pcid,-rdpid", config);
    assert_null(m.config.hardware); // which is the caller's
    assert_true(cpu_model_has(&m, 1, 0, ECX, 21));
    m = made(NULL, config);
    assert_string_equal(m.name, "x86-64-v3,-pcid,-rdpid");
    assert_false(cpu_model_has(&m, 7, 0, EBX, 10)); // INVPCID goes with PCID
    m = made("host", config);
    assert_false(cpu_model_has(&m, 1, 0, ECX, 17));
    assert_true(cpu_model_has(&m, 1, 0, ECX, 28));
    leaves[0].r.ecx &= ~SSE41; // such a KVM only emulates: the default is what is left of v2
    m = made(NULL, config);
    assert_string_equal(m.name, "x86-64-v2,-pcid,-sse4.1,-rdpid");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(identity, setup),    cmocka_unit_test_setup(same_everywhere, setup),
        cmocka_unit_test_setup(levels, setup),      cmocka_unit_test_setup(refuses, setup),
        cmocka_unit_test_setup(changes, setup),     cmocka_unit_test_setup(topology, setup),
        cmocka_unit_test_setup(dynamic, setup),     cmocka_unit_test_setup(clocks, setup),
        cmocka_unit_test_setup(ignores_ecx, setup), cmocka_unit_test_setup(out_of_range, setup),
        cmocka_unit_test_setup(intel_host, setup),  cmocka_unit_test_setup(hardware, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
