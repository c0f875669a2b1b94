// The virtual-8086 mode extensions: a program at IOPL 0 with an interrupt flag of its own, and its own vector table.
// (SDM vol. 3, 21.3 and 21.4.)
#include "lib/v86.h"

#define CR4_VME 1u

V86_CODE(cli_code, "cli; hlt");
V86_CODE(sti_code, "sti; hlt");
V86_CODE(pushf_code, "pushfw; hlt");
V86_CODE(pushfl_code, "pushfl; hlt");
V86_CODE(popf_code, "popfw; hlt");
V86_CODE(int_code, "int $0x21; hlt");
V86_CODE(iret_code, "iretw");

// The TSS with an interrupt redirection bitmap: 32 bytes that end where the I/O bitmap begins.
int main(void)
{
    if (!cpu_has(1, 0, 3, 1)) {
        skip("virtual mode extensions", "no VME");
        return 0;
    }
    write_cr4(read_cr4() | CR4_VME);
    tss.io_bitmap = TSS_BYTES + 32;
    memset(tss.io_bits, 0, 32);
    memset(tss.io_bits + 32, 0xff, 8193 - 32);
    gdt[TSS_SEL(0) / 8] = segment((u32)(ulong)&tss, TSS_BYTES + 32 + 64, 0x89, 0);
    asm volatile("ltr %w0" ::"r"(TSS_SEL(0)));

    run_v86(cli_code, cli_code_end, FLAG_IF | FLAG_VIF);
    check("cli clears VIF", V86_FLAGS, FLAG_VM | FLAG_IF | 2);
    run_v86(sti_code, sti_code_end, 0);
    check("sti sets it", V86_FLAGS, FLAG_VM | FLAG_VIF | 2);
    run_v86(sti_code, sti_code_end, FLAG_VIP);
    check_true("sti with VIP", last.vector == GP && last.rip == 0);
    run_v86(pushf_code, pushf_code_end, FLAG_VIF);
    check("pushf shows it as IF, and IOPL 3", *(u16 *)((V86_STACK << 4) + 0x7fe), 0x3202);
    run_v86(pushfl_code, pushfl_code_end, FLAG_VIF);
    check_true("pushfl", last.vector == GP && last.rip == 0);
    u16 *stack = (u16 *)((V86_STACK << 4) + 0x800);
    stack[0] = 0x3203;
    run_v86(popf_code, popf_code_end, 0);
    check("popf", V86_FLAGS, FLAG_VM | FLAG_VIF | FLAG_CF | 2);
    run_v86(popf_code, popf_code_end, FLAG_VIP);
    check_true("popf with VIP", last.vector == GP && last.rip == 0);
    stack[0] = 0x3102;
    run_v86(popf_code, popf_code_end, 0);
    check_true("popf of TF", last.vector == GP && last.rip == 0);
    stack[0] = 0x20;
    stack[1] = V86;
    stack[2] = 0x3202;
    *(u8 *)((V86 << 4) + 0x20) = 0xf4;
    run_v86(iret_code, iret_code_end, 0);
    check("iret, where", last.rip, 0x20);
    check("iret, flags", V86_FLAGS, FLAG_VM | FLAG_VIF | 2);

    // INT through the program's own table at address 0 (which belongs to the firmware: restored).
    u32 *vector = (u32 *)(0x21 * 4), old;
    asm volatile("" : "+r"(vector)); // not NULL to the compiler
    old = *vector;
    *vector = (u32)V86 << 16 | 0x20;
    run_v86(int_code, int_code_end, FLAG_VIF | FLAG_IF);
    check("int by its own table, where", last.rip, 0x20);
    check("int by its own table, flags", V86_FLAGS, FLAG_VM | FLAG_IF | 2);
    check("int by its own table, ESP", last.rsp, 0x7fa);
    check("int by its own table, pushed flags", *(u16 *)((V86_STACK << 4) + 0x7fe), 0x3202);
    run_v86(int_code, int_code_end, FLAG_IOPL3 | FLAG_IF);
    check("the same with IOPL 3", V86_FLAGS, FLAG_VM | FLAG_IOPL3 | 2);
    tss.io_bits[0x21 / 8] = 1 << 0x21 % 8;
    V86_CASE("redirected, IOPL 0", int_code, 0, GP, 0, 0);
    V86_CASE("redirected, IOPL 3, the gate decides", int_code, 3, GP, 0x21 * 8 + 2, 0);
    *vector = old;
    write_cr4(read_cr4() & ~(ulong)CR4_VME);
    return 0;
}
