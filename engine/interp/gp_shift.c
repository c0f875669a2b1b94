// Shifts and rotates: SHL SHR SAR ROL ROR RCL RCR, and the double shifts SHLD SHRD.
//
// The host's instruction gets the guest's flags and the guest's count, so a count of zero leaves flags alone, and what
// the manuals leave undefined (OF of longer shifts, 16-bit double shifts by more than 16) is what the host does.
//
// Intel's processors leave OF alone where ROL and ROR rotate a register by an immediate of 2 and more, but not memory,
// nor by CL; so there the flags are taken from a rotation by an immediate that gives the same result.
#include "engine/interp/gp.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

// The last operand: an immediate or CL.
GP_INLINE uint8_t count_of(const struct interp_vcpu *v, const struct interp_insn *i, unsigned op)
{
    return i->op[op].kind == OPERAND_IMM ? (uint8_t)i->imm : (uint8_t)v->s.gpr[CPU_RCX];
}

#define SHIFT(name, text, B, bits, sfx)                                                                                \
    GP_INLINE uint32_t name##B(const struct interp_vcpu *v, uint##bits##_t *d, uint8_t n)                              \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD text sfx " %%cl, %0" FLAGS_SAVE : "+&r"(*d), "+&a"(f) : "c"(n) : "cc");                         \
        return f;                                                                                                      \
    }                                                                                                                  \
    HANDLER(name##B##_r)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t d = reg_get##B(v, &i->op[0]);                                                                   \
        uint32_t f = name##B(v, &d, count_of(v, i, 1));                                                                \
        reg_set##B(v, &i->op[0], d);                                                                                   \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name##B##_m)                                                                                               \
    {                                                                                                                  \
        GP_RMW(v, i, B, bits, {                                                                                        \
            new = old;                                                                                                 \
            f = name##B(v, &new, count_of(v, i, 1));                                                                   \
        });                                                                                                            \
    }
#define SHIFTS(name, text)                                                                                             \
    SHIFT(name, text, 1, 8, "b")                                                                                       \
    SHIFT(name, text, 2, 16, "w") SHIFT(name, text, 4, 32, "l") SHIFT(name, text, 8, 64, "q")
SHIFTS(rol, "rol")
SHIFTS(ror, "ror")
SHIFTS(rcl, "rcl")
SHIFTS(rcr, "rcr")
SHIFTS(shl, "shl")
SHIFTS(shr, "shr")
SHIFTS(sar, "sar")

// A register by an immediate: the result as by CL, of which `back` makes the operand of a rotation by 2 again.
#define ROTATE(name, text, back, B, bits, sfx)                                                                         \
    HANDLER(name##B##_i)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t d = reg_get##B(v, &i->op[0]);                                                                   \
        uint8_t n = (uint8_t)i->imm;                                                                                   \
        uint32_t f = name##B(v, &d, n);                                                                                \
        reg_set##B(v, &i->op[0], d);                                                                                   \
        if ((n & (B == 8 ? 63 : 31)) >= 2) {                                                                           \
            f = flags_get(v);                                                                                          \
            asm(back sfx " $2, %0" : "+r"(d) : : "cc");                                                                \
            asm(FLAGS_LOAD text sfx " $2, %0" FLAGS_SAVE : "+&r"(d), "+&a"(f) : : "cc");                               \
        }                                                                                                              \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }
#define ROTATES(name, text, back)                                                                                      \
    ROTATE(name, text, back, 1, 8, "b")                                                                                \
    ROTATE(name, text, back, 2, 16, "w")                                                                               \
    ROTATE(name, text, back, 4, 32, "l") ROTATE(name, text, back, 8, 64, "q")
ROTATES(rol, "rol", "ror")
ROTATES(ror, "ror", "rol")

#define DOUBLE(name, text, B, bits, sfx)                                                                               \
    GP_INLINE uint32_t name##B(const struct interp_vcpu *v, uint##bits##_t *d, uint##bits##_t s, uint8_t n)            \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD text sfx " %%cl, %3, %0" FLAGS_SAVE : "+&r"(*d), "+&a"(f) : "c"(n), "r"(s) : "cc");             \
        return f;                                                                                                      \
    }                                                                                                                  \
    HANDLER(name##B##_r)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t d = reg_get##B(v, &i->op[0]);                                                                   \
        uint32_t f = name##B(v, &d, reg_get##B(v, &i->op[1]), count_of(v, i, 2));                                      \
        reg_set##B(v, &i->op[0], d);                                                                                   \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name##B##_m)                                                                                               \
    {                                                                                                                  \
        GP_RMW(v, i, B, bits, {                                                                                        \
            new = old;                                                                                                 \
            f = name##B(v, &new, reg_get##B(v, &i->op[1]), count_of(v, i, 2));                                         \
        });                                                                                                            \
    }
#define DOUBLES(name, text) DOUBLE(name, text, 2, 16, "w") DOUBLE(name, text, 4, 32, "l") DOUBLE(name, text, 8, 64, "q")
DOUBLES(shld, "shld")
DOUBLES(shrd, "shrd")

interp_fn gp_shift(const struct interp_insn *i)
{
#define PAIR(name, B)                                                                                                  \
    {                                                                                                                  \
        name##B##_r, name##B##_m                                                                                       \
    }
#define ROW(name)                                                                                                      \
    {                                                                                                                  \
        PAIR(name, 1), PAIR(name, 2), PAIR(name, 4), PAIR(name, 8)                                                     \
    }
#define ROW_DOUBLE(name)                                                                                               \
    {                                                                                                                  \
        {NULL, NULL}, PAIR(name, 2), PAIR(name, 4), PAIR(name, 8)                                                      \
    }
    static const struct {
        uint16_t mnemonic;
        interp_fn fn[4][2];
    } table[] = {
        {ZYDIS_MNEMONIC_ROL, ROW(rol)},          {ZYDIS_MNEMONIC_ROR, ROW(ror)},
        {ZYDIS_MNEMONIC_RCL, ROW(rcl)},          {ZYDIS_MNEMONIC_RCR, ROW(rcr)},
        {ZYDIS_MNEMONIC_SHL, ROW(shl)},          {ZYDIS_MNEMONIC_SHR, ROW(shr)},
        {ZYDIS_MNEMONIC_SAR, ROW(sar)},          {ZYDIS_MNEMONIC_SHLD, ROW_DOUBLE(shld)},
        {ZYDIS_MNEMONIC_SHRD, ROW_DOUBLE(shrd)},
    };
    static const interp_fn by_immediate[2][4] = {{rol1_i, rol2_i, rol4_i, rol8_i}, {ror1_i, ror2_i, ror4_i, ror8_i}};
    bool left = i->mnemonic == ZYDIS_MNEMONIC_ROL, rotates = left || i->mnemonic == ZYDIS_MNEMONIC_ROR;
    if (rotates && i->op[0].kind == OPERAND_REG && i->op[1].kind == OPERAND_IMM)
        return by_immediate[!left][size_index(i->op[0].size)];
    for (unsigned n = 0; n < sizeof table / sizeof table[0]; n++)
        if (table[n].mnemonic == i->mnemonic)
            return table[n].fn[size_index(i->op[0].size)][i->op[0].kind == OPERAND_MEM];
    return NULL;
}
