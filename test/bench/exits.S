/*
 * The smallest guest that a monitor's overhead can be measured with: it says 1 on port 0xe9 with its first instructions,
 * makes EXITS exits to user mode (writes to port 0x80, which is nobody's), says 2, and leaves through port 0xf4 with
 * status 0; or, assembled with STAY, halts for good, so that one can look at the process.
 *
 * An ELF kernel with a PVH entry (Linux, include/xen/interface/elfnote.h, note 18): 32-bit protected mode, flat segments.
 */
    .section .note.pvh, "a"
    .balign 4
    .long 4, 4, 18                      /* sizes of name and value, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long entry

    .text
    .code32
    .globl entry
entry:
    mov $0x31, %al
    out %al, $0xe9
    mov $EXITS, %ecx
1:  out %al, $0x80
    dec %ecx
    jnz 1b
    mov $0x32, %al
    out %al, $0xe9
#ifdef STAY
2:  cli
    hlt
    jmp 2b
#else
    xor %eax, %eax
    out %eax, $0xf4
2:  jmp 2b
#endif

    .section .note.GNU-stack, "", @progbits
