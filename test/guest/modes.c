// Every mode of the processor and the ways between them (modes.S has the tour), and what real mode is like.
// (SDM vol. 3, 10.8.5, 10.9 and chapter 21.)
#include "lib/page.h"

void tour(void);
extern u8 low_begin[], low_end[];

#define LOW_CODE ((u8 *)0x8000)
#define SEEN ((volatile u32 *)0x9000)

// A real-mode exception: vector, and the saved IP relative to the case.
#define RM(vector, ip) ((vector) | (ip) << 8)
#define RM_NONE 0xff

static const struct {
    u8 index;
    const char *name;
    u32 want;
} stations[] = {
    {0, "64-bit, PUSH", 8},
    {1, "64-bit, 48 is a prefix", 5},
    {2, "64-bit, a 32-bit result clears the upper half", 0},
    {3, "compatibility, PUSH", 4},
    {4, "compatibility, 48 is DEC", 4},
    {5, "compatibility, EFER.LMA", 0x400},
    {6, "compatibility, CS", KCODE32},
    {7, "compatibility, addresses wrap at 4 GiB", 8},
    {8, "compatibility of 16 bits, PUSH", 2},
    {9, "compatibility of 16 bits, CS", KCODE16},
    {10, "compatibility of 16 bits, addresses wrap at 64 KiB", 8},
    {11, "compatibility again, CS", KCODE32},
    {12, "64-bit again", 1},
    {13, "64-bit again, R15 is as before", 1},
    {14, "protected, EFER.LMA and LME", 0},
    {15, "protected, CR0.PG and PE", 1},
    {16, "protected, 48 is DEC", 4},
    {17, "protected of 16 bits, SP wraps", 0xfffe},
    {18, "protected of 16 bits, what was pushed", 0x5678},
    {19, "protected of 16 bits, PUSH of 32", 0x7000 - 4},
    {20, "protected of 16 bits, near CALL", 0x7000 - 6},
    {21, "real, CR0.PG and PE", 0},
    {22, "real, INT pushes six bytes", 0x7000 - 8},
    {23, "real, IF in the saved flags", 0x200},
    {24, "real, IF in the handler", 0},
    {25, "real, IF after IRET", 0x200},
    {26, "real, segments are paragraphs", 0xabcdef01},
    {27, "real, ffff:0010", 0x1badb002},
    {28, "real, far CALL", 0x800},
    {29, "real, far JMP through memory", 0x800},
    {30, "real, LDS", 0x800},
    {31, "real, a limit of protected mode stays", 0x1badb002},
    {32, "real, it stays when the base changes", 0x1badb002},
    {33, "real, LODSB at ffff, SI", 0},
    {34, "real, LODSB at ffff, AL", 0x11},
    {35, "real, LGDT of 24 bits", 0x123456},
    {40, "real, DE", RM(0, 0)},
    {41, "real, int3", RM(3, 1)},
    {42, "real, into", RM(4, 1)},
    {43, "real, ud2", RM(6, 0)},
    {44, "real, word at ffff", RM(13, 0)},
    {45, "real, byte at ffff", RM_NONE},
    {46, "real, word at ss:ffff", RM(12, 0)},
    {47, "real, 32-bit address beyond 64 KiB", RM(13, 0)},
    {48, "real, LLDT", RM(6, 0)},
    {49, "real, LTR", RM(6, 0)},
    {50, "real, STR", RM(6, 0)},
    {51, "real, ARPL", RM(6, 0)},
    {52, "real, VERR", RM(6, 0)},
    {53, "real, MOV to CS", RM(6, 0)},
    {54, "real, LOCK NOP", RM(6, 0)},
    {55, "real, AAM 0", RM(0, 0)},
    {56, "real, BOUND", RM(5, 0)},
    {57, "real, jump beyond 64 KiB", RM(13, 0)},
    {58, "real, 16 bytes of instruction", RM(13, 0)},
    {59, "real, INT beyond the IVT", RM(13, 0)},
    {60, "real, doubleword at ffff", RM(13, 0)},
    {61, "real, CLI and STI", RM_NONE},
    {62, "real, MOV from CR3", RM_NONE},
    {63, "real, LEA of ffff", RM_NONE},
    {64, "real, SYSENTER", RM(13, 0)},
    {69, "real, PE by LMSW", 1},
    {70, "protected again, CR0.PG and PE", 1},
    {71, "64-bit again, CS", KCODE64},
};

int main(void)
{
    for (u8 *p = low_begin; p < low_end; p++)
        *(volatile u8 *)(LOW_CODE + (p - low_begin)) = *p;
    SEEN[0] = 0;
    tour();
    for (unsigned i = 0; i < sizeof stations / sizeof stations[0]; i++)
        check(stations[i].name, SEEN[stations[i].index], stations[i].want);
    // Once more, and paging, interrupts and system registers still work.
    tour();
    check("the tour again", SEEN[71], KCODE64);
    check("EFER", rdmsr(MSR_EFER), EFER_LME | EFER_LMA | EFER_NXE);
    run_kernel((void *)0x4000000000);
    check_trap("exceptions work", PF, PF_I, 0x4000000000, 0x4000000000, 0x4000000000);
    return 0;
}
