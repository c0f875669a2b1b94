/*
 * Start of a 32-bit guest: it stays in the protected mode the multiboot loader enters with, paging off, on its own GDT,
 * IDT and 32-bit TSS. boot64.S tells more about multiboot.
 */
#include "selectors.h"

    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002
    .long 0
    .long -0x1badb002

    .text
    .globl multiboot_entry
multiboot_entry:
    cli
    cld
    mov %ebx, boot_info
    lgdt gdt_pointer
    ljmp $KCODE, $1f
1:  mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $stack_top, %esp
    mov $0x33, %eax                     /* NE ET MP PE */
    mov %eax, %cr0
    mov $0x600, %eax                    /* OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $tss, %eax
    mov %ax, gdt + TSS_SEL(0) + 2
    shr $16, %eax
    mov %al, gdt + TSS_SEL(0) + 4
    mov %ah, gdt + TSS_SEL(0) + 7
    mov $TSS_SEL(0), %eax
    ltr %ax
    call traps_init
    call main
    call finish

    .data
    .balign 16
    .globl gdt, gdt_pointer
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            /* the slot of KCODE64; here a second flat code segment */
    .quad 0x00cf93000000ffff            /* KDATA */
    .quad 0x00cffb000000ffff            /* UCODE32 */
    .quad 0x00cff3000000ffff            /* UDATA */
    .quad 0
    .quad 0x00cff3000000ffff            /* UDATA_SYSEXIT64 */
    .quad 0x00cf9b000000ffff            /* KCODE32 */
    .quad 0x00009b000000ffff            /* KCODE16: base 0, limit 64 KiB */
    .quad 0x000093000000ffff            /* KDATA16 */
    .quad 0x0000890000000000 + TSS_BYTES - 1, 0
    .org gdt + GDT_SIZE, 0
gdt_pointer:
    .word GDT_SIZE - 1
    .long gdt

    .globl boot_info
boot_info:
    .long 0

    .bss
    .balign 16
    .skip 16384
    .globl stack_top
stack_top:

    .section .note.GNU-stack, "", @progbits
