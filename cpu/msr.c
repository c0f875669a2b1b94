// The model-specific registers of the CPU, as a table: which field of the state each one is, what may be written to it,
// and on which CPUs it exists.
//
// A register that the model does not have (wrong vendor, CPUID bit clear) is CPU_MSR_UNKNOWN, like one that nobody ever
// heard of. Chicken bits that kernels of the vendor touch without a guard (AMD's SYSCFG, HWCR, NB_CFG, DE_CFG and the
// other *_CFG) read as a fixed value and drop what is written: there is nothing behind them.
//
// Example: Linux on AMD reads HWCR in bsp_init_amd() without a guard and complains unless bit 24 says that the TSC
// counts at the P0 frequency.
//
// Sources: Intel SDM vol. 4, chapter 2, and vol. 3, 11.11 (MTRR), 11.12 (PAT), 15.3 (machine check); AMD APM vol. 2,
// appendix A.
#include "cpu/msr.h"

enum rule {
    PLAIN,     // bits of `mask` may be written, others are reserved (#GP)
    TRUNCATED, // as PLAIN on Intel; on AMD other bits are dropped
    CANONICAL, // an address
    CONSTANT,  // reads `mask`; #GP on write
    IGNORED,   // reads `mask`; writes are dropped
    COMMAND,   // bits of `mask` may be written and mean an action that is none here; #GP on read
    RULE_EFER,
    RULE_PAT,
    RULE_MTRR_TYPE,
    RULE_MTRR_FIXED,
    RULE_MTRR_BASE,
    RULE_MTRR_MASK,
    RULE_ALL_OR_NONE,
    RULE_MISC_ENABLE,
};

enum vendor_rule { ANY, AMD, INTEL };

struct row {
    uint32_t first, count; // count: registers first, first + stride, ...
    uint32_t stride;
    uint16_t field; // offset in struct cpu_state of the first one; they follow each other
    uint8_t rule, vendor;
    uint64_t mask;
    uint32_t leaf; // the CPUID bit that announces it; leaf 0: none
    uint8_t reg, bit;
};

#define FIELD(f) offsetof(struct cpu_state, f)
#define NEEDS(l, r, b) .leaf = l, .reg = r, .bit = b
#define LOW32 0xffffffffull

enum { EBX = 1, ECX = 2, EDX = 3, EAX = 0 };
enum { MCG_CAP_CTL_P = 1 << 8 }; // and no bank
enum { MTRRCAP_FIXED = 1 << 8, MTRRCAP_WC = 1 << 10 };
enum { HWCR_TSC_FREQ_SEL = 1 << 24 };
enum { DE_CFG_LFENCE_SERIALIZE = 1 << 1 };
enum { VM_CR_LOCK = 1 << 3, VM_CR_SVMDIS = 1 << 4 };
enum { MISC_FAST_STRINGS = 1 << 0, MISC_EIST = 1 << 16, MISC_NO_BTS = 1 << 11, MISC_NO_PEBS = 1 << 12 };

// What an Intel kernel reads of its invulnerability: RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, MDS_NO, PSCHANGE_MC_NO,
// TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO. Not SSB_NO (model_features.c says
// why).
#define ARCH_CAPABILITIES                                                                                              \
    (1ull << 0 | 1ull << 1 | 1ull << 3 | 1ull << 5 | 1ull << 6 | 1ull << 8 | 1ull << 13 | 1ull << 14 | 1ull << 15 |    \
     1ull << 20 | 1ull << 24 | 1ull << 26 | 1ull << 27 | 1ull << 62)

// clang-format off
static const struct row rows[] = {
    {MSR_EFER,           1, 1, FIELD(efer), RULE_EFER},
    {MSR_STAR,           1, 1, FIELD(msr.star), PLAIN, ANY, ~0ull},
    {MSR_LSTAR,          1, 1, FIELD(msr.lstar), CANONICAL},
    {MSR_CSTAR,          1, 1, FIELD(msr.cstar), CANONICAL},
    {MSR_SFMASK,         1, 1, FIELD(msr.sfmask), TRUNCATED, ANY, LOW32},
    {MSR_FS_BASE,        1, 1, FIELD(seg[CPU_FS].base), CANONICAL},
    {MSR_GS_BASE,        1, 1, FIELD(seg[CPU_GS].base), CANONICAL},
    {MSR_KERNEL_GS_BASE, 1, 1, FIELD(msr.kernel_gs_base), CANONICAL},
    {MSR_TSC_AUX,        1, 1, FIELD(msr.tsc_aux), TRUNCATED, ANY, LOW32, NEEDS(0x80000001, EDX, 27)},
    {MSR_TSC_ADJUST,     1, 1, FIELD(msr.tsc_adjust), PLAIN, ANY, ~0ull, NEEDS(7, EBX, 1)},
    {MSR_SYSENTER_CS,    1, 1, FIELD(msr.sysenter_cs), TRUNCATED, ANY, LOW32, NEEDS(1, EDX, 11)},
    {MSR_SYSENTER_ESP,   1, 1, FIELD(msr.sysenter_esp), CANONICAL, ANY, 0, NEEDS(1, EDX, 11)},
    {MSR_SYSENTER_EIP,   1, 1, FIELD(msr.sysenter_eip), CANONICAL, ANY, 0, NEEDS(1, EDX, 11)},
    {MSR_PAT,            1, 1, FIELD(msr.pat), RULE_PAT, ANY, 0, NEEDS(1, EDX, 16)},

    {MSR_MTRRCAP,        1, 1, 0, CONSTANT, ANY, CPU_MTRR_VARIABLE | MTRRCAP_FIXED | MTRRCAP_WC, NEEDS(1, EDX, 12)},
    {MSR_MTRR_DEF_TYPE,  1, 1, FIELD(msr.mtrr_def_type), RULE_MTRR_TYPE, ANY, 0, NEEDS(1, EDX, 12)},
    {0x250,              1, 1, FIELD(msr.mtrr_fixed[0]), RULE_MTRR_FIXED, ANY, 0, NEEDS(1, EDX, 12)},
    {0x258,              2, 1, FIELD(msr.mtrr_fixed[1]), RULE_MTRR_FIXED, ANY, 0, NEEDS(1, EDX, 12)},
    {0x268,              8, 1, FIELD(msr.mtrr_fixed[3]), RULE_MTRR_FIXED, ANY, 0, NEEDS(1, EDX, 12)},
    {MSR_MTRR_BASE0,     CPU_MTRR_VARIABLE, 2, FIELD(msr.mtrr_base[0]), RULE_MTRR_BASE, ANY, 0, NEEDS(1, EDX, 12)},
    {MSR_MTRR_BASE0 + 1, CPU_MTRR_VARIABLE, 2, FIELD(msr.mtrr_mask[0]), RULE_MTRR_MASK, ANY, 0, NEEDS(1, EDX, 12)},

    {MSR_MCG_CAP,        1, 1, 0, CONSTANT, ANY, MCG_CAP_CTL_P, NEEDS(1, EDX, 14)},
    {MSR_MCG_STATUS,     1, 1, FIELD(msr.mcg_status), PLAIN, ANY, 7, NEEDS(1, EDX, 14)},
    {MSR_MCG_CAP + 2,    1, 1, FIELD(msr.mcg_ctl), RULE_ALL_OR_NONE, ANY, 0, NEEDS(1, EDX, 14)},
    {MSR_DEBUGCTL,       1, 1, FIELD(msr.debugctl), PLAIN, ANY, DEBUGCTL_BTF},
    {MSR_XSS,            1, 1, FIELD(msr.xss), PLAIN, ANY, 0, NEEDS(0xd, EAX, 3)},

    {MSR_SPEC_CTRL,      1, 1, FIELD(msr.spec_ctrl), PLAIN, ANY, 3, NEEDS(7, EDX, 26)},
    {MSR_PRED_CMD,       1, 1, 0, COMMAND, ANY, 1, NEEDS(7, EDX, 26)},
    {MSR_ARCH_CAPABILITIES, 1, 1, 0, CONSTANT, ANY, ARCH_CAPABILITIES, NEEDS(7, EDX, 29)},

    {MSR_FEATURE_CONTROL, 1, 1, 0, CONSTANT, INTEL, 1}, // locked, nothing enabled
    {MSR_MISC_ENABLE,    1, 1, FIELD(msr.misc_enable), RULE_MISC_ENABLE, INTEL},
    {0x17,               1, 1, 0, CONSTANT, INTEL, 0},             // PLATFORM_ID
    {0x2a,               1, 1, 0, IGNORED, INTEL, 0},              // EBL_CR_POWERON
    {MSR_UCODE_REV,      1, 1, 0, IGNORED, INTEL, 0x100ull << 32}, // newer than any bad one
    {MSR_UCODE_REV,      1, 1, 0, IGNORED, AMD, 0x0a0011ff},

    {0xc0010010,         1, 1, 0, IGNORED, AMD, 0},                       // SYSCFG
    {0xc0010015,         1, 1, 0, IGNORED, AMD, HWCR_TSC_FREQ_SEL},       // HWCR
    {0xc001001a,         1, 1, 0, IGNORED, AMD, 0},                       // TOP_MEM
    {0xc001001d,         1, 1, 0, IGNORED, AMD, 0},                       // TOP_MEM2
    {0xc001001f,         1, 1, 0, IGNORED, AMD, 0},                       // NB_CFG
    {0xc0010020,         1, 1, 0, IGNORED, AMD, 0},                       // PATCH_LOADER
    {0xc0010055,         1, 1, 0, IGNORED, AMD, 0},                       // INT_PENDING
    {0xc0010058,         1, 1, 0, IGNORED, AMD, 0},                       // MMIO_CFG_BASE_ADDR
    {0xc0010114,         1, 1, 0, IGNORED, AMD, VM_CR_LOCK | VM_CR_SVMDIS},
    {0xc0011029,         1, 1, 0, IGNORED, AMD, DE_CFG_LFENCE_SERIALIZE}, // before the range
    {0xc0011020,         16, 1, 0, IGNORED, AMD, 0},                      // LS_CFG, IC_CFG, DC_CFG, ...
};
// clang-format on

static bool exists(const struct row *r, const struct cpu_model *m)
{
    if ((r->vendor == AMD && m->vendor != CPU_VENDOR_AMD) || (r->vendor == INTEL && m->vendor != CPU_VENDOR_INTEL))
        return false;
    return !r->leaf || cpu_model_has(m, r->leaf, r->leaf == 0xd, r->reg, r->bit);
}

static const struct row *find(const struct cpu_model *m, uint32_t msr, unsigned *index)
{
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *r = &rows[i];
        if (msr < r->first || (msr - r->first) % r->stride || (msr - r->first) / r->stride >= r->count)
            continue;
        if (!exists(r, m))
            continue;
        *index = (msr - r->first) / r->stride;
        return r;
    }
    return NULL;
}

enum cpu_msr_result cpu_msr_read(const struct cpu_state *s, const struct cpu_model *m, uint32_t msr, uint64_t *val)
{
    unsigned index;
    const struct row *r = find(m, msr, &index);
    if (!r)
        return CPU_MSR_UNKNOWN;
    switch (r->rule) {
    case COMMAND:
        return CPU_MSR_GP;
    case CONSTANT:
    case IGNORED:
        *val = r->mask;
        return CPU_MSR_OK;
    default:
        *val = ((const uint64_t *)((const char *)s + r->field))[index];
        if (r->rule == RULE_MISC_ENABLE)
            *val |= MISC_NO_BTS | MISC_NO_PEBS;
        return CPU_MSR_OK;
    }
}

static bool memory_type_valid(uint8_t type) // UC, WC, WT, WP, WB
{
    return type < 7 && type != 2 && type != 3;
}

static bool types_valid(uint64_t val, bool pat) // PAT has UC- (7) too
{
    for (unsigned i = 0; i < 8; i++) {
        uint8_t type = val >> 8 * i & 0xff;
        if (!memory_type_valid(type) && !(pat && type == 7))
            return false;
    }
    return true;
}

// What becomes of a field whose old value is `old`. Returns false for #GP.
static bool accept(const struct row *r, const struct cpu_state *s, const struct cpu_model *m, uint64_t old,
                   uint64_t *val)
{
    uint64_t above = m->phys_bits < 64 ? ~0ull << m->phys_bits : 0, v = *val;
    switch (r->rule) {
    case TRUNCATED:
        if (m->vendor == CPU_VENDOR_AMD)
            *val &= r->mask;
        return !(*val & ~r->mask);
    case PLAIN:
    case COMMAND:
        return !(v & ~r->mask);
    case CANONICAL:
        return cpu_is_canonical(s, v);
    case RULE_EFER:
        if (v & ~m->efer_mask || ((v ^ old) & EFER_LME && s->cr0 & CR0_PG))
            return false;
        *val = (v & ~EFER_LMA) | (old & EFER_LMA); // LMA follows paging, writes to it are dropped
        return true;
    case RULE_PAT:
        return types_valid(v, true);
    case RULE_MTRR_TYPE:
        return !(v & ~0xcffull) && memory_type_valid(v & 0xff);
    case RULE_MTRR_FIXED:
        return types_valid(v, false);
    case RULE_MTRR_BASE:
        return !(v & (0xf00 | above)) && memory_type_valid(v & 0xff);
    case RULE_MTRR_MASK:
        return !(v & (0x7ff | above));
    case RULE_ALL_OR_NONE:
        return v == 0 || v == ~0ull;
    case RULE_MISC_ENABLE:
        if ((v ^ old) & ~(uint64_t)(MISC_FAST_STRINGS | MISC_EIST | MISC_NO_BTS | MISC_NO_PEBS))
            return false;
        *val = v & ~(uint64_t)(MISC_NO_BTS | MISC_NO_PEBS);
        return true;
    default: // CONSTANT
        return false;
    }
}

enum cpu_msr_result cpu_msr_write(struct cpu_state *s, const struct cpu_model *m, uint32_t msr, uint64_t val)
{
    unsigned index;
    const struct row *r = find(m, msr, &index);
    if (!r)
        return CPU_MSR_UNKNOWN;
    if (r->rule == IGNORED)
        return CPU_MSR_OK;
    uint64_t *field = (uint64_t *)((char *)s + r->field) + index;
    bool stored = r->rule != COMMAND && r->rule != CONSTANT;
    if (!accept(r, s, m, stored ? *field : 0, &val))
        return CPU_MSR_GP;
    if (stored)
        *field = val;
    return CPU_MSR_OK;
}
