/*
 * More fault cases of the exceptions guest: #GP by control registers, by alignment that is always checked, and by
 * privileged instructions in ring 3. case.inc tells how to read them.
 */
#include "lib/selectors.h"
#include "lib/case.inc"

/* ---- #GP: control registers ---- */

    CASE "GP cr0, paging without protection", GP, 0
        mov %cr0, %rax
        and $~1, %rax
    1:  mov %rax, %cr0
    END

    CASE "GP cr0, NW without CD", GP, 0
        mov %cr0, %rax
        or $0x20000000, %rax
    1:  mov %rax, %cr0
    END

    CASE "GP cr0, bits above 31", GP, 0
        mov %cr0, %rax
        bts $32, %rax
    1:  mov %rax, %cr0
    END

    CASE "cr0, ET cannot be cleared, reserved low bits are dropped", NONE
        mov %cr0, %rcx
        mov %rcx, %rax
        and $~0x10, %rax
        mov %rax, %cr0
        mov %cr0, %rax
        cmp %rax, %rcx
        je 2f
        ud2
    2:
    END

    CASE "GP cr4, reserved bit 15", GP, 0
        mov %cr4, %rax
        bts $15, %rax
    1:  mov %rax, %cr4
    END

    CASE "GP cr4, bits above 31", GP, 0
        mov %cr4, %rax
        bts $40, %rax
    1:  mov %rax, %cr4
    END

    CASE "GP cr4, PAE cannot be cleared in long mode", GP, 0
        mov %cr4, %rax
        and $~0x20, %rax
    1:  mov %rax, %cr4
    END

    CASE "GP cr4, LA57 cannot change in long mode", GP, 0
        mov %cr4, %rax
        btc $12, %rax
    1:  mov %rax, %cr4
    END

    CASE "GP cr3, bits above the physical address width", GP, 0
        mov %cr3, %rax
        bts $52, %rax
    1:  mov %rax, %cr3
    END

    CASE "GP cr8, above 15", GP, 0
        mov $16, %eax
    1:  mov %rax, %cr8
    END

    CASE "GP dr7, bits above 31", GP, 0
        mov %dr7, %rax
        bts $32, %rax
    1:  mov %rax, %dr7
    END

    CASE "GP dr6, bits above 31", GP, 0
        mov %dr6, %rax
        bts $63, %rax
    1:  mov %rax, %dr6
    END

    CASE "lmsw cannot clear PE", NONE
        smsw %eax
        and $~1, %eax
        lmsw %ax
        smsw %eax
        test $1, %eax
        jnz 2f
        ud2
    2:
    END

/* ---- #GP: alignment that is always checked ---- */

    CASE "GP movaps misaligned", GP, 0
        lea scratch+8(%rip), %rbx
    1:  movaps (%rbx), %xmm0
    END

    CASE "movups misaligned", NONE
        lea scratch+8(%rip), %rbx
        movups (%rbx), %xmm0
    END

    CASE "GP addps with misaligned memory", GP, 0
        lea scratch+4(%rip), %rbx
    1:  addps (%rbx), %xmm0
    END

    CASE "GP cmpxchg16b misaligned", GP, 0
        lea scratch+8(%rip), %rbx
    1:  cmpxchg16b (%rbx)
    END

    CASE "GP fxsave misaligned", GP, 0
        lea scratch+8(%rip), %rbx
    1:  fxsave (%rbx)
    END

/* ---- #GP: privileged instructions in ring 3 ---- */

    .macro PRIVILEGED name, instruction:vararg
    CASE "GP \name in ring 3", GP, 0, in=USER
    1:  \instruction
    END
    .endm

    PRIVILEGED "hlt", hlt
    PRIVILEGED "cli", cli
    PRIVILEGED "sti", sti
    PRIVILEGED "in", inb $0xe9, %al
    PRIVILEGED "out", outb %al, $0xe9
    PRIVILEGED "insb", insb
    PRIVILEGED "outsb", outsb
    PRIVILEGED "mov from cr0", mov %cr0, %rax
    PRIVILEGED "mov to cr3", mov %rax, %cr3
    PRIVILEGED "mov from cr8", mov %cr8, %rax
    PRIVILEGED "mov from dr7", mov %dr7, %rax
    PRIVILEGED "mov to dr0", mov %rax, %dr0
    PRIVILEGED "clts", clts
    PRIVILEGED "lmsw", lmsw %ax
    PRIVILEGED "invd", invd
    PRIVILEGED "wbinvd", wbinvd
    PRIVILEGED "invlpg", invlpg (%rax)
    PRIVILEGED "rdmsr", rdmsr
    PRIVILEGED "wrmsr", wrmsr
    PRIVILEGED "swapgs", swapgs
    PRIVILEGED "sysretq", sysretq
    PRIVILEGED "lgdt", lgdt (%rsp)
    PRIVILEGED "lidt", lidt (%rsp)
    PRIVILEGED "lldt", lldt %ax
    PRIVILEGED "ltr", ltr %ax
    PRIVILEGED "rdpmc without PCE", rdpmc

    CASE "GP rep outsb in ring 3, even for no byte", GP, 0, in=USER
        xor %ecx, %ecx
    1:  rep outsb
    END

    CASE "smsw, str, sldt, sgdt, sidt in ring 3 without UMIP", NONE, in=USER
        smsw %eax
        str %eax
        sldt %eax
        sub $32, %rsp
        sgdt (%rsp)
        sidt (%rsp)
    END

    CASE "rdtsc in ring 3", NONE, in=USER
        rdtsc
    END

    CASE "popf in ring 3 leaves IF and IOPL", NONE, in=USER
        pushq $0x3202
        popfq
        pushfq
        pop %rax
        test $0x3200, %eax
        jz 2f
        ud2
    2:
    END

    .section .note.GNU-stack, "", @progbits
