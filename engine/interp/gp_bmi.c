// BMI1, BMI2 and ADX: ANDN BEXTR BLSI BLSMSK BLSR BZHI MULX PDEP PEXT RORX SARX SHLX SHRX ADCX ADOX.
//
// A guest whose model has them runs on a host that has them, too: the host's own instructions do the work.
#include "engine/interp/gp.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

// Which operands an instruction reads, by number; d is written.
#define OPERATION(name, B, bits, d, text, inputs...)                                                                   \
    GP_INLINE uint32_t name##B(const struct interp_vcpu *v, uint##bits##_t *d, uint##bits##_t s1, uint##bits##_t s2)   \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD text FLAGS_SAVE : "+&r"(*d), "+&a"(f) : inputs : "cc");                                         \
        (void)s1, (void)s2;                                                                                            \
        return f;                                                                                                      \
    }

// Three operands: dst, op1, op2.
#define THREE(name, text)                                                                                              \
    OPERATION(name, 4, 32, d, text " %3, %2, %0", "r"(s1), "r"(s2))                                                    \
    OPERATION(name, 8, 64, d, text " %3, %2, %0", "r"(s1), "r"(s2))                                                    \
    BODY(name, 4, 32, 1, 2)                                                                                            \
    BODY(name, 8, 64, 1, 2)
// Two: dst, op1.
#define TWO(name, text)                                                                                                \
    OPERATION(name, 4, 32, d, text " %2, %0", "r"(s1))                                                                 \
    OPERATION(name, 8, 64, d, text " %2, %0", "r"(s1))                                                                 \
    BODY(name, 4, 32, 1, 1)                                                                                            \
    BODY(name, 8, 64, 1, 1)

#define BODY(name, B, bits, a, b)                                                                                      \
    HANDLER(name##B##_h)                                                                                               \
    {                                                                                                                  \
        uint64_t s1, s2;                                                                                               \
        uint##bits##_t d = reg_get##B(v, &i->op[0]);                                                                   \
        if (!operand_get(v, i, a, &s1) || !operand_get(v, i, b, &s2))                                                  \
            return INTERP_FAULT;                                                                                       \
        uint32_t f = name##B(v, &d, s1, s2);                                                                           \
        reg_set##B(v, &i->op[0], d);                                                                                   \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }

// In the order of AT&T syntax the last source comes first.
THREE(andn, "andn")
THREE(bextr, "bextr")
THREE(bzhi, "bzhi")
THREE(pdep, "pdep")
THREE(pext, "pext")
THREE(sarx, "sarx")
THREE(shlx, "shlx")
THREE(shrx, "shrx")
TWO(blsi, "blsi")
TWO(blsmsk, "blsmsk")
TWO(blsr, "blsr")
TWO(adcx, "adcx")
TWO(adox, "adox")

// RORX: no flags; the count is masked by the host's own rotate.
HANDLER(rorx)
{
    uint64_t s;
    if (!operand_get(v, i, 1, &s))
        return INTERP_FAULT;
    unsigned bits = 8 * i->op[0].size, n = i->imm & (bits - 1);
    interp_set_reg(v, &i->op[0], n ? s >> n | s << (bits - n) : s);
    return INTERP_NEXT;
}

// MULX: rDX by the last operand; high half to the first, low half to the second (if they are the same: high).
HANDLER(mulx)
{
    uint64_t s;
    if (!operand_get(v, i, 2, &s))
        return INTERP_FAULT;
    bool wide = i->op[0].size == 8;
    unsigned __int128 product = (unsigned __int128)s * (wide ? v->s.gpr[CPU_RDX] : (uint32_t)v->s.gpr[CPU_RDX]);
    interp_set_reg(v, &i->op[1], product);
    interp_set_reg(v, &i->op[0], product >> (wide ? 64 : 32));
    return INTERP_NEXT;
}

interp_fn gp_bmi(const struct interp_insn *i)
{
#define ROW(name)                                                                                                      \
    {                                                                                                                  \
        name##4_h, name##8_h                                                                                           \
    }
    static const struct {
        uint16_t mnemonic;
        interp_fn fn[2];
    } table[] = {
        {ZYDIS_MNEMONIC_ANDN, ROW(andn)},     {ZYDIS_MNEMONIC_BEXTR, ROW(bextr)},  {ZYDIS_MNEMONIC_BZHI, ROW(bzhi)},
        {ZYDIS_MNEMONIC_PDEP, ROW(pdep)},     {ZYDIS_MNEMONIC_PEXT, ROW(pext)},    {ZYDIS_MNEMONIC_SARX, ROW(sarx)},
        {ZYDIS_MNEMONIC_SHLX, ROW(shlx)},     {ZYDIS_MNEMONIC_SHRX, ROW(shrx)},    {ZYDIS_MNEMONIC_BLSI, ROW(blsi)},
        {ZYDIS_MNEMONIC_BLSMSK, ROW(blsmsk)}, {ZYDIS_MNEMONIC_BLSR, ROW(blsr)},    {ZYDIS_MNEMONIC_ADCX, ROW(adcx)},
        {ZYDIS_MNEMONIC_ADOX, ROW(adox)},     {ZYDIS_MNEMONIC_RORX, {rorx, rorx}}, {ZYDIS_MNEMONIC_MULX, {mulx, mulx}},
    };
    for (unsigned n = 0; n < sizeof table / sizeof table[0]; n++)
        if (table[n].mnemonic == i->mnemonic)
            return table[n].fn[i->op[0].size == 8];
    return NULL;
}
