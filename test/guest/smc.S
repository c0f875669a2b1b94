/*
 * Code that modifies itself. Each function returns in EAX what smc.c checks. Bytes are patched through RIP-relative
 * stores, so that the store and the fetch use the same linear address: then no serializing instruction is needed
 * (SDM vol. 3, 8.1.3 and 12.6; every processor since the P6 compares stores with what it has fetched).
 */
    .text

    .macro FUNCTION name
    .balign 64
    .globl \name
\name:
    .endm

FUNCTION next_instruction               /* the one right behind the store */
    movb $42, 1f+1(%rip)
1:  mov $1, %eax
    movb $1, 1b+1(%rip)
    ret

FUNCTION same_block                     /* some instructions further on */
    xor %eax, %eax
    movb $42, 1f+1(%rip)
    nop
    lea (%rax), %rcx
    add %rcx, %rax
1:  mov $1, %eax
    movb $1, 1b+1(%rip)
    ret

FUNCTION opcode_to_nop                  /* an instruction disappears */
    mov $42, %eax
    movw $0x9090, 1f(%rip)
1:  inc %al                             /* fe c0 */
    nop
    movw $0xc0fe, 1b(%rip)
    ret

FUNCTION itself                         /* a store that overwrites its own immediate: this time it stores the old one */
    movb $7, 1f+6(%rip)
    mov $2, %ecx
2:
1:  movb $7, 1b+6(%rip)                 /* c6 05 disp32 imm8: the immediate is at +6 */
    movzbl 1b+6(%rip), %eax
    incb 1b+6(%rip)
    dec %ecx
    jnz 2b
    movzbl 1b+6(%rip), %eax             /* 7, 8, then 8, 9 */
    ret

FUNCTION hot_loop                       /* the immediate grows by one each time round: 1 + 2 + ... + EDI */
    xor %eax, %eax
    movl $0, 2f+1(%rip)
1:  incl 2f+1(%rip)
2:  mov $0, %ecx
    add %ecx, %eax
    dec %edi
    jnz 1b
    ret

FUNCTION backwards                      /* patches an instruction that was executed before, in the same loop */
    xor %eax, %eax
    mov $10, %ecx
1:  add $1, %eax                        /* 83 c0 imm8 */
    movb $3, 1b+2(%rip)
    dec %ecx
    jnz 1b                              /* 1 + 9 * 3 */
    movb $1, 1b+2(%rip)
    ret

FUNCTION branch_target                  /* the displacement of a jump */
    movb $2f-1f, 1f-1(%rip)
    jmp 3f
1:
3:  mov $1, %eax
    jmp 4f
2:  mov $42, %eax
4:  movb $3b-1b, 1b-1(%rip)
    ret

FUNCTION by_rep_movs                    /* the bytes behind a REP MOVSB, by it */
    lea 2f(%rip), %rsi
    lea 1f(%rip), %rdi
    mov $5, %ecx
    rep movsb
1:  mov $1, %eax
    jmp 3f
2:  mov $42, %eax
3:  movb $1, 1b+1(%rip)
    ret

FUNCTION by_push                        /* with the stack pointer in the code */
    mov %rsp, %rdx
    lea 1f+8(%rip), %rsp
    mov $0x900000002ab99090, %rax       /* nop; nop; mov $42, %ecx; nop */
    push %rax
1:  nop
    nop
    mov $1, %ecx
    nop
    mov %rdx, %rsp
    mov %ecx, %eax
    movb $1, 1b+3(%rip)
    ret

FUNCTION by_sse                         /* a 16-byte store */
    movups 2f(%rip), %xmm0
    movups %xmm0, 1f(%rip)
1:  mov $1, %eax
    .fill 11, 1, 0x90
    movb $1, 1b+1(%rip)
    ret
2:  mov $42, %eax
    .fill 11, 1, 0x90

FUNCTION by_cmpxchg                     /* a locked one */
    mov 1f(%rip), %eax
    mov %eax, %ecx
    xor $(1 ^ 42) << 8, %ecx
    lock cmpxchg %ecx, 1f(%rip)
1:  mov $1, %eax
    movb $1, 1b+1(%rip)
    ret

FUNCTION data_beside_code               /* a counter in the same cache line, that is no code */
    xor %eax, %eax
    movl $0, 2f(%rip)
1:  incl 2f(%rip)
    dec %edi
    jnz 1b
    mov 2f(%rip), %eax
    ret
2:  .long 0

    /* Code that smc.c copies about. */
    .balign 64
    .globl return_1, return_1_end
return_1:
    mov $1, %eax
    ret
return_1_end:

    .section .note.GNU-stack, "", @progbits
