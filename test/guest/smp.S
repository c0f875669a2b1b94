/*
 * The loops that two CPUs run against each other. RDI: address; RSI: how often; smp.c says more.
 */
    .text

    .macro LOOP name
    .balign 64
    .globl \name
\name:
    .endm

LOOP loop_lock_inc
1:  lock incl (%rdi)
    dec %rsi
    jnz 1b
    ret

LOOP loop_lock_xadd
    mov $1, %ecx
1:  mov %ecx, %eax
    lock xaddq %rax, (%rdi)
    dec %rsi
    jnz 1b
    ret

LOOP loop_cmpxchg
1:  mov (%rdi), %eax
2:  lea 1(%rax), %ecx
    lock cmpxchgl %ecx, (%rdi)
    jnz 2b
    dec %rsi
    jnz 1b
    ret

LOOP loop_cmpxchg16b                    /* both halves count, the upper one in threes */
    push %rbx
1:  mov (%rdi), %rax
    mov 8(%rdi), %rdx
2:  lea 1(%rax), %rbx
    lea 3(%rdx), %rcx
    lock cmpxchg16b (%rdi)
    jnz 2b
    dec %rsi
    jnz 1b
    pop %rbx
    ret

LOOP loop_xchg_lock                     /* a spin lock at (rdi), a plain counter at 64(rdi) */
1:  mov $1, %eax
    xchg %eax, (%rdi)
    test %eax, %eax
    jz 2f
    pause
    jmp 1b
2:  incl 64(%rdi)
    movl $0, (%rdi)
    dec %rsi
    jnz 1b
    ret

LOOP loop_bts_lock                      /* the same by LOCK BTS and a plain store */
1:  lock btsl $5, (%rdi)
    jnc 2f
    pause
    jmp 1b
2:  incl 64(%rdi)
    lock btrl $5, (%rdi)
    dec %rsi
    jnz 1b
    ret

    /* Code that another CPU patches. */
LOOP patched
    mov $0, %eax                        /* the immediate is at patched + 1 */
    ret

    .section .note.GNU-stack, "", @progbits
