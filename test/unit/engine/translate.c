// The binary translator against the interpreter: the same code from the same state, then registers, flags, vector state
// and all of memory compared. Each piece of code runs three times under the translator: freely, where blocks are linked
// to each other; counted, where each block is left to the dispatcher; and one instruction at a time.
//
// Faults lead to handlers that halt, so a fault in the middle of a block is compared by the state that it left.
#include "bed.h"
#include <stdio.h>
#include <stdlib.h>

enum {
    PAGES = 2 << 20, // from here on 4 KiB pages, identity, anybody may write
    PT = BED_TABLES + 0x3000,
    READONLY = PAGES + 0x10000,
    ABSENT = PAGES + 0x11000,
    ALIAS = PAGES + 0x13000, // is ALIASED
    ALIASED = PAGES + 0x20000,
    DEVICE = PAGES + 0x14000,  // no memory behind it
    KERNEL = PAGES + 0x15000,  // not for user mode
    MAP = BED_TABLES + 0x5000, // of a kernel that maps all memory: a PDPT and a page directory
};

enum { STATUS = RFLAGS_STATUS };

struct sample {
    const char *name;
    const uint8_t *code, *end;
    void (*setup)(struct bed *b);
    uint64_t dead; // flags that nobody needs where it ends: they may differ
};

static void pages(struct bed *b)
{
    bed_write(b, BED_TABLES + 0x2000 + 8, PT | 7, 8);
    for (unsigned n = 0; n < 512; n++)
        bed_write(b, PT + 8 * n, (PAGES + n * 4096) | 7, 8);
    bed_write(b, PT + 8 * 0x10, READONLY | 5, 8);
    bed_write(b, PT + 8 * 0x11, 0, 8);
    bed_write(b, PT + 8 * 0x13, ALIASED | 7, 8);
    bed_write(b, PT + 8 * 0x14, 0x50000000 | 7, 8);
    bed_write(b, PT + 8 * 0x15, KERNEL | 3, 8);
}

static void plain(struct bed *b)
{
    pages(b);
    b->s.cr0 |= CR0_WP;
    b->s.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    b->s.xcr0 = XSTATE_X87 | XSTATE_SSE | XSTATE_AVX;
    for (unsigned r = 0; r < CPU_GPR_COUNT; r++)
        if (r != CPU_RSP)
            b->s.gpr[r] = 0x0123456789abcdef * (2 * r + 1);
    b->s.gpr[CPU_RBX] = PAGES + 0x800;
    b->s.gpr[CPU_RBP] = BED_STACK - 64;
    b->s.gpr[CPU_R12] = PAGES + 0x1800;
    b->s.gpr[CPU_R13] = PAGES + 0x2800;
    b->s.gpr[CPU_RSP] = PAGES + 0x8800;
    b->s.seg[CPU_FS].base = PAGES + 0x3000;
    b->s.seg[CPU_GS].base = PAGES + 0x4000;
    for (unsigned n = 0; n < 0x30000; n += 8)
        bed_write(b, PAGES + n, 0x9e3779b97f4a7c15 * (n + 1), 8);
    b->s.rflags |= RFLAGS_CF | RFLAGS_PF | RFLAGS_OF;
}

// SYSCALL comes back by JMP RCX.
static void syscalls(struct bed *b)
{
    plain(b);
    bed_write(b, PAGES + 0x9000, 0xe1ff, 2);
    b->s.msr.star = (uint64_t)BED_CS << 32;
    b->s.msr.lstar = PAGES + 0x9000;
    b->s.efer |= EFER_SCE;
}

static void interrupt_waits(struct bed *b)
{
    plain(b);
    b->vector = 0x40;
    engine_notify(b->cpu, ENGINE_INTR);
}

static void user(struct bed *b)
{
    plain(b);
    b->s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, 0xafb, 0xffffffff, 0};
    b->s.seg[CPU_SS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
}

static void stack_at_edge(struct bed *b)
{
    plain(b);
    b->s.gpr[CPU_RSP] = PAGES + 0x9000;
}

static void stack_across_edge(struct bed *b)
{
    plain(b);
    b->s.gpr[CPU_RSP] = PAGES + 0x9004;
}

static void stack_readonly(struct bed *b)
{
    plain(b);
    b->s.gpr[CPU_RSP] = READONLY + 0x800;
}

static void stack_before_absent(struct bed *b)
{
    plain(b);
    b->s.gpr[CPU_RSP] = ABSENT - 0xfe8;
}

static void code_before_absent(struct bed *b)
{
    plain(b);
    bed_write(b, ABSENT - 2, 0x0148, 2); // an ADD without its ModRM byte
}

// As Linux maps all memory: at 0xffff880000000000, by large pages that are global and were accessed.
static void direct_map(struct bed *b)
{
    plain(b);
    bed_write(b, BED_TABLES + 8 * 272, MAP | 0x23, 8);
    bed_write(b, MAP, (MAP + 0x1000) | 0x23, 8);
    for (unsigned n = 0; n < 512; n++)
        bed_write(b, MAP + 0x1000 + 8 * n, (uint64_t)n << 21 | 0x1e3, 8);
    b->s.cr4 |= CR4_PGE;
    b->s.gpr[CPU_RDI] = 0xffff880000000000;
    b->s.gpr[CPU_R13] = MAP + 0x1008; // what maps the second 2 MiB
}

// All memory is in the second of two gigabytes' beginning, as one page; elsewhere once more, by 2 MiB pages.
static void giant_map(struct bed *b)
{
    direct_map(b);
    bed_write(b, BED_TABLES + 8 * 273, (MAP + 0x2000) | 0x23, 8);
    bed_write(b, MAP + 8, 0x1e3, 8);
    bed_write(b, MAP + 0x2000 + 8, (MAP + 0x1000) | 0x23, 8);
    bed_write(b, MAP + 0x3000, 2 << 20 | 0x1e3, 8);
    b->s.gpr[CPU_RDI] = 0xffff880040000000;
    b->s.gpr[CPU_R8] = 0xffff888040000000;
    b->s.gpr[CPU_R13] = MAP + 8;
}

// The second half of memory is where the kernel's addresses begin; the first is before, where no addresses are.
static void map_at_hole(struct bed *b)
{
    direct_map(b);
    bed_write(b, BED_TABLES + 8 * 255, (MAP + 0x2000) | 0x23, 8);
    bed_write(b, BED_TABLES + 8 * 256, MAP | 0x23, 8);
    bed_write(b, MAP, (MAP + 0x3000) | 0x23, 8);
    bed_write(b, MAP + 0x2000 + 8 * 511, (MAP + 0x4000) | 0x23, 8);
    bed_write(b, MAP + 0x3000, 2 << 20 | 0x1e3, 8);
    bed_write(b, MAP + 0x4000 + 8 * 511, 0x1e3, 8);
    b->s.gpr[CPU_RDI] = 0xffff800000000000;
}

static void no_sse(struct bed *b)
{
    plain(b);
    b->s.cr0 |= CR0_TS;
}

// clang-format off
#define SAMPLES(X)                                                                                                     \
    X(moves, plain, 0, "mov %rcx, %rax; mov %eax, %edx; movzbl %dl, %esi; movsx %si, %rdi; xchg %r8, %r9; bswap %r10") \
    X(alu, plain, 0, "add %rcx, %rax; adc $5, %edx; sub %rsi, %rdi; sbb %r9, %r8; and $0x0f, %r10; lea 8(%r8,%r9,4), %r11")     \
    X(jump, plain, 0, "jmp 1f; ud2; 1: inc %rax; jmp 2f; 3: inc %rcx; jmp 4f; 2: inc %rdx; jmp 3b; 4: nop")           \
    X(loop, plain, 0, "mov $1000, %ecx; xor %eax, %eax; 1: add %rcx, %rax; dec %ecx; jnz 1b")                          \
    X(loop_flags, plain, 0, "mov $100, %ecx; clc; 1: adc %rax, %rdx; mov (%rbx), %rsi; adc %rsi, 8(%rbx); loop 1b")    \
    X(conditions, plain, 0,                                                                                            \
      "xor %eax, %eax; mov $16, %ecx; 1: lea (%rax,%rax), %rax; cmp $8, %ecx; jl 2f; or $1, %eax; 2: jbe 3f; "         \
      "or $2, %rax; 3: jp 4f; add $4, %rax; 4: seta %dl; cmovs %rax, %rsi; dec %ecx; jns 1b")                          \
    X(jrcxz, plain, 0, "mov $3, %ecx; stc; 1: jrcxz 2f; lea -1(%rcx), %rcx; adc $0, %rax; jmp 1b; 2: setc %dl")        \
    X(far_jump, plain, 0, "lea 1f(%rip), %rax; jmp *%rax; ud2; .balign 4096; 1: inc %rcx; jmp 2f; .balign 4096; 2: nop") \
    X(push_pop, plain, 0, "push %rax; push $5; push $0x12345678; push (%rbx); push %rsp; pop %rcx; pop %rdx; pop %rsi; pop %rdi; pop %r8")  \
    X(push_high, plain, 0, "push %r14; push %r15; mov %rax, %r14; pop %r15; pop %r14")                                 \
    X(push_stack, plain, 0, "push 8(%rsp); push -8(%rsp); pop %rax; mov 4(%rsp), %ecx; pop 16(%rsp)")                  \
    X(call, plain, 0, "call 1f; inc %rax; jmp 2f; 1: inc %rcx; call 3f; ret; 3: push %rbp; mov %rsp, %rbp; "           \
      "sub $32, %rsp; mov %rax, -8(%rbp); leave; ret; 2: nop")                                                         \
    X(call_indirect, plain, 0, "lea 1f(%rip), %r14; mov $20, %ecx; 2: call *%r14; mov %r14, (%rbx); call *(%rbx); "    \
      "mov %r14, -0x40(%rsp); call *-0x40(%rsp); dec %ecx; jnz 2b; jmp 3f; 1: add $3, %rax; ret; 3: nop")              \
    X(ret_imm, plain, 0, "push %rax; push %rcx; call 1f; jmp 2f; 1: mov 8(%rsp), %rdx; ret $16; 2: nop")               \
    X(bases, plain, 0,                                                                                                 \
      "mov (%rbx), %rax; mov %rax, 8(%r12); mov 0x10(%r13), %rcx; mov %ecx, (%rbp); movb $1, 1(%rsp); "                \
      "mov 0x7f(%r12), %dx; add %rdx, -0x80(%r13); mov (%r13), %r14; mov (%r12), %r15; mov %r14, (%r13)")              \
    X(indexed, plain, 0,                                                                                               \
      "mov $3, %ecx; mov (%rbx,%rcx,8), %rax; mov %rax, 5(%r12,%rcx,4); mov $2, %r14d; mov (%r13,%r14,2), %rdx; "      \
      "add %rdx, (%rsp,%rcx,8); mov -8(%rsp,%r14), %rsi; lea 3(%rsp,%rcx,2), %rdi; mov 0x200000(,%rcx,8), %r8; "       \
      "mov 0x200010, %r9d")                                                                                            \
    X(segments, plain, 0,                                                                                              \
      "mov %fs:0x10, %rax; mov %gs:0x18, %rcx; mov $8, %edx; mov %rax, %gs:(%rdx); mov %fs:8(%rdx,%rdx,2), %rsi; "     \
      "mov %rsi, %gs:0x28(,%rdx,4); sub $0x200000, %rsp; mov %rsi, %fs:(%rsp); mov %gs:8(%rsp,%rdx), %rdi; "           \
      "add $0x200000, %rsp")                                                                                           \
    X(relative, plain, 0,                                                                                              \
      "mov 1f(%rip), %rax; add %rax, 1f+8(%rip); adc $0, %rcx; stc; adcl $2, 1f+4(%rip); setc %dl; jmp 2f; "           \
      ".balign 4096; 1: .quad 0xfedcba9876543210, 5, 6; 2: nop")                                                       \
    X(address32, plain, 0, "mov %rbx, %rax; bts $40, %rax; mov (%eax), %rcx; mov 8(%eax,%ecx,1), %dl; "                \
      "addr32 mov 0x200040, %esi; mov (%esp), %rdi")                                                                   \
    X(edge_of_page, plain, 0,                                                                                          \
      "mov 0x7fc(%rbx), %rax; add $1, %rax; mov %rax, 0x7fb(%rbx); addl $3, 0x7fe(%rbx); mov 0x7ff(%rbx), %cl; "       \
      "lock incq 0x7fd(%rbx); movdqu 0x7f8(%rbx), %xmm0; movdqu %xmm0, 0x7f1(%rbx)")                                   \
    X(group_over_edge, plain, 0, "mov 0x7f0(%rbx), %rax; mov %rax, 0x7f8(%rbx); mov 0x800(%rbx), %rcx; mov %cl, 0x801(%rbx)")  \
    X(flags_kept, plain, 0, "stc; mov (%rbx), %rax; mov %rax, 8(%rbx); adc $0, %rax; push %rax; sbb %rcx, %rcx; "      \
      "inc %rcx; mov (%r12), %rdx; setc %dl; mov %dl, (%r13); cmp %rdx, %rcx; mov (%rsp), %rsi; jle 1f; inc %rdi; 1: pushf; pop %r8; "   \
      "and $0x8d5, %r8d")                                                                                              \
    X(flags_some, plain, 0, "stc; inc %eax; mov (%rbx), %rdx; dec %ecx; mov (%r12), %rdx; adc %rdx, %rdx; "            \
      "stc; mov $0, %ecx; mov (%rbx), %rsi; shl %cl, %rsi; setc %al; mov $2, %cl; mov (%r12), %rsi; rcl %cl, %rsi; "   \
      "mov (%rbx), %rdi; setc %ah; bt $3, %rdi; mov (%rbx), %rdi; setc %dl")                                           \
    X(all_registers, plain, 0,                                                                                         \
      "mov %rcx, %rax; mov %rdx, %rcx; mov %rsi, %rdx; mov %rdi, %rsi; mov %r8, %rdi; mov %r9, %r8; mov %r10, %r9; "   \
      "mov %r11, %r10; mov %rbp, %r11; mov %r14, %rbp; mov %r15, %r14; mov (%r12), %r15; add (%r13), %r14; mov %rax, (%rbx)")  \
    X(borrowed, plain, 0,                                                                                              \
      "add %rcx, %rax; add %rdx, %rcx; add %rsi, %rdx; add %rdi, %rsi; add %r8, %rdi; add %r9, %r8; add %r14, %r9; "   \
      "add (%r12), %r14; add (%r13), %r15; mov %r15, (%rbx); mov (%rbx), %r15; mov (%r12), %r14; mov (%r13), %rax; "   \
      "mov (%rbx), %rcx; call 1f; 1: pop %rax")                                                                        \
    X(borrowed_loop, plain, 0,                                                                                         \
      "mov $50, %ecx; 1: add 8(%rbx), %rax; add %rax, (%r12); add %r14, 8(%r13); add (%r12), %r15; mov %r15, 16(%rbx); " \
      "xor %r8, %r9; xor %rdi, %rsi; xor %rbp, %rdx; dec %ecx; jnz 1b; mov %r10, %r11")                                \
    X(rsp_named, plain, 0, "mov %rsp, %rax; mov %rsp, (%rbx); mov (%rbx), %rcx; cmp %rsp, %rax; sete %dl; "            \
      "lea -0x100(%rsp), %rsi; mov %rsi, %rsp; push %rax; add $8, %rsp; sub $0x10, %rsp; setc %dh; and $-16, %rsp; "   \
      "push %rcx; xchg %rsp, %rsi; pop %rdi; mov %rsp, %r14; sub %rsp, %r14; add %rsp, %r15; mov %r14, %rsp; mov %rax, %rsp; "  \
      "mov %rsp, 8(%rsp); add 8(%rsp), %rsp; mov %rax, %rsp; lea 16(%rsp,%rax), %rdi; imul $3, %rsp, %r8")             \
    X(rsp_memory, plain, 0, "mov %rsp, (%rbx); mov (%rbx), %rsp; push %rsp; pop %rsp; mov %rsp, 8(%rbx); addq $16, 8(%rbx); " \
      "mov 8(%rbx), %rsp; push %rax; mov %spl, (%rbx); mov %esp, %eax; mov %sp, %cx; mov %esp, %esp; push %rcx; xadd %rsp, %rdx; mov %rdx, %rsp")   \
    X(leave_and_enter, plain, 0, "enter $32, $0; mov %rax, -8(%rbp); leave; push %rbp; mov %rsp, %rbp; push %rcx; leave") \
    X(edge_push, stack_at_edge, 0, "push %rax; pop %rcx; pop %rdx; push %rdx; push %rcx; call 1f; 1: pop %rsi; lea 2f(%rip), %rax; " \
      "call *%rax; 2: ret $-8; nop; nop")                                                                              \
    X(edge_frame, stack_at_edge, 0, "push %rbp; mov %rsp, %rbp; push $1; push 8(%rsp); mov (%rsp), %rax; mov %rax, 8(%rsp); leave; " \
      "call 1f; jmp 2f; 1: push %rbx; push $-1; pop %rcx; pop %rdx; ret; 2: nop")                                      \
    X(far_on_stack, plain, 0, "lea 1f(%rip), %r14; mov %r14, 0x10c8(%rsp); mov $20, %ecx; 2: call *0x10c8(%rsp); "      \
      "push 0x2010(%rsp); pop %rdx; push -0x1810(%rsp); pop %rdi; dec %ecx; jnz 2b; jmp 3f; 1: add $3, %rax; ret; 3: nop")  \
    X(across_push, stack_across_edge, 0, "push %rax; pop %rcx; push %rcx; push %rdx; call 1f; jmp 2f; 1: push %rbp; "  \
      "mov %rsp, %rbp; sub $24, %rsp; mov %rax, 8(%rsp); leave; ret; 2: nop")                                          \
    X(new_stack, plain, 0, "mov %rsp, %rax; lea 0x3800(%rbx), %rsp; push %rax; push %rcx; pop %rdx; pop %rsp; push %rdx") \
    X(alias, plain, 0, "movabs $0x213100, %rax; movabs $0x220100, %rcx; mov %rdx, (%rax); mov (%rcx), %rsi; add %rsi, (%rcx); mov (%rax), %rdi") \
    X(strings, plain, 0, "mov %rbx, %rsi; lea 0x900(%rbx), %rdi; mov $700, %ecx; rep movsb; mov $9, %ecx; mov $5, %al; rep stosb; " \
      "std; lodsq; cld; scasb; mov $20, %ecx; repe cmpsb; setne %dl")                                                  \
    X(strings_short, plain, 0, "mov $9, %ebp; 1: mov %rbx, %rsi; lea 0x40(%rbx), %rdi; stc; mov $8, %ecx; rep movsq; adc %rcx, %rdx; mov $3, %ecx; rep movsw; " \
      "mov $5, %ecx; rep movsl; mov %r12, %rdi; mov $0x77, %eax; cmp %rax, %rdx; mov $16, %ecx; rep stosl; setc %al; mov $7, %ecx; rep stosw; "        \
      "mov $31, %ecx; rep stosb; mov $0, %ecx; rep stosq; rep movsb; lea 3(%rbx), %rsi; lea 5(%rbx), %rdi; mov $40, %ecx; rep movsb; dec %ebp; jnz 1b") \
    X(strings_edge, plain, 0, "mov $5, %ebp; 1: lea 0x7c0(%rbx), %rdi; mov $8, %ecx; rep stosq; lea 0x7c1(%rbx), %rdi; mov $8, %ecx; rep stosq; "       \
      "lea 0x7f8(%rbx), %rsi; lea 0x10(%r12), %rdi; mov $2, %ecx; rep movsq; movabs $0x224000, %rdi; mov $512, %ecx; rep stosq; mov $513, %ecx; "      \
      "rep stosq; lea 0x1000(%r12), %rsi; mov $4096, %ecx; mov %r13, %rdi; and $-4096, %rdi; and $-4096, %rsi; rep movsb; dec %ebp; jnz 1b")          \
    X(strings_down, plain, 0, "std; mov $3, %ebp; 1: lea 0x40(%rbx), %rsi; lea 0x48(%rbx), %rdi; mov $5, %ecx; rep movsq; mov $6, %ecx; rep stosb; dec %ebp; jnz 1b; cld") \
    X(strings_fault, plain, STATUS, "movabs $0x210010, %rdi; mov %rdi, %rsi; mov $4, %ecx; rep lodsq; mov $4, %ecx; inc %rdx; rep stosq; inc %rdx")     \
    X(strings_source, plain, STATUS, "movabs $0x210ff0, %rsi; mov %r12, %rdi; mov $4, %ecx; rep movsq; inc %rdx")                                      \
    X(strings_on_code, plain, 0, "mov $20, %ebp; lea 1f(%rip), %rdx; 2: mov %rdx, %rdi; mov $4, %ecx; mov $0x90, %al; rep stosb; 1: inc %esi; inc %esi; dec %ebp; jnz 2b") \
    X(strings_prefixed, plain, 0, "mov %rbx, %rsi; lea 0x40(%rbx), %rdi; mov $9, %ecx; .byte 0x2e, 0xf3, 0x3e, 0xa4; mov $5, %ecx; .byte 0xf3, 0x48, 0x66, 0xa5; " \
      "mov $4, %ecx; .byte 0x66, 0x66, 0xf3, 0xab; mov $3, %ecx; .byte 0x48, 0x26, 0xf3, 0xaa; mov $2, %ecx; .byte 0x66, 0xf3, 0x48, 0xab; mov $6, %ecx; "     \
      "mov $8, %esi; .byte 0x65, 0x2e, 0xf3, 0xa4; mov $6, %ecx; mov $8, %esi; .byte 0x3e, 0x64, 0xf3, 0x48, 0xa5; mov $2, %ecx; .byte 0xf2, 0xaa")              \
    X(strings_interrupt, interrupt_waits, STATUS, "lea 0x7ff(%rbx), %rdi; mov $1034, %ecx; rep stosw; sti; inc %rax; inc %rax")                                 \
    X(strings_alias, plain, 0, "movabs $0x213100, %rsi; movabs $0x220104, %rdi; mov $20, %ecx; rep movsb; mov $5, %ecx; rep movsl")                      \
    X(bit_strings, plain, 0, "mov $4, %ebp; 1: mov $-77, %rcx; mov $1000, %edx; bts %rcx, (%rbx); setc %al; btr %rdx, 8(%rbx); setc %ah; btc %ecx, 4(%r12); " \
      "rcl $1, %rsi; cmp %rcx, %rdx; bt %rdx, (%r12,%rbp,8); setz %r8b; setc %r9b; lock bts %edx, 1(%r13); btl %ecx, 2f(%rip); adc $0, %r10; "           \
      "bt %rcx, (%rsp); bts %rdx, -0x100(%rsp,%rbp,4); mov $0x4000, %edi; bts %rdi, (%rbx); bt %di, (%rbx); btc %r14, (%rbx,%r14); dec %ebp; jnz 1b; jmp 3f; " \
      ".balign 8; .quad 0x123456789; 2: .quad 0xaaaaaaaa; 3: nop")                                                                                     \
    X(bit_strings_edge, plain, 0, "mov $0x4000-5, %ecx; mov $0x3ffb, %edx; bts %rcx, 0x7fc(%rbx); setc %al; btc %edx, 0x3(%rbx); bt %rcx, 0x7f9(%rbx); adc %rdx, %rsi") \
    X(bit_strings_fault, plain, STATUS, "movabs $0x210008, %rdi; mov $70, %ecx; bt %rcx, (%rdi); adc %rax, %rax; mov $-0x8040, %rcx; btr %rcx, (%rdi); inc %rax; mov $90, %ecx; bts %rcx, (%rdi); inc %rax") \
    X(guesses, plain, 0, "mov $40, %ebp; lea 1f(%rip), %r8; lea 2f(%rip), %r9; 3: test $4, %ebp; mov %r8, %r10; cmovz %r9, %r10; call *%r10; call 4f; call 4f; " \
      "dec %ebp; jnz 3b; jmp 5f; 1: inc %rax; ret; 2: add $3, %rcx; ret; 4: add %rbp, %rdx; ret; 5: nop")                                                \
    X(guess_of_changed_code, plain, 0, "mov $40, %ebp; lea 1f(%rip), %r8; lea 4f(%rip), %r9; 3: call *%r8; incb 2(%r9); mov $5, %eax; call 6f; dec %ebp; jnz 3b; jmp 5f; " \
      ".balign 4096; 1: jmp 4f; .balign 64; 4: mov $5, %cx; add %rcx, %rdx; ret; 6: add %rax, %rsi; ret; 5: nop")                                        \
    X(window, direct_map, 0, "mov $3, %ebp; 2: mov %rdi, %rsi; mov $300, %ecx; 1: mov 8(%rsi), %rax; add %rax, %rdx; add (%rsi,%rcx,8), %rdx; add $4096, %rsi; "  \
      "dec %ecx; jnz 1b; dec %ebp; jnz 2b; mov 0x2ffd(%rdi), %r8; add 0x200800(%rdi), %r8; mov %r8, 0x200900(%rdi); add %r8, 0x100(%rbx); mov 0x200900(%rdi), %r9; " \
      "mov 0x3fff00(%rdi), %r10; mov 0x3ffff8(%rdi), %r11; movq $0x1e3, (%r13); invlpg 0x234567(%rdi); mov 0x206008(%rdi), %r15; "   \
      "mov $3, %ebp; 2: mov %rdi, %rsi; mov $300, %ecx; 1: mov 8(%rsi), %rax; add %rax, %rdx; add $4096, %rsi; dec %ecx; jnz 1b; dec %ebp; jnz 2b")             \
    X(window_closes, direct_map, STATUS, "mov $3, %ebp; 2: mov %rdi, %rsi; mov $300, %ecx; 1: mov 8(%rsi), %rax; add %rax, %rdx; add $4096, %rsi; "              \
      "dec %ecx; jnz 1b; dec %ebp; jnz 2b; mov %cr4, %rcx; movq $0, (%r13); mov %rcx, %r8; xor $0x80, %r8; mov %r8, %cr4; mov %rcx, %cr4; " \
      "inc %r9; mov 0x106008(%rdi), %r15; mov 0x206008(%rdi), %r15; inc %r9")                                                                                  \
    X(window_outside, giant_map, 0, "mov $3, %ebp; 2: mov %rdi, %rsi; mov $300, %ecx; 1: mov 8(%rsi), %rax; add %rax, %rdx; add $4096, %rsi; "                  \
      "dec %ecx; jnz 1b; dec %ebp; jnz 2b; mov %r8, %rsi; mov $512, %ecx; 1: mov 8(%rsi), %rax; add $4096, %rsi; dec %ecx; jnz 1b; invlpg (%r8); "            \
      "movq $0x18023, (%r13); invlpg 0x20000000(%rdi); mov 8(%rdi), %r9; mov 0x1f0008(%rdi), %r10")                                                            \
    X(window_hole, map_at_hole, STATUS, "mov $3, %ebp; 2: mov %rdi, %rsi; mov $300, %ecx; 1: mov 8(%rsi), %rax; add %rax, %rdx; add $4096, %rsi; "              \
      "dec %ecx; jnz 1b; dec %ebp; jnz 2b; inc %rcx; mov -8(%rdi), %rax; inc %rcx")                                                                              \
    X(window_ends, direct_map, STATUS, "mov $3, %ebp; 2: mov %rdi, %rsi; mov $300, %ecx; 1: mov 8(%rsi), %rax; add %rax, %rdx; add $4096, %rsi; "                \
      "dec %ecx; jnz 1b; dec %ebp; jnz 2b; mov 0x3ffffc(%rdi), %rax; inc %rcx; mov -4(%rdi), %rax; inc %rcx")                                                    \
    X(atomics, plain, 0, "lock xadd %rax, (%rbx); lock cmpxchg %rcx, 8(%rbx); xchg %rdx, 16(%rbx); lock decl 4(%rbx); cmpxchg16b (%r12)") \
    X(bits, plain, 0, "bts $5, (%rbx); setc %al; mov $70, %ecx; bt %rcx, (%rbx); setc %ah; bsf (%rbx), %rdx; popcnt %rdx, %rsi; " \
      "shld $3, %rsi, (%rbx); andn %rax, %rcx, %rdi; shlx %rcx, (%rbx), %r8; pext (%r12), %rax, %r9; tzcnt (%rbx), %r10") \
    X(narrow, plain, 0, "bt $3, %ecx; bt %eax, %edx; bts $40, %esi; cmpxchg %ecx, %edi; mov $7, %eax; mov $7, %r8d; cmpxchg %r9d, %r8d; xadd %r10d, %r11d") \
    X(undefined_flags, plain, 0, "xor %edx, %edx; stc; imul (%rbx), %rcx; mov $5, %eax; mov $0, %edx; cmp %rcx, %rsi; divl (%r12); pushf; pop %rdi; sub %rcx, %rsi; " \
      "mulq (%rbx); pushf; pop %r8; cmp %rsi, %rcx; tzcnt (%rbx), %r9; pushf; pop %r10; cmp %rax, %r9; lzcnt (%rbx), %rax; btl $3, (%r12); pushf; pop %r11") \
    X(rotations, plain, 0, "rorq $62, (%rbx); pushf; roll $7, 8(%rbx); pushf; rorw $16, 16(%rbx); pushf; rolb $3, 24(%rbx); pushf; sub %rcx, %rax; "  \
      "ror $62, %rcx; pushf; rol $7, %edx; pushf; ror $5, %si; pushf; rol $3, %dil; pushf; mov $9, %cl; ror %cl, %rax; pushf; rolq %cl, (%r12)")   \
    X(high_bytes, plain, 0, "mov %ah, (%rbx); add %bh, %cl; mov (%rbx), %dh; mov 1(%rbx), %ch; xchg %ch, %dl; lahf; sahf") \
    X(multiply, plain, 0, "imul %rcx, %rax; imul $7, (%rbx), %rdx; mulq (%rbx); xor %edx, %edx; divq (%r12); cqo; idivl 4(%r12); test %eax, %eax") \
    X(vectors, plain, 0, "movdqu (%rbx), %xmm0; paddd 16(%rbx), %xmm0; movups %xmm0, (%r12); vmovdqu (%rbx), %ymm1; "   \
      "vpaddq 32(%rbx), %ymm1, %ymm2; vmovdqu %ymm2, 33(%r13); cvtsi2sd %rax, %xmm3; addsd (%rbx), %xmm3; ucomisd %xmm3, %xmm0; " \
      "vpextrq $1, %xmm2, %rcx; movq %rcx, %xmm5; vfmadd213pd (%r12), %xmm1, %xmm5; pmovmskb %xmm5, %edx")             \
    X(x87, plain, 0, "fninit; fldl (%rbx); fldpi; faddp; fstpl 8(%rbx); fildq 16(%rbx); fsqrt; fstpt 32(%rbx); fld1; fnstcw 2(%r12); fldcw 2(%r12); fnstsw %ax")  \
    X(without_sse, no_sse, 0, "inc %rax; movdqu (%rbx), %xmm0")                                                        \
    X(without_x87, no_sse, 0, "inc %rax; fninit")                                                                      \
    X(without_sse_others, no_sse, 0, "xor %eax, %eax; cpuid; andn %rax, %rcx, %rdx; shlx %rcx, %rdx, %rsi; lfence; movnti %rax, (%rbx); popcnt %rax, %rcx") \
    X(crossing, plain, 0, "jmp 1f; .fill 4089, 1, 0x90; 1: movabs $0x1122334455667788, %rax; jmp 2f; .balign 4096; .fill 4094, 1, 0x90; 2: add %rax, 0x12(%rbx)") \
    X(crossing_loop, plain, 0, "mov $30, %ecx; jmp 1f; .fill 4088, 1, 0x90; 1: add %rcx, 8(%rbx); dec %ecx; jnz 1b") \
    X(crossing_modified, plain, 0, "mov $30, %ecx; lea 1f(%rip), %rdx; jmp 1f; .fill 4078, 1, 0x90; 1: mov $1, %eax; add %rax, %rsi; incb 2(%rdx); dec %ecx; jnz 1b") \
    X(sti_divide, interrupt_waits, STATUS, "xor %edx, %edx; xor %ecx, %ecx; sti; div %rcx; nop") \
    X(sti_float, interrupt_waits, STATUS, "movl $0x1f00, (%rbx); ldmxcsr (%rbx); xorps %xmm0, %xmm0; sti; divss %xmm0, %xmm0; nop") \
    X(sti_plain, interrupt_waits, 0, "sti; inc %rax; inc %rax") \
    X(syscall_flags, syscalls, 0, "mov $20, %r8d; 1: syscall; add %r11, %rdx; dec %r8; stc; jnz 1b") \
    X(crossing_step, plain, 0, "xor %ecx, %ecx; stc; jmp 1f; .fill 4080, 1, 0x90; 1: nop; movabs $0x208000, %rsp; adc %rax, %rcx; pushf; pop %rdx") \
    X(crossing_to_absent, code_before_absent, STATUS, "movabs $0x210ffe, %rax; inc %rcx; call *%rax")                  \
    X(fpu_off_and_on, plain, 0,                                                                                        \
      "lea 1f(%rip), %r9; mov %cr0, %rax; mov %rax, %rdx; or $8, %rax; call *%r9; call *%r9; mov %rax, %cr0; call *%r9; "   \
      "jmp 2f; 1: movd %ecx, %xmm0; inc %rsi; ret; 2: nop")                                                            \
    X(read_fault, plain, STATUS, "inc %rax; mov %rax, %r14; movabs $0x211008, %rcx; push %rax; mov (%rcx), %rdx; inc %rsi; add %rcx, %rdx") \
    X(write_fault, plain, STATUS, "movabs $0x210008, %r15; mov (%r15), %r14; add %r14, %rax; mov %rax, (%r15); add %r14, %r15")  \
    X(write_fault_user, user, STATUS, "movabs $0x210008, %r15; mov (%r15), %r14; add %r14, %rax; add %rax, 8(%r15); add %r14, %r15")  \
    X(kernel_page, user, STATUS, "movabs $0x215000, %rax; inc %rcx; mov (%rax), %rdx; inc %rcx")                       \
    X(edge_fault, plain, STATUS, "movabs $0x210ffc, %rax; mov (%rax), %ecx; push %rcx; mov -4(%rax), %rcx; mov (%rax), %rdx")  \
    X(not_canonical, plain, STATUS, "mov %rbx, %rax; bts $50, %rax; inc %rcx; mov (%rax), %rdx")                       \
    X(constant_fault, plain, STATUS, "inc %rcx; mov 0x211000, %rax; inc %rcx")                                         \
    X(device, plain, 0, "mov 0x214000, %rax; movabs $0x214010, %rcx; inc %rax; mov %rax, (%rcx); add (%rcx), %eax; orb $1, (%rcx)") \
    X(divide_fault, plain, STATUS, "inc %rsi; mov %rsi, %r14; xor %edx, %edx; mov %edx, %ecx; push %rax; div %rcx; inc %rsi") \
    X(misaligned, plain, STATUS, "inc %rsi; stc; mov (%rbx), %rax; movaps 8(%rbx), %xmm0; inc %rsi")                   \
    X(misaligned_stack, plain, STATUS, "push %rax; inc %r15; movaps %xmm0, (%rsp); inc %rsi")                          \
    X(misaligned_flags, plain, STATUS, "stc; inc %rax; sub %rcx, %rdx; mov (%rbx), %rax; ptest 8(%rbx), %xmm0; inc %rsi")  \
    X(float_fault, plain, STATUS, "movl $0x1f00, (%rbx); ldmxcsr (%rbx); xorps %xmm0, %xmm0; inc %r14; push %r14; divss %xmm0, %xmm0; inc %rsi") \
    X(x87_fault, plain, 0, "fninit; movw $0x300, (%rbx); fldcw (%rbx); fldz; fldz; fdivp; inc %rcx; fld1; inc %rcx")    \
    X(push_fault, stack_before_absent, STATUS, "sub $8, %rsp; inc %rcx; sub $0x10, %rsp; push %rax; push %rcx; push %rdx; push %rax") \
    X(readonly_stack, stack_readonly, STATUS, "mov (%rsp), %rax; inc %rax; pop %rcx; mov 8(%rsp), %rdx; push %rax")     \
    X(undefined, plain, 0, "inc %rax; ud2; inc %rax")                                                                  \
    X(breakpoint, plain, 0, "inc %rax; int3; inc %rax")                                                                \
    X(jump_not_canonical, plain, 0, "mov %rbx, %rax; bts $60, %rax; inc %rcx; jmp *%rax")                              \
    X(call_not_canonical, plain, 0, "mov %rbx, (%rbx); btsq $60, (%rbx); inc %rcx; call *(%rbx)")                      \
    X(ret_not_canonical, plain, 0, "mov %rbx, %rax; bts $60, %rax; push %rcx; push %rax; inc %rcx; ret $8")            \
    X(user_code, user, 0, "mov $100, %ecx; 1: mov (%rbx), %rax; add %rcx, (%rbx); push %rax; call 2f; pop %rdx; loop 1b; "     \
      "int3; 2: mov %fs:8, %rsi; ret")                                                                                 \
    X(self_modifying, plain, 0, "mov $50, %ecx; lea 1f(%rip), %rdx; 2: incb 1(%rdx); 1: mov $5, %al; add %al, %sil; dec %ecx; jnz 2b") \
    X(modify_ahead, plain, 0, "lea 1f(%rip), %rdx; mov $20, %ecx; 2: movw $0xc0ff, (%rdx); 1: nop; nop; movw $0x9090, (%rdx); dec %ecx; jnz 2b") \
    X(repeated_prefixes, plain, 0, ".byte 0x48, 0x65, 0x8b, 0x04, 0x25, 8, 0, 0, 0; .byte 0x66, 0x48, 0x89, 0x43, 0x10; .byte 0x48, 0x3e, 0x89, 0x43, 0x18") \
    X(no_base, plain, 0, "mov $16, %r9d; .byte 0x67, 0x41, 0x89, 0x04, 0x25; .long 0x8040; .byte 0x67, 0x43, 0x89, 0x04, 0x0d; .long 0x8000") \
    X(prefixed_jumps, plain, 0, ".byte 0x2e, 0x74, 0; .byte 0x3e, 0xeb, 0; .byte 0xf3, 0xeb, 0; .byte 0xf2, 0xeb, 1; nop; .byte 0x48, 0xe8, 0, 0, 0, 0; pop %rax")  \
    X(system, plain, 0, "pushf; cli; popf; mov %cr0, %rax; mov %cs, %ecx; rdtsc; xgetbv; cld; sidt (%rbx); sti; inc %rdi; fnsave 0x40(%rbx); fxsave 0x200(%rbx)")

// clang-format on

#define CODE(name, setup, dead, text) GUEST(sample_##name, 64, text "; hlt");
SAMPLES(CODE)
#define ROW(name, setup, dead, text) {#name, sample_##name, sample_##name##_end, setup, dead},
static const struct sample samples[] = {SAMPLES(ROW)};

enum how { FREE, COUNTED, SINGLY };
static const char *const how_names[] = {"freely", "counted", "singly"};

static void open_and_run(struct bed *b, const struct sample *s, const struct engine_ops *engine, enum how how)
{
    bed_open_engine(b, BED_LONG, NULL, engine);
    s->setup(b);
    bed_load(b, s->code, s->end);
    if (how == SINGLY) {
        unsigned n = 0;
        do
            bed_step(b, 1);
        while (++n < 100000 && b->s.ev.activity == CPU_RUNNING && b->how == ENGINE_EXIT_REQUESTED);
    } else {
        b->free = how == FREE;
        bed_run(b);
    }
}

// The vector state in one form: a component whose bit in XSTATE_BV is clear is in its initial state. The opcode and
// addresses of the last x87 instruction are not kept by translated code, and MXCSR_MASK is no register.
static void normalize(struct bed *b)
{
    static const uint8_t fcw[2] = {0x7f, 3};
    uint8_t *x = b->s.xsave;
    if (!(x[512] & XSTATE_X87)) {
        memset(x, 0, 24);
        memcpy(x, fcw, 2);
        memset(x + 32, 0, 128);
    }
    if (!(x[512] & XSTATE_SSE))
        memset(x + 160, 0, 256);
    if (!(x[512] & XSTATE_AVX))
        memset(x + 576, 0, 256);
    x[512] = 0;
    memset(x + 6, 0, 2 + 16);
    memset(x + 28, 0, 4);
}

// The flags that a handler's frame holds.
static void forget_flags(struct bed *b, uint64_t dead)
{
    static const uint32_t with_error =
        1 << EXC_DF | 1 << EXC_TS | 1 << EXC_NP | 1 << EXC_SS | 1 << EXC_GP | 1 << EXC_PF | 1 << EXC_AC;
    int vector = bed_vector(b);
    b->s.rflags &= ~dead;
    if (vector < 0)
        return;
    unsigned n = vector < 32 && with_error >> vector & 1 ? 3 : 2;
    uint64_t at = b->s.gpr[CPU_RSP] + 8 * n;
    bed_write(b, at, bed_read(b, at, 8) & ~dead, 8);
}

static void compare(const struct sample *s, struct bed *a, struct bed *b, enum how how)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    bool same = a->how == b->how && bed_vector(a) == bed_vector(b) && a->events == b->events;
    uint64_t dead = how == FREE ? s->dead : 0; // where instructions are counted, all is right after each of them
    forget_flags(a, dead);
    forget_flags(b, dead);
    normalize(a);
    normalize(b);
    for (unsigned r = 0; r < CPU_GPR_COUNT; r++) {
        if (a->s.gpr[r] != b->s.gpr[r])
            print_error("%s, %s: %s is %#lx, not %#lx\n", s->name, how_names[how], names[r], b->s.gpr[r], a->s.gpr[r]);
        same &= a->s.gpr[r] == b->s.gpr[r];
    }
    if (a->s.rip != b->s.rip || a->s.rflags != b->s.rflags || a->s.cr2 != b->s.cr2) {
        print_error("%s, %s: rip %#lx rflags %#lx cr2 %#lx, not %#lx, %#lx, %#lx\n", s->name, how_names[how], b->s.rip,
                    b->s.rflags, b->s.cr2, a->s.rip, a->s.rflags, a->s.cr2);
        same = false;
    }
    for (unsigned n = 0; n < BED_RAM; n += 8)
        if (memcmp(a->ram + n, b->ram + n, 8)) {
            print_error("%s, %s: at %#x %#lx, not %#lx\n", s->name, how_names[how], n, bed_read(b, n, 8),
                        bed_read(a, n, 8));
            same = false;
        }
    for (unsigned n = 0; n < 832; n += 8)
        if (memcmp(a->s.xsave + n, b->s.xsave + n, 8)) {
            uint64_t x, y;
            memcpy(&x, a->s.xsave + n, 8);
            memcpy(&y, b->s.xsave + n, 8);
            print_error("%s, %s: xsave+%u %#lx, not %#lx\n", s->name, how_names[how], n, y, x);
            same = false;
        }
    if (memcmp(a->log, b->log, sizeof a->log)) {
        print_error("%s, %s: other upcalls\n", s->name, how_names[how]);
        same = false;
    }
    if (!same)
        fail_msg("%s, run %s, ends otherwise than under the interpreter", s->name, how_names[how]);
}

static void run_sample(void **state)
{
    const struct sample *s = *state;
    for (enum how how = FREE; how <= SINGLY; how++) {
        struct bed a, b;
        open_and_run(&a, s, &engine_interp, COUNTED);
        open_and_run(&b, s, &engine_dbt, how);
        compare(s, &a, &b, how);
        bed_close(&a);
        bed_close(&b);
    }
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[sizeof samples / sizeof *samples];
    unsigned count = 0;
    for (unsigned n = 0; n < sizeof samples / sizeof *samples; n++)
        if (argc < 2 || !strcmp(argv[1], samples[n].name))
            tests[count++] = (struct CMUnitTest){samples[n].name, run_sample, NULL, NULL, (void *)&samples[n]};
    return _cmocka_run_group_tests("translate", tests, count, NULL, NULL);
}
