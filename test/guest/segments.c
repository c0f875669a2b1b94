// Segmentation in long mode: segment loads, far transfers, call gates, IRET, LDT, what VERR, VERW, LAR and LSL say, and
// the bases and limits that still count in compatibility mode. (SDM vol. 3, chapter 5; vol. 2, the instructions.)
#include "lib/guest.h"

// Descriptors of our own, from FREE_SEL on.
enum {
    DATA_ABSENT = FREE_SEL,
    DATA3_ABSENT = DATA_ABSENT + 8,
    DATA_READ_ONLY = DATA3_ABSENT + 8,
    CODE_NO_READ = DATA_READ_ONLY + 8,
    CODE_CONFORMING = CODE_NO_READ + 8,
    CODE3_CONFORMING = CODE_CONFORMING + 8,
    CODE_ABSENT = CODE3_CONFORMING + 8,
    CODE_L_AND_D = CODE_ABSENT + 8,
    DATA3_LIMITED = CODE_L_AND_D + 8,
    DATA3_DOWN = DATA3_LIMITED + 8,
    CODE3_32_LIMITED = DATA3_DOWN + 8,
    FRESH = CODE3_32_LIMITED + 8, // data, not accessed yet
    LDT = FRESH + 8,
    LDT_ABSENT = LDT + 16,
    GATE3 = LDT_ABSENT + 16,
    GATE0 = GATE3 + 16,
    GATE_ABSENT = GATE0 + 16,
    GATE_TO_32 = GATE_ABSENT + 16,
    GATE_BAD_TYPE = GATE_TO_32 + 16,
    GATE_TO_3 = GATE_BAD_TYPE + 16,
    GATE_TO_CONFORMING = GATE_TO_3 + 16,
    GATE_OLD = GATE_TO_CONFORMING + 16,
    TASK = GATE_OLD + 16,
    END_OF_GDT = TASK + 16,
};
_Static_assert(END_OF_GDT <= GDT_SIZE, "the GDT is full");

#define WINDOW 0x500000u // in the user page: what the limited data segments show
#define WINDOW_LIMIT 0xfff

#define CODE(name, section, text)                                                                                      \
    asm(".pushsection " section "; .balign 16; " #name ": " text "; int $0x80; .popsection");                          \
    extern const u8 name[]
#define KERNEL_CODE(name, text) CODE(name, ".text", text)
#define USER_CODE(name, text) CODE(name, ".user.text", text)
#define USER32_CODE(name, text) CODE(name, ".user.text", ".code32; " text "; int $0x80; .code64")

KERNEL_CODE(landing, "");
KERNEL_CODE(load_ds, "mov %eax, %ds");
KERNEL_CODE(load_es, "mov %eax, %es");
KERNEL_CODE(load_ss, "mov %eax, %ss");
KERNEL_CODE(load_fs, "mov %eax, %fs");
KERNEL_CODE(do_lldt, "lldt %ax");
KERNEL_CODE(do_ltr, "ltr %ax");
KERNEL_CODE(far_jump, "ljmp *(%rsi)");
KERNEL_CODE(far_call, "lcall *(%rsi)");
KERNEL_CODE(far_return, "push %rax; push %rcx; lretq");
KERNEL_CODE(far_return_outer, "push %rdx; push %rbx; push %rax; push %rcx; lretq");
KERNEL_CODE(far_return_32, "pushq $0; movl %ecx, (%rsp); movl %eax, 4(%rsp); lretl");
KERNEL_CODE(far_return_imm, "pushq $1; pushq $2; push %rax; push %rcx; lretq $16");
KERNEL_CODE(iret_nt, "pushfq; orl $0x4000, (%rsp); popfq; pushq $0; pushq $0; pushq $0; pushq $0; pushq $0; iretq");
USER_CODE(user_landing, "");
USER_CODE(user_load_ds, "mov %eax, %ds");
USER_CODE(user_load_ss, "mov %eax, %ss");
USER_CODE(user_far_jump, "ljmp *(%rsi)");
USER_CODE(user_far_call, "lcall *(%rsi)");
USER_CODE(user_far_return, "push %rax; push %rcx; lretq");
USER_CODE(user_there_and_back, "lcall *(%rsi); mov %cs, %eax; mov %ss, %ecx");
KERNEL_CODE(gate_return, "lretq");
USER32_CODE(user32_landing, "");
USER32_CODE(user32_load, "mov %eax, %ds; movb (%esi), %al");
USER32_CODE(user32_load_word, "mov %eax, %ds; movw (%esi), %ax");
USER32_CODE(user32_store, "mov %eax, %ds; movb $1, (%esi)");
USER32_CODE(user32_stack, "mov %eax, %ss; mov %esi, %esp; push %ebx; mov %esp, %ecx; mov %edi, %esp");
USER32_CODE(user32_null, "mov %eax, %ds; movb (%esi), %al");
USER32_CODE(user32_arpl, "mov %ebx, %eax; .byte 0x63, 0xc8");
USER32_CODE(user32_base, "mov %eax, %fs; movb %fs:(%esi), %al");

static struct __attribute__((packed)) {
    u32 offset;
    u16 selector;
} far __attribute__((section(".user.data"))) = {1, 1};

static struct start kernel(const void *code, ulong rax, ulong rcx)
{
    return (struct start){(ulong)code,
                          KCODE64,
                          2,
                          (ulong)case_stack_top,
                          KDATA,
                          .rax = rax,
                          .rcx = rcx,
                          .rdx = UDATA | 3,
                          .rbx = (ulong)user_stack_top,
                          .rsi = (ulong)&far};
}

static struct start user(const void *code, ulong rax, ulong rcx)
{
    return (struct start){(ulong)code, UCODE64 | 3, 2,          (ulong)user_stack_top,
                          UDATA | 3,   .rax = rax,  .rcx = rcx, .rsi = (ulong)&far};
}

static struct start user32(const void *code, ulong rax, ulong rsi)
{
    return (struct start){(ulong)code, UCODE32 | 3, 2,          (ulong)user_stack_top,
                          UDATA | 3,   .rax = rax,  .rsi = rsi, .rdi = (ulong)user_stack_top};
}

// Runs and checks vector and error code alone.
static void expect(const char *name, struct start s, ulong vector, long error)
{
    run_at(&s);
    check_trap(name, vector, error, 0, 0, -1);
}

static void gate(unsigned selector, ulong target, u16 code, u8 access, u8 upper_type)
{
    gdt[selector / 8] = (target & 0xffff) | (u64)code << 16 | (u64)access << 40 | (u64)(target >> 16 & 0xffff) << 48;
    gdt[selector / 8 + 1] = target >> 32 | (u64)upper_type << 40;
}

static void descriptors(void)
{
    gdt[DATA_ABSENT / 8] = segment(0, 0xfffff, 0x12, 0xc);
    gdt[DATA3_ABSENT / 8] = segment(0, 0xfffff, 0x72, 0xc);
    gdt[DATA_READ_ONLY / 8] = segment(0, 0xfffff, 0x90, 0xc);
    gdt[CODE_NO_READ / 8] = segment(0, 0xfffff, 0x98, 0xa);
    gdt[CODE_CONFORMING / 8] = segment(0, 0xfffff, 0x9e, 0xa);
    gdt[CODE3_CONFORMING / 8] = segment(0, 0xfffff, 0xfe, 0xa);
    gdt[CODE_ABSENT / 8] = segment(0, 0xfffff, 0x1a, 0xa);
    gdt[CODE_L_AND_D / 8] = segment(0, 0xfffff, 0x9a, 0xe);
    gdt[DATA3_LIMITED / 8] = segment(WINDOW, WINDOW_LIMIT, 0xf2, 0x4);
    gdt[DATA3_DOWN / 8] = segment(WINDOW, WINDOW_LIMIT, 0xf6, 0x4);
    gdt[CODE3_32_LIMITED / 8] = segment((u32)(ulong)user32_landing, 1, 0xfa, 0x4);
    gdt[FRESH / 8] = segment(0, 0xfffff, 0x92, 0xc);
    static u64 table[4] = {0, 0x00cff3000000ffff, 0x00cf93000000ffff, 0};
    gdt[LDT / 8] = segment((u32)(ulong)table, sizeof table - 1, 0x82, 0);
    gdt[LDT_ABSENT / 8] = segment((u32)(ulong)table, sizeof table - 1, 0x02, 0);
    gate(GATE3, (ulong)landing, KCODE64, 0xec, 0);
    gate(GATE0, 0, KCODE64, 0x8c, 0);
    gate(GATE_ABSENT, (ulong)landing, KCODE64, 0x6c, 0);
    gate(GATE_TO_32, (ulong)landing, KCODE32, 0xec, 0);
    gate(GATE_BAD_TYPE, (ulong)landing, KCODE64, 0xec, 1);
    gate(GATE_TO_3, (ulong)user_landing, UCODE64, 0xec, 0);
    gate(GATE_TO_CONFORMING, (ulong)user_landing, CODE_CONFORMING, 0xec, 0);
    gate(GATE_OLD, (ulong)landing, KCODE64, 0xe4, 0);
}

// ---- loads ----

static void loads(void)
{
    expect("DS, read-only data", kernel(load_ds, DATA_READ_ONLY, 0), NONE, NOERR);
    expect("DS, readable code", kernel(load_ds, KCODE64, 0), NONE, NOERR);
    expect("DS, code that cannot be read", kernel(load_ds, CODE_NO_READ, 0), GP, CODE_NO_READ);
    expect("DS, not present", kernel(load_ds, DATA_ABSENT, 0), NP, DATA_ABSENT);
    expect("DS, null with any RPL", kernel(load_ds, 3, 0), NONE, NOERR);
    expect("ES, a gate", kernel(load_es, GATE3, 0), GP, GATE3);
    expect("ES, an LDT", kernel(load_es, LDT, 0), GP, LDT);
    expect("SS, read-only data", kernel(load_ss, DATA_READ_ONLY, 0), GP, DATA_READ_ONLY);
    expect("SS, ring 3's data", kernel(load_ss, UDATA, 0), GP, UDATA);
    expect("SS, RPL above the ring", kernel(load_ss, KDATA | 3, 0), GP, KDATA);
    expect("DS in ring 3, ring 3's data with RPL 0", user(user_load_ds, UDATA, 0), NONE, NOERR);
    expect("DS in ring 3, ring 0's data", user(user_load_ds, KDATA, 0), GP, KDATA);
    expect("DS in ring 3, conforming code of ring 0", user(user_load_ds, CODE_CONFORMING, 0), NONE, NOERR);
    expect("SS in ring 3, RPL below the ring", user(user_load_ss, UDATA, 0), GP, UDATA);
    expect("SS in ring 3, not present", user(user_load_ss, DATA3_ABSENT | 3, 0), SS, DATA3_ABSENT);
    check("not accessed before", gdt[FRESH / 8] >> 40 & 1, 0);
    expect("FS, fresh data", kernel(load_fs, FRESH, 0), NONE, NOERR);
    check("accessed after", gdt[FRESH / 8] >> 40 & 1, 1);
    asm volatile("mov %0, %%fs" ::"r"(0));

    expect("LLDT", kernel(do_lldt, LDT, 0), NONE, NOERR);
    u16 ldt;
    asm("sldt %0" : "=r"(ldt));
    check("SLDT", ldt, LDT);
    expect("DS from the LDT", kernel(load_ds, 8 | 4, 0), NONE, NOERR);
    expect("DS beyond the LDT", kernel(load_ds, 0x20 | 4, 0), GP, 0x24);
    expect("DS from the LDT, empty", kernel(load_ds, 0x18 | 4, 0), GP, 0x1c);
    expect("LLDT of a segment", kernel(do_lldt, KDATA, 0), GP, KDATA);
    expect("LLDT, not present", kernel(do_lldt, LDT_ABSENT, 0), NP, LDT_ABSENT);
    expect("LLDT from the LDT", kernel(do_lldt, 8 | 4, 0), GP, 0xc);
    expect("LLDT of null", kernel(do_lldt, 0, 0), NONE, NOERR);
    expect("DS without an LDT", kernel(load_ds, 8 | 4, 0), GP, 0xc);
    expect("LTR of an LDT", kernel(do_ltr, LDT, 0), GP, LDT);
    gdt[TASK / 8] = segment((u32)(ulong)&tss, TSS_BYTES - 1, 0x09, 0);
    expect("LTR, not present", kernel(do_ltr, TASK, 0), NP, TASK);
    gdt[TASK / 8] = segment((u32)(ulong)&tss, TSS_BYTES - 1, 0x81, 0);
    expect("LTR of a 16-bit TSS", kernel(do_ltr, TASK, 0), GP, TASK);
    gdt[TASK / 8] = segment((u32)(ulong)&tss, TSS_BYTES - 1, 0x89, 0);
    gdt[TASK / 8 + 1] = 1ull << 40;
    expect("LTR, type in the upper half", kernel(do_ltr, TASK, 0), GP, TASK);
    gdt[TASK / 8 + 1] = 0;
    expect("LTR", kernel(do_ltr, TASK, 0), NONE, NOERR);
    check("LTR makes it busy", gdt[TASK / 8] >> 40 & 0xff, 0x8b);
    u16 task;
    asm("str %0" : "=r"(task));
    check("STR", task, TASK);
    gdt[TSS_SEL(0) / 8] &= ~(2ull << 40);
    asm volatile("ltr %w0" ::"r"(TSS_SEL(0)));
}

// ---- far transfers ----

static void to(const void *target, u16 selector)
{
    far.offset = (u32)(ulong)target;
    far.selector = selector;
}

static void check_landed(const char *name, struct start s, ulong cs)
{
    run_at(&s);
    bool good = last.vector == NONE && last.cs == cs;
    if (verdict(name, good))
        say("cs=%x\n", last.cs);
    else
        say("got %t cs=%x, want cs=%x\n", last.vector, (long)last.error, last.cs, cs);
}

static void transfers(void)
{
    to(landing, KCODE64);
    check_landed("far jump", kernel(far_jump, 0, 0), KCODE64);
    check_landed("far call", kernel(far_call, 0, 0), KCODE64);
    check("far call pushes 32 bits each", *(u64 *)last.rsp >> 32, KCODE64);
    to(landing, KCODE64 | 3);
    expect("far jump, RPL above the ring", kernel(far_jump, 0, 0), GP, KCODE64);
    to(landing, 0);
    expect("far jump, null", kernel(far_jump, 0, 0), GP, 0);
    to(landing, KDATA);
    expect("far jump, data", kernel(far_jump, 0, 0), GP, KDATA);
    to(landing, UCODE64);
    expect("far jump, ring 3's code", kernel(far_jump, 0, 0), GP, UCODE64);
    to(landing, CODE_ABSENT);
    expect("far jump, not present", kernel(far_jump, 0, 0), NP, CODE_ABSENT);
    to(landing, CODE_L_AND_D);
    expect("far jump, L and D", kernel(far_jump, 0, 0), GP, CODE_L_AND_D);
    to(landing, TSS_SEL(0));
    expect("far jump, TSS", kernel(far_jump, 0, 0), GP, TSS_SEL(0));
    to(landing, GDT_SIZE);
    expect("far jump, beyond the GDT", kernel(far_jump, 0, 0), GP, GDT_SIZE);
    to(user_landing, CODE_CONFORMING);
    check_landed("far jump in ring 3 to conforming code of ring 0", user(user_far_jump, 0, 0), CODE_CONFORMING | 3);
    check_landed("far jump in ring 0 to it", kernel(far_jump, 0, 0), CODE_CONFORMING);
    to(landing, CODE3_CONFORMING);
    expect("far jump in ring 0 to conforming code of ring 3", kernel(far_jump, 0, 0), GP, CODE3_CONFORMING);
    to(landing, KCODE64);
    expect("far jump in ring 3 to ring 0's code", user(user_far_jump, 0, 0), GP, KCODE64);
    to(user32_landing, UCODE32);
    check_landed("far jump to compatibility mode", user(user_far_jump, 0, 0), UCODE32 | 3);

    check_landed("far return", kernel(far_return, KCODE64, (ulong)landing), KCODE64);
    check("RSP after it", last.rsp - (ulong)case_stack_top, 0);
    check_landed("far return of 32 bits", kernel(far_return_32, KCODE64, (ulong)landing), KCODE64);
    check_landed("far return with an immediate", kernel(far_return_imm, KCODE64, (ulong)landing), KCODE64);
    check("RSP after that", last.rsp - (ulong)case_stack_top, 0);
    check_landed("far return to ring 3", kernel(far_return_outer, UCODE64 | 3, (ulong)user_landing), UCODE64 | 3);
    check("its SS", last.ss, UDATA | 3);
    expect("far return, null", kernel(far_return, 0, (ulong)landing), GP, 0);
    expect("far return to a non-canonical address", kernel(far_return, KCODE64, 0x800000000000), GP, 0);
    expect("far return, ring 3's code with RPL 0", kernel(far_return, UCODE64, (ulong)landing), GP, UCODE64);
    expect("far return to an inner ring", user(user_far_return, KCODE64, (ulong)landing), GP, KCODE64);
    expect("far return to an inner ring, RPL 3", user(user_far_return, KCODE64 | 3, (ulong)landing), GP, KCODE64);
}

static void call_gates(void)
{
    to(0, GATE3 | 3);
    check_landed("gate from ring 3", user(user_far_call, 0, 0), KCODE64);
    const u64 *frame = (u64 *)last.rsp;
    check("its stack is the TSS's", tss.rsp[0] - last.rsp, 32);
    check("SS is null", last.ss, 0);
    check("pushed CS and SS", frame[1] << 8 | frame[3], (UCODE64 | 3) << 8 | UDATA | 3);
    check("pushed RSP", (ulong)user_stack_top - frame[2], 0);
    check_landed("gate from ring 0", kernel(far_call, 0, 0), KCODE64);
    check("two words of eight bytes", (ulong)case_stack_top - last.rsp, 16);
    check_landed("jump through the gate in ring 0", kernel(far_jump, 0, 0), KCODE64);
    expect("jump through the gate in ring 3", user(user_far_jump, 0, 0), GP, KCODE64);
    to(0, GATE0);
    expect("gate of ring 0 from ring 3", user(user_far_call, 0, 0), GP, GATE0);
    to(0, GATE_ABSENT);
    expect("gate not present", user(user_far_call, 0, 0), NP, GATE_ABSENT);
    to(0, GATE_TO_32);
    expect("gate to 32-bit code", user(user_far_call, 0, 0), GP, KCODE32);
    to(0, GATE_BAD_TYPE);
    expect("gate with a type in its upper half", user(user_far_call, 0, 0), GP, GATE_BAD_TYPE);
    to(0, GATE_OLD);
    expect("gate of 16 bits", user(user_far_call, 0, 0), GP, GATE_OLD);
    to(0, GATE_TO_3);
    check_landed("gate to ring 3 from ring 3", user(user_far_call, 0, 0), UCODE64 | 3);
    expect("gate to ring 3 from ring 0", kernel(far_call, 0, 0), GP, UCODE64);
    to(0, GATE_TO_CONFORMING);
    check_landed("gate to conforming code from ring 3", user(user_far_call, 0, 0), CODE_CONFORMING | 3);
    gate(GATE3, (ulong)gate_return, KCODE64, 0xec, 0);
    to(0, GATE3);
    run_at(&(struct start){(ulong)user_there_and_back, UCODE64 | 3, 2, (ulong)user_stack_top, UDATA | 3,
                           .rsi = (ulong)&far});
    check("there and back", last.vector << 16 | last.rax << 8 | last.rcx, NONE << 16 | (UCODE64 | 3) << 8 | UDATA | 3);
    check("RSP as before", last.rsp, (ulong)user_stack_top);
    gate(GATE3, 0x800000000000, KCODE64, 0xec, 0);
    expect("gate to a non-canonical address", user(user_far_call, 0, 0), GP, 0);
}

// ---- IRET: run_at() is one ----

static struct start returning(ulong rip, ulong cs, ulong flags, ulong ss)
{
    return (struct start){rip, cs, flags, (ulong)user_stack_top, ss};
}

static void returns(void)
{
    ulong k = (ulong)landing, u = (ulong)user_landing;
    check_landed("IRET to ring 0", returning(k, KCODE64, 2, KDATA), KCODE64);
    check_landed("IRET to ring 0 with a null SS", returning(k, KCODE64, 2, 0), KCODE64);
    check("which stays null", last.ss, 0);
    check_landed("IRET to ring 3", returning(u, UCODE64 | 3, 2, UDATA | 3), UCODE64 | 3);
    check_landed("IRET to compatibility mode", returning((ulong)user32_landing, UCODE32 | 3, 2, UDATA | 3),
                 UCODE32 | 3);
    expect("IRET to ring 3 with a null SS", returning(u, UCODE64 | 3, 2, 3), GP, 0);
    expect("IRET to ring 3, SS with RPL 0", returning(u, UCODE64 | 3, 2, UDATA), GP, UDATA);
    expect("IRET to ring 3, SS of ring 0", returning(u, UCODE64 | 3, 2, KDATA | 3), GP, KDATA);
    expect("IRET to ring 3, SS is code", returning(u, UCODE64 | 3, 2, UCODE64 | 3), GP, UCODE64);
    expect("IRET to ring 3, SS beyond the GDT", returning(u, UCODE64 | 3, 2, GDT_SIZE | 3), GP, GDT_SIZE);
    expect("IRET, null CS", returning(k, 0, 2, KDATA), GP, 0);
    expect("IRET, CS is data", returning(k, KDATA, 2, KDATA), GP, KDATA);
    expect("IRET, ring 3's code with RPL 0", returning(k, UCODE64, 2, KDATA), GP, UCODE64);
    expect("IRET, ring 0's code with RPL 3", returning(k, KCODE64 | 3, 2, UDATA | 3), GP, KCODE64);
    expect("IRET, CS not present", returning(k, CODE_ABSENT, 2, KDATA), NP, CODE_ABSENT);
    expect("IRET, CS with L and D", returning(k, CODE_L_AND_D, 2, KDATA), GP, CODE_L_AND_D);
    expect("IRET to a non-canonical address", returning(0x800000000000, KCODE64, 2, KDATA), GP, 0);
    check_landed("IRET in ring 0 sets IOPL", returning(u, UCODE64 | 3, 0x3002, UDATA | 3), UCODE64 | 3);
    check("which ring 3 then has", last.flags & FLAG_IOPL3, FLAG_IOPL3);

    expect("IRET with NT", kernel(iret_nt, 0, 0), GP, 0);
}

// ---- what may I? ----

// ZF of VERR, VERW, LAR, LSL in bits 3 to 0, then the access rights (or 0) and the limit (or 0).
USER_CODE(user_ask, "xor %ebx, %ebx; xor %edi, %edi; xor %ecx, %ecx; xor %edx, %edx;"
                    "verr %ax; setz %bl; verw %ax; setz %dil; lea (%rdi, %rbx, 2), %ebx; xor %edi, %edi;"
                    "lar %eax, %ecx; setz %dil; lea (%rdi, %rbx, 2), %ebx; xor %edi, %edi;"
                    "lsl %eax, %edx; setz %dil; lea (%rdi, %rbx, 2), %ebx");
KERNEL_CODE(kernel_ask, "xor %ebx, %ebx; xor %edi, %edi; xor %ecx, %ecx; xor %edx, %edx;"
                        "verr %ax; setz %bl; verw %ax; setz %dil; lea (%rdi, %rbx, 2), %ebx; xor %edi, %edi;"
                        "lar %eax, %ecx; setz %dil; lea (%rdi, %rbx, 2), %ebx; xor %edi, %edi;"
                        "lsl %eax, %edx; setz %dil; lea (%rdi, %rbx, 2), %ebx");

static void ask(const char *name, bool from_user, u16 selector, unsigned zf, u32 rights, u32 limit)
{
    run_at(&(struct start){(ulong)(from_user ? user_ask : kernel_ask), from_user ? UCODE64 | 3 : KCODE64, 2,
                           from_user ? (ulong)user_stack_top : (ulong)case_stack_top, from_user ? UDATA | 3 : KDATA,
                           .rax = selector});
    last.rcx &= ~0xf0000ul; // LAR leaves bits 16 to 19 undefined
    rights &= ~0xf0000u;
    bool good = last.vector == NONE && last.rbx == zf && (u32)last.rcx == rights && (u32)last.rdx == limit;
    if (!verdict(name, good))
        say("got ");
    say("%c%c%c%c rights %x limit %x", last.rbx & 8 ? 'r' : '-', last.rbx & 4 ? 'w' : '-', last.rbx & 2 ? 'a' : '-',
        last.rbx & 1 ? 'l' : '-', last.rcx, last.rdx);
    if (!good)
        say(" (%t), want %x rights %x limit %x", last.vector, (long)last.error, (ulong)zf, (ulong)rights, (ulong)limit);
    say("\n");
}

static void asking(void)
{
    ask("null", false, 0, 0, 0, 0);
    ask("kernel data", false, KDATA, 0xf, 0xcf9300, 0xffffffff);
    ask("kernel code", false, KCODE64, 0xb, 0xaf9b00, 0xffffffff);
    ask("code that cannot be read", false, CODE_NO_READ, 0x3, 0xaf9800, 0xffffffff);
    ask("read-only data", false, DATA_READ_ONLY, 0xb, 0xcf9100, 0xffffffff);
    ask("bytes", false, DATA3_LIMITED, 0xf, 0x40f200, 0xfff);
    ask("TSS", false, TSS_SEL(0), 0x3, 0x008b00, TSS_BYTES - 1);
    ask("LDT", false, LDT, 0x3, 0x008200, 31);
    ask("call gate", false, GATE0, 0x2, 0x008c00, 0);
    ask("beyond the GDT", false, GDT_SIZE, 0, 0, 0);
    ask("ring 3, kernel data", true, KDATA, 0, 0, 0);
    ask("ring 3, its data", true, UDATA, 0xf, 0xcff300, 0xffffffff);
    ask("ring 3, its data, RPL 3", true, UDATA | 3, 0xf, 0xcff300, 0xffffffff);
    ask("ring 3, conforming code of ring 0", true, CODE_CONFORMING, 0xb, 0xaf9e00 | 0x100, 0xffffffff);
    ask("ring 3, TSS", true, TSS_SEL(0), 0, 0, 0);
    ask("ring 0, RPL 3 weakens it", false, KDATA | 3, 0, 0, 0);
    ask("not present", false, DATA_ABSENT, 0xf, 0xcf1200, 0xffffffff);
}

// ---- compatibility mode: bases and limits ----

static void limits(void)
{
    memset((void *)(ulong)WINDOW, 0x5a, 0x3000);
    *(u8 *)(ulong)(WINDOW + WINDOW_LIMIT) = 0xa5;
    run_at(&(struct start){(ulong)user32_load, UCODE32 | 3, 2, (ulong)user_stack_top, UDATA | 3,
                           .rax = DATA3_LIMITED | 3, .rsi = WINDOW_LIMIT});
    check("the last byte, at its base", last.vector << 8 | (last.rax & 0xff), NONE << 8 | 0xa5);
    expect("beyond the limit", user32(user32_load, DATA3_LIMITED | 3, WINDOW_LIMIT + 1), GP, 0);
    expect("a word over the limit", user32(user32_load_word, DATA3_LIMITED | 3, WINDOW_LIMIT), GP, 0);
    expect("the last word", user32(user32_load_word, DATA3_LIMITED | 3, WINDOW_LIMIT - 1), NONE, NOERR);
    expect("write beyond the limit", user32(user32_store, DATA3_LIMITED | 3, 0xffffffff), GP, 0);
    expect("expand-down, at the limit", user32(user32_load, DATA3_DOWN | 3, WINDOW_LIMIT), GP, 0);
    expect("expand-down, above it", user32(user32_load, DATA3_DOWN | 3, WINDOW_LIMIT + 1), NONE, NOERR);
    expect("expand-down, below it", user32(user32_load, DATA3_DOWN | 3, 0), GP, 0);
    expect("null DS", user32(user32_null, 0, 0), GP, 0);
    expect("code written", user32(user32_store, UCODE32 | 3, 0x500000), GP, 0);
    struct start s = user32(user32_stack, DATA3_LIMITED | 3, WINDOW_LIMIT + 1);
    run_at(&s);
    check("push at the end of a stack segment", last.vector << 16 | last.rcx, NONE << 16 | (WINDOW_LIMIT - 3));
    default_gate(SS, 1);
    expect("push beyond the end", user32(user32_stack, DATA3_LIMITED | 3, WINDOW_LIMIT + 2), SS, 0);
    expect("push below 0", user32(user32_stack, DATA3_LIMITED | 3, 2), SS, 0);
    default_gate(SS, 0);
    run_at(&(struct start){0, CODE3_32_LIMITED | 3, 2, (ulong)user_stack_top, UDATA | 3});
    check_trap("code segment with a base, two bytes", NONE, NOERR, 0, 0, -1);
    run_at(&(struct start){2, CODE3_32_LIMITED | 3, 2, (ulong)user_stack_top, UDATA | 3});
    check_trap("code beyond the limit", GP, 0, 0, 0, -1);
    *(u8 *)(ulong)(WINDOW + WINDOW_LIMIT) = 0xa5; // the pushes went over it
    run_at(&(struct start){(ulong)user32_base, UCODE32 | 3, 2, (ulong)user_stack_top, UDATA | 3,
                           .rax = DATA3_LIMITED | 3, .rsi = WINDOW_LIMIT});
    check("through FS", last.vector << 8 | (last.rax & 0xff), NONE << 8 | 0xa5);

    // ARPL: the lower RPL is raised, and ZF tells.
    s = user32(user32_arpl, 0, 0);
    s.rbx = 0x120;
    s.rcx = 3;
    run_at(&s);
    check("ARPL raises", last.rax << 8 | (last.flags & FLAG_ZF), 0x123 << 8 | FLAG_ZF);
    s.rbx = 0x123;
    s.rcx = 1;
    run_at(&s);
    check("ARPL leaves", last.rax << 8 | (last.flags & FLAG_ZF), 0x123 << 8);
}

int main(void)
{
    descriptors();
    loads();
    transfers();
    call_gates();
    returns();
    asking();
    limits();
    return 0;
}
