// Fast system calls: SYSCALL and SYSRET, SYSENTER and SYSEXIT, and what goes with them: SWAPGS, FSGSBASE, the bases of
// FS and GS. (SDM vol. 2, the instructions; vol. 3, 5.8.7, 5.8.8; APM vol. 3.)
//
// Intel and AMD differ: SYSCALL in compatibility mode is AMD's alone, SYSENTER in long mode is Intel's alone, and
// SYSRET to a non-canonical address faults before (Intel) or after (AMD) the change to ring 3. The guest asks CPUID for
// the vendor and demands its behaviour; the transcript is the same.
#include "lib/guest.h"

#define NONCANONICAL 0x800000000000ul

extern u8 kernel_landing[], user_landing[], user_landing32[];
extern u8 leave_sysretq[], leave_sysretl[], leave_sysexit64[], leave_sysexit32[], kernel_syscall[];
extern u8 user_syscall[], user_syscall_next[], user_sysenter[], user_sysexit[], user32_syscall[], user32_syscall_next[];
extern u8 user32_sysenter[], user32_rdfsbase[], user_rdfsbase[], user_wrfsbase[], user_wrgsbase32[], user_read_fs[];

// The flags that SYSCALL shall clear, as kernels set them: TF IF DF IOPL NT AC.
#define MASK 0x47700u

static void user(const void *code, ulong flags, ulong rax)
{
    run_at(&(struct start){(ulong)code, UCODE64 | 3, flags, (ulong)user_stack_top, UDATA | 3, .rax = rax, .rsi = rax});
}

static void user32(const void *code, ulong flags)
{
    run_at(&(struct start){(ulong)code, UCODE32 | 3, flags, (ulong)user_stack_top, UDATA | 3});
}

static void kernel(const void *code, ulong rax, ulong rcx, ulong rdx)
{
    run_at(&(struct start){(ulong)code, KCODE64, 2, (ulong)case_stack_top, KDATA, .rax = rax, .rcx = rcx, .rdx = rdx});
}

// Where the last run landed.
static void check_landing(const char *name, ulong rip, ulong cs, ulong ss, ulong flags, ulong rsp)
{
    // INT has pushed the address behind itself; user_landing32 starts with a one-byte instruction.
    ulong at = last.rip - 2 - (rip == (ulong)user_landing32);
    bool good =
        last.vector == NONE && at == rip && last.cs == cs && last.ss == ss && last.flags == flags && last.rsp == rsp;
    if (verdict(name, good))
        say("cs=%x ss=%x flags=%x\n", last.cs, last.ss, last.flags);
    else
        say("got %t rip=%x cs=%x ss=%x flags=%x rsp=%x, want rip=%x cs=%x ss=%x flags=%x rsp=%x\n", last.vector,
            (long)last.error, at, last.cs, last.ss, last.flags, last.rsp, rip, cs, ss, flags, rsp);
}

static void syscall_64(void)
{
    wrmsr(MSR_STAR, (u64)(UCODE32 | 3) << 48 | (u64)KCODE64 << 32);
    wrmsr(MSR_LSTAR, (ulong)kernel_landing);
    wrmsr(MSR_SFMASK, MASK);

    user(user_syscall, 2, 0);
    check_trap("SYSCALL without SCE", UD, NOERR, (ulong)user_syscall, (ulong)user_syscall, -1);
    kernel(leave_sysretq, 2, (ulong)user_landing, 0);
    check_trap("SYSRET without SCE", UD, NOERR, (ulong)leave_sysretq + 3, (ulong)leave_sysretq, -1);

    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    user(user_syscall, 2, 0);
    check_landing("SYSCALL", (ulong)kernel_landing, KCODE64, KDATA, 2, (ulong)user_stack_top);
    check_true("SYSCALL, RCX is the next instruction", last.rcx == (ulong)user_syscall_next);
    check("SYSCALL, R11 is the old flags", last.r11, 2);

    ulong flags = 0xcd7 & ~FLAG_TF; // all the arithmetic ones
    flags |= FLAG_IF | FLAG_DF | FLAG_IOPL3 | FLAG_NT | FLAG_AC | 0x200000;
    user(user_syscall, flags, 0);
    check_landing("SYSCALL with many flags", (ulong)kernel_landing, KCODE64, KDATA, flags & ~(ulong)MASK,
                  (ulong)user_stack_top);
    check("SYSCALL, R11 holds them all", last.r11, flags);
    wrmsr(MSR_SFMASK, 0);
    user(user_syscall, flags & ~(ulong)(FLAG_NT | FLAG_IF), 0);
    check_landing("SYSCALL with SFMASK = 0", (ulong)kernel_landing, KCODE64, KDATA, flags & ~(ulong)(FLAG_NT | FLAG_IF),
                  (ulong)user_stack_top);
    wrmsr(MSR_SFMASK, 0xffffffff);
    user(user_syscall, flags, 0);
    check_landing("SYSCALL with SFMASK = all", (ulong)kernel_landing, KCODE64, KDATA, 2, (ulong)user_stack_top);
    wrmsr(MSR_SFMASK, MASK);

    kernel(kernel_syscall, 0, 0, 0);
    check_landing("SYSCALL in ring 0", (ulong)kernel_landing, KCODE64, KDATA, 2, (ulong)case_stack_top);

    // The descriptors are not read: selectors of nothing will do, and the segments are flat all the same.
    wrmsr(MSR_STAR, (u64)0x7f0 << 48 | (u64)0x6e3 << 32);
    user(user_syscall, 2, 0);
    check_landing("SYSCALL reads no descriptor, clears the RPL of CS", (ulong)kernel_landing, 0x6e0, 0x6eb & ~3ul, 2,
                  (ulong)user_stack_top);
    kernel(leave_sysretq, 2, (ulong)user_landing, 0);
    check_landing("SYSRET reads no descriptor, sets the RPL", (ulong)user_landing, 0x803, 0x7fb, 2,
                  (ulong)case_stack_top);
    wrmsr(MSR_STAR, (u64)UCODE32 << 48 | (u64)KCODE64 << 32);
}

static void sysret(void)
{
    kernel(leave_sysretq, 2, (ulong)user_landing, 0);
    check_landing("SYSRET to 64-bit mode", (ulong)user_landing, UCODE64 | 3, UDATA | 3, 2, (ulong)case_stack_top);
    // R11: everything but RF, VM and the reserved bits goes into the flags; bit 1 is always 1.
    kernel(leave_sysretq, 0x3c7fd7 & ~0x180102ul, (ulong)user_landing, 0);
    check_landing("SYSRET with many flags", (ulong)user_landing, UCODE64 | 3, UDATA | 3, 0x3c7fd7 & ~0x180100ul,
                  (ulong)case_stack_top);
    kernel(leave_sysretq, 0xffffffffffc38228 & ~0x30000ul, (ulong)user_landing, 0);
    check_landing("SYSRET with reserved flags", (ulong)user_landing, UCODE64 | 3, UDATA | 3, 0x202,
                  (ulong)case_stack_top);
    kernel(leave_sysretl, 2, 0xffffffff00000000 + (ulong)user_landing32, 0);
    // Flags 6, not 2: byte 40 was INC EAX, from 2 to 3, and set PF. A 64-bit CPU takes it for a prefix.
    check_landing("SYSRET to compatibility mode", (ulong)user_landing32, UCODE32 | 3, UDATA | 3, 6,
                  (u32)(ulong)case_stack_top);

    kernel(leave_sysretq, 2, NONCANONICAL, 0);
    if (vendor_is_intel())
        check_true("SYSRET to a non-canonical address", last.vector == GP && last.error == 0 && last.cs == KCODE64 &&
                                                            last.rip == (ulong)leave_sysretq + 3 &&
                                                            last.rsp == (ulong)case_stack_top);
    else
        check_true("SYSRET to a non-canonical address",
                   last.vector == GP && last.error == 0 && last.cs == (UCODE64 | 3) && last.rip == NONCANONICAL);

    wrmsr(MSR_CSTAR, (ulong)kernel_landing);
    user32(user32_syscall, 2);
    if (vendor_is_intel())
        check_true("SYSCALL in compatibility mode", last.vector == UD && last.rip == (ulong)user32_syscall);
    else
        check_true("SYSCALL in compatibility mode", last.vector == NONE && last.rip - 2 == (ulong)kernel_landing &&
                                                        last.rcx == (ulong)user32_syscall_next && last.cs == KCODE64);
}

static void sysenter(void)
{
    bool intel = vendor_is_intel();
    wrmsr(MSR_SYSENTER_CS, KCODE64 | 3);
    wrmsr(MSR_SYSENTER_EIP, (ulong)kernel_landing);
    wrmsr(MSR_SYSENTER_ESP, (ulong)case_stack_top);
    if (!intel) {
        // In long mode AMD knows none of them.
        user(user_sysenter, 2, 0);
        check_true("SYSENTER", last.vector == UD);
        user32(user32_sysenter, 2);
        check_true("SYSENTER in compatibility mode", last.vector == UD);
        kernel(leave_sysexit64, 0, (ulong)user_stack_top, (ulong)user_landing);
        check_true("SYSEXIT to 64-bit mode", last.vector == UD);
        kernel(leave_sysexit32, 0, (ulong)user_stack_top, (ulong)user_landing32);
        check_true("SYSEXIT to compatibility mode", last.vector == UD);
        user(user_sysexit, 2, 0);
        // Privilege comes first (seen on a Zen 5 in user mode; the APM does not say).
        check_true("SYSEXIT in ring 3", last.vector == GP && last.error == 0);
        kernel(leave_sysexit64, 0, (ulong)user_stack_top, NONCANONICAL);
        check_true("SYSEXIT to a non-canonical RIP", last.vector == UD);
        kernel(leave_sysexit64, 0, NONCANONICAL, (ulong)user_landing);
        check_true("SYSEXIT with a non-canonical RSP", last.vector == UD);
        wrmsr(MSR_SYSENTER_CS, 0);
        user(user_sysenter, 2, 0);
        check_true("SYSENTER with CS = 0", last.vector == UD);
        return;
    }
    ulong at = (ulong)kernel_landing, sp = (ulong)case_stack_top;
#define LANDED(place, c, s, f, stack)                                                                                  \
    (last.vector == NONE && last.rip - 2 == (place) && last.cs == (c) && last.ss == (s) && last.flags == (f) &&        \
     last.rsp == (stack))
    user(user_sysenter, 0x202 | FLAG_DF | FLAG_IOPL3, 0);
    check_true("SYSENTER", LANDED(at, KCODE64, KDATA, 2 | FLAG_DF | FLAG_IOPL3, sp));
    user32(user32_sysenter, 0x202);
    check_true("SYSENTER in compatibility mode", LANDED(at, KCODE64, KDATA, 2, sp));
    kernel(leave_sysexit64, 0, (ulong)user_stack_top, (ulong)user_landing);
    check_true("SYSEXIT to 64-bit mode",
               LANDED((ulong)user_landing, UCODE64 | 3, UDATA_SYSEXIT64 | 3, 2, (ulong)user_stack_top));
    kernel(leave_sysexit32, 0, 0xabcd00000000 + (ulong)user_stack_top, 0x800000000000 + (ulong)user_landing32);
    check_true("SYSEXIT to compatibility mode",
               LANDED((ulong)user_landing32 + 1, UCODE32 | 3, UDATA | 3, 2, (ulong)user_stack_top));
    user(user_sysexit, 2, 0);
    check_true("SYSEXIT in ring 3", last.vector == GP && last.error == 0);
    kernel(leave_sysexit64, 0, (ulong)user_stack_top, NONCANONICAL);
    check_true("SYSEXIT to a non-canonical RIP", last.vector == GP && last.error == 0 && last.cs == KCODE64);
    kernel(leave_sysexit64, 0, NONCANONICAL, (ulong)user_landing);
    check_true("SYSEXIT with a non-canonical RSP", last.vector == GP && last.error == 0 && last.cs == KCODE64);
    wrmsr(MSR_SYSENTER_CS, 0);
    user(user_sysenter, 2, 0);
    check_true("SYSENTER with CS = 0", last.vector == GP && last.error == 0 && last.cs == (UCODE64 | 3));
}

static void bases(void)
{
    wrmsr(MSR_GS_BASE, 0x1111);
    wrmsr(MSR_KERNEL_GS_BASE, 0xffff800000002222);
    asm volatile("swapgs");
    check("SWAPGS, GS base", rdmsr(MSR_GS_BASE), 0xffff800000002222);
    check("SWAPGS, kernel GS base", rdmsr(MSR_KERNEL_GS_BASE), 0x1111);

    // A selector load takes the base from the descriptor: 32 bits, the upper half becomes 0.
    gdt[FREE_SEL / 8] = segment(0xfedcba98, 0xfffff, 0xf3, 0xc);
    asm volatile("mov %0, %%gs" ::"r"(FREE_SEL | 3));
    check("GS base after a selector load", rdmsr(MSR_GS_BASE), 0xfedcba98);
    check("kernel GS base after it", rdmsr(MSR_KERNEL_GS_BASE), 0x1111);
    asm volatile("mov %0, %%gs" ::"r"(0));

    static const u8 bytes[] = {0x5a, 0xa5};
    ulong seen = 0;
    wrmsr(MSR_FS_BASE, (ulong)bytes - 0x1000);
    asm volatile("movb %%fs:0x1001, %b0" : "+r"(seen));
    check("read through FS", seen, 0xa5);
    // With a 32-bit address size only the offset wraps, not the sum with the base.
    wrmsr(MSR_FS_BASE, (ulong)bytes + 1);
    asm volatile("movl $-1, %%ecx; addr32 movb %%fs:1(%%ecx), %b0" : "+r"(seen)::"rcx");
    check("read through FS, 32-bit address wraps to 0", seen, 0xa5);
    wrmsr(MSR_FS_BASE, 0x7ffffffff000);
    user(user_read_fs, 2, 0x1000);
    check_trap("FS base plus offset is non-canonical", GP, 0, (ulong)user_read_fs, (ulong)user_read_fs, -1);
    wrmsr(MSR_FS_BASE, 0);

    user(user_rdfsbase, 2, 0);
    check_trap("RDFSBASE without CR4.FSGSBASE", UD, NOERR, (ulong)user_rdfsbase, (ulong)user_rdfsbase, -1);
    if (!cpu_has(7, 0, 1, 0)) {
        skip("RDFSBASE in ring 3", "no FSGSBASE");
        return;
    }
    write_cr4(read_cr4() | CR4_FSGSBASE);
    wrmsr(MSR_FS_BASE, 0xffff900012345678);
    user(user_rdfsbase, 2, 0);
    check("RDFSBASE in ring 3", last.rax, 0xffff900012345678);
    user(user_wrfsbase, 2, 0x7fff12345678);
    check("WRFSBASE in ring 3", rdmsr(MSR_FS_BASE), 0x7fff12345678);
    user(user_wrfsbase, 2, NONCANONICAL);
    check_trap("WRFSBASE of a non-canonical address", GP, 0, (ulong)user_wrfsbase, (ulong)user_wrfsbase, -1);
    check("which changes nothing", rdmsr(MSR_FS_BASE), 0x7fff12345678);
    wrmsr(MSR_GS_BASE, 0x123456789abc);
    user(user_wrgsbase32, 2, 0xffffffff87654321);
    check("WRGSBASE of 32 bits", rdmsr(MSR_GS_BASE), 0x87654321);
    user32(user32_rdfsbase, 2);
    check_trap("RDFSBASE in compatibility mode", UD, NOERR, (ulong)user32_rdfsbase, (ulong)user32_rdfsbase, -1);
    write_cr4(read_cr4() & ~(ulong)CR4_FSGSBASE);
}

int main(void)
{
    syscall_64();
    sysret();
    sysenter();
    bases();
    return 0;
}
