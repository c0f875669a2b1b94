/*
 * The start of an application processor: in real mode at 0x8000, where ap.c has copied ap_trampoline to, because a
 * SIPI of vector 8 says so (SDM vol. 3, 9.4). It goes to protected mode, then the way of boot64.S to long mode.
 */
#include "selectors.h"

    .text
    .code16
    .globl ap_trampoline, ap_trampoline_end
ap_trampoline:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %cs, %ax
    mov %ax, 0x8000 + ap_seen_cs - ap_trampoline
    mov %cr0, %eax
    mov %eax, 0x8000 + ap_seen_cr0 - ap_trampoline
    lgdtl 0x8000 + ap_gdt_pointer - ap_trampoline
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $KCODE32, $ap_protected
    .balign 8
ap_gdt_pointer:
    .word GDT_SIZE - 1
    .long gdt
    .balign 4
    .globl ap_seen_cs, ap_seen_cr0
ap_seen_cs: .long 0                     /* read by ap.c in the copy */
ap_seen_cr0: .long 0
ap_trampoline_end:

    .code32
ap_protected:
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov ap_stack, %esp
    call enter_long_mode
    .code64
    mov ap_stack, %rsp                  /* the 32-bit CALL pushed 4 bytes only; and the upper half was undefined */
    lidt idt_pointer
    jmp ap_main

    .section .note.GNU-stack, "", @progbits
