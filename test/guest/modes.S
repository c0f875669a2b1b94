/*
 * A tour through every mode of the processor and back: 64-bit, compatibility (32 and 16 bits), protected mode without
 * paging (32 and 16 bits), real mode, and the same way home. Each station writes what it sees to `seen`; modes.c knows
 * the names and what it should be.
 *
 * The 16-bit stations run at 0x8000, copied there by modes.c, because their segments begin at 0 and end at 64 KiB.
 * LOW(x) is where a label of that part is then.
 */
#include "lib/selectors.h"

#define LOW(x) (x - low_begin + 0x8000)
#define STACK16 0x7000
#define SEEN 0x9000                     /* an array of 32-bit values, below 64 KiB for everybody */

/* Address arithmetic in .code16 wants the full 32-bit register where a value is stored. */
    .macro SAW index, register
    movl %\register, SEEN + 4 * \index
    .endm

    .text
    .globl tour
tour:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, tour_stack

    /* ---- 64-bit: a push is eight bytes; 48 is a REX prefix ---- */
    mov %rsp, %rcx
    push %rax
    sub %rsp, %rcx
    pop %rax
    SAW 0, ecx
    mov $5, %eax
    .byte 0x48                          /* 32-bit: dec %eax */
    nop
    SAW 1, eax
    mov $-1, %rax
    mov $1, %eax                        /* clears the upper half */
    shr $32, %rax
    SAW 2, eax

    /* ---- compatibility mode, 32 bits ---- */
    mov $0x123456789a, %rbx             /* its upper part is out of reach for a while, but not lost */
    mov %rbx, %r15
    push $KCODE32
    push $compat
    lretq
    .code32
compat:
    mov $KDATA, %eax
    mov %eax, %ss
    mov $case_stack_top, %esp
    mov %esp, %ecx
    push %eax
    sub %esp, %ecx
    SAW 3, ecx
    mov $5, %eax
    .byte 0x48
    nop
    SAW 4, eax
    mov $0xc0000080, %ecx               /* EFER.LMA is still on */
    rdmsr
    and $0x400, %eax
    SAW 5, eax
    mov %cs, %eax
    SAW 6, eax
    /* Addresses wrap at 4 GiB. */
    mov $0xffffffff, %eax
    mov 1 + SEEN(%eax), %ecx            /* SEEN[0] */
    SAW 7, ecx

    /* ---- compatibility mode, 16 bits ---- */
    ljmp $KCODE16, $LOW(compat16)
back_in_compat:
    mov %cs, %eax
    SAW 11, eax
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %ss
    ljmp $KCODE64, $back_in_64
    .code64
back_in_64:
    mov tour_stack, %rsp
    xor %eax, %eax
    cmp %r15, %r15
    sete %al
    SAW 12, eax
    mov $0x123456789a, %rcx
    xor %eax, %eax
    cmp %rcx, %r15                      /* R15 has kept its upper half */
    sete %al
    SAW 13, eax

    /* ---- protected mode without paging, 32 bits ---- */
    call leave_long_mode
    .code32
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov $case_stack_top, %esp
    mov $0xc0000080, %ecx
    rdmsr
    and $0x500, %eax                    /* neither LME nor LMA */
    SAW 14, eax
    mov %cr0, %eax
    and $0x80000001, %eax
    SAW 15, eax
    mov $5, %eax
    .byte 0x48
    nop
    SAW 16, eax

    /* ---- protected mode, 16 bits, then real mode ---- */
    ljmp $KCODE16, $LOW(protected16)
home:
    /* ---- back from real mode ---- */
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $case_stack_top, %esp
    mov %cr0, %eax
    and $0x80000001, %eax
    SAW 70, eax
    call enter_long_mode
    .code64
    mov tour_stack, %rsp
    lidt idt_pointer
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov %cs, %eax
    SAW 71, eax
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .balign 16
    .globl low_begin, low_end
low_begin:
    .code16
compat16:
    mov $KDATA16, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $STACK16, %sp
    mov %sp, %cx
    push %ax
    sub %sp, %cx
    movzx %cx, %ecx
    SAW 8, ecx
    xor %eax, %eax
    mov %cs, %ax
    SAW 9, eax
    mov $0x1ffff, %ebx                  /* 16-bit addresses use BX alone: SEEN[0] again */
    mov 1 + SEEN(%bx), %ecx
    SAW 10, ecx
    ljmpl $KCODE32, $back_in_compat

protected16:
    mov $KDATA16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %esp, %esp                      /* a push at SP = 0 goes to 0xfffe */
    movl $0x12345678, %eax
    push %ax
    movzx %sp, %eax
    SAW 17, eax
    mov 0xfffe, %ax
    SAW 18, eax
    mov $STACK16, %sp
    pushl $0x11223344                   /* four bytes by the 66 prefix */
    xor %eax, %eax
    mov %sp, %ax
    SAW 19, eax
    call 1f                             /* near: two bytes */
1:  mov %sp, %ax
    SAW 20, eax
    mov $STACK16, %sp
    mov $KDATA, %eax                    /* FS: four GiB, for later */
    mov %eax, %fs

    /* PE off; CS keeps its limit and attributes until the far jump. */
    mov %cr0, %eax
    and $~1, %al
    mov %eax, %cr0
    ljmp $0, $LOW(real)

/* ---- real mode ---- */
real:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $STACK16, %sp
    lidtl LOW(ivt_pointer)
    mov %cr0, %eax
    and $0x80000001, %eax
    SAW 21, eax

    /* Vectors 0 to 31 to the stubs, 0x60 to a handler that returns. */
    mov $LOW(stubs), %ax
    xor %bx, %bx
1:  mov %ax, (%bx)
    movw $0, 2(%bx)
    add $4, %bx
    add $16, %ax
    cmp $32 * 4, %bx
    jne 1b
    movl $LOW(int60), 0x60 * 4

    /* INT and IRET: six bytes, IF off in the handler and on again after it. */
    push $0x0202
    popf
    int $0x60
    pushf
    pop %bx
    cli
    movzx %bx, %ebx
    and $0x200, %ebx
    SAW 25, ebx

    /* Segments are paragraphs. */
    movl $0xabcdef01, 0x6010
    mov $0x600, %ax
    mov %ax, %es
    mov %es:0x10, %ecx
    SAW 26, ecx
    mov $0xffff, %ax                    /* ffff:0010 is 1 MiB, with A20 open: the multiboot magic */
    mov %ax, %es
    mov %es:0x10, %ecx
    SAW 27, ecx
    lcall $0x800, $LOW(far_routine) - 0x8000
    SAW 28, ecx
    movl $0x08000000 + LOW(far_jump) - 0x8000, 0x6020
    ljmp *0x6020
far_jump:
    xor %eax, %eax
    mov %cs, %ax
    SAW 29, eax
    ljmp $0, $LOW(1f)
1:  lds 0x6020, %bx
    xor %eax, %eax
    mov %ds, %ax
    mov $0, %cx
    mov %cx, %ds
    SAW 30, eax
    xor %ax, %ax
    mov %ax, %es

    /* FS still has the limit of protected mode: "unreal" mode. Its base is what it was, too. */
    mov $0x100000, %ebx
    mov %fs:(%ebx), %ecx
    SAW 31, ecx
    /* The base of CS, DS, ... is from now on 16 times what is loaded; the limit stays. */
    mov $0x600, %ax
    mov %ax, %fs
    mov $0x100000 - 0x6000, %ebx
    mov %fs:(%ebx), %ecx
    SAW 32, ecx

    /* Strings wrap within the segment. */
    movb $0x11, 0xffff
    movb $0x22, 0x0600
    mov $0xffff, %si
    lodsb
    movzx %si, %ecx
    SAW 33, ecx
    movzx %al, %ecx
    SAW 34, ecx

    /* LGDT with a 16-bit operand loads 24 bits of base. */
    movw $0x1234, 0x6040
    movl $0xff123456, 0x6042
    lgdtw 0x6040
    sgdtl 0x6050
    mov 0x6052, %ecx
    SAW 35, ecx
    movl $gdt, 0x6042
    movw $GDT_SIZE - 1, 0x6040
    lgdtl 0x6040

    /* Exceptions: vector in the low byte (ff: none), distance of the saved IP from the case's begin above it. */
    .set rm_index, 40
    .macro REAL code:vararg
    mov $STACK16, %sp
    movw $LOW(8f), LOW(rm_resume)
    movl $0xff, LOW(rm_result)
    movw $LOW(7f), LOW(rm_base)
7:  \code
8:  xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov LOW(rm_result), %eax
    SAW rm_index, eax
    .set rm_index, rm_index + 1
    .endm

    xor %cx, %cx
    REAL div %cx                        /* 40 */
    REAL int3
    mov $0x7f, %al
    add $1, %al
    REAL into
    REAL ud2
    REAL movw 0xffff, %ax               /* 44: two bytes at the end of a segment */
    REAL movb 0xffff, %al
    REAL movw %ss:0xffff, %ax
    mov $0x10000, %ebx
    REAL movb (%ebx), %al
    REAL lldt %ax                       /* 48: protected mode's own */
    REAL ltr %ax
    REAL str %ax
    REAL .byte 0x63, 0xc0               /* arpl %ax, %ax */
    REAL verr %ax                       /* 52 */
    REAL .byte 0x8e, 0xc8               /* mov %ax, %cs */
    REAL .byte 0xf0, 0x90               /* lock nop */
    REAL .byte 0xd4, 0x00               /* aam 0 */
    movl $0x00050001, 0x6060
    mov $6, %ax
    REAL bound %ax, 0x6060              /* 56 */
    REAL .byte 0x66, 0xe9, 0, 0, 1, 0   /* jump to 64 KiB further on */
    REAL .fill 15, 1, 0x66; nop
    lidtl LOW(short_ivt_pointer)
    REAL int $0x20                      /* 59: beyond the table's limit */
    lidtl LOW(ivt_pointer)
    mov $0xffff, %ebx
    REAL movl (%ebx), %eax              /* 60: the last byte of four outside */
    REAL cli; sti; cli                  /* nothing is privileged */
    REAL mov %cr3, %eax
    REAL lea 0xffff, %ax
    REAL sysenter                       /* 64 */

    /* ---- home ---- */
    xor %eax, %eax
    mov %eax, %cr4
    smsw %ax                            /* LMSW sets PE as well */
    or $1, %al
    lmsw %ax
    mov %cr0, %eax
    and $0x80000001, %eax
    SAW 69, eax
    ljmpl $KCODE32, $home

far_routine:                            /* 0800:xxxx */
    xor %ecx, %ecx
    mov %cs, %cx
    lret

int60:
    push %bp
    mov %sp, %bp
    movzx %sp, %ecx                     /* BP below FLAGS, CS, IP */
    SAW 22, ecx
    movzwl 6(%bp), %ecx
    and $0x200, %ecx
    SAW 23, ecx
    pushf
    pop %cx
    movzx %cx, %ecx
    and $0x200, %ecx
    SAW 24, ecx
    pop %bp
    iret

    .set rm_vector, 0
    .balign 16
stubs:
    .rept 32
    movb $rm_vector, %cs:LOW(rm_result) /* the case's registers may be lost */
    jmp rm_trap
    .balign 16
    .set rm_vector, rm_vector + 1
    .endr
rm_trap:
    pop %ax                             /* the saved IP */
    mov $0, %bx
    mov %bx, %ds
    sub LOW(rm_base), %ax
    mov %al, LOW(rm_result) + 1
    jmp *LOW(rm_resume)

    .balign 4
ivt_pointer:
    .word 0x3ff
    .long 0
short_ivt_pointer:
    .word 0x3f
    .long 0
    .balign 4
rm_result: .long 0
rm_resume: .word 0
rm_base: .word 0
low_end:
    .code64

    .data
    .balign 8
tour_stack: .quad 0

    .section .note.GNU-stack, "", @progbits
