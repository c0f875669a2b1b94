/*
 * Start of a 64-bit guest: from the multiboot loader's 32-bit protected mode to long mode, then main().
 *
 * A multiboot (version 1) loader enters with paging off, flat 32-bit segments from a GDT we must not rely on, EAX =
 * 0x2badb002 and EBX = address of the boot information. The way from there to long mode is the one of the manuals
 * (SDM vol. 3, 10.8.5): PAE on, CR3 loaded, EFER.LME set, paging on; now the CPU is in compatibility mode, and a far
 * jump to a code segment with the L bit ends in 64-bit mode.
 *
 * The map is identity for 4 GiB, in 2 MiB pages: enough for the RAM we use and for the APICs just below 4 GiB.
 * Only the page at 0x400000 has U=1; everything else is the supervisor's, so that SMEP and SMAP can be switched on.
 *
 * The image is linked as ELF64 and relabelled ELF32 by objcopy: multiboot loaders accept nothing else, and as all
 * addresses are below 4 GiB nothing is lost.
 */
#include "selectors.h"

    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002                    /* magic, flags (none: ELF tells the addresses), checksum */
    .long 0
    .long -0x1badb002

    .code32
    .text
    .globl multiboot_entry
multiboot_entry:
    cli
    cld
    mov %ebx, boot_info
    lgdt gdt_pointer
    ljmp $KCODE32, $1f
1:  mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $stack_top, %esp

    /* Page tables: pml4[0] -> pdpt[0..3] -> 4 page directories of 512 large pages. */
    movl $pdpt + 7, pml4
    mov $pd + 7, %eax
    xor %ecx, %ecx
2:  mov %eax, pdpt(, %ecx, 8)
    add $4096, %eax
    inc %ecx
    cmp $4, %ecx
    jne 2b
    mov $0x83, %eax                     /* present, writable, large */
    xor %ecx, %ecx
3:  mov %eax, pd(, %ecx, 8)
    add $0x200000, %eax
    inc %ecx
    cmp $2048, %ecx
    jne 3b
    orl $4, pd + 2 * 8                  /* the user page */

    call enter_long_mode                /* the far return address is replaced: comes back in 64-bit mode */
    .code64
    mov $stack_top, %esp                /* the 32-bit CALL pushed 4 bytes only; start afresh, zero-extended */
    mov $tss, %eax                      /* put the address of the TSS into its descriptor */
    mov %ax, gdt + TSS_SEL(0) + 2
    shr $16, %eax
    mov %al, gdt + TSS_SEL(0) + 4
    mov %ah, gdt + TSS_SEL(0) + 7
    mov $TSS_SEL(0), %eax
    ltr %ax
    call traps_init
    call main
    call finish

/*
 * enter_long_mode: 32-bit, paging off, flat segments, called near with the return address on the stack. Returns to it
 * in 64-bit mode, with CR3 and CR4 out of long_mode_cr3 and long_mode_cr4. Keeps EBX, ESI, EDI and EBP. Also the last
 * step of an application processor's start and of the way back from real mode.
 */
    .code32
    .globl enter_long_mode
enter_long_mode:
    mov long_mode_cr4, %eax
    mov %eax, %cr4
    mov long_mode_cr3, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx               /* EFER: LME, NXE */
    rdmsr
    or $0x900, %eax
    wrmsr
    pop %edx
    mov $0x80010033, %eax               /* PG WP NE ET MP PE */
    mov %eax, %cr0
    ljmp $KCODE64, $4f
    .code64
4:  jmp *%rdx

/*
 * leave_long_mode: the way back (SDM vol. 3, 10.8.5.4), called in 64-bit mode, returns in 32-bit protected mode without
 * paging: to a compatibility mode segment, then PG off (which ends long mode: EFER.LMA follows PG), LME off.
 */
    .globl leave_long_mode
leave_long_mode:
    pop %rbp
    push $KCODE32
    push $5f
    lretq
    .code32
5:  mov $KDATA, %eax
    mov %eax, %ss
    mov %cr0, %eax
    and $~0x80000000, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    and $~0x100, %eax
    wrmsr
    jmp *%ebp
    .code64

/* void reenter_long_mode(u32 cr3, u32 cr4): out and in again, as a change of the number of paging levels needs it. */
    .globl reenter_long_mode
reenter_long_mode:
    push %rbx
    push %rbp
    push %r12                           /* the 32-bit code between leaves R8 to R15 alone, but promises nothing */
    push %r13
    push %r14
    push %r15
    mov %edi, long_mode_cr3
    mov %esi, long_mode_cr4
    call leave_long_mode
    .code32
    call enter_long_mode
    .code64
    mov %esp, %esp                      /* what 32-bit code did to ESP left the upper half undefined */
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .data
    .balign 4
    .globl long_mode_cr3, long_mode_cr4
long_mode_cr3: .long pml4
long_mode_cr4: .long 0x620              /* PAE, OSFXSR, OSXMMEXCPT */

    .data
    .balign 16
    .globl gdt, gdt_pointer
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* KCODE64 */
    .quad 0x00cf93000000ffff            /* KDATA */
    .quad 0x00cffb000000ffff            /* UCODE32 */
    .quad 0x00cff3000000ffff            /* UDATA */
    .quad 0x00affb000000ffff            /* UCODE64 */
    .quad 0x00cff3000000ffff            /* UDATA_SYSEXIT64 */
    .quad 0x00cf9b000000ffff            /* KCODE32 */
    .quad 0x00009b000000ffff            /* KCODE16: base 0, limit 64 KiB */
    .quad 0x000093000000ffff            /* KDATA16 */
    .quad 0x0000890000000000 + TSS_BYTES - 1, 0 /* TSS of CPU 0; those of others are written when they start */
    .org gdt + GDT_SIZE, 0
gdt_pointer:
    .word GDT_SIZE - 1
    .quad gdt

    .globl boot_info
boot_info:
    .long 0

    .bss
    .balign 4096
    .globl pml4, pdpt, pd
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 4 * 4096
    .skip 16384
    .globl stack_top
stack_top:

    .section .note.GNU-stack, "", @progbits
