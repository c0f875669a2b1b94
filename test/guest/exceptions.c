// Exceptions: every vector with its error code and saved RIP, which of two faults wins, and what happens when the
// delivery of an exception itself goes wrong, up to the double fault. (The triple fault is a guest of its own.)
//
// The table of simple cases is exceptions.S. Here are those that need changed tables or code at a page's end.
#include "lib/page.h"

#define EXT 1 // error code: the event was not the program's own (an earlier exception, an interrupt)
#define IDT 2 // error code: the index is one of the IDT

static void prepare(void)
{
    write_cr0(CR0_PG | CR0_AM | CR0_WP | CR0_NE | CR0_MP | CR0_PE);
    write_cr4(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT);
    u32 mxcsr = 0x1f80;
    asm volatile("fninit; ldmxcsr %0" ::"m"(mxcsr));
    write_dr6(0xffff0ff0);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    gdt[TSS_SEL(0) / 8] &= ~(2ull << 40); // the TSS: not busy
    asm volatile("ltr %w0" ::"r"(TSS_SEL(0)));
}

// ---- delivery that fails ----

#define CODE(name, text)                                                                                               \
    asm(".pushsection .text; .balign 16; " #name ": " text "; int $0x80; .popsection");                                \
    extern const u8 name[]

CODE(code_int3, "int3");
CODE(code_int64, "int $0x40");
CODE(code_ud2, "ud2");
CODE(code_div, "xor %ecx, %ecx; div %ecx");
CODE(code_page_fault, "movabs 0x4000000000, %al");
CODE(code_gp, "mov $0xfff8, %eax; mov %eax, %ds");
CODE(code_ud2_no_stack, "mov $0x4000000800, %rsp; ud2");
CODE(code_gp_no_stack, "mov $0x4000000800, %rsp; mov $0xfff8, %eax; mov %eax, %ds");
CODE(code_page_fault_no_stack, "mov $0x4000000800, %rsp; movabs 0x4000000000, %al");
CODE(code_ud2_noncanonical_stack, "mov $0x900000000000, %rsp; ud2");

static void absent(unsigned vector)
{
    set_gate(vector, (ulong)trap_stubs + 16 * vector, KCODE, GATE_INTERRUPT & 0x7f, 0);
}

static void restore(unsigned vector)
{
    default_gate(vector, vector == DF);
}

static void delivery(void)
{
    // A software interrupt through a bad gate: the index, IDT = 1, EXT = 0, RIP of the INT: it is a fault.
    absent(BP);
    run_kernel(code_int3);
    check_trap("int3, gate not present", NP, BP * 8 + IDT, (ulong)code_int3, (ulong)code_int3, -1);
    restore(BP);
    absent(0x40);
    run_kernel(code_int64);
    check_trap("int n, gate not present", NP, 0x40 * 8 + IDT, (ulong)code_int64, (ulong)code_int64, -1);
    restore(0x40);

    // An exception through a bad gate: EXT = 1.
    absent(UD);
    run_kernel(code_ud2);
    check_trap("UD, gate not present", NP, UD * 8 + IDT + EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    set_gate(UD, (ulong)trap_stubs, KCODE, 0x85, 0);
    run_kernel(code_ud2);
    check_trap("UD, task gate in long mode", GP, UD * 8 + IDT + EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    set_gate(UD, (ulong)trap_stubs, KCODE, 0x86, 0);
    run_kernel(code_ud2);
    check_trap("UD, 16-bit gate in long mode", GP, UD * 8 + IDT + EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    set_gate(UD, (ulong)trap_stubs, 0, GATE_INTERRUPT, 0);
    run_kernel(code_ud2);
    check_trap("UD, gate with null CS", GP, EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    set_gate(UD, (ulong)trap_stubs, KDATA, GATE_INTERRUPT, 0);
    run_kernel(code_ud2);
    check_trap("UD, gate to a data segment", GP, KDATA + EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    set_gate(UD, (ulong)trap_stubs, KCODE32, GATE_INTERRUPT, 0);
    run_kernel(code_ud2);
    check_trap("UD, gate to a 32-bit code segment", GP, KCODE32 + EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    set_gate(UD, (ulong)trap_stubs, UCODE64, GATE_INTERRUPT, 0);
    run_kernel(code_ud2);
    check_trap("UD, gate to a ring 3 code segment", GP, UCODE64 + EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    set_gate(UD, (ulong)trap_stubs, GDT_SIZE, GATE_INTERRUPT, 0);
    run_kernel(code_ud2);
    check_trap("UD, gate's CS beyond the GDT", GP, GDT_SIZE + EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    gdt[FREE_SEL / 8] = segment(0, 0xfffff, 0x1a, 0xa);
    set_gate(UD, (ulong)trap_stubs, FREE_SEL, GATE_INTERRUPT, 0);
    run_kernel(code_ud2);
    check_trap("UD, gate's CS not present", NP, FREE_SEL + EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    set_gate(UD, 0x800000000000, KCODE, GATE_INTERRUPT, 0);
    run_kernel(code_ud2);
    check_trap("UD, gate to a non-canonical address", GP, EXT, (ulong)code_ud2, (ulong)code_ud2, -1);
    restore(UD);

    struct table_pointer shorter = {0x40 * 16 - 1, (ulong)idt};
    asm volatile("lidt %0" ::"m"(shorter));
    set_gate(DONE, 0, 0, 0, 0);
    run_kernel(code_int64);
    check_trap("int n beyond the IDT", GP, 0x40 * 8 + IDT, (ulong)code_int64, (ulong)code_int64, -1);
    asm volatile("lidt %0" ::"m"(idt_pointer));
    restore(DONE);

    // An exception on the way to another one. Table 6-5: contributory (#DE #TS #NP #SS #GP) after contributory, and
    // #PF or contributory after #PF make a double fault; anything else is served in turn.
    absent(DE);
    run_kernel(code_div);
    check_trap("NP while delivering DE", DF, 0, 0, 0, -1);
    restore(DE);
    absent(GP);
    run_kernel(code_gp);
    check_trap("NP while delivering GP", DF, 0, 0, 0, -1);
    restore(GP);
    absent(PF);
    run_kernel(code_page_fault);
    check_trap("NP while delivering PF", DF, 0, 0, 0, -1);
    restore(PF);

    default_gate(PF, 1);
    run_kernel(code_ud2_no_stack);
    check_trap("PF while delivering UD", PF, 2, (ulong)code_ud2_no_stack + 10, (ulong)code_ud2_no_stack, 0x40000007f8);
    run_kernel(code_gp_no_stack);
    check_trap("PF while delivering GP", PF, 2, (ulong)code_gp_no_stack + 15, (ulong)code_gp_no_stack, 0x40000007f8);
    default_gate(PF, 0);
    run_kernel(code_page_fault_no_stack);
    check_trap("PF while delivering PF", DF, 0, 0, 0, -1);
    check("CR2 then is the second one's", read_cr2(), 0x40000007f8);
    default_gate(SS, 1);
    run_kernel(code_ud2_noncanonical_stack);
    check_trap("SS while delivering UD", SS, EXT, (ulong)code_ud2_noncanonical_stack + 10,
               (ulong)code_ud2_noncanonical_stack, -1);
    default_gate(SS, 0);
}

// ---- instructions at the end of a page ----

#define EDGE 0x4000001000ull // where the page that is there ends

// Copies code so that `inside` bytes of it lie before EDGE, runs it, and returns its address.
static ulong run_at_edge(const u8 *code, unsigned size, unsigned inside)
{
    u8 *page = (u8 *)(ulong)(*entry_of(EDGE - 4096, 1) & ADDRESS);
    for (unsigned i = 0; i < inside && i < size; i++)
        page[4096 - inside + i] = code[i];
    run_kernel((void *)(ulong)(EDGE - inside));
    return (ulong)EDGE - inside;
}

static void page_end(void)
{
    static const u8 ud2[] = {0x0f, 0x0b};
    static const u8 movabs[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8};
    static const u8 prefixes[16] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                    0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90};
    static const u8 jump[] = {0xeb, 0x00};
    static const u8 lock_mov[] = {0xf0, 0x89, 0x05, 0, 0, 0, 0};
    ulong at;

    map(EDGE - 4096, (ulong)new_page(), P | W);
    at = run_at_edge(ud2, 2, 2);
    check_trap("UD as the page's last two bytes", UD, NOERR, at, at, -1);
    at = run_at_edge(ud2, 2, 1);
    check_trap("PF, not UD, with the second byte missing", PF, 0x10, at, at, EDGE);
    at = run_at_edge(movabs, sizeof movabs, 1);
    check_trap("PF after one byte of an instruction", PF, 0x10, at, at, EDGE);
    at = run_at_edge(movabs, sizeof movabs, 9);
    check_trap("PF before the last byte of an instruction", PF, 0x10, at, at, EDGE);
    at = run_at_edge(movabs, sizeof movabs, 10);
    check_trap("PF right after an instruction", PF, 0x10, EDGE, at, EDGE);
    at = run_at_edge(jump, 2, 2);
    check_trap("PF at the target of a jump off the page", PF, 0x10, EDGE, at, EDGE);
    at = run_at_edge(prefixes, sizeof prefixes, 14);
    check_trap("PF when 14 prefixes end the page", PF, 0x10, at, at, EDGE);
    at = run_at_edge(prefixes, sizeof prefixes, 15);
    check_trap("GP when 15 prefixes end the page", GP, 0, at, at, -1);
    at = run_at_edge(lock_mov, sizeof lock_mov, 3);
    check_trap("PF, not UD of lock, with the displacement missing", PF, 0x10, at, at, EDGE);
}

int main(void)
{
    gdt[FREE_SEL / 8] = segment(0, 0xfffff, 0x12, 0xc); // data segments that are not present, DPL 0 and 3
    gdt[FREE_SEL / 8 + 1] = segment(0, 0xfffff, 0x72, 0xc);
    set_gate(BP, (ulong)trap_stubs + 16 * BP, KCODE, GATE_INTERRUPT | GATE_DPL3, 0);
    set_gate(OF, (ulong)trap_stubs + 16 * OF, KCODE, GATE_INTERRUPT | GATE_DPL3, 0);
    run_cases(prepare);
    delivery();
    page_end();
    return 0;
}
