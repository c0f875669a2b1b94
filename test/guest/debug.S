/*
 * Code under observation: debug.c single-steps it or sets breakpoints on its labels.
 */
    .text

    .macro LABEL name
    .globl \name
\name:
    .endm

    .balign 64
LABEL plain                             /* three one-byte instructions */
    nop
    nop
    nop
    int $0x80

    .balign 64
LABEL tf_by_popf                        /* POPF that sets TF: the trap comes after the next instruction */
    pushq $0x102
    popfq
LABEL tf_by_popf_next
    nop
LABEL tf_by_popf_trap
    nop
    int $0x80

    .balign 64
LABEL rep_code
    mov $3, %ecx
    lea buffer(%rip), %rdi
LABEL rep_insn
    rep stosb
LABEL rep_after
    nop
    int $0x80

    .balign 64
LABEL mov_ss_code                       /* no trap between MOV SS and the next instruction */
    mov %ss, %eax
LABEL mov_ss_insn
    mov %eax, %ss
LABEL mov_ss_next
    nop
LABEL mov_ss_after
    nop
    int $0x80

    .balign 64
LABEL pushf_code                        /* what PUSHF shows while TF is on */
    pushfq
    pop %rax
    nop
    int $0x80

    .balign 64
LABEL int_code                          /* INT n clears TF: the handler is not stepped, the trap comes after its IRET */
    int $0x60
LABEL int_after
    nop
    int $0x80

    .balign 64
LABEL read_code
    mov buffer(%rip), %al
LABEL read_after
    nop
    int $0x80

    .balign 64
LABEL write_code
    movb $1, buffer(%rip)
LABEL write_after
    nop
    int $0x80

    .balign 64
LABEL wide_code                         /* eight bytes from buffer + 4: touches buffer + 8 and not buffer */
    mov buffer+4(%rip), %rax
LABEL wide_after
    nop
    int $0x80

    .balign 64
LABEL stosb_code                        /* buffer to buffer + 3 */
    lea buffer(%rip), %rdi
    mov $4, %ecx
    rep stosb
LABEL stosb_after
    nop
    int $0x80

    .balign 64
LABEL icebp_code
    .byte 0xf1
LABEL icebp_after
    nop
    int $0x80

    .balign 64
LABEL dr_code                           /* RAX to DR0 */
    mov %rax, %dr0
    int $0x80

    .balign 64
LABEL ud2_code
    ud2

    .balign 64
LABEL int3_code
    int3

    .balign 64
LABEL out_code
    out %al, $0x80
LABEL out_after
    nop
    int $0x80

    .balign 64
LABEL in_code
    in $0x80, %al
LABEL in_after
    nop
    int $0x80

    .balign 64
LABEL dr4_code
    .byte 0x0f, 0x21, 0xe0              /* mov %dr4, %rax */
    int $0x80

    .balign 64
LABEL dr5_code
    .byte 0x0f, 0x21, 0xe8              /* mov %dr5, %rax */
    int $0x80

    .balign 64
LABEL iret_rf_code                      /* back by IRETQ to a breakpoint, with RF set in the image */
    mov %ss, %rax
    mov %rsp, %rcx
    push %rax
    push %rcx
    pushq $0x10002
    mov %cs, %rax
    push %rax
    lea iret_rf_target(%rip), %rax
    push %rax
    iretq
LABEL iret_rf_target
    nop
    nop
    int $0x80

    .section .user.text, "ax"
    .balign 64
LABEL user_plain
    nop
    nop
    int $0x80

    .balign 64
LABEL user_syscall
    syscall
LABEL user_syscall_after
    nop
    int $0x80

    .text
    .balign 64
LABEL syscall_target                    /* SFMASK clears TF */
    nop
    mov $user_syscall_after, %ecx
    mov $0x102, %r11d                   /* back with TF */
    sysretq

    .data
    .balign 64
    .globl buffer
buffer:
    .skip 64

    .section .note.GNU-stack, "", @progbits
