/*
 * The fault cases of the exceptions guest that a table can hold; exceptions.c runs them. Each says which exception the
 * manuals demand, with which error code and saved RIP (label 1). case.inc tells how to read them.
 */
#include "lib/selectors.h"
#include "lib/case.inc"

#define UNMAPPED 0x4000000000           /* canonical, but the page tables end at 4 GiB */
#define NONCANONICAL 0x800000000000

/* ---- #DE ---- */

    CASE "DE div by zero", DE
        xor %ecx, %ecx
    1:  div %ecx
    END

    CASE "DE div quotient too large", DE
        mov $1, %edx
        mov $1, %ecx
        xor %eax, %eax
    1:  div %ecx
    END

    CASE "DE idiv of the smallest by -1", DE
        mov $1, %eax
        shl $63, %rax
        cqo
        mov $-1, %rcx
    1:  idiv %rcx
    END

    CASE "DE idiv byte", DE
        mov $0x8000, %eax
        mov $1, %ecx
    1:  idiv %cl
    END

    CASE "DE div in ring 3", DE, in=USER
        xor %ecx, %ecx
    1:  div %cx
    END

    CASE "DE aam 0", DE, in=USER32
    1:  .byte 0xd4, 0
    END

/* ---- #BP, #OF, #BR, #DB: traps save the next instruction's address ---- */

    CASE "BP int3 is a trap", BP
        int3
    1:
    END

    CASE "BP int 3 of two bytes", BP
        .byte 0xcd, 3
    1:
    END

    CASE "BP int3 in ring 3, gate DPL 3", BP, in=USER
        int3
    1:
    END

    CASE "OF into", OF, in=USER32
        mov $0x7fffffff, %eax
        inc %eax
        into
    1:
    END

    CASE "OF into without overflow", NONE, in=USER32
        xor %eax, %eax
        into
    END

    CASE "OF into in 64-bit mode", UD
    1:  .byte 0xce
    END

    CASE "BR bound is a fault", BR, in=USER32
        push $10
        push $5                         /* bounds 5 to 10 */
        mov $11, %eax
    1:  bound %eax, (%esp)
    END

    CASE "BR bound within", NONE, in=USER32
        push $10
        push $5
        mov $10, %eax
        bound %eax, (%esp)
    END

    CASE "DB int1 is a trap", DB
        .byte 0xf1
    1:
    END

    CASE "DB int1 in ring 3 ignores the DPL", DB, in=USER
        .byte 0xf1
    1:
    END

    CASE "GP int n in ring 3, gate DPL 0", GP, 0x40*8+2, in=USER
    1:  int $0x40
    END

    CASE "GP int 13 in ring 3, gate DPL 0", GP, 13*8+2, in=USER
    1:  int $13
    END

/* ---- #UD ---- */

    CASE "UD ud2", UD
    1:  ud2
    END

    CASE "UD ud1", UD
    1:  .byte 0x0f, 0xb9, 0xc0
    END

    CASE "UD ud1 does not read its operand", UD
        mov $UNMAPPED, %rax
    1:  .byte 0x0f, 0xb9, 0x00
    END

    CASE "UD push es in 64-bit mode", UD
    1:  .byte 0x06
    END

    CASE "UD daa in 64-bit mode", UD
    1:  .byte 0x27
    END

    CASE "UD pusha in 64-bit mode", UD
    1:  .byte 0x60
    END

    CASE "UD far call in 64-bit mode", UD
    1:  .byte 0x9a, 0, 0, 0, 0, 8, 0
    END

    CASE "UD opcode 82 in 64-bit mode", UD
    1:  .byte 0x82, 0xc0, 0
    END

    CASE "UD aam in 64-bit mode", UD
    1:  .byte 0xd4, 10
    END

    CASE "UD salc in 64-bit mode", UD
    1:  .byte 0xd6
    END

    CASE "UD mov to cs", UD
        xor %eax, %eax
    1:  .byte 0x8e, 0xc8
    END

    CASE "UD mov to segment register 6", UD
        xor %eax, %eax
    1:  .byte 0x8e, 0xf0
    END

    CASE "UD mov from cr1", UD
    1:  .byte 0x0f, 0x20, 0xc8
    END

    CASE "UD mov from cr5", UD
    1:  .byte 0x0f, 0x20, 0xe8
    END

    CASE "UD mov from cr15", UD
    1:  .byte 0x44, 0x0f, 0x20, 0xf8
    END

    CASE "UD mov from dr8", UD
    1:  .byte 0x44, 0x0f, 0x21, 0xc0
    END

    CASE "UD mov from test register", UD
    1:  .byte 0x0f, 0x24, 0xc0
    END

    CASE "UD lea of a register", UD
    1:  .byte 0x8d, 0xc0
    END

    CASE "UD lss of a register", UD
    1:  .byte 0x0f, 0xb2, 0xc0
    END

    CASE "UD cmpxchg8b of a register", UD
    1:  .byte 0x0f, 0xc7, 0xc8
    END

    CASE "UD mov immediate, /1", UD
    1:  .byte 0xc7, 0xc8, 0, 0, 0, 0
    END

    CASE "UD group 4, /2", UD
    1:  .byte 0xfe, 0xd0
    END

    CASE "UD group 5, /7", UD
    1:  .byte 0xff, 0xf8
    END

    CASE "UD far jump to a register", UD
    1:  .byte 0xff, 0xe8
    END

    CASE "UD group 8, /3", UD
    1:  .byte 0x0f, 0xba, 0xd8, 0
    END

    CASE "UD rsm outside of SMM", UD
    1:  rsm
    END

    CASE "UD lock of mov", UD
        lea scratch(%rip), %rbx
    1:  .byte 0xf0, 0x89, 0x03
    END

    CASE "UD lock of add to a register", UD
    1:  .byte 0xf0, 0x01, 0xc0
    END

    CASE "UD lock of add from memory", UD
        lea scratch(%rip), %rbx
    1:  .byte 0xf0, 0x03, 0x03
    END

    CASE "UD lock of cmp", UD
        lea scratch(%rip), %rbx
    1:  .byte 0xf0, 0x39, 0x03
    END

    CASE "UD lock of bt", UD
        lea scratch(%rip), %rbx
    1:  .byte 0xf0, 0x0f, 0xa3, 0x03
    END

    CASE "UD lock of nop", UD
    1:  .byte 0xf0, 0x90
    END

    CASE "UD lock of xchg of registers", UD
    1:  .byte 0xf0, 0x87, 0xc1
    END

    CASE "UD lock of movs", UD
    1:  .byte 0xf0, 0xa4
    END

    CASE "lock of bts, neg, xadd and cmpxchg is fine", NONE
        lea scratch(%rip), %rbx
        lock btsl %eax, (%rbx)
        lock negl (%rbx)
        lock xaddl %eax, (%rbx)
        lock cmpxchgl %eax, (%rbx)
    END

    CASE "UD vex with lock", UD
    1:  .byte 0xf0, 0xc5, 0xf8, 0x28, 0xc0
    END

    CASE "UD vex with rex", UD
    1:  .byte 0x48, 0xc5, 0xf8, 0x28, 0xc0
    END

    CASE "UD vex with 66", UD
    1:  .byte 0x66, 0xc5, 0xf8, 0x28, 0xc0
    END

    CASE "UD ud2 in ring 3", UD, in=USER
    1:  ud2
    END

    CASE "UD lldt and ltr do exist in long mode", NONE
        xor %eax, %eax
        lldt %ax
    END

/* ---- #NM ---- */

    CASE "NM x87 with TS", NM
        mov %cr0, %rax
        or $8, %rax
        mov %rax, %cr0
    1:  fnop
    END

    CASE "NM x87 with EM", NM
        mov %cr0, %rax
        or $4, %rax
        mov %rax, %cr0
    1:  fnop
    END

    CASE "NM wait with MP and TS", NM
        mov %cr0, %rax
        or $0xa, %rax
        mov %rax, %cr0
    1:  fwait
    END

    CASE "wait with TS but not MP", NONE
        mov %cr0, %rax
        and $~2, %rax
        or $8, %rax
        mov %rax, %cr0
        fwait
    END

    CASE "NM sse with TS", NM
        mov %cr0, %rax
        or $8, %rax
        mov %rax, %cr0
    1:  movaps %xmm0, %xmm1
    END

    CASE "UD sse with EM, even with TS", UD
        mov %cr0, %rax
        or $0xc, %rax
        mov %rax, %cr0
    1:  movaps %xmm0, %xmm1
    END

    CASE "UD sse without OSFXSR", UD
        mov %cr4, %rax
        and $~0x200, %rax
        mov %rax, %cr4
    1:  movaps %xmm0, %xmm1
    END

/* ---- #NP, #SS, #GP: segment loads ---- */

    CASE "NP segment not present", NP, FREE_SEL
        mov $FREE_SEL, %eax
    1:  mov %eax, %ds
    END

    CASE "NP the error code has no RPL", NP, FREE_SEL+8
        mov $FREE_SEL + 8 + 3, %eax
    1:  mov %eax, %es
    END

    CASE "GP RPL above the DPL comes before NP", GP, FREE_SEL
        mov $FREE_SEL + 3, %eax
    1:  mov %eax, %es
    END

    CASE "SS stack segment not present", SS, FREE_SEL
        mov $FREE_SEL, %eax
    1:  mov %eax, %ss
    END

    CASE "GP selector beyond the GDT", GP, GDT_SIZE
        mov $GDT_SIZE, %eax
    1:  mov %eax, %ds
    END

    CASE "GP selector in an absent LDT", GP, 0xc
        mov $0xc, %eax
    1:  mov %eax, %fs
    END

    CASE "GP load of a system descriptor", GP, TSS_SEL(0)
        mov $TSS_SEL(0), %eax
    1:  mov %eax, %gs
    END

    CASE "GP null selector for SS in ring 3", GP, 0, in=USER
        xor %eax, %eax
    1:  mov %eax, %ss
    END

    CASE "null selector for SS in ring 0", NONE
        xor %eax, %eax
        mov %eax, %ss
    END

    CASE "GP null selector with RPL 3 for SS in ring 0", GP, 0
        mov $3, %eax
    1:  mov %eax, %ss
    END

    CASE "GP code segment for SS", GP, KCODE64
        mov $KCODE64, %eax
    1:  mov %eax, %ss
    END

    CASE "GP data segment above the ring, in ring 3", GP, KDATA, in=USER
        mov $KDATA + 3, %eax
    1:  mov %eax, %ds
    END

    CASE "GP ltr of a busy TSS", GP, TSS_SEL(0)
        mov $TSS_SEL(0), %eax
    1:  ltr %ax
    END

    CASE "GP ltr of null", GP, 0
        xor %eax, %eax
    1:  ltr %ax
    END

/* ---- #GP: canonical addresses. SS-relative ones give #SS. ---- */

    CASE "GP non-canonical read", GP, 0
        mov $NONCANONICAL, %rax
    1:  mov (%rax), %ecx
    END

    CASE "GP non-canonical write", GP, 0
        mov $NONCANONICAL, %rax
    1:  mov %ecx, (%rax)
    END

    CASE "GP read that leaves the lower half", GP, 0
        mov $NONCANONICAL - 1, %rax
    1:  mov (%rax), %ecx
    END

    CASE "SS non-canonical by rbp", SS, 0
        mov $NONCANONICAL, %rbp
    1:  mov (%rbp), %ecx
    END

    CASE "SS non-canonical by rbp, DS prefix", SS, 0
        mov $NONCANONICAL, %rbp
    1:  .byte 0x3e                      /* DS, ES, SS, CS prefixes are void in 64-bit mode */
        mov 0(%rbp), %ecx
    END

    CASE "SS push at a non-canonical rsp", SS, 0, in=KERNEL+IST
        mov $NONCANONICAL + 4096, %rsp
    1:  push %rax
    END

    CASE "SS call at a non-canonical rsp", SS, 0, in=KERNEL+IST
        mov $NONCANONICAL + 4096, %rsp
    1:  call 2f
    2:
    END

    CASE "GP jump to a non-canonical address", GP, 0
        mov $NONCANONICAL, %rax
    1:  jmp *%rax
    END

    CASE "GP call of a non-canonical address", GP, 0
        mov $NONCANONICAL, %rax
    1:  call *%rax
    END

    CASE "GP ret to a non-canonical address", GP, 0
        mov $NONCANONICAL, %rax
        push %rax
    1:  ret
    END

    CASE "invlpg of a non-canonical address does nothing", NONE
        mov $NONCANONICAL, %rax
        invlpg (%rax)
    END

    CASE "prefetch and nop do not touch memory", NONE
        mov $NONCANONICAL, %rax
        prefetcht0 (%rax)
        nopl (%rax)
        lea (%rax), %rcx
    END

/* ---- #PF, the plain ones; the paging guest has the rest ---- */

    CASE "PF read of nothing", PF, 0, cr2=UNMAPPED
        mov $UNMAPPED, %rax
    1:  mov (%rax), %ecx
    END

    CASE "PF write to nothing", PF, 2, cr2=UNMAPPED+5
        mov $UNMAPPED, %rax
    1:  mov %cl, 5(%rax)
    END

    CASE "PF rmw counts as a write", PF, 2, cr2=UNMAPPED
        mov $UNMAPPED, %rax
    1:  addl $1, (%rax)
    END

    CASE "PF ring 3 reads nothing", PF, 4, cr2=UNMAPPED, in=USER
        mov $UNMAPPED, %rax
    1:  mov (%rax), %ecx
    END

    CASE "PF ring 3 reads the kernel's page", PF, 5, cr2=0x100000, in=USER
    1:  mov 0x100000, %ecx
    END

    CASE "PF ring 3 writes the kernel's page", PF, 7, cr2=0x100000, in=USER
    1:  mov %ecx, 0x100000
    END

    CASE "PF fetch from nothing", PF, 0x10, cr2=UNMAPPED, in=KERNEL+ANYRIP, rip=UNMAPPED
        mov $UNMAPPED, %rax
        jmp *%rax
    END

    CASE "PF ring 3 fetches from the kernel's page", PF, 0x15, cr2=0x100000, in=USER+ANYRIP, rip=0x100000
        mov $0x100000, %eax
        jmp *%rax
    END

/* ---- #MF, #AC, #XM ---- */

    CASE "MF at the next waiting instruction", MF
        fninit
        push $0x37b                     /* division by zero unmasked */
        fldcw (%rsp)
        fld1
        fldz
        fdivrp                          /* 1 / 0: pending, not yet raised */
        fnstsw %ax
    1:  fwait
    END

    CASE "AC misaligned in ring 3 with AM and AC", AC, 0, in=USER
        push $0x40002
        popfq
    1:  mov -7(%rsp), %eax
    END

    CASE "misaligned in ring 3 without AC", NONE, in=USER
        mov -7(%rsp), %eax
    END

    CASE "misaligned in ring 0 with AM and AC", NONE
        push $0x40002
        popfq
        mov -7(%rsp), %eax
        push $2
        popfq
    END

    CASE "AC does not mind bytes", NONE, in=USER
        push $0x40002
        popfq
        mov -7(%rsp), %al
    END

    CASE "XM division by zero unmasked", XM
        push $0x1d80
        ldmxcsr (%rsp)
        xorps %xmm1, %xmm1
        mov $0x3f800000, %eax
        movd %eax, %xmm0
    1:  divss %xmm1, %xmm0
    END

    CASE "UD instead of XM without OSXMMEXCPT", UD
        mov %cr4, %rax
        and $~0x400, %rax
        mov %rax, %cr4
        push $0x1d80
        ldmxcsr (%rsp)
        xorps %xmm1, %xmm1
        mov $0x3f800000, %eax
        movd %eax, %xmm0
    1:  divss %xmm1, %xmm0
    END

/* ---- which of two comes first (SDM vol. 3, table 6-2) ---- */

    CASE "first UD of lock, then PF", UD
        mov $UNMAPPED, %rax
    1:  .byte 0xf0, 0x89, 0x08
    END

    CASE "first GP of the ring, then PF", GP, 0, in=USER
        mov $UNMAPPED, %rax
    1:  lgdt (%rax)
    END

    CASE "first PF of the operand, then DE", PF, 0, cr2=UNMAPPED
        mov $UNMAPPED, %rax
    1:  divl (%rax)
    END

    CASE "first NM, then PF", NM
        mov %cr0, %rax
        or $8, %rax
        mov %rax, %cr0
        mov $UNMAPPED, %rax
    1:  flds (%rax)
    END

    CASE "first MF, then PF", MF
        fninit
        push $0x37b
        fldcw (%rsp)
        fld1
        fldz
        fdivrp
        mov $UNMAPPED, %rax
    1:  flds (%rax)
    END

    CASE "first GP of alignment, then PF, movaps", GP, 0
        mov $UNMAPPED + 8, %rax
    1:  movaps (%rax), %xmm0
    END

    CASE "first GP of alignment, then PF, cmpxchg16b", GP, 0
        mov $UNMAPPED + 8, %rax
    1:  cmpxchg16b (%rax)
    END

    CASE "first UD of sse with EM, then PF", UD
        mov %cr0, %rax
        or $4, %rax
        mov %rax, %cr0
        mov $UNMAPPED, %rax
    1:  movups (%rax), %xmm0
    END

    CASE "first PF of pop's stack, then its target", PF, 0, cr2=UNMAPPED, in=KERNEL+IST
        mov $UNMAPPED, %rsp
        mov $NONCANONICAL, %rax
    1:  popq (%rax)
    END

    CASE "first PF of push's source, then its stack", PF, 0, cr2=UNMAPPED, in=KERNEL+IST
        mov $UNMAPPED, %rax
        mov $NONCANONICAL + 4096, %rsp
    1:  pushq (%rax)
    END

    CASE "first PF of call's target, then its stack", PF, 0, cr2=UNMAPPED, in=KERNEL+IST
        mov $UNMAPPED, %rax
        mov $NONCANONICAL + 4096, %rsp
    1:  call *(%rax)
    END

/* ---- length: 15 bytes at most, whatever they would mean ---- */

    CASE "15 bytes are fine", NONE
        .fill 14, 1, 0x66
        nop
    END

    CASE "GP 16 bytes", GP, 0
    1:  .fill 15, 1, 0x66
        nop
    END

    CASE "GP 16 bytes comes before UD", GP, 0
    1:  .fill 14, 1, 0x66
        ud2
    END

    CASE "UD in 15 bytes", UD
    1:  .fill 13, 1, 0x66
        ud2
    END

    CASE "UD lock in 15 bytes", UD
    1:  .byte 0xf0
        .fill 13, 1, 0x66
        nop
    END

    .data
    .balign 64
    .globl scratch
scratch:
    .skip 1024

    .section .note.GNU-stack, "", @progbits
