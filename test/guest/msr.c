// Model-specific registers: what they take, what they refuse, what they do at once. (SDM vol. 4; vol. 3 for each.)
#include "lib/guest.h"

#define NONCANONICAL 0x800000000000ul

#define CODE(name, section, text)                                                                                      \
    asm(".pushsection " section "; .balign 16; " #name ": " text "; int $0x80; .popsection");                          \
    extern const u8 name[]
CODE(try_rdmsr, ".text", "rdmsr");
CODE(try_wrmsr, ".text", "wrmsr");
CODE(try_rdtsc, ".text", "rdtsc");
CODE(try_cpuid, ".text", "cpuid");
CODE(user_rdtsc, ".user.text", "rdtsc");
CODE(user_rdtscp, ".user.text", "rdtscp");
CODE(user_rdpid, ".user.text", "rdpid %rax");

static void run_with(const u8 *code, ulong rax, ulong rcx, ulong rdx)
{
    run_at(&(struct start){(ulong)code, KCODE64, 2, (ulong)case_stack_top, KDATA, rax, rcx, rdx});
}

static bool read_faults(u32 msr)
{
    run_with(try_rdmsr, 0, msr, 0);
    return last.vector == GP && last.error == 0;
}

static bool write_faults(u32 msr, u64 v)
{
    run_with(try_wrmsr, (u32)v, msr, v >> 32);
    return last.vector == GP && last.error == 0;
}

// Refuses `bad`, and still holds what it held.
static void check_refuses(const char *name, u32 msr, u64 bad)
{
    u64 before = rdmsr(msr);
    check_true(name, write_faults(msr, bad) && rdmsr(msr) == before);
    wrmsr(msr, before);
}

// Takes a value and gives it back.
static void check_takes(const char *name, u32 msr, u64 v)
{
    u64 before = rdmsr(msr);
    wrmsr(msr, v);
    check(name, rdmsr(msr), v);
    wrmsr(msr, before);
}

static void instruction(void)
{
    check_true("RDMSR of nothing", read_faults(0x1234));
    check_true("WRMSR of nothing", write_faults(0x1234, 0));
    check_true("RDMSR of another nothing", read_faults(0xc0001234));

    wrmsr(MSR_KERNEL_GS_BASE, 0xffff812345678901);
    run_with(try_rdmsr, ~0ul, 0xffffffff00000000 | MSR_KERNEL_GS_BASE, ~0ul);
    check("RDMSR clears the upper half of RAX", last.rax, 0x45678901);
    check("RDMSR clears the upper half of RDX", last.rdx, 0xffff8123);
    check("the upper half of RCX does not matter", last.rcx, 0xffffffff00000000 | MSR_KERNEL_GS_BASE);
    run_with(try_wrmsr, 0xffffffff00000001, 0xffffffff00000000 | MSR_KERNEL_GS_BASE, 0xffffffff00000002);
    check("nor those of RAX and RDX", rdmsr(MSR_KERNEL_GS_BASE), 0x200000001);
    wrmsr(MSR_KERNEL_GS_BASE, 0);
    run_with(try_rdtsc, ~0ul, 0, ~0ul);
    check("RDTSC clears the upper halves", last.rax >> 32 | last.rdx >> 32, 0);
    run_with(try_cpuid, 0xffffffff00000000, 0xffffffff00000000, ~0ul);
    check("CPUID clears the upper halves", last.rax >> 32 | last.rbx >> 32 | last.rcx >> 32 | last.rdx >> 32, 0);
}

static void efer(void)
{
    u64 v = rdmsr(MSR_EFER);
    check("EFER", v, EFER_LME | EFER_LMA | EFER_NXE);
    check_refuses("EFER, reserved bit 1", MSR_EFER, v | 2);
    check_refuses("EFER, reserved bit 63", MSR_EFER, v | 1ull << 63);
    check_refuses("EFER, LME off while paging is on", MSR_EFER, v & ~(u64)EFER_LME);
    check_takes("EFER, SCE", MSR_EFER, v | EFER_SCE);
}

static void addresses(void)
{
    static const struct {
        const char *takes, *refuses;
        u32 msr;
    } list[] = {
        {"LSTAR", "LSTAR, non-canonical", MSR_LSTAR},
        {"CSTAR", "CSTAR, non-canonical", MSR_CSTAR},
        {"FS base", "FS base, non-canonical", MSR_FS_BASE},
        {"GS base", "GS base, non-canonical", MSR_GS_BASE},
        {"kernel GS base", "kernel GS base, non-canonical", MSR_KERNEL_GS_BASE},
    };
    for (unsigned i = 0; i < sizeof list / sizeof list[0]; i++) {
        check_takes(list[i].takes, list[i].msr, 0xffff812345678901);
        check_refuses(list[i].refuses, list[i].msr, NONCANONICAL);
    }
    check_takes("STAR", MSR_STAR, 0x123456789abcdef0);
    check_takes("SFMASK", MSR_SFMASK, 0x12345678);
    check_takes("SYSENTER CS", MSR_SYSENTER_CS, 0x1234);
    check_takes("SYSENTER ESP", MSR_SYSENTER_ESP, 0x12345678);
    check_takes("SYSENTER EIP", MSR_SYSENTER_EIP, 0x12345678);
}

static void memory_types(void)
{
    check_takes("PAT", MSR_PAT, 0x0007040600070406);
    check_takes("PAT, all types", MSR_PAT, 0x0000010405060700);
    check_refuses("PAT, type 2", MSR_PAT, 0x0007040600070402);
    check_refuses("PAT, type 3", MSR_PAT, 0x0307040600070406);
    check_refuses("PAT, type 8", MSR_PAT, 0x0007040608070406);
    check_refuses("PAT, reserved bits", MSR_PAT, 0x0007040600070486);
    if (cpu_has(1, 0, 3, 12)) {
        check_true("MTRR capabilities", !read_faults(0xfe) && last.vector == NONE);
        check_refuses("MTRR default, type 2", 0x2ff, 0x802);
        check_true("MTRR capabilities are read-only", write_faults(0xfe, 0));
    } else {
        skip("MTRR default, type 2", "no MTRRs");
    }
}

static void tsc(void)
{
    u64 a = rdtsc(), b = rdtsc();
    check_true("TSC goes up", b > a);
    check_true("RDMSR of it, too", rdmsr(MSR_TSC) >= b);
    wrmsr(MSR_TSC, 1ull << 40);
    a = rdtsc();
    check_true("TSC written", a >= 1ull << 40 && a < (1ull << 40) + (1ull << 36));

    if (cpu_has(7, 0, 1, 1)) {
        u64 adjust = rdmsr(MSR_TSC_ADJUST);
        wrmsr(MSR_TSC_ADJUST, adjust + (1ull << 50));
        a = rdtsc();
        check_true("TSC_ADJUST moves the TSC", a >= 1ull << 50 && a < (1ull << 50) + (1ull << 41));
        check("TSC_ADJUST reads back", rdmsr(MSR_TSC_ADJUST) - adjust, 1ull << 50);
        wrmsr(MSR_TSC, 1ull << 40);
        u64 moved = adjust + (1ull << 50) - rdmsr(MSR_TSC_ADJUST);
        check_true("a write of the TSC shows in TSC_ADJUST", moved > (1ull << 50) - (1ull << 41) && moved < 1ull << 51);
    } else {
        skip("TSC_ADJUST moves the TSC", "no TSC_ADJUST");
        skip("TSC_ADJUST reads back", "no TSC_ADJUST");
        skip("a write of the TSC shows in TSC_ADJUST", "no TSC_ADJUST");
    }

    run_user(user_rdtsc);
    check("RDTSC in ring 3", last.vector, NONE);
    write_cr4(read_cr4() | CR4_TSD);
    run_user(user_rdtsc);
    check_trap("RDTSC in ring 3 with TSD", GP, 0, (ulong)user_rdtsc, (ulong)user_rdtsc, -1);
    check_true("RDTSC in ring 0 with TSD", rdtsc() > 0);
    if (cpu_has(0x80000001, 0, 3, 27)) {
        run_user(user_rdtscp);
        check_trap("RDTSCP in ring 3 with TSD", GP, 0, (ulong)user_rdtscp, (ulong)user_rdtscp, -1);
        write_cr4(read_cr4() & ~(ulong)CR4_TSD);
        wrmsr(MSR_TSC_AUX, 0x89abcdef);
        run_user(user_rdtscp);
        check("RDTSCP gives TSC_AUX", last.rcx, 0x89abcdef);
        // Its upper half is refused by Intel, and dropped by AMD.
        bool refused = write_faults(MSR_TSC_AUX, 0x500000001);
        check_true("TSC_AUX, upper half", vendor_is_intel() ? refused : rdmsr(MSR_TSC_AUX) == 1);
        wrmsr(MSR_TSC_AUX, 0x89abcdef);
    } else {
        skip("RDTSCP in ring 3 with TSD", "no RDTSCP");
    }
    write_cr4(read_cr4() & ~(ulong)CR4_TSD);
    if (cpu_has(7, 0, 2, 22)) {
        run_user(user_rdpid);
        check("RDPID gives TSC_AUX", last.rax, 0x89abcdef);
    } else {
        skip("RDPID gives TSC_AUX", "no RDPID");
    }
}

int main(void)
{
    instruction();
    efer();
    addresses();
    memory_types();
    tsc();
    return 0;
}
