// Virtual-8086 mode: how one gets in and out, what needs IOPL 3, what does not exist. (SDM vol. 3, chapter 21.)
#include "lib/v86.h"

V86_CODE(stop, "int $0x80");
V86_CODE(cli_code, "cli; hlt");
V86_CODE(sti_code, "sti; hlt");
V86_CODE(pushf_code, "pushfw; hlt");
V86_CODE(pushfl_code, "pushfl; hlt");
V86_CODE(popf_code, "popfw; hlt");
V86_CODE(popfl_code, "popfl; hlt");
V86_CODE(int_code, "int $0x21; hlt");
V86_CODE(int3_code, "int3; hlt");
V86_CODE(into_code, "mov $0x7f, %al; inc %al; into; hlt");
V86_CODE(int1_code, ".byte 0xf1; hlt");
V86_CODE(iret_code, "iretw");
V86_CODE(iretl_code, "iretl");
V86_CODE(in_code, "in $0xeb, %al; hlt");
V86_CODE(div_code, "xor %cx, %cx; div %cx; hlt");
V86_CODE(hlt_code, "hlt");
V86_CODE(cr0_code, "mov %cr0, %eax; hlt");
V86_CODE(dr7_code, "mov %dr7, %eax; hlt");
V86_CODE(lgdt_code, "lgdt 0; hlt");
V86_CODE(lmsw_code, "lmsw %ax; hlt");
V86_CODE(smsw_code, "smsw %ax; sgdt 0x10; sidt 0x20; hlt");
V86_CODE(clts_code, "clts; hlt");
V86_CODE(invlpg_code, "invlpg 0; hlt");
V86_CODE(rdmsr_code, "rdmsr; hlt");
V86_CODE(wbinvd_code, "wbinvd; hlt");
V86_CODE(sldt_code, "sldt %ax; hlt");
V86_CODE(str_code, "str %ax; hlt");
V86_CODE(lldt_code, "lldt %ax; hlt");
V86_CODE(ltr_code, "ltr %ax; hlt");
V86_CODE(lar_code, "lar %ax, %bx; hlt");
V86_CODE(lsl_code, "lsl %ax, %bx; hlt");
V86_CODE(verr_code, "verr %ax; hlt");
V86_CODE(arpl_code, ".byte 0x63, 0xd8; hlt"); // arpl %bx, %ax
V86_CODE(limit_code, "movw 0xffff, %ax; hlt");
V86_CODE(limit32_code, "mov $0x10000, %esi; movb (%esi), %al; hlt");
V86_CODE(stack_code, "mov $1, %sp; push %ax; hlt");
V86_CODE(wrap_code, "xor %sp, %sp; push %ax; pop %bx; hlt");
V86_CODE(segments_code, "mov $0xb00, %ax; mov %ax, %es; movb %es:0x10, %al; pushl $0xa5; push %ds; pop %fs; hlt");
V86_CODE(far_code, "lcall $0x801, $0; hlt; .skip 10; lret");
V86_CODE(null_code, "xor %ax, %ax; mov %ax, %ds; movb 0x7f00, %al; hlt");
V86_CODE(execute_code, "mov %cs, %ax; mov %ax, %ds; movb $0xf4, 10; nop; nop");

static void way_in_and_out(void)
{
    run_v86(stop, stop_end, FLAG_IOPL3 | FLAG_CF);
    check("int ends it at level 0, vector", last.vector, NONE);
    check("saved CS", last.cs, V86);
    check("saved EIP", last.rip, 2);
    check("saved flags", V86_FLAGS, FLAG_VM | FLAG_IOPL3 | FLAG_CF | 2);
    check("saved SS", last.ss, V86_STACK);
    check("saved ESP", last.rsp, 0x800);
    check("EAX went through", last.rax, 0x11223344);
}

// What the CPU pushes above SS, and what the handler finds in the segment registers.
static u32 pushed[4], found[4];

static void look(struct trap *t)
{
    u32 r;
    memcpy(pushed, (u32 *)&t->ss + 1, sizeof pushed);
    asm volatile("mov %%fs, %0" : "=r"(r));
    found[0] = r;
    asm volatile("mov %%gs, %0" : "=r"(r));
    found[1] = r;
    t->rip += 2; // behind the DIV
}

static void segments(void)
{
    trap_handlers[DE] = look;
    run_v86(div_code, div_code_end, 0);
    trap_handlers[DE] = 0;
    check("the data segments are saved", (u64)pushed[0] << 48 | (u64)pushed[1] << 32 | pushed[2] << 16 | pushed[3],
          0xe000a000f001000);
    check("and null for the handler", found[0] | found[1], 0);
    check("IRET takes it back", last.rip, 4);
    V86_FINE("any selector loads", segments_code, 0);
    V86_FINE("zero is one, too", null_code, 0);
    V86_CASE("far call and return", far_code, 0, GP, 0, 5);
    V86_CASE("offset 0xffff of two bytes", limit_code, 0, GP, 0, 0);
    V86_CASE("an offset of 32 bits", limit32_code, 0, GP, 0, 6);
    V86_CASE("a stack pointer of 1", stack_code, 0, SS, 0, 3);
    V86_FINE("a stack pointer of 0 wraps", wrap_code, 0);
    V86_CASE("code may be written", execute_code, 0, GP, 0, 10);
}

static void sensitive(void)
{
    V86_CASE("IOPL 0, cli", cli_code, 0, GP, 0, 0);
    V86_CASE("IOPL 0, sti", sti_code, 0, GP, 0, 0);
    V86_CASE("IOPL 0, pushf", pushf_code, 0, GP, 0, 0);
    V86_CASE("IOPL 0, popf", popf_code, 0, GP, 0, 0);
    V86_CASE("IOPL 0, int n", int_code, 0, GP, 0, 0);
    V86_CASE("IOPL 0, iret", iret_code, 0, GP, 0, 0);
    V86_CASE("IOPL 2 is not enough", cli_code, 2, GP, 0, 0);
    V86_FINE("IOPL 3, cli", cli_code, 3);
    V86_FINE("IOPL 3, pushf", pushf_code, 3);
    V86_FINE("IOPL 3, pushfl", pushfl_code, 3);
    check("its image has neither VM nor RF", *(u32 *)((V86_STACK << 4) + 0x7fc), FLAG_IOPL3 | 2);
    run_v86(sti_code, sti_code_end, FLAG_IOPL3);
    check("IOPL 3, sti sets IF", V86_FLAGS, FLAG_VM | FLAG_IOPL3 | FLAG_IF | 2);

    *(u32 *)((V86_STACK << 4) + 0x800) = 0xffffffff & ~(u32)(FLAG_TF | FLAG_RF);
    run_v86(popf_code, popf_code_end, FLAG_IOPL3);
    check("IOPL 3, popf", V86_FLAGS, FLAG_VM | 0x7ed7);
    run_v86(popfl_code, popfl_code_end, FLAG_IOPL3);
    check("IOPL 3, popfl keeps VM, VIF, VIP", V86_FLAGS, FLAG_VM | 0x247ed7);

    u32 *frame = (u32 *)((V86_STACK << 4) + 0x800);
    frame[0] = 0x20;
    frame[1] = V86;
    frame[2] = 0xffffffff & ~(u32)(FLAG_TF | FLAG_RF | FLAG_IOPL3);
    *(u8 *)((V86 << 4) + 0x20) = 0xf4;
    run_v86(iretl_code, iretl_code_end, FLAG_IOPL3);
    check("IOPL 3, iret, where", last.rip, 0x20);
    check("IOPL 3, iret, flags, but IOPL", V86_FLAGS, FLAG_VM | 0x247ed7);

    // A handler that is not at level 0.
    set_gate(0x21, (ulong)trap_stubs, UCODE32 | 3, GATE_INTERRUPT | GATE_DPL3, 0);
    V86_CASE("handler at level 3", int_code, 3, GP, UCODE32, 0);
    gdt[FREE_SEL / 8] = segment(0, 0xfffff, 0x9e, 0xc); // conforming
    set_gate(0x21, (ulong)trap_stubs, FREE_SEL, GATE_INTERRUPT | GATE_DPL3, 0);
    V86_CASE("handler in a conforming segment", int_code, 3, GP, FREE_SEL, 0);
    default_gate(0x21, 0);
    V86_CASE("gate of DPL 0", int_code, 3, GP, 0x21 * 8 + 2, 0);
    V86_CASE("int3 does not ask for IOPL, but for the gate's DPL", int3_code, 0, GP, BP * 8 + 2, 0);
    set_gate(BP, (ulong)trap_stubs + 16 * BP, KCODE, GATE_INTERRUPT | GATE_DPL3, 0);
    V86_CASE("int3 with it", int3_code, 0, BP, NOERR, 1);
    default_gate(BP, 0);
    set_gate(OF, (ulong)trap_stubs + 16 * OF, KCODE, GATE_INTERRUPT | GATE_DPL3, 0);
    V86_CASE("into", into_code, 0, OF, NOERR, 5);
    default_gate(OF, 0);
    V86_CASE("int1", int1_code, 0, DB, NOERR, 1);
}

static void privileged(void)
{
    V86_CASE("in, bitmap", in_code, 3, GP, 0, 0);
    V86_CASE("hlt", hlt_code, 3, GP, 0, 0);
    V86_CASE("mov from cr0", cr0_code, 3, GP, 0, 0);
    V86_CASE("mov from dr7", dr7_code, 3, GP, 0, 0);
    V86_CASE("lgdt", lgdt_code, 3, GP, 0, 0);
    V86_CASE("lmsw", lmsw_code, 3, GP, 0, 0);
    V86_FINE("smsw, sgdt, sidt", smsw_code, 0);
    V86_CASE("clts", clts_code, 3, GP, 0, 0);
    V86_CASE("invlpg", invlpg_code, 3, GP, 0, 0);
    V86_CASE("rdmsr", rdmsr_code, 3, GP, 0, 0);
    V86_CASE("wbinvd", wbinvd_code, 3, GP, 0, 0);
    V86_CASE("sldt does not exist", sldt_code, 3, UD, NOERR, 0);
    V86_CASE("str", str_code, 3, UD, NOERR, 0);
    V86_CASE("lldt", lldt_code, 3, UD, NOERR, 0);
    V86_CASE("ltr", ltr_code, 3, UD, NOERR, 0);
    V86_CASE("lar", lar_code, 3, UD, NOERR, 0);
    V86_CASE("lsl", lsl_code, 3, UD, NOERR, 0);
    V86_CASE("verr", verr_code, 3, UD, NOERR, 0);
    V86_CASE("arpl", arpl_code, 3, UD, NOERR, 0);
}

int main(void)
{
    way_in_and_out();
    segments();
    sensitive();
    privileged();
    return 0;
}
