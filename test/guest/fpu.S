/*
 * One instruction of each family, for the matrix of CR0 and CR4 bits in fpu.c; and the instructions that raise the SIMD
 * exceptions. RSI is a zeroed, aligned area.
 */
    .text

    .macro SNIPPET name, instruction:vararg
    .balign 16
    .globl \name
\name:
    \instruction
    int $0x80
    .endm

    SNIPPET snip_wait, fwait
    SNIPPET snip_x87, fnop
    SNIPPET snip_mmx, emms
    SNIPPET snip_mmx_move, movq %mm0, %mm1
    SNIPPET snip_sse, movaps %xmm0, %xmm1
    SNIPPET snip_sse2_mmx, cvtpi2ps %mm0, %xmm0
    SNIPPET snip_stmxcsr, stmxcsr (%rsi)
    SNIPPET snip_avx, vmovaps %ymm0, %ymm1
    SNIPPET snip_fxsave, fxsave (%rsi)
    SNIPPET snip_xsave, xsave (%rsi)
    SNIPPET snip_xgetbv, xgetbv
    SNIPPET snip_xsetbv, xsetbv
    SNIPPET snip_mfence, mfence
    SNIPPET snip_movnti, movnti %eax, (%rsi)
    SNIPPET snip_bmi, andn %eax, %eax, %ecx

    /* RAX and RDX: the mask; RSI: the area. */
    SNIPPET snip_xrstor, xrstor (%rsi)
    SNIPPET snip_fxrstor, fxrstor (%rsi)
    SNIPPET snip_load_mxcsr, ldmxcsr (%rsi)
    SNIPPET snip_xsave_misaligned, xsave 8(%rsi)

    /* SIMD exceptions: xmm0 op xmm1, the result in xmm0. */
    SNIPPET snip_divps, divps %xmm1, %xmm0
    SNIPPET snip_mulps, mulps %xmm1, %xmm0
    SNIPPET snip_addps, addps %xmm1, %xmm0

    /* With an x87 exception pending (fpu.c makes it). */
    SNIPPET snip_fnstsw, fnstsw %ax
    SNIPPET snip_fnclex, fnclex
    SNIPPET snip_fninit, fninit
    SNIPPET snip_fld1, fld1
    SNIPPET snip_fnstcw, fnstcw (%rsi)
    SNIPPET snip_fldcw, fldcw (%rsi)

    .section .user.text, "ax"
    SNIPPET snip_user_xsetbv, xsetbv
    SNIPPET snip_user_xgetbv, xgetbv

    .section .note.GNU-stack, "", @progbits
