/*
 * Entry stubs for the 256 vectors, and the machinery that runs a piece of code "until something happens".
 *
 * Each stub leaves the same picture on the stack whatever the vector: a `struct trap` (guest.h), from rax upwards to
 * the SS that the CPU pushed. Vectors without an error code get a 0 in its place. trap_dispatch() looks at it; if it
 * returns, the interrupted code goes on with whatever the handler left in the frame.
 *
 * enter_kernel() and enter_at() start a case. It ends with `int $DONE` or with an exception; either way trap_dispatch()
 * copies the frame to `last` and jumps to run_end, which throws the exception's stack away and returns from the run
 * call: a longjmp out of the handler. So no case needs to know how to go on after its fault.
 */
#include "selectors.h"

    .text

/* 8 DF, 10 TS, 11 NP, 12 SS, 13 GP, 14 PF, 17 AC, 21 CP push an error code (SDM vol. 3, table 6-1). */
#define WITH_ERROR 0x227d00

    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector >= 32 || !((WITH_ERROR >> (vector & 31)) & 1)
    push $0
    .endif
    push $vector
    jmp trap_entry
    .set vector, vector + 1
    .endr

#ifdef __x86_64__

trap_entry:
    push %r15
    push %r14
    push %r13
    push %r12
    push %r11
    push %r10
    push %r9
    push %r8
    push %rdi
    push %rsi
    push %rbp
    push $0                             /* rsp's place in the register order; the real one is above */
    push %rbx
    push %rdx
    push %rcx
    push %rax
    cld
    mov %rsp, %rdi
    mov %rsp, %rbp                      /* the CPU aligned the frame to 16, but a handler may be entered by a jump */
    and $-16, %rsp
    call trap_dispatch
    mov %rbp, %rsp
    pop %rax
    pop %rcx
    pop %rdx
    pop %rbx
    add $8, %rsp
    pop %rbp
    pop %rsi
    pop %rdi
    pop %r8
    pop %r9
    pop %r10
    pop %r11
    pop %r12
    pop %r13
    pop %r14
    pop %r15
    add $16, %rsp                       /* vector, error code */
    iretq

/* void enter_kernel(void (*code)(void)): calls code in ring 0 on a stack of its own, interrupts off. */
    .globl enter_kernel
enter_kernel:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, run_stack
    mov $case_stack_top, %esp
    call *%rdi
    int $DONE                           /* code that returns is done, too */

/* void enter_at(const struct start *s): IRETQ to any ring and mode. */
    .globl enter_at
enter_at:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, run_stack
    push 32(%rdi)                       /* ss */
    push 24(%rdi)                       /* rsp */
    push 16(%rdi)                       /* rflags */
    push 8(%rdi)                        /* cs */
    push (%rdi)                         /* rip */
    mov 40(%rdi), %rax                  /* registers a case gets arguments in */
    mov 48(%rdi), %rcx
    mov 56(%rdi), %rdx
    mov 64(%rdi), %rbx
    mov 72(%rdi), %rsi
    mov 80(%rdi), %rdi
    iretq

/* Where trap_dispatch() jumps to end a run. */
    .globl run_end
run_end:
    mov run_stack, %rsp
    xor %eax, %eax
    mov %eax, %ss                       /* ring 0 in 64-bit mode lives with a null SS as well as with any other */
    mov $KDATA, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    cld
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .data
    .balign 8
run_stack: .quad 0

#else

trap_entry:
    push %edi
    push %esi
    push %ebp
    push $0
    push %ebx
    push %edx
    push %ecx
    push %eax
    mov %ds, %ebx                       /* a case may leave any data segments; the handler needs flat ones */
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    cld
    mov %esp, %ebp
    push %ebx
    push %ebp
    call trap_dispatch
    mov 4(%esp), %ebx
    mov %ebx, %ds
    mov %ebx, %es
    mov %ebp, %esp
    pop %eax
    pop %ecx
    pop %edx
    pop %ebx
    add $4, %esp
    pop %ebp
    pop %esi
    pop %edi
    add $8, %esp
    iret

    .globl enter_kernel
enter_kernel:
    mov 4(%esp), %eax
    push %ebx
    push %ebp
    push %esi
    push %edi
    mov %esp, run_stack
    mov $case_stack_top, %esp
    call *%eax
    int $DONE

    .globl enter_at
enter_at:
    push %ebx
    push %ebp
    push %esi
    push %edi
    mov 20(%esp), %edi
    mov %esp, run_stack
    push 16(%edi)                       /* ss, esp: popped only if the ring changes */
    push 12(%edi)
    push 8(%edi)
    push 4(%edi)
    push (%edi)
    mov $UDATA + 3, %eax                /* IRET to ring 3 takes away segments that ring 3 may not have */
    mov %eax, %ds
    mov %eax, %es
    mov 20(%edi), %eax
    mov 24(%edi), %ecx
    mov 28(%edi), %edx
    mov 32(%edi), %ebx
    mov 36(%edi), %esi
    mov 40(%edi), %edi
    iret

    .globl run_end
run_end:
    mov $KDATA, %eax
    mov %eax, %ss
    mov run_stack, %esp
    mov %eax, %ds
    mov %eax, %es
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    cld
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret

    .data
    .balign 4
run_stack: .long 0

#endif

    .bss
    .balign 4096
    .skip 8192
    .globl case_stack_top
case_stack_top:

    .section .note.GNU-stack, "", @progbits
