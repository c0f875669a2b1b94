// Which instruction forms the differential test leaves out, and why.
#include "case.h"
#include "cpu/model.h"
#include "forms.h"

enum { EAX, EBX, ECX, EDX };

// CPUID bits of instruction sets; what is not here and not in base_set() is nothing that our models can have.
static const struct feature {
    ZydisISASet set;
    uint32_t leaf, subleaf;
    uint8_t reg, bit;
} features[] = {
    {ZYDIS_ISA_SET_PENTIUMMMX, 1, 0, EDX, 23},    {ZYDIS_ISA_SET_FXSAVE, 1, 0, EDX, 24},
    {ZYDIS_ISA_SET_FXSAVE64, 1, 0, EDX, 24},      {ZYDIS_ISA_SET_SSE, 1, 0, EDX, 25},
    {ZYDIS_ISA_SET_SSEMXCSR, 1, 0, EDX, 25},      {ZYDIS_ISA_SET_SSE_PREFETCH, 1, 0, EDX, 25},
    {ZYDIS_ISA_SET_SSE2, 1, 0, EDX, 26},          {ZYDIS_ISA_SET_SSE2MMX, 1, 0, EDX, 26},
    {ZYDIS_ISA_SET_PAUSE, 1, 0, EDX, 26},         {ZYDIS_ISA_SET_CLFSH, 1, 0, EDX, 19},
    {ZYDIS_ISA_SET_SSE3, 1, 0, ECX, 0},           {ZYDIS_ISA_SET_SSE3X87, 1, 0, ECX, 0},
    {ZYDIS_ISA_SET_PCLMULQDQ, 1, 0, ECX, 1},      {ZYDIS_ISA_SET_SSSE3, 1, 0, ECX, 9},
    {ZYDIS_ISA_SET_SSSE3MMX, 1, 0, ECX, 9},       {ZYDIS_ISA_SET_FMA, 1, 0, ECX, 12},
    {ZYDIS_ISA_SET_CMPXCHG16B, 1, 0, ECX, 13},    {ZYDIS_ISA_SET_SSE4, 1, 0, ECX, 19},
    {ZYDIS_ISA_SET_SSE42, 1, 0, ECX, 20},         {ZYDIS_ISA_SET_MOVBE, 1, 0, ECX, 22},
    {ZYDIS_ISA_SET_POPCNT, 1, 0, ECX, 23},        {ZYDIS_ISA_SET_AES, 1, 0, ECX, 25},
    {ZYDIS_ISA_SET_XSAVE, 1, 0, ECX, 26},         {ZYDIS_ISA_SET_AVX, 1, 0, ECX, 28},
    {ZYDIS_ISA_SET_AVXAES, 1, 0, ECX, 28},        {ZYDIS_ISA_SET_F16C, 1, 0, ECX, 29},
    {ZYDIS_ISA_SET_RDWRFSGS, 7, 0, EBX, 0},       {ZYDIS_ISA_SET_BMI1, 7, 0, EBX, 3},
    {ZYDIS_ISA_SET_AVX2, 7, 0, EBX, 5},           {ZYDIS_ISA_SET_AVX2GATHER, 7, 0, EBX, 5},
    {ZYDIS_ISA_SET_BMI2, 7, 0, EBX, 8},           {ZYDIS_ISA_SET_INVPCID, 7, 0, EBX, 10},
    {ZYDIS_ISA_SET_ADOX_ADCX, 7, 0, EBX, 19},     {ZYDIS_ISA_SET_SMAP, 7, 0, EBX, 20},
    {ZYDIS_ISA_SET_CLFLUSHOPT, 7, 0, EBX, 23},    {ZYDIS_ISA_SET_CLWB, 7, 0, EBX, 24},
    {ZYDIS_ISA_SET_SHA, 7, 0, EBX, 29},           {ZYDIS_ISA_SET_GFNI, 7, 0, ECX, 8},
    {ZYDIS_ISA_SET_AVX_GFNI, 7, 0, ECX, 8},       {ZYDIS_ISA_SET_VAES, 7, 0, ECX, 9},
    {ZYDIS_ISA_SET_VPCLMULQDQ, 7, 0, ECX, 10},    {ZYDIS_ISA_SET_AVX_VNNI, 7, 1, EAX, 4},
    {ZYDIS_ISA_SET_XSAVEOPT, 0xd, 1, EAX, 0},     {ZYDIS_ISA_SET_XSAVEC, 0xd, 1, EAX, 1},
    {ZYDIS_ISA_SET_XSAVES, 0xd, 1, EAX, 3},       {ZYDIS_ISA_SET_LAHF, 0x80000001, 0, ECX, 0},
    {ZYDIS_ISA_SET_LZCNT, 0x80000001, 0, ECX, 5}, {ZYDIS_ISA_SET_SSE4A, 0x80000001, 0, ECX, 6},
};

static bool base_set(ZydisISASet set)
{
    switch (set) {
    case ZYDIS_ISA_SET_I86:
    case ZYDIS_ISA_SET_I186:
    case ZYDIS_ISA_SET_I286PROTECTED:
    case ZYDIS_ISA_SET_I286REAL:
    case ZYDIS_ISA_SET_I386:
    case ZYDIS_ISA_SET_I486:
    case ZYDIS_ISA_SET_I486REAL:
    case ZYDIS_ISA_SET_PENTIUMREAL:
    case ZYDIS_ISA_SET_PPRO:
    case ZYDIS_ISA_SET_CMOV:
    case ZYDIS_ISA_SET_FCMOV:
    case ZYDIS_ISA_SET_FAT_NOP:
    case ZYDIS_ISA_SET_PREFETCH_NOP:
    case ZYDIS_ISA_SET_LONGMODE:
    case ZYDIS_ISA_SET_RDPMC:
    case ZYDIS_ISA_SET_X87:
        return true;
    default:
        return false;
    }
}

static bool available(const struct form *f, const struct cpu_model *model)
{
    if (base_set(f->isa_set))
        return true;
    for (unsigned n = 0; n < sizeof features / sizeof *features; n++)
        if (features[n].set == f->isa_set)
            return cpu_model_has(model, features[n].leaf, features[n].subleaf, features[n].reg, features[n].bit);
    return false;
}

static const char *by_mnemonic(const struct form *f)
{
    switch (f->mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
        return "enters the host's kernel";
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INTO:
        return "looks like the trap that ends a case";
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_XGETBV:
        return "tells about the host";
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
        return "emulated by the host's kernel (UMIP)";
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
        return "FS belongs to the C library";
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
        return case_host_has_fsgsbase() ? NULL : "the host's kernel does not keep what it writes";
    case ZYDIS_MNEMONIC_SYSEXIT:
        return "in long mode #UD or #GP, as the host's hypervisor likes";
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return "loads a segment register: a matter for guests";
    case ZYDIS_MNEMONIC_MOV:
        // MOV Sreg, r/m
        return !f->vex && f->map == 0 && f->opcode == 0x8e ? "loads a segment register: a matter for guests" : NULL;
    case ZYDIS_MNEMONIC_POP:
        return !f->opcode_reg && !f->modrm ? "loads a segment register: a matter for guests" : NULL;
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_RET:
        if (f->opcode == 0x9a || f->opcode == 0xea || f->opcode == 0xca || f->opcode == 0xcb ||
            (f->opcode == 0xff && (f->reg == 3 || f->reg == 5)))
            return "far transfer: a matter for guests";
        break;
    default:
        break;
    }
    return NULL;
}

const char *form_excluded(const struct form *f, const struct cpu_model *model)
{
    if (!f->long64 && !case_host_runs_32bit())
        return "the host's kernel runs no 32-bit programs";
    if (!available(f, model))
        return "the CPU model does not have it";
    return by_mnemonic(f);
}
