/*
 * The accesses of probe.c: once in the kernel's page, once in the user page. RSI is the address. Sixteen bytes each.
 */
#include "selectors.h"
#ifdef __x86_64__
#define SI %rsi
#else
#define SI %esi
#endif

    .macro ACCESSES name
    .balign 16
    .globl \name
\name:
    mov (SI), %al
    int $DONE
    .balign 16
    movb $0x5a, (SI)
    int $DONE
    .balign 16
    lock incb (SI)
    int $DONE
    .balign 16
    jmp *SI
    .endm

    .text
    ACCESSES probe_kernel
    .section .user.text, "ax"
    ACCESSES probe_user

    .section .note.GNU-stack, "", @progbits
