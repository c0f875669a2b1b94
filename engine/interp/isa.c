// Which instructions a CPU model has: Zydis's instruction sets against CPUID bits.
//
// What is in neither table does not exist for any guest (SGX, AVX-512, MPX, VMX...): #UD. An instruction set that comes
// in several parts lists all the bits it needs.
//
// Example: VAES's 256-bit forms need VAES, AES and AVX: three rows, all of which must hold.
#include "engine/interp/isa.h"
#include "cpu/model.h"
#include <Zydis/Zydis.h>
#include <string.h>

enum { EAX, EBX, ECX, EDX };

// Every x86-64 processor has these (AMD APM vol. 3, appendix D).
static const uint8_t baseline[] = {
    ZYDIS_ISA_SET_I86,          ZYDIS_ISA_SET_I186,        ZYDIS_ISA_SET_I286REAL, ZYDIS_ISA_SET_I286PROTECTED,
    ZYDIS_ISA_SET_I386,         ZYDIS_ISA_SET_I486,        ZYDIS_ISA_SET_I486REAL, ZYDIS_ISA_SET_PENTIUMREAL,
    ZYDIS_ISA_SET_PENTIUMMMX,   ZYDIS_ISA_SET_PPRO,        ZYDIS_ISA_SET_CMOV,     ZYDIS_ISA_SET_FCMOV,
    ZYDIS_ISA_SET_FAT_NOP,      ZYDIS_ISA_SET_PAUSE,       ZYDIS_ISA_SET_LONGMODE, ZYDIS_ISA_SET_X87,
    ZYDIS_ISA_SET_SSE,          ZYDIS_ISA_SET_SSE2,        ZYDIS_ISA_SET_SSE2MMX,  ZYDIS_ISA_SET_SSEMXCSR,
    ZYDIS_ISA_SET_FXSAVE,       ZYDIS_ISA_SET_FXSAVE64,    ZYDIS_ISA_SET_RDPMC,    ZYDIS_ISA_SET_PREFETCH_NOP,
    ZYDIS_ISA_SET_SSE_PREFETCH, ZYDIS_ISA_SET_PREFETCHWT1,
};

static const struct {
    uint8_t isa_set;
    uint32_t leaf, subleaf;
    uint8_t reg, bit;
} optional[] = {
    {ZYDIS_ISA_SET_SSE3, 1, 0, ECX, 0},
    {ZYDIS_ISA_SET_SSE3X87, 1, 0, ECX, 0},
    {ZYDIS_ISA_SET_PCLMULQDQ, 1, 0, ECX, 1},
    {ZYDIS_ISA_SET_MONITOR, 1, 0, ECX, 3},
    {ZYDIS_ISA_SET_SSSE3, 1, 0, ECX, 9},
    {ZYDIS_ISA_SET_SSSE3MMX, 1, 0, ECX, 9},
    {ZYDIS_ISA_SET_FMA, 1, 0, ECX, 12},
    {ZYDIS_ISA_SET_CMPXCHG16B, 1, 0, ECX, 13},
    {ZYDIS_ISA_SET_SSE4, 1, 0, ECX, 19},
    {ZYDIS_ISA_SET_SSE42, 1, 0, ECX, 20},
    {ZYDIS_ISA_SET_MOVBE, 1, 0, ECX, 22},
    {ZYDIS_ISA_SET_POPCNT, 1, 0, ECX, 23},
    {ZYDIS_ISA_SET_AES, 1, 0, ECX, 25},
    {ZYDIS_ISA_SET_XSAVE, 1, 0, ECX, 26},
    {ZYDIS_ISA_SET_AVX, 1, 0, ECX, 28},
    {ZYDIS_ISA_SET_AVXAES, 1, 0, ECX, 25},
    {ZYDIS_ISA_SET_AVXAES, 1, 0, ECX, 28},
    {ZYDIS_ISA_SET_F16C, 1, 0, ECX, 29},
    {ZYDIS_ISA_SET_RDRAND, 1, 0, ECX, 30},
    {ZYDIS_ISA_SET_CLFSH, 1, 0, EDX, 19},
    {ZYDIS_ISA_SET_RDWRFSGS, 7, 0, EBX, 0},
    {ZYDIS_ISA_SET_BMI1, 7, 0, EBX, 3},
    {ZYDIS_ISA_SET_AVX2, 7, 0, EBX, 5},
    {ZYDIS_ISA_SET_AVX2GATHER, 7, 0, EBX, 5},
    {ZYDIS_ISA_SET_BMI2, 7, 0, EBX, 8},
    {ZYDIS_ISA_SET_INVPCID, 7, 0, EBX, 10},
    {ZYDIS_ISA_SET_RDSEED, 7, 0, EBX, 18},
    {ZYDIS_ISA_SET_ADOX_ADCX, 7, 0, EBX, 19},
    {ZYDIS_ISA_SET_SMAP, 7, 0, EBX, 20},
    {ZYDIS_ISA_SET_CLFLUSHOPT, 7, 0, EBX, 23},
    {ZYDIS_ISA_SET_CLWB, 7, 0, EBX, 24},
    {ZYDIS_ISA_SET_SHA, 7, 0, EBX, 29},
    {ZYDIS_ISA_SET_PKU, 7, 0, ECX, 3},
    {ZYDIS_ISA_SET_GFNI, 7, 0, ECX, 8},
    {ZYDIS_ISA_SET_AVX_GFNI, 7, 0, ECX, 8},
    {ZYDIS_ISA_SET_AVX_GFNI, 1, 0, ECX, 28},
    {ZYDIS_ISA_SET_VAES, 7, 0, ECX, 9},
    {ZYDIS_ISA_SET_VAES, 1, 0, ECX, 28},
    {ZYDIS_ISA_SET_VPCLMULQDQ, 7, 0, ECX, 10},
    {ZYDIS_ISA_SET_VPCLMULQDQ, 1, 0, ECX, 28},
    {ZYDIS_ISA_SET_RDPID, 7, 0, ECX, 22},
    {ZYDIS_ISA_SET_MOVDIR, 7, 0, ECX, 27},
    {ZYDIS_ISA_SET_MOVDIR, 7, 0, ECX, 28},
    {ZYDIS_ISA_SET_SERIALIZE, 7, 0, EDX, 14},
    {ZYDIS_ISA_SET_AVX_VNNI, 7, 1, EAX, 4},
    {ZYDIS_ISA_SET_XSAVEOPT, 0xd, 1, EAX, 0},
    {ZYDIS_ISA_SET_XSAVEC, 0xd, 1, EAX, 1},
    {ZYDIS_ISA_SET_XSAVES, 0xd, 1, EAX, 3},
    {ZYDIS_ISA_SET_AMD, 0x80000001, 0, EDX, 11}, // SYSCALL, SYSRET outside of 64-bit mode
    {ZYDIS_ISA_SET_LAHF, 0x80000001, 0, ECX, 0},
    {ZYDIS_ISA_SET_LZCNT, 0x80000001, 0, ECX, 5},
    {ZYDIS_ISA_SET_SSE4A, 0x80000001, 0, ECX, 6},
    {ZYDIS_ISA_SET_RDTSCP, 0x80000001, 0, EDX, 27},
    {ZYDIS_ISA_SET_CLZERO, 0x80000008, 0, EBX, 0},
};

bool isa_allows(const struct cpu_model *m, unsigned isa_set)
{
    for (unsigned n = 0; n < sizeof baseline; n++)
        if (baseline[n] == isa_set)
            return true;
    bool found = false;
    for (unsigned n = 0; n < sizeof optional / sizeof optional[0]; n++) {
        if (optional[n].isa_set != isa_set)
            continue;
        found = true;
        if (!cpu_model_has(m, optional[n].leaf, optional[n].subleaf, optional[n].reg, optional[n].bit))
            return false;
    }
    return found;
}
