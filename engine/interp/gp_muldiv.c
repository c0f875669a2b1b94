// MUL, IMUL, DIV, IDIV.
//
// Products and quotients are the host's, with its flags. A division is looked at first: the host must not be made to
// raise the #DE that the guest is to have.
//
// The accumulator is needed twice here, by the instruction and by LAHF: the asm statements load flags, then rAX; and
// move rAX away before they fetch flags.
#include "engine/interp/gp.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

static const struct interp_operand rax[] = {{OPERAND_REG, 1, CPU_RAX, 0},
                                            {OPERAND_REG, 2, CPU_RAX, 0},
                                            {OPERAND_REG, 4, CPU_RAX, 0},
                                            {OPERAND_REG, 8, CPU_RAX, 0}};
static const struct interp_operand rdx[] = {{OPERAND_REG, 1, CPU_RAX, 1}, // of bytes: AH
                                            {OPERAND_REG, 2, CPU_RDX, 0},
                                            {OPERAND_REG, 4, CPU_RDX, 0},
                                            {OPERAND_REG, 8, CPU_RDX, 0}};

// --- one-operand forms: rDX:rAX by the operand

// `low` and `high` go in and come out. Bytes have their high half in AH: %h works on rAX itself.
#define WIDE(name, text, B, bits, sfx)                                                                                 \
    GP_INLINE uint32_t name##B(const struct interp_vcpu *v, uint##bits##_t *low, uint##bits##_t *high,                 \
                               uint##bits##_t s)                                                                       \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        uint64_t a = *low, d = *high;                                                                                  \
        if (B == 1) {                                                                                                  \
            a |= d << 8;                                                                                               \
            asm(FLAGS_LOAD "movq %0, %%rax\n\t" text sfx " %2\n\tmovq %%rax, %0" FLAGS_SAVE                            \
                : "+&r"(a), "+&a"(f)                                                                                   \
                : "r"(s)                                                                                               \
                : "cc");                                                                                               \
            *high = a >> 8;                                                                                            \
        } else {                                                                                                       \
            asm(FLAGS_LOAD "movq %0, %%rax\n\t" text sfx " %3\n\tmovq %%rax, %0" FLAGS_SAVE                            \
                : "+&r"(a), "+&a"(f), "+&d"(d)                                                                         \
                : "r"(s)                                                                                               \
                : "cc");                                                                                               \
            *high = d;                                                                                                 \
        }                                                                                                              \
        *low = a;                                                                                                      \
        return f;                                                                                                      \
    }
#define WIDES(name, text)                                                                                              \
    WIDE(name, text, 1, 8, "b") WIDE(name, text, 2, 16, "w") WIDE(name, text, 4, 32, "l") WIDE(name, text, 8, 64, "q")
WIDES(mul, "mul")
WIDES(imul, "imul")
WIDES(div, "div")
WIDES(idiv, "idiv")

// Would the quotient fit?
#define FITS(B, bits, wide_bits)                                                                                       \
    GP_INLINE bool div_fits##B(uint##bits##_t low, uint##bits##_t high, uint##bits##_t s)                              \
    {                                                                                                                  \
        (void)low;                                                                                                     \
        return high < s;                                                                                               \
    }                                                                                                                  \
    GP_INLINE bool idiv_fits##B(uint##bits##_t low, uint##bits##_t high, uint##bits##_t divisor)                       \
    {                                                                                                                  \
        int##bits##_t s = divisor;                                                                                     \
        if (s == 0)                                                                                                    \
            return false;                                                                                              \
        if ((int##bits##_t)high == (int##bits##_t)low >> (bits - 1))                                                   \
            return s != -1 || (int##bits##_t)low != INT##bits##_MIN;                                                   \
        signed wide_bits dividend = (signed wide_bits)((unsigned wide_bits)high << bits | low);                        \
        unsigned wide_bits magnitude = dividend < 0 ? -(unsigned wide_bits)dividend : (unsigned wide_bits)dividend;    \
        unsigned wide_bits by = s < 0 ? -(unsigned wide_bits)s : (unsigned wide_bits)s;                                \
        unsigned wide_bits limit = (unsigned wide_bits)INT##bits##_MAX + ((dividend < 0) != (s < 0));                  \
        return magnitude / by <= limit;                                                                                \
    }
FITS(1, 8, short)
FITS(2, 16, int)
FITS(4, 32, long)
FITS(8, 64, __int128)

#define ALWAYS(low, high, s) true
#define mul_fits1 ALWAYS
#define mul_fits2 ALWAYS
#define mul_fits4 ALWAYS
#define mul_fits8 ALWAYS
#define imul_fits1 ALWAYS
#define imul_fits2 ALWAYS
#define imul_fits4 ALWAYS
#define imul_fits8 ALWAYS

#define ACCUMULATE(name, B, bits)                                                                                      \
    HANDLER(name##B##_a)                                                                                               \
    {                                                                                                                  \
        enum { N = B == 1 ? 0 : B == 2 ? 1 : B == 4 ? 2 : 3 };                                                         \
        uint##bits##_t s, low, high;                                                                                   \
        if (i->op[0].kind == OPERAND_REG)                                                                              \
            s = reg_get##B(v, &i->op[0]);                                                                              \
        else if (!access_load##B(v, i->seg, insn_ea(v, i), &s))                                                        \
            return INTERP_FAULT;                                                                                       \
        low = reg_get##B(v, &rax[N]);                                                                                  \
        high = reg_get##B(v, &rdx[N]);                                                                                 \
        if (!name##_fits##B(low, high, s))                                                                             \
            return interp_fault(v, EXC_DE);                                                                            \
        uint32_t f = name##B(v, &low, &high, s);                                                                       \
        reg_set##B(v, &rax[N], low);                                                                                   \
        reg_set##B(v, &rdx[N], high);                                                                                  \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }
#define ACCUMULATES(name) ACCUMULATE(name, 1, 8) ACCUMULATE(name, 2, 16) ACCUMULATE(name, 4, 32) ACCUMULATE(name, 8, 64)
ACCUMULATES(mul)
ACCUMULATES(imul)
ACCUMULATES(div)
ACCUMULATES(idiv)

// --- IMUL with two and three operands

#define IMUL(B, bits, sfx)                                                                                             \
    GP_INLINE uint32_t times##B(const struct interp_vcpu *v, uint##bits##_t *d, uint##bits##_t s)                      \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD "imul" sfx " %2, %0" FLAGS_SAVE : "+&r"(*d), "+&a"(f) : "r"(s) : "cc");                         \
        return f;                                                                                                      \
    }                                                                                                                  \
    HANDLER(imul##B##_r)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t s, d;                                                                                           \
        if (i->op[1].kind == OPERAND_REG)                                                                              \
            s = reg_get##B(v, &i->op[1]);                                                                              \
        else if (!access_load##B(v, i->seg, insn_ea(v, i), &s))                                                        \
            return INTERP_FAULT;                                                                                       \
        d = i->ops == 3 ? (uint##bits##_t)i->imm : reg_get##B(v, &i->op[0]);                                           \
        uint32_t f = times##B(v, &d, s);                                                                               \
        reg_set##B(v, &i->op[0], d);                                                                                   \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }
GP_SIZES_248(IMUL)

interp_fn gp_muldiv(const struct interp_insn *i)
{
#define ROW(name)                                                                                                      \
    {                                                                                                                  \
        name##1_a, name##2_a, name##4_a, name##8_a                                                                     \
    }
    static const interp_fn wide[4][4] = {ROW(mul), ROW(imul), ROW(div), ROW(idiv)};
    static const interp_fn two[4] = {NULL, imul2_r, imul4_r, imul8_r};
    unsigned size = size_index(i->op[0].size);
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_MUL:
        return wide[0][size];
    case ZYDIS_MNEMONIC_IMUL:
        return i->ops == 1 ? wide[1][size] : two[size];
    case ZYDIS_MNEMONIC_DIV:
        return wide[2][size];
    case ZYDIS_MNEMONIC_IDIV:
        return wide[3][size];
    default:
        return NULL;
    }
}
