// Far transfers in protected mode: call gates with parameters, conforming segments, far returns to outer levels,
// segment loads by selector. (SDM vol. 3, 5.8, and vol. 2, CALL, JMP, RET, MOV.)
#include "lib/guest.h"

#define S(n) (FREE_SEL + 8 * (n)) // descriptors of this guest
#define PRESENT 0x80
#define DPL(n) ((n) << 5)

u32 far_pointer[2]; // offset, selector: what the far JMP and CALL below go through

#define CODE(name, section, text)                                                                                      \
    asm(".pushsection " section "; .balign 16; " #name ": " text "; .popsection");                                     \
    extern const u8 name[]
#define KERNEL_CODE(name, text) CODE(name, ".text", text)
#define USER_CODE(name, text) CODE(name, ".user.text", text)

KERNEL_CODE(done, "int $0x80");
KERNEL_CODE(far_jump, "ljmp *far_pointer; int $0x80");
KERNEL_CODE(far_call, "lcall *far_pointer; int $0x80");
KERNEL_CODE(far_call_own_stack, "mov $case_stack_top, %esp; lcall *far_pointer; after_call: int $0x80");
KERNEL_CODE(gate_return, "lret $12");
USER_CODE(user_jump, "ljmp *far_pointer; int $0x80");
USER_CODE(user_call, "lcall *far_pointer; int $0x80");
USER_CODE(user_done, "int $0x80");
USER_CODE(user_params, "push $0x333; push $0x222; push $0x111; lcall *far_pointer; after_params: mov %esp, %ecx;"
                       "int $0x80");
USER_CODE(user_params16, "pushw $0x22; pushw $0x11; lcall *far_pointer; int $0x80");
KERNEL_CODE(ret_outer, "push %ebx; push $0x5fff00; push %eax; push $user_done; lret; int $0x80");
KERNEL_CODE(ret_outer_segments, "mov $0x10, %eax; mov %eax, %fs; mov $0x23, %eax; mov %eax, %gs; push $0x23;"
                                "push $0x5fff00; push $0x1b; push $look_segments; lret");
USER_CODE(look_segments, "mov %ds, %eax; mov %fs, %ecx; mov %gs, %edx; int $0x80");
KERNEL_CODE(iret_outer, "push %ebx; push $0x5fff00; pushf; push %eax; push $user_done; iret; int $0x80");
KERNEL_CODE(load_ds, "mov %eax, %ds; mov %ds, %ecx; int $0x80");
USER_CODE(user_load_ds, "mov %eax, %ds; mov %ds, %ecx; int $0x80");
KERNEL_CODE(load_ss, "mov %eax, %ss; int $0x80");
KERNEL_CODE(read_ds, "mov %eax, %ds; movb (%esi), %al; int $0x80");
KERNEL_CODE(write_ds, "mov %eax, %ds; movb $0, (%esi); int $0x80");
KERNEL_CODE(ask, "xor %ecx, %ecx; xor %edx, %edx; lar %eax, %ecx; setz %bl; lsl %eax, %edx; setz %bh; verr %ax;"
                 "sete %al; verw %ax; int $0x80");
KERNEL_CODE(ask_verify, "mov %eax, %esi; verr %si; setz %al; verw %si; setz %ah; movzwl %ax, %eax; int $0x80");
USER_CODE(adjust, "arpl %cx, %ax; setz %bl; int $0x80");

extern const u8 after_params[], after_call[];

static void gate(unsigned n, u16 sel, ulong target, u8 type, unsigned params)
{
    gdt[S(n) / 8] =
        (target & 0xffff) | (u64)sel << 16 | (u64)params << 32 | (u64)type << 40 | (u64)(target >> 16) << 48;
}

static void pointer(u16 sel, ulong offset)
{
    far_pointer[0] = offset;
    far_pointer[1] = sel;
}

static void run_with(const u8 *code, bool user, ulong eax, ulong ebx, ulong esi)
{
    run_at(&(struct start){(ulong)code, user ? UCODE | 3 : KCODE, 2, (ulong)(user ? user_stack_top : case_stack_top),
                           user ? UDATA | 3 : KDATA, .rax = eax, .rbx = ebx, .rsi = esi});
}

static void check_far(const char *name, const u8 *code, bool user, u16 sel, ulong offset, ulong vector, long error)
{
    pointer(sel, offset);
    run_with(code, user, 0, 0, 0);
    check_trap(name, vector, error, vector == NONE ? 0 : (ulong)code, (ulong)code, -1);
}

static void direct(void)
{
    check_far("jmp", far_jump, false, KCODE64, (ulong)done, NONE, NOERR);
    check("it is in the other segment", last.cs, KCODE64);
    check_far("jmp, RPL 3", far_jump, false, KCODE64 | 3, (ulong)done, GP, KCODE64);
    check_far("jmp, null", far_jump, false, 0, (ulong)done, GP, 0);
    check_far("jmp, null with RPL", far_jump, false, 3, (ulong)done, GP, 0);
    check_far("jmp, beyond the GDT", far_jump, false, GDT_SIZE, (ulong)done, GP, GDT_SIZE);
    check_far("jmp, no LDT", far_jump, false, 0xc, (ulong)done, GP, 0xc);
    check_far("jmp, data", far_jump, false, KDATA, (ulong)done, GP, KDATA);
    check_far("jmp, outward", far_jump, false, UCODE32 | 3, (ulong)user_done, GP, UCODE32);
    check_far("jmp, inward", user_jump, true, KCODE, (ulong)done, GP, KCODE);
    gdt[S(0) / 8] = segment(0, 0xfffff, 0x1a, 0xc);
    check_far("jmp, not present", far_jump, false, S(0), (ulong)done, NP, S(0));
    gdt[S(0) / 8] = segment(0, 0xfffff, 0x9e, 0xc);
    check_far("jmp, conforming, inward", user_jump, true, S(0), (ulong)user_done, NONE, NOERR);
    check("CPL stays 3", last.cs, S(0) | 3);
    check("accessed", gdt[S(0) / 8] >> 40 & 0xff, 0x9f);
    gdt[S(0) / 8] = segment(0, 0xfffff, 0xfe, 0xc);
    check_far("jmp, conforming, outward", far_jump, false, S(0), (ulong)user_done, GP, S(0));
    gdt[S(0) / 8] = segment(0, 0xff, 0x9a, 4);
    check_far("jmp, beyond the limit", far_jump, false, S(0), 0x100, GP, 0);
    check_far("call, beyond the limit", far_call, false, S(0), 0x100, GP, 0);
    check_far("call", far_call_own_stack, false, KCODE64, (ulong)done, NONE, NOERR);
    check("call, pushed EIP", *(u32 *)last.rsp - (ulong)after_call, 0);
    check("call, pushed CS", ((u32 *)last.rsp)[1], KCODE);
}

static void gates(void)
{
    gate(0, KCODE, (ulong)done, PRESENT | DPL(3) | 12, 3);
    pointer(S(0) | 3, 0x12345678); // the offset does not count
    run_with(user_params, true, 0, 0, 0);
    u32 *top = (u32 *)last.rsp;
    check("gate inward, CS", last.cs, KCODE);
    check("gate inward, pushed EIP", top[0] - (ulong)after_params, 0);
    check("gate inward, pushed CS", top[1], UCODE | 3);
    check("gate inward, parameters", (u64)top[2] << 32 | top[3] << 16 | top[4], 0x11102220333);
    check("gate inward, pushed ESP", (ulong)user_stack_top - top[5], 12);
    check("gate inward, pushed SS", top[6], UDATA | 3);
    check("gate inward, its stack", tss.esp0 - last.rsp, 28);

    gate(0, KCODE, (ulong)gate_return, PRESENT | DPL(3) | 12, 3);
    run_with(user_params, true, 0, 0, 0);
    check("and back", last.cs, UCODE | 3);
    check("parameters are off both stacks", last.rcx, (ulong)user_stack_top);

    gate(0, KCODE16, 0xffff8000, PRESENT | DPL(3) | 4, 2); // offset and pushed values are cut to 16 bits
    memcpy((void *)0x8000, "\xcd\x80", 2);
    pointer(S(0) | 3, 0);
    run_with(user_params16, true, 0, 0, 0);
    u16 *words = (u16 *)last.rsp;
    check("16-bit gate, CS", last.cs, KCODE16);
    check("16-bit gate, parameters", (u64)words[2] << 32 | words[3], 0x1100000022);
    check("16-bit gate, pushed SP and SS", (u64)words[4] << 32 | words[5], (u64)0xffec << 32 | UDATA | 3);
    check("16-bit gate, its stack", tss.esp0 - last.rsp, 12);

    check_far("gate, DPL below CPL", user_call, true, (gate(0, KCODE, (ulong)done, PRESENT | 12, 0), S(0)), 0, GP,
              S(0));
    check_far("gate, DPL below RPL", far_call, false, S(0) | 3, 0, GP, S(0));
    gate(0, KCODE, (ulong)done, DPL(3) | 12, 0);
    check_far("gate, not present", user_call, true, S(0) | 3, 0, NP, S(0));
    gate(0, 0, (ulong)done, PRESENT | DPL(3) | 12, 0);
    check_far("gate, null", far_call, false, S(0), 0, GP, 0);
    gate(0, GDT_SIZE, (ulong)done, PRESENT | DPL(3) | 12, 0);
    check_far("gate, target beyond the GDT", far_call, false, S(0), 0, GP, GDT_SIZE);
    gate(0, KDATA, (ulong)done, PRESENT | DPL(3) | 12, 0);
    check_far("gate, target is data", far_call, false, S(0), 0, GP, KDATA);
    gate(0, UCODE | 3, (ulong)user_done, PRESENT | DPL(3) | 12, 0);
    check_far("gate, target is outer", far_call, false, S(0), 0, GP, UCODE);
    gate(0, KCODE, (ulong)done, PRESENT | DPL(3) | 12, 0);
    check_far("gate, JMP inward", user_jump, true, S(0) | 3, 0, GP, KCODE);
    check_far("gate, JMP on the level", far_jump, false, S(0), 0, NONE, NOERR);
    gdt[S(1) / 8] = segment(0, 0xfffff, 0x1a, 0xc);
    gate(0, S(1), (ulong)done, PRESENT | DPL(3) | 12, 0);
    check_far("gate, target not present", user_call, true, S(0) | 3, 0, NP, S(1));
    gdt[S(1) / 8] = segment(0, 0xfffff, 0x9e, 0xc);
    gate(0, S(1), (ulong)user_done, PRESENT | DPL(3) | 12, 3);
    check_far("gate, conforming target", user_call, true, S(0) | 3, 0, NONE, NOERR);
    check("gate, conforming, CPL stays", last.cs, S(1) | 3);
    check("gate, conforming, no parameters", ((ulong)user_stack_top - last.rsp), 8);

    gdt[S(2) / 8] = segment(0, 0xfffff, 0x12, 0xc); // not present
    gdt[S(3) / 8] = segment(0, 0xfff, 0x92, 0x4);   // small
    gdt[S(4) / 8] = segment(0, 0xfffff, 0x90, 0xc); // read-only
    static const struct {
        const char *name;
        u32 ss, esp;
        u8 vector;
        u16 error;
    } stacks[] = {
        {"inner stack, null SS", 0, 0x8800, TS, 0},
        {"inner stack, RPL", KDATA | 1, 0x8800, TS, KDATA},
        {"inner stack, DPL", UDATA | 3, 0x8800, TS, UDATA},
        {"inner stack, read-only", S(4), 0x8800, TS, S(4)},
        {"inner stack, beyond the GDT", GDT_SIZE, 0x8800, TS, GDT_SIZE},
        {"inner stack, not present", S(2), 0x8800, SS, S(2)},
        {"inner stack, no room", S(3), 0x1008, SS, S(3)},
    };
    u32 esp0 = tss.esp0;
    // The gate leads from level 3 to level 1, whose stack is the bad one; the handlers run on that of level 0.
    gdt[S(5) / 8] = segment(0, 0xfffff, 0xba, 0xc); // code, DPL 1
    gdt[S(6) / 8] = segment(0, 0xfffff, 0xb2, 0xc); // data, DPL 1
    gate(0, S(5) | 1, (ulong)done, PRESENT | DPL(3) | 12, 0);
    gdt[S(2) / 8] |= (u64)DPL(1) << 40;
    gdt[S(3) / 8] |= (u64)DPL(1) << 40;
    gdt[S(4) / 8] |= (u64)DPL(1) << 40;
    for (unsigned i = 0; i < sizeof stacks / sizeof stacks[0]; i++) {
        u32 ss = stacks[i].ss;
        if (ss == S(2) || ss == S(3) || ss == S(4) || ss == GDT_SIZE)
            ss |= 1;
        tss.ss1 = ss;
        tss.esp1 = stacks[i].esp;
        check_far(stacks[i].name, user_call, true, S(0) | 3, 0, stacks[i].vector, stacks[i].error);
    }
    tss.ss1 = S(6) | 1;
    tss.esp1 = esp0 - 1024;
    gate(0, S(5) | 1, (ulong)user_done, PRESENT | DPL(3) | 12, 0);
    check_far("to level 1", user_call, true, S(0) | 3, 0, NONE, NOERR);
    check("level 1, CS", last.cs, S(5) | 1);
    check("level 1, SS", last.ss, S(6) | 1);
}

static void returns(void)
{
    run_with(ret_outer, false, UCODE | 3, UDATA | 3, 0);
    check("ret outward, CS", last.cs, UCODE | 3);
    check("ret outward, ESP", last.rsp, 0x5fff00);
    run_kernel(ret_outer_segments);
    check("ret outward, DS of level 0 is null", last.rax, 0);
    check("FS, too", last.rcx, 0);
    check("GS of level 3 stays", last.rdx, UDATA | 3);
    gdt[S(0) / 8] = segment(0, 0xfffff, 0x7a, 0xc); // code, DPL 3, not present
    gdt[S(1) / 8] = segment(0, 0xfffff, 0x72, 0xc); // data, DPL 3, not present
    gdt[S(2) / 8] = segment(0, 0xfffff, 0xf0, 0xc); // read-only
    static const struct {
        const char *name[2]; // RET, IRET
        u32 cs, ss;
        u8 vector;
        u16 error;
    } bad[] = {
        {{"ret, null CS", "iret, null CS"}, 0, UDATA | 3, GP, 0},
        {{"ret, CS is data", "iret, CS is data"}, UDATA | 3, UDATA | 3, GP, UDATA},
        {{"ret, CS of DPL 0, RPL 3", "iret, CS of DPL 0, RPL 3"}, KCODE | 3, UDATA | 3, GP, KCODE},
        {{"ret, CS beyond the GDT", "iret, CS beyond the GDT"}, GDT_SIZE | 3, UDATA | 3, GP, GDT_SIZE},
        {{"ret, CS not present", "iret, CS not present"}, S(0) | 3, UDATA | 3, NP, S(0)},
        {{"ret, null SS", "iret, null SS"}, UCODE | 3, 0, GP, 0},
        {{"ret, SS, RPL", "iret, SS, RPL"}, UCODE | 3, UDATA, GP, UDATA},
        {{"ret, SS, DPL", "iret, SS, DPL"}, UCODE | 3, KDATA | 3, GP, KDATA},
        {{"ret, SS is code", "iret, SS is code"}, UCODE | 3, UCODE | 3, GP, UCODE},
        {{"ret, SS is read-only", "iret, SS is read-only"}, UCODE | 3, S(2) | 3, GP, S(2)},
        {{"ret, SS not present", "iret, SS not present"}, UCODE | 3, S(1) | 3, SS, S(1)},
    };
    for (unsigned k = 0; k < 2; k++)
        for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            const u8 *code = k ? iret_outer : ret_outer;
            run_with(code, false, bad[i].cs, bad[i].ss, 0);
            bool good = last.vector == bad[i].vector && last.error == bad[i].error;
            verdict(bad[i].name[k], good);
            say("%t\n", last.vector, (long)last.error);
        }
}

static void check_load(const char *name, const u8 *code, bool user, u16 sel, ulong vector, long error)
{
    run_with(code, user, sel, 0, 0);
    check_trap(name, vector, error, vector == NONE ? 0 : (ulong)code, (ulong)code, -1);
}

static void loads(void)
{
    gdt[S(0) / 8] = segment(0, 0xfffff, 0x98, 0xc); // execute-only
    gdt[S(1) / 8] = segment(0, 0xfffff, 0x9e, 0xc); // conforming, readable
    gdt[S(2) / 8] = segment(0, 0xfffff, 0x12, 0xc); // not present
    gdt[S(3) / 8] = segment(0, 0xfffff, 0x90, 0xc); // read-only
    gdt[S(4) / 8] = segment(0, 0xfff, 0x96, 0x4);   // expand-down, 0x1000 upwards
    gdt[S(5) / 8] = segment(0, 0xfff, 0x96, 0);     // the same, 16-bit: up to 0xffff
    check_load("DS, null", load_ds, false, 0, NONE, NOERR);
    check_load("DS, null with RPL", load_ds, false, 2, NONE, NOERR);
    check("is kept", last.rcx, 2);
    check_load("DS, RPL above DPL", load_ds, false, KDATA | 3, GP, KDATA);
    check_load("DS, DPL 3 at level 0", load_ds, false, UDATA, NONE, NOERR);
    check_load("DS, DPL 0 at level 3", user_load_ds, true, KDATA, GP, KDATA);
    check_load("DS, execute-only", load_ds, false, S(0), GP, S(0));
    check_load("DS, code", load_ds, false, KCODE, NONE, NOERR);
    check_load("DS, conforming code at level 3", user_load_ds, true, S(1) | 3, NONE, NOERR);
    check_load("DS, not present", load_ds, false, S(2), NP, S(2));
    check_load("DS, TSS", load_ds, false, TSS_SEL(0), GP, TSS_SEL(0));
    check_load("DS, beyond the GDT", load_ds, false, GDT_SIZE, GP, GDT_SIZE);
    check_load("SS, null", load_ss, false, 0, GP, 0);
    check_load("SS, RPL", load_ss, false, KDATA | 1, GP, KDATA);
    check_load("SS, DPL", load_ss, false, UDATA, GP, UDATA);
    check_load("SS, read-only", load_ss, false, S(3), GP, S(3));
    check_load("SS, not present", load_ss, false, S(2), SS, S(2));
    static const struct {
        const char *name;
        u8 n;
        u32 offset;
        bool write, fine;
    } limits[] = {
        {"read-only, read", 3, 0x8000, false, true},
        {"read-only, write", 3, 0x8000, true, false},
        {"expand-down, at the limit", 4, 0xfff, false, false},
        {"expand-down, above it", 4, 0x1000, false, true},
        {"expand-down, far above", 4, 0x20000, false, true},
        {"expand-down, 16-bit", 5, 0xffff, false, true},
        {"expand-down, 16-bit, above 64 KiB", 5, 0x10000, false, false},
        {"code, read", 1, 0x8000, false, true},
        {"code, write", 1, 0x8000, true, false},
    };
    for (unsigned i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        run_with(limits[i].write ? write_ds : read_ds, false, S(limits[i].n), 0, limits[i].offset);
        check(limits[i].name, last.vector == NONE ? 0 : last.vector << 16 | last.error, limits[i].fine ? 0 : GP << 16);
    }
}

static void questions(void)
{
    static const struct {
        const char *name;
        u8 access;
    } types[] = {
        {"LAR, LSL, VERR, VERW of data", 0x92},
        {"LAR, LSL, VERR, VERW of read-only", 0x90},
        {"LAR, LSL, VERR, VERW of execute-only", 0x98},
        {"LAR, LSL, VERR, VERW of code", 0x9a},
        {"LAR, LSL, VERR, VERW of conforming", 0x9e},
        {"LAR, LSL, VERR, VERW of absent", 0x12},
        {"LAR, LSL, VERR, VERW of 16-bit TSS", 0x81},
        {"LAR, LSL, VERR, VERW of LDT", 0x82},
        {"LAR, LSL, VERR, VERW of busy 16-bit TSS", 0x83},
        {"LAR, LSL, VERR, VERW of 16-bit call gate", 0x84},
        {"LAR, LSL, VERR, VERW of task gate", 0x85},
        {"LAR, LSL, VERR, VERW of 16-bit interrupt gate", 0x86},
        {"LAR, LSL, VERR, VERW of type 8", 0x88},
        {"LAR, LSL, VERR, VERW of TSS", 0x89},
        {"LAR, LSL, VERR, VERW of type 10", 0x8a},
        {"LAR, LSL, VERR, VERW of busy TSS", 0x8b},
        {"LAR, LSL, VERR, VERW of call gate", 0x8c},
        {"LAR, LSL, VERR, VERW of interrupt gate", 0x8e},
        {"LAR, LSL, VERR, VERW of type 0", 0x80},
    };
    static const u16 lar_bits = 1, lsl_bits = 2, verr_bits = 4, verw_bits = 8;
    static const u8 want[] = {15, 7, 3, 7, 7, 15, 3, 3, 3, 1, 1, 0, 0, 3, 0, 3, 1, 0, 0};
    for (unsigned i = 0; i < sizeof types / sizeof types[0]; i++) {
        gdt[S(0) / 8] = segment(0x12345678, 0x54321, types[i].access, 0xc);
        u64 d = gdt[S(0) / 8];
        run_with(ask, false, S(0), 0, 0);
        bool lar = last.rbx & 0xff, lsl = last.rbx >> 8 & 0xff;
        bool values = last.rcx == (lar ? (d >> 32 & 0xffff00) : 0) && last.rdx == (lsl ? 0x54321fff : 0);
        run_with(ask_verify, false, S(0), 0, 0);
        unsigned got = (lar ? lar_bits : 0) | (lsl ? lsl_bits : 0) | (last.rax & 1 ? verr_bits : 0) |
                       (last.rax & 0x100 ? verw_bits : 0);
        check(types[i].name, values ? got : 0x100, want[i]);
    }
    static const struct {
        u16 to, from, result;
        bool raised;
    } rpl[] = {{0x10, 0x1b, 0x13, true}, {0x13, 0x18, 0x13, false}, {0x12, 0x1a, 0x12, false}};
    unsigned wrong = 0;
    for (unsigned i = 0; i < 3; i++) {
        run_at(&(struct start){(ulong)adjust, UCODE | 3, 2, (ulong)user_stack_top, UDATA | 3, .rax = rpl[i].to,
                               .rcx = rpl[i].from});
        wrong += last.rax != rpl[i].result || (last.rbx & 1) != rpl[i].raised;
    }
    check("arpl, wrong of 3", wrong, 0);
}

int main(void)
{
    direct();
    gates();
    returns();
    loads();
    questions();
    return 0;
}
