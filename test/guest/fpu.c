// The floating-point and vector state as the system sees it: who gets #NM or #UD, the rules of XCR0, what the XSAVE
// family writes and refuses, pending x87 exceptions, SIMD exceptions. (SDM vol. 1, chapters 8, 11, 13; vol. 3, 2.5, 2.6
// and 14.) What the arithmetic gives is not the business of this guest.
#include "lib/guest.h"

extern const u8 snip_wait[], snip_x87[], snip_mmx[], snip_mmx_move[], snip_sse[], snip_sse2_mmx[], snip_stmxcsr[];
extern const u8 snip_avx[], snip_fxsave[], snip_xsave[], snip_xgetbv[], snip_xsetbv[], snip_mfence[], snip_movnti[];
extern const u8 snip_bmi[], snip_xrstor[], snip_fxrstor[], snip_load_mxcsr[], snip_xsave_misaligned[], snip_divps[];
extern const u8 snip_mulps[], snip_addps[], snip_fnstsw[], snip_fnclex[], snip_fninit[], snip_fld1[];
extern const u8 snip_fnstcw[], snip_fldcw[], snip_user_xsetbv[], snip_user_xgetbv[];

#define X87 1u
#define SSE 2u
#define AVX 4u

static u8 area[4096] __attribute__((aligned(64)));
static u8 other[4096] __attribute__((aligned(64)));

static void run_with(const u8 *code, ulong rax, ulong rcx, ulong rdx, const void *rsi)
{
    run_at(&(struct start){(ulong)code, KCODE64, 2, (ulong)case_stack_top, KDATA, rax, rcx, rdx, .rsi = (ulong)rsi});
}

static bool faults(const u8 *code, ulong rax, ulong rcx, ulong rdx, const void *rsi, ulong vector)
{
    run_with(code, rax, rcx, rdx, rsi);
    return last.vector == vector && last.rip == (ulong)code && (vector != GP || last.error == 0);
}

static u64 xgetbv(u32 index)
{
    u32 lo, hi;
    asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(index));
    return (u64)hi << 32 | lo;
}

static void xsetbv(u64 v)
{
    asm volatile("xsetbv" ::"c"(0), "a"((u32)v), "d"((u32)(v >> 32)));
}

// ---- #NM and #UD ----

// Eight outcomes, for EM TS MP from 000 to 111: - none, N #NM, U #UD.
static void check_matrix(const char *name, const u8 *code, const char *want)
{
    ulong cr0 = read_cr0();
    char got[9] = {0};
    bool good = true;
    for (unsigned i = 0; i < 8; i++) {
        write_cr0((cr0 & ~(ulong)(CR0_EM | CR0_TS | CR0_MP)) | (i & 4 ? CR0_EM : 0) | (i & 2 ? CR0_TS : 0) |
                  (i & 1 ? CR0_MP : 0));
        run_with(code, 0, 0, 0, area);
        write_cr0(cr0);
        got[i] = last.vector == NONE ? '-' : last.vector == NM ? 'N' : last.vector == UD ? 'U' : '?';
        good &= got[i] == want[i];
    }
    if (verdict(name, good))
        say("%s\n", got);
    else
        say("got %s, want %s\n", got, want);
}

static void matrix(bool avx)
{
    check_matrix("WAIT", snip_wait, "---N---N");
    check_matrix("x87", snip_x87, "--NNNNNN");
    check_matrix("MMX", snip_mmx, "--NNUUUU");
    check_matrix("MMX, MOVQ", snip_mmx_move, "--NNUUUU");
    check_matrix("SSE", snip_sse, "--NNUUUU");
    check_matrix("SSE with MMX operand", snip_sse2_mmx, "--NNUUUU");
    check_matrix("STMXCSR", snip_stmxcsr, "--NNUUUU");
    check_matrix("FXSAVE", snip_fxsave, "--NNNNNN");
    check_matrix("MFENCE", snip_mfence, "--------");
    check_matrix("MOVNTI", snip_movnti, "--------");
    if (!avx) {
        skip("AVX", "no AVX");
        return;
    }
    check_matrix("AVX", snip_avx, "--NN--NN");
    check_matrix("XSAVE", snip_xsave, "--NN--NN");
    check_matrix("XGETBV", snip_xgetbv, "--------");
    check_matrix("ANDN", snip_bmi, "--------");
}

static void osfxsr(void)
{
    write_cr4(read_cr4() & ~(ulong)CR4_OSFXSR);
    check_true("SSE without OSFXSR", faults(snip_sse, 0, 0, 0, area, UD));
    check_true("STMXCSR without OSFXSR", faults(snip_stmxcsr, 0, 0, 0, area, UD));
    check_true("MMX without OSFXSR", faults(snip_mmx_move, 0, 0, 0, area, NONE) || last.vector == NONE);
    run_with(snip_fxsave, 0, 0, 0, area);
    check("FXSAVE without OSFXSR", last.vector, NONE);
    write_cr4(read_cr4() | CR4_OSFXSR);
}

// ---- XCR0 ----

static bool xsetbv_faults(u64 v, u32 index)
{
    return faults(snip_xsetbv, (u32)v, index, v >> 32, 0, GP);
}

static void xcr0(void)
{
    u32 r[4];
    write_cr4(read_cr4() & ~(ulong)CR4_OSXSAVE);
    cpuid(1, 0, r);
    check("CPUID.OSXSAVE follows CR4, off", r[2] >> 27 & 1, 0);
    check_true("XGETBV without OSXSAVE", faults(snip_xgetbv, 0, 0, 0, 0, UD));
    check_true("XSETBV without OSXSAVE", faults(snip_xsetbv, 1, 0, 0, 0, UD));
    check_true("XSAVE without OSXSAVE", faults(snip_xsave, 7, 0, 0, area, UD));
    check_true("AVX without OSXSAVE", faults(snip_avx, 0, 0, 0, area, UD));
    run_with(snip_bmi, 0, 0, 0, 0);
    check("ANDN without OSXSAVE", last.vector, NONE);
    write_cr4(read_cr4() | CR4_OSXSAVE);
    cpuid(1, 0, r);
    check("CPUID.OSXSAVE follows CR4, on", r[2] >> 27 & 1, 1);

    check_true("XCR0, bit 0 cannot be cleared", xsetbv_faults(SSE, 0));
    check_true("XCR0, AVX needs SSE", xsetbv_faults(X87 | AVX, 0));
    check_true("XCR0, bits of nothing", xsetbv_faults(X87 | 1ull << 62, 0) && xsetbv_faults(X87 | 1ull << 63, 0));
    check_true("XCR1", xsetbv_faults(X87, 1));
    check_true("XGETBV of XCR2", faults(snip_xgetbv, 0, 2, 0, 0, GP));
    run_at(&(struct start){(ulong)snip_user_xsetbv, UCODE64 | 3, 2, (ulong)user_stack_top, UDATA | 3, 1, 0, 0});
    check_true("XSETBV in ring 3", last.vector == GP && last.error == 0);
    run_at(&(struct start){(ulong)snip_user_xgetbv, UCODE64 | 3, 2, (ulong)user_stack_top, UDATA | 3, 0, 0, 0});
    check("XGETBV in ring 3", last.vector, NONE);

    xsetbv(X87);
    check("XCR0 = x87", xgetbv(0), X87);
    check_true("AVX without XCR0.AVX", faults(snip_avx, 0, 0, 0, area, UD));
    run_with(snip_sse, 0, 0, 0, area);
    check("SSE without XCR0.SSE", last.vector, NONE);
    cpuid(0xd, 0, r);
    check("CPUID, size for x87", r[1], 576);
    xsetbv(X87 | SSE);
    cpuid(0xd, 0, r);
    check("CPUID, size for x87 and SSE", r[1], 576);
    check_true("AVX with SSE alone in XCR0", faults(snip_avx, 0, 0, 0, area, UD));
    xsetbv(X87 | SSE | AVX);
    cpuid(0xd, 0, r);
    check("CPUID, size for AVX", r[1], 832);
    run_with(snip_avx, 0, 0, 0, area);
    check("AVX with XCR0.AVX", last.vector, NONE);
    check("XGETBV of XCR0", xgetbv(0), X87 | SSE | AVX);
}

// ---- XSAVE and relatives ----

#define XMM(at, n) (*(u64 *)((at) + 160 + 16 * (n)))
#define YMMH(at, n) (*(u64 *)((at) + 576 + 16 * (n)))
#define XSTATE_BV(at) (*(u64 *)((at) + 512))
#define XCOMP_BV(at) (*(u64 *)((at) + 520))
#define MXCSR(at) (*(u32 *)((at) + 24))
#define FCW(at) (*(u16 *)(at))

#define SAVE(instruction, at, mask) asm volatile(instruction " (%0)" ::"r"(at), "a"(mask), "d"(0) : "memory")

// Known values in all three components.
static void load_state(u64 seed)
{
    static u64 values[4] __attribute__((aligned(32)));
    u16 fcw = 0x27f;
    u32 mxcsr = 0x1fa0;
    for (unsigned i = 0; i < 4; i++)
        values[i] = seed + i;
    asm volatile("fninit; fldcw %0; fld1; ldmxcsr %1; vmovaps (%2), %%ymm3; vmovaps (%2), %%ymm15" ::"m"(fcw),
                 "m"(mxcsr), "r"(values)
                 : "memory");
}

static void xsave(void)
{
    load_state(0x1000);
    memset(area, 0xcc, sizeof area);
    memset(area + 512, 0, 64);
    SAVE("xsave", area, 7);
    check("XSAVE, XSTATE_BV", XSTATE_BV(area) & 7, 7);
    check("XSAVE, XCOMP_BV is left alone", XCOMP_BV(area), 0);
    check("XSAVE, control word", FCW(area), 0x27f);
    check("XSAVE, tags", area[4], 0x80);
    check("XSAVE, ST0", *(u64 *)(area + 32), 0x8000000000000000);
    check("XSAVE, MXCSR", MXCSR(area), 0x1fa0);
    check("XSAVE, XMM3", XMM(area, 3), 0x1000);
    check("XSAVE, YMM15's upper half", YMMH(area, 15), 0x1002);
    check("XSAVE, the bytes for software", *(u64 *)(area + 464), 0xcccccccccccccccc);

    load_state(0x2000);
    memset(other, 0xcc, sizeof other);
    memset(other + 512, 0, 64);
    XSTATE_BV(other) = X87;
    SAVE("xsave", other, AVX);
    check("XSAVE of AVX alone, XSTATE_BV keeps other bits", XSTATE_BV(other) & 7, AVX | X87);
    check("XSAVE of AVX alone, upper half", YMMH(other, 3), 0x2002);
    check("XSAVE of AVX alone, XMM3 is not written", XMM(other, 3), 0xcccccccccccccccc);
    check("XSAVE of AVX alone, MXCSR is", MXCSR(other), 0x1fa0);
    check("XSAVE of AVX alone, the control word is not", FCW(other), 0xcccc);

    SAVE("xrstor", area, 7);
    memset(other, 0, sizeof other);
    SAVE("xsave", other, 7);
    check("XRSTOR, XMM3", XMM(other, 3), 0x1000);
    check("XRSTOR, upper half", YMMH(other, 3), 0x1002);
    load_state(0x3000);
    SAVE("xrstor", area, SSE);
    SAVE("xsave", other, 7);
    check("XRSTOR of SSE alone", XMM(other, 3) << 16 | YMMH(other, 3), 0x10003002);

    // A component whose XSTATE_BV bit is 0 gets its initial values, whatever is in the area.
    XSTATE_BV(area) = 0;
    MXCSR(area) = 0x1f80;
    SAVE("xrstor", area, 7);
    memset(other, 0xcc, sizeof other);
    memset(other + 512, 0, 64);
    asm volatile("fxsave64 (%0)" ::"r"(other) : "memory");
    check("XRSTOR of nothing, control word", FCW(other), 0x37f);
    check("XRSTOR of nothing, tags", other[4], 0);
    check("XRSTOR of nothing, XMM3", XMM(other, 3), 0);
    u64 upper;
    asm volatile("vextractf128 $1, %%ymm3, %%xmm0; vmovq %%xmm0, %0" : "=r"(upper));
    check("XRSTOR of nothing, upper half", upper, 0);
    check("XRSTOR of nothing, MXCSR comes from memory", MXCSR(other), 0x1f80);
    // (Unless neither SSE nor AVX is asked for.)
    load_state(0x4000);
    MXCSR(area) = 0xffffffff;
    run_with(snip_xrstor, X87, 0, 0, area);
    check("XRSTOR of x87 does not look at MXCSR", last.vector, NONE);

    // What XRSTOR refuses.
    check_true("XRSTOR, reserved bits of MXCSR", faults(snip_xrstor, 7, 0, 0, area, GP));
    MXCSR(area) = 0x1f80;
    check_true("XRSTOR, good again", !faults(snip_xrstor, 7, 0, 0, area, GP) && last.vector == NONE);
    XSTATE_BV(area) = 1ull << 62;
    check_true("XRSTOR, XSTATE_BV beyond XCR0", faults(snip_xrstor, 7, 0, 0, area, GP));
    XSTATE_BV(area) = 7;
    XCOMP_BV(area) = 1;
    check_true("XRSTOR, XCOMP_BV not 0 in standard form", faults(snip_xrstor, 7, 0, 0, area, GP));
    XCOMP_BV(area) = 0;
    area[512 + 16] = 1;
    check_true("XRSTOR, reserved bytes of the header", faults(snip_xrstor, 7, 0, 0, area, GP));
    area[512 + 16] = 0;
    check_true("XRSTOR, misaligned", faults(snip_xrstor, 7, 0, 0, area + 16, GP));
    check_true("XSAVE, misaligned", faults(snip_xsave_misaligned, 7, 0, 0, area, GP));
}

static void xsaveopt(void)
{
    if (!cpu_has(0xd, 1, 0, 0)) {
        skip("XSAVEOPT", "no XSAVEOPT");
        return;
    }
    // It may leave out what is unchanged since XRSTOR from the same place, and only that.
    load_state(0x5000);
    memset(area, 0, sizeof area);
    SAVE("xsave", area, 7);
    SAVE("xrstor", area, 7);
    load_state(0x6000);
    SAVE("xsaveopt", area, 7);
    check("XSAVEOPT of changed state", XMM(area, 3) << 16 | YMMH(area, 3), 0x60006002);
    check("XSAVEOPT, XSTATE_BV", XSTATE_BV(area) & 7, 7);
    memset(other, 0, sizeof other);
    SAVE("xsaveopt", other, 7);
    check("XSAVEOPT to another place", XMM(other, 3) << 16 | YMMH(other, 3), 0x60006002);
    load_state(0x7000);
    SAVE("xrstor", other, 7);
    memset(area, 0, sizeof area);
    SAVE("xsave", area, 7);
    check("XSAVEOPT and back", XMM(area, 3) << 16 | YMMH(area, 3), 0x60006002);
}

static void xsavec(void)
{
    if (!cpu_has(0xd, 1, 0, 1)) {
        skip("XSAVEC, XSTATE_BV", "no XSAVEC");
        return;
    }
    load_state(0x8000);
    memset(area, 0xcc, sizeof area);
    memset((u8 *)area + 528, 0, 48); // XSAVEC leaves this part of the header alone, XRSTOR wants zeros in it
    SAVE("xsavec", area, 7);
    check("XSAVEC, XSTATE_BV", XSTATE_BV(area) & 7, 7);
    check("XSAVEC, XCOMP_BV", XCOMP_BV(area), 1ull << 63 | 7);
    check("XSAVEC, XMM3", XMM(area, 3), 0x8000);
    check("XSAVEC, upper half", YMMH(area, 3), 0x8002);
    memset(other, 0xcc, sizeof other);
    SAVE("xsavec", other, AVX | X87);
    check("XSAVEC of x87 and AVX, XCOMP_BV", XCOMP_BV(other), 1ull << 63 | 5);
    check("XSAVEC of x87 and AVX, upper half comes first", YMMH(other, 3), 0x8002);
    load_state(0x9000);
    SAVE("xrstor", area, 7);
    memset(other, 0, sizeof other);
    SAVE("xsave", other, 7);
    check("XRSTOR of the compacted form", XMM(other, 3) << 16 | YMMH(other, 3), 0x80008002);
    XSTATE_BV(area) = 0;
    XCOMP_BV(area) = 1ull << 63 | 1ull << 61;
    check_true("XRSTOR, XCOMP_BV beyond XCR0", faults(snip_xrstor, 7, 0, 0, area, GP));
    XCOMP_BV(area) = 1ull << 63 | 1;
    XSTATE_BV(area) = 2;
    check_true("XRSTOR, XSTATE_BV beyond XCOMP_BV", faults(snip_xrstor, 7, 0, 0, area, GP));
    if (cpu_has(0xd, 1, 0, 2))
        check("XGETBV of XINUSE", xgetbv(1) & 7 & ~(u64)7, 0);
    else
        skip("XGETBV of XINUSE", "no XGETBV with ECX = 1");
}

static void fxsave(void)
{
    load_state(0xa000);
    memset(area, 0xcc, sizeof area);
    asm volatile("fxsave64 (%0)" ::"r"(area) : "memory");
    check("FXSAVE, control word", FCW(area), 0x27f);
    check("FXSAVE, MXCSR", MXCSR(area), 0x1fa0);
    check_true("FXSAVE, MXCSR mask has the lower 16 bits but perhaps bit 6",
               (*(u32 *)(area + 28) & 0xffbf) == 0xffbf && !(*(u32 *)(area + 28) & 0xfffc0000));
    check("FXSAVE, XMM15", XMM(area, 15), 0xa000);
    check("FXSAVE, the bytes for software", *(u64 *)(area + 464), 0xcccccccccccccccc);
    XMM(area, 15) = 0xb000;
    asm volatile("fxrstor64 (%0)" ::"r"(area) : "memory");
    u64 seen;
    asm volatile("vmovq %%xmm15, %0" : "=r"(seen));
    check("FXRSTOR, XMM15", seen, 0xb000);
    asm volatile("vextractf128 $1, %%ymm15, %%xmm0; vmovq %%xmm0, %0" : "=r"(seen));
    check("FXRSTOR leaves upper halves", seen, 0xa002);
    MXCSR(area) = 0x80000000;
    check_true("FXRSTOR, reserved bits of MXCSR", faults(snip_fxrstor, 0, 0, 0, area, GP));
    check_true("FXRSTOR, misaligned", faults(snip_fxrstor, 0, 0, 0, area + 8, GP));
    *(u32 *)area = 0x80000000;
    check_true("LDMXCSR, reserved bits", faults(snip_load_mxcsr, 0, 0, 0, area, GP));
}

// ---- exceptions ----

// The operands in all four lanes; the exception unmasked, or all masked for mask = 0x1f80.
static void check_simd(const char *name, const u8 *code, u32 a, u32 b, u32 flag)
{
    u32 lanes_a[4] = {a, a, a, a}, lanes_b[4] = {b, b, b, b}, mxcsr = 0x1f80 & ~(flag << 7), after, result;
    asm volatile("ldmxcsr %0; movups (%1), %%xmm0; movups (%2), %%xmm1" ::"m"(mxcsr), "r"(lanes_a), "r"(lanes_b)
                 : "memory");
    run_with(code, 0, 0, 0, area);
    asm volatile("stmxcsr %0; movd %%xmm0, %1" : "=m"(after), "=r"(result)::"memory");
    bool good = last.vector == XM && last.rip == (ulong)code && (after & 0x3f) == flag && result == a;
    if (verdict(name, good))
        say("%t flags %x\n", last.vector, NOERR, (ulong)(after & 0x3f));
    else
        say("got %t flags %x result %x, want %t flags %x result %x\n", last.vector, NOERR, (ulong)(after & 0x3f),
            (ulong)result, (ulong)XM, NOERR, (ulong)flag, (ulong)a);
}

static void simd_exceptions(void)
{
    check_simd("XM, invalid", snip_addps, 0x7f800000, 0xff800000, 1);
    check_simd("XM, denormal", snip_addps, 0x00000001, 0x3f800000, 2);
    check_simd("XM, zero divide", snip_divps, 0x3f800000, 0, 4);
    // Products that are inexact, too: precision is told of as well (Intel SDM vol. 1, 4.9.1.6).
    check_simd("XM, overflow", snip_mulps, 0x7f000001, 0x7f000001, 0x28);
    check_simd("XM, underflow", snip_mulps, 0x00800001, 0x00800001, 0x30);
    check_simd("XM, precision", snip_divps, 0x3f800000, 0x40400000, 0x20);
    u32 mxcsr = 0x1f80;
    asm volatile("ldmxcsr %0" ::"m"(mxcsr));
}

static void make_pending(void)
{
    u16 fcw = 0x37b; // zero divide unmasked
    asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp" ::"m"(fcw));
}

static void x87_exceptions(void)
{
    make_pending();
    run_with(snip_fnstsw, 0, 0, 0, area);
    check("MF pending, FNSTSW", (last.vector == NONE) << 16 | (last.rax & 0x80ff), 0x18084);
    make_pending();
    run_with(snip_fnstcw, 0, 0, 0, area);
    check("MF pending, FNSTCW", last.vector, NONE);
    make_pending();
    run_with(snip_fninit, 0, 0, 0, area);
    check("MF pending, FNINIT", last.vector, NONE);
    make_pending();
    run_with(snip_fnclex, 0, 0, 0, area);
    check("MF pending, FNCLEX", last.vector, NONE);
    run_with(snip_wait, 0, 0, 0, area);
    check("MF gone after FNCLEX", last.vector, NONE);
    make_pending();
    check_true("MF pending, WAIT", faults(snip_wait, 0, 0, 0, area, MF));
    check_true("MF pending, WAIT once more", faults(snip_wait, 0, 0, 0, area, MF));
    check_true("MF pending, FLD1", faults(snip_fld1, 0, 0, 0, area, MF));
    check_true("MF pending, FLDCW", faults(snip_fldcw, 0, 0, 0, area, MF));
    check_true("MF pending, EMMS", faults(snip_mmx, 0, 0, 0, area, MF));
    run_with(snip_sse, 0, 0, 0, area);
    check("MF pending, SSE", last.vector, NONE);
    run_with(snip_fxsave, 0, 0, 0, area);
    check("MF pending, FXSAVE", last.vector, NONE);
    // Unmasking by FLDCW of a flag that is set makes it pending as well.
    u16 open = 0x37b;
    asm volatile("fninit; fld1; fldz; fdivrp; fldcw %0" ::"m"(open));
    check_true("MF by FLDCW that unmasks", faults(snip_wait, 0, 0, 0, area, MF));
    asm volatile("fninit");
}

int main(void)
{
    bool avx = cpu_has(1, 0, 2, 26) && cpu_has(1, 0, 2, 28);
    write_cr0((read_cr0() | CR0_NE | CR0_MP) & ~(ulong)(CR0_EM | CR0_TS));
    if (avx) {
        write_cr4(read_cr4() | CR4_OSXSAVE);
        xsetbv(X87 | SSE | AVX);
    }
    matrix(avx);
    osfxsr();
    if (avx) {
        xcr0();
        xsave();
        xsaveopt();
        xsavec();
        fxsave();
    } else {
        skip("XSAVE, XSTATE_BV", "no AVX");
    }
    simd_exceptions();
    x87_exceptions();
    return 0;
}
