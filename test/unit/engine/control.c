// Control registers and the modes they switch, MSRs, time, CPUID, system calls of legacy mode, port I/O.
#include "bed.h"
#include "cpu/msr.h"

GUEST(to_cr0, 64, "mov %rax, %cr0; hlt");
GUEST(to_cr3, 64, "mov %rax, %cr3; hlt");
GUEST(to_cr4, 64, "mov %rax, %cr4; hlt");
GUEST(to_cr8, 64, "mov %rax, %cr8; mov %cr8, %rbx; hlt");
GUEST(to_cr0_32, 32, "mov %eax, %cr0; hlt");
GUEST(to_cr3_32, 32, "mov %eax, %cr3; hlt");
GUEST(lmsw, 16, "lmsw %ax; hlt");
GUEST(wrmsr, 64, "wrmsr; hlt");
GUEST(rdmsr, 64, "rdmsr; hlt");
GUEST(rdtsc, 64, "rdtsc; hlt");
GUEST(cpuid, 64, "cpuid; hlt");
GUEST(xsetbv, 64, "xsetbv; hlt");
GUEST(xgetbv, 64, "xgetbv; hlt");
GUEST(vmmcall, 64, "vmmcall; hlt");
GUEST(invpcid, 64, "invpcid 0x8000, %rax; hlt");
GUEST(syscall32, 32, "syscall; hlt");
GUEST(sysret32, 32, "sysret; hlt");
GUEST(sysenter32, 32, "sysenter; hlt");
GUEST(sysexit32, 32, "sysexit; hlt");
GUEST(sysenter64, 64, "sysenter; hlt");

static void user(struct bed *b)
{
    b->s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, b->s.efer ? 0xafb : 0xcfb, 0xffffffff, 0};
    b->s.seg[CPU_SS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
}

#define RUN(b, code) (bed_load(b, code, code##_end), bed_run(b))

static void cr0_and_cr4(void **state)
{
    (void)state;
    struct {
        char which;
        uint64_t set, clear;
        bool fine;
    } cases[] = {
        {'0', CR0_WP | CR0_AM | CR0_TS, 0, true},
        {'0', CR0_NW, 0, false},
        {'0', CR0_NW | CR0_CD, 0, true},
        {'0', 1ull << 32, 0, false},
        {'0', 0, CR0_PG, false}, // from 64-bit mode
        {'0', 0, CR0_PE, false},
        {'4', CR4_PGE | CR4_OSFXSR | CR4_SMEP | CR4_UMIP, 0, true},
        {'4', 0, CR4_PAE, false},
        {'4', CR4_LA57, 0, false}, // the model has none
        {'4', CR4_PKE, 0, false},
        {'4', 1ull << 32, 0, false},
        {'4', 1ull << 13, 0, false}, // VMXE
        {'4', CR4_PCIDE, 0, true},
    };
    struct bed b;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bed_open(&b, BED_LONG);
        uint64_t old = cases[i].which == '0' ? b.s.cr0 : b.s.cr4, want = (old | cases[i].set) & ~cases[i].clear;
        b.s.gpr[CPU_RAX] = want;
        if (cases[i].which == '0')
            RUN(&b, to_cr0);
        else
            RUN(&b, to_cr4);
        assert_int_equal(bed_vector(&b), cases[i].fine ? -1 : EXC_GP);
        assert_int_equal(cases[i].which == '0' ? b.s.cr0 : b.s.cr4, cases[i].fine ? want : old);
        bed_close(&b);
    }
    bed_open(&b, BED_LONG); // ET cannot be cleared, reserved bits of the low half are dropped
    b.s.gpr[CPU_RAX] = (b.s.cr0 & ~CR0_ET) | 1 << 7;
    RUN(&b, to_cr0);
    assert_int_equal(b.s.cr0, CR0_PE | CR0_PG | CR0_NE | CR0_ET);
    bed_close(&b);
    bed_open_model(&b, BED_LONG, "x86-64-v2,+la57"); // LA57 does not change while paging
    b.s.gpr[CPU_RAX] = b.s.cr4 | CR4_LA57;
    RUN(&b, to_cr4);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
    bed_open(&b, BED_LONG); // PCIDE only with PCID 0
    b.s.cr3 |= 0x18;
    b.s.gpr[CPU_RAX] = b.s.cr4 | CR4_PCIDE;
    RUN(&b, to_cr4);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
    bed_open(&b, BED_LONG); // and it does not go without paging
    b.s.cr4 |= CR4_PCIDE;
    b.s.seg[CPU_CS] = (struct cpu_segment){BED_CS32, 0xc9b, 0xffffffff, 0};
    b.s.gpr[CPU_RAX] = b.s.cr0 & ~CR0_PG;
    RUN(&b, to_cr0_32);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
}

static void long_mode_switch(void **state)
{
    (void)state;
    static const struct {
        uint64_t cr4;
        uint16_t tr;
        bool fine;
    } cases[] = {{CR4_PAE, 0x8b, true}, {0, 0x8b, false}, {CR4_PAE, 0x83, false}};
    struct bed b;
    for (unsigned i = 0; i < 3; i++) { // PG with LME
        bed_open(&b, BED_LONG);
        b.s.cr0 &= ~CR0_PG;
        b.s.efer &= ~EFER_LMA;
        b.s.seg[CPU_CS] = (struct cpu_segment){BED_CS32, 0xc9b, 0xffffffff, 0};
        b.s.cr4 = cases[i].cr4;
        b.s.tr.attr = cases[i].tr;
        b.s.idtr.limit = 0;
        b.s.gpr[CPU_RAX] = b.s.cr0 | CR0_PG;
        bed_load(&b, to_cr0_32, to_cr0_32_end);
        bed_step(&b, 1);
        assert_int_equal(!!(b.s.efer & EFER_LMA), cases[i].fine);
        assert_int_equal(!!(b.s.cr0 & CR0_PG), cases[i].fine);
        assert_int_equal(b.how, cases[i].fine ? ENGINE_EXIT_REQUESTED : ENGINE_EXIT_SHUTDOWN);
        bed_close(&b);
    }
    bed_open(&b, BED_LONG); // and out again, from compatibility mode
    b.s.seg[CPU_CS] = (struct cpu_segment){BED_CS32, 0xc9b, 0xffffffff, 0};
    b.s.gpr[CPU_RAX] = b.s.cr0 & ~CR0_PG;
    RUN(&b, to_cr0_32);
    assert_int_equal(b.s.efer, EFER_LME);
    assert_int_equal(b.s.cr0 & CR0_PG, 0);
    bed_close(&b);
}

static void cr3(void **state)
{
    (void)state;
    struct bed b;
    static const struct {
        uint64_t bits;
        bool pcide, fine;
    } cases[] = {{0x18, false, true},
                 {1ull << 40, false, false},
                 {1ull << 63, false, false},
                 {1ull << 63 | 5, true, true},
                 {1ull << 62, true, false}};
    for (unsigned i = 0; i < 5; i++) {
        bed_open(&b, BED_LONG);
        b.s.cr4 |= cases[i].pcide ? CR4_PCIDE : 0;
        b.s.gpr[CPU_RAX] = BED_TABLES | cases[i].bits;
        RUN(&b, to_cr3);
        assert_int_equal(bed_vector(&b), cases[i].fine ? -1 : EXC_GP);
        assert_int_equal(b.s.cr3, BED_TABLES | (cases[i].fine ? cases[i].bits & ~(1ull << 63) : 0));
        bed_close(&b);
    }
    static const uint64_t pdpte[] = {1, 0x19, 0x1e6, 1 | 2, 1 | 1ull << 5, 1 | 1ull << 40, 1 | 1ull << 63};
    static const bool fine[] = {true, true, true, false, false, false, false};
    for (unsigned i = 0; i < 7; i++) { // PAE: the four entries are loaded and checked now
        bed_open(&b, BED_PROT32);
        b.s.cr4 = CR4_PAE;
        bed_write(&b, BED_TABLES, BED_TABLES + 0x1001, 8);
        bed_write(&b, BED_TABLES + 0x1000, 0x83, 8);
        bed_write(&b, BED_TABLES + 0x20, BED_TABLES + 0x1001, 8);
        bed_write(&b, BED_TABLES + 0x38, pdpte[i], 8);
        b.s.cr3 = BED_TABLES;
        b.s.pdpte[0] = BED_TABLES + 0x1001;
        b.s.cr0 |= CR0_PG;
        b.s.gpr[CPU_RAX] = BED_TABLES + 0x20;
        RUN(&b, to_cr3_32);
        assert_int_equal(bed_vector(&b), fine[i] ? -1 : EXC_GP);
        assert_int_equal(b.s.cr3, BED_TABLES + (fine[i] ? 0x20 : 0));
        assert_int_equal(b.s.pdpte[3], fine[i] ? pdpte[i] : 0);
        bed_close(&b);
    }
}

static void other_registers(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RAX] = 9;
    RUN(&b, to_cr8);
    assert_int_equal(b.log[0].what, 't');
    assert_int_equal(b.log[0].value, 9);
    assert_int_equal(b.s.gpr[CPU_RBX], 5);
    bed_close(&b);
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RAX] = 16;
    RUN(&b, to_cr8);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(b.events, 0);
    bed_close(&b);
    bed_open(&b, BED_REAL); // LMSW sets PE, and cannot clear it
    b.s.gpr[CPU_RAX] = 0xffff;
    bed_load(&b, lmsw, lmsw_end);
    bed_step(&b, 1);
    assert_int_equal(b.s.cr0 & 0x1ffff, CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET);
    bed_close(&b);
    bed_open(&b, BED_PROT16);
    b.s.gpr[CPU_RAX] = 0;
    RUN(&b, lmsw);
    assert_true(b.s.cr0 & CR0_PE);
    bed_close(&b);
}

static void msrs(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG); // the clock: writing it moves TSC_ADJUST
    b.tsc = 1000;
    b.s.gpr[CPU_RCX] = MSR_TSC;
    RUN(&b, wrmsr);
    assert_int_equal(b.s.msr.tsc_adjust, -1000);
    RUN(&b, rdtsc);
    assert_int_equal(b.s.gpr[CPU_RAX] | b.s.gpr[CPU_RDX] << 32, 1);
    b.s.gpr[CPU_RAX] = 500; // and deadlines move with it
    b.s.gpr[CPU_RDX] = 0;
    b.s.gpr[CPU_RCX] = MSR_TSC_DEADLINE;
    RUN(&b, wrmsr);
    assert_int_equal(b.log[0].what, 'm');
    assert_int_equal(b.log[0].value, 1500);
    RUN(&b, rdmsr);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x1234 - 1000);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a device's, a stranger's, and a bad value
    b.s.gpr[CPU_RCX] = 0x808;
    RUN(&b, rdmsr);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x1234);
    b.s.gpr[CPU_RCX] = 0xdead;
    RUN(&b, rdmsr);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RCX] = MSR_LSTAR;
    b.s.gpr[CPU_RDX] = 0x8000;
    RUN(&b, wrmsr);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
    bed_open(&b, BED_LONG);
    user(&b);
    b.s.gpr[CPU_RCX] = MSR_LSTAR;
    RUN(&b, rdmsr);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
    bed_open(&b, BED_LONG); // TSD
    user(&b);
    b.s.cr4 |= CR4_TSD;
    RUN(&b, rdtsc);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
}

static void identification(void **state)
{
    (void)state;
    struct bed b;
    bed_open_model(&b, BED_LONG, "x86-64-v3");
    b.s.gpr[CPU_RAX] = 0xffffffff00000000;
    RUN(&b, cpuid);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x1f);
    assert_int_equal(b.s.gpr[CPU_RBX], 0x68747541);
    RUN(&b, xsetbv); // without OSXSAVE
    assert_int_equal(bed_vector(&b), EXC_UD);
    bed_close(&b);
    static const uint32_t xcr0[] = {1, 3, 7, 0, 2, 5, 0xf};
    static const bool fine[] = {true, true, true, false, false, false, false};
    for (unsigned i = 0; i < 7; i++) {
        bed_open_model(&b, BED_LONG, "x86-64-v3");
        b.s.cr4 |= CR4_OSXSAVE;
        b.s.gpr[CPU_RAX] = xcr0[i];
        RUN(&b, xsetbv);
        assert_int_equal(bed_vector(&b), fine[i] ? -1 : EXC_GP);
        assert_int_equal(b.s.xcr0, fine[i] ? xcr0[i] : 1);
        bed_close(&b);
    }
    bed_open_model(&b, BED_LONG, "x86-64-v3"); // XGETBV 1: what is in use
    b.s.cr4 |= CR4_OSXSAVE;
    b.s.xcr0 = 7;
    memset(b.s.xsave + 512, 0, 8);
    b.s.xsave[512] = 2;
    b.s.gpr[CPU_RCX] = 1;
    RUN(&b, xgetbv);
    assert_int_equal(b.s.gpr[CPU_RAX], 2);
    bed_close(&b);
}

static void hypercalls(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RAX] = 5;
    b.s.gpr[CPU_RBX] = 0x100000000;
    b.s.gpr[CPU_RSI] = 1;
    RUN(&b, vmmcall);
    assert_int_equal(b.log[0].what, 'h');
    assert_int_equal(b.log[0].address, 5);
    assert_int_equal(b.log[0].value, 0x100000001);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x77);
    bed_close(&b);
    bed_open(&b, BED_LONG); // not for programs
    user(&b);
    bed_load(&b, vmmcall, vmmcall_end);
    bed_step(&b, 1);
    assert_int_equal(b.events, 0);
    assert_int_equal(b.s.gpr[CPU_RAX], ~0ull);
    bed_close(&b);
}

// Out of HLT, with interrupts closed; and no notice is taken while the CPU runs.
GUEST(two_halts, 64, "mov $1, %eax; hlt; mov $2, %eax; hlt");

static void unhalted(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    RUN(&b, two_halts);
    assert_int_equal(b.s.gpr[CPU_RAX], 1);
    b.wake = ENGINE_UNHALT;
    RUN(&b, two_halts);
    assert_int_equal(b.s.gpr[CPU_RAX], 2);
    engine_notify(b.cpu, ENGINE_UNHALT);
    RUN(&b, two_halts);
    assert_int_equal(b.s.gpr[CPU_RAX], 1);
    assert_int_equal(b.cpu->pending, 0);
    bed_close(&b);
}

static void invpcid_checks(void **state)
{
    (void)state;
    static const struct {
        uint64_t type, low, high;
        bool pcide, fine;
    } cases[] = {
        {0, 0, 0x1000, false, true},
        {1, 0, 0, false, true},
        {2, 0xfff, 0, false, true},
        {3, 0xfff, 0, false, true},
        {4, 0, 0, false, false},
        {0, 0x1000, 0, true, false},
        {0, 5, 0x1000, false, false},
        {0, 5, 0x1000, true, true},
        {1, 5, 0, false, false},
        {0, 0, 0x800000000000, true, false},
        {1, 0, 0x800000000000, true, true},
        {1ull << 32, 0, 0, true, false},
    };
    struct bed b;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bed_open(&b, BED_LONG);
        b.s.cr4 |= cases[i].pcide ? CR4_PCIDE : 0;
        b.s.gpr[CPU_RAX] = cases[i].type;
        bed_write(&b, BED_DATA, cases[i].low, 8);
        bed_write(&b, BED_DATA + 8, cases[i].high, 8);
        RUN(&b, invpcid);
        assert_int_equal(bed_vector(&b), cases[i].fine ? -1 : EXC_GP);
        bed_close(&b);
    }
}

static void legacy_calls(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32); // AMD: SYSCALL in legacy mode
    user(&b);
    b.s.efer = EFER_SCE;
    b.s.msr.star = (uint64_t)0x8 << 32 | BED_HANDLERS;
    b.s.rflags |= RFLAGS_IF;
    RUN(&b, syscall32);
    assert_int_equal(bed_vector(&b), 0);
    assert_int_equal(b.s.gpr[CPU_RCX], BED_CODE + 2);
    assert_int_equal(b.s.seg[CPU_SS].selector, 0x10);
    assert_int_equal(cpu_cpl(&b.s), 0);
    assert_int_equal(b.s.rflags & RFLAGS_IF, 0);
    bed_close(&b);

    bed_open(&b, BED_PROT32);
    b.s.efer = EFER_SCE;
    b.s.msr.star = (uint64_t)0x18 << 48;
    b.s.gpr[CPU_RCX] = BED_HANDLERS;
    bed_load(&b, sysret32, sysret32_end);
    bed_step(&b, 1);
    assert_int_equal(b.s.rip, BED_HANDLERS);
    assert_int_equal(b.s.seg[CPU_CS].selector, 0x1b);
    assert_int_equal(b.s.seg[CPU_SS].selector, 0x23);
    assert_true(b.s.rflags & RFLAGS_IF);
    bed_close(&b);

    bed_open(&b, BED_PROT32);
    user(&b);
    b.s.msr.sysenter_cs = 8;
    b.s.msr.sysenter_eip = BED_HANDLERS;
    b.s.msr.sysenter_esp = BED_STACK0;
    b.s.rflags |= RFLAGS_IF;
    RUN(&b, sysenter32);
    assert_int_equal(bed_vector(&b), 0);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK0);
    assert_int_equal(b.s.seg[CPU_CS].selector, 8);
    assert_int_equal(b.s.rflags & RFLAGS_IF, 0);
    b.s.gpr[CPU_RCX] = 0x9000;
    b.s.gpr[CPU_RDX] = BED_HANDLERS;
    bed_load(&b, sysexit32, sysexit32_end);
    bed_step(&b, 1);
    assert_int_equal(b.s.rip, BED_HANDLERS);
    assert_int_equal(b.s.gpr[CPU_RSP], 0x9000);
    assert_int_equal(b.s.seg[CPU_CS].selector, 0x1b);
    bed_close(&b);

    bed_open(&b, BED_PROT32);
    RUN(&b, sysenter32); // CS of zero
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
    bed_open(&b, BED_LONG);
    b.s.msr.sysenter_cs = 8;
    RUN(&b, sysenter64); // AMD has none in long mode
    assert_int_equal(bed_vector(&b), EXC_UD);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cr0_and_cr4),
        cmocka_unit_test(long_mode_switch),
        cmocka_unit_test(cr3),
        cmocka_unit_test(other_registers),
        cmocka_unit_test(msrs),
        cmocka_unit_test(identification),
        cmocka_unit_test(unhalted),
        cmocka_unit_test(hypercalls),
        cmocka_unit_test(invpcid_checks),
        cmocka_unit_test(legacy_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
