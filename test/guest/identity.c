// Who the CPU says it is: all that CPUID tells, and every model-specific register that can be read, with its value.
//
// What it prints must be the same whatever executes it, so it has no expectations: the transcripts of two engines with
// one CPU model are compared (test/system/identity, nested). What differs by nature (the frequency of the host's clock,
// the time) is named but not shown.
#include "lib/guest.h"

asm(".pushsection .text; .balign 16; try_rdmsr: rdmsr; int $0x80; .popsection");
extern const u8 try_rdmsr[];

enum { LEAF_TSC = 0x15, LEAF_FREQUENCY = 0x16, LEAF_PARAVIRTUAL_FREQUENCY = 0x40000010 };
enum { SUBLEAVES = 20 };

static bool by_frequency(u32 leaf)
{
    return leaf == LEAF_TSC || leaf == LEAF_FREQUENCY || leaf == LEAF_PARAVIRTUAL_FREQUENCY;
}

static void leaf_lines(u32 leaf)
{
    u32 before[4] = {0}, r[4];
    for (u32 subleaf = 0; subleaf < SUBLEAVES; subleaf++) {
        cpuid(leaf, subleaf, r);
        bool same = subleaf && r[0] == before[0] && r[1] == before[1] && r[2] == before[2] && r[3] == before[3];
        if (!same)
            say(by_frequency(leaf) ? "cpuid %x, %x: there\n" : "cpuid %x, %x: %x %x %x %x\n", leaf, subleaf, r[0], r[1],
                r[2], r[3]);
        for (unsigned i = 0; i < 4; i++)
            before[i] = r[i];
    }
}

// All leaves of a range, and a few beyond its end.
static void range(u32 first)
{
    u32 r[4];
    cpuid(first, 0, r);
    u32 last_leaf = r[0] >= first && r[0] < first + 0x100 ? r[0] : first;
    for (u32 leaf = first; leaf <= last_leaf + 2; leaf++)
        leaf_lines(leaf);
}

static void registers(u32 first, u32 end)
{
    for (u32 msr = first; msr < end; msr++) {
        run_at(&(struct start){(ulong)try_rdmsr, KCODE64, 2, (ulong)case_stack_top, KDATA, 0, msr, 0});
        if (last.vector == GP)
            continue;
        if (msr == MSR_TSC)
            say("msr %x: there\n", msr);
        else
            say("msr %x: %X\n", msr, (u64)last.rdx << 32 | last.rax);
    }
}

int main(void)
{
    range(0);
    range(0x40000000);
    range(0x80000000);
    leaf_lines(0x40000100);
    leaf_lines(0xc0000000);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1); // EFER.SCE: nothing that is shown depends on who has started us
    registers(0, 0x1000);
    registers(0x40000000, 0x40000020);
    registers(0x4b564d00, 0x4b564d10);
    registers(0xc0000000, 0xc0000400);
    registers(0xc0010000, 0xc0010200);
    registers(0xc0011000, 0xc0011040);
    return 0;
}
