/*
 * The small pieces of code between which syscall.c travels: ring 3 code that enters the kernel, kernel code that leaves
 * it, and landing places. Every landing place is `int $DONE`, which records all registers just as they arrived.
 */
#include "lib/selectors.h"

    .text
    .globl kernel_landing
    .balign 16
kernel_landing:                         /* where SYSCALL and SYSENTER arrive */
    int $DONE

    /* Ways out. Arguments are in the registers that the instruction takes. */
    .macro LEAVE name, instruction:vararg
    .globl \name
    .balign 16
\name:
    mov %rax, %r11
    \instruction
    int $DONE
    .endm
    LEAVE leave_sysretq, sysretq
    LEAVE leave_sysretl, sysretl
    LEAVE leave_sysexit64, sysexitq
    LEAVE leave_sysexit32, sysexitl
    LEAVE kernel_syscall, syscall

    .section .user.text, "ax"
    .globl user_landing, user_landing32
    .balign 16
user_landing:
    int $DONE
    .balign 16
user_landing32:
    .code32
    inc %eax                            /* 40: in 64-bit mode this would be a REX prefix of the next instruction */
    int $DONE
    .code64

    .macro ENTER name, instruction:vararg
    .globl \name, \name\()_next
    .balign 16
\name:
    \instruction
\name\()_next:
    int $DONE
    .endm
    ENTER user_syscall, syscall
    ENTER user_sysenter, sysenter
    ENTER user_sysexit, sysexitl
    .code32
    ENTER user32_syscall, syscall
    ENTER user32_sysenter, sysenter
    ENTER user32_rdfsbase, .byte 0xf3, 0x0f, 0xae, 0xc0
    .code64
    ENTER user_rdfsbase, rdfsbase %rax
    ENTER user_wrfsbase, wrfsbase %rax
    ENTER user_wrgsbase32, wrgsbase %eax
    ENTER user_read_fs, mov %fs:(%rsi), %al

    .section .note.GNU-stack, "", @progbits
