// What the files of general-purpose handlers share: registers by size, flags, memory for read-modify-write.
//
// Arithmetic is done by the host's own instruction, which leaves the host's own flags: exact, also where the manuals
// say "undefined". LAHF gives five of the flags in AH, SETO the sixth in AL; that pair is what `ax` means here. Where
// an instruction reads flags or may leave them alone, the guest's are put into the host's first.
//
// Handlers come in sizes 1, 2, 4, 8 and in forms: rr (register, register), ri (register, immediate), rm (register,
// memory), mr, mi. Names end in size and form: add4_rm. Selection happens once, at decoding (gp.c).
#pragma once
#include "engine/interp/access.h"
#include <Zydis/Zydis.h>
#include <string.h>

// Selectors: the handler for the instruction, or NULL if it is not theirs.
interp_fn gp_alu(const struct interp_insn *i);
interp_fn gp_bit(const struct interp_insn *i);
interp_fn gp_bmi(const struct interp_insn *i);
interp_fn gp_exchange(const struct interp_insn *i);
interp_fn gp_flow(const struct interp_insn *i);
interp_fn gp_hint(const struct interp_insn *i);
interp_fn gp_move(const struct interp_insn *i);
interp_fn gp_muldiv(const struct interp_insn *i);
interp_fn gp_shift(const struct interp_insn *i);
interp_fn gp_stack(const struct interp_insn *i);
interp_fn gp_string(const struct interp_insn *i);
interp_fn gp_decimal(const struct interp_insn *i);

#define GP_INLINE static inline __attribute__((always_inline))

// X(bytes, bits, assembler suffix)
#define GP_SIZES(X) X(1, 8, "b") X(2, 16, "w") X(4, 32, "l") X(8, 64, "q")
#define GP_SIZES_248(X) X(2, 16, "w") X(4, 32, "l") X(8, 64, "q")

GP_INLINE unsigned size_index(unsigned size)
{
    return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

// --- flags

enum { FLAGS_LOW = RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF };

GP_INLINE uint32_t flags_get(const struct interp_vcpu *v)
{
    return (v->s.rflags & FLAGS_LOW) << 8 | (v->s.rflags >> 11 & 1);
}

GP_INLINE void flags_set(struct interp_vcpu *v, uint32_t ax)
{
    v->s.rflags = (v->s.rflags & ~(uint64_t)RFLAGS_STATUS) | (ax >> 8 & FLAGS_LOW) | (ax & 1) << 11;
}

// Around an instruction in an asm statement: eax is flags_get()'s before, flags_set()'s after.
#define FLAGS_LOAD "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_SAVE "\n\tlahf\n\tseto %%al"

// --- registers

#define GP_REGISTERS(B, bits, sfx)                                                                                     \
    GP_INLINE uint##bits##_t reg_get##B(const struct interp_vcpu *v, const struct interp_operand *o)                   \
    {                                                                                                                  \
        uint64_t r = v->s.gpr[o->reg];                                                                                 \
        return B == 1 && o->high ? r >> 8 : r;                                                                         \
    }
GP_SIZES(GP_REGISTERS)
#undef GP_REGISTERS

GP_INLINE void reg_set1(struct interp_vcpu *v, const struct interp_operand *o, uint8_t val)
{
    uint64_t *r = &v->s.gpr[o->reg];
    *r = o->high ? (*r & ~0xff00ull) | (uint64_t)val << 8 : (*r & ~0xffull) | val;
}

GP_INLINE void reg_set2(struct interp_vcpu *v, const struct interp_operand *o, uint16_t val)
{
    uint64_t *r = &v->s.gpr[o->reg];
    *r = (*r & ~0xffffull) | val;
}

GP_INLINE void reg_set4(struct interp_vcpu *v, const struct interp_operand *o, uint32_t val)
{
    v->s.gpr[o->reg] = val;
}

GP_INLINE void reg_set8(struct interp_vcpu *v, const struct interp_operand *o, uint64_t val)
{
    v->s.gpr[o->reg] = val;
}

// --- operands that are registers or memory, for what need not be fastest

// The value of operand n, zero-extended; immediates as they are.
GP_INLINE bool operand_get(struct interp_vcpu *v, const struct interp_insn *i, unsigned n, uint64_t *val)
{
    const struct interp_operand *o = &i->op[n];
    if (o->kind == OPERAND_MEM)
        return interp_read(v, i->seg, insn_ea(v, i), o->size, val);
    *val = o->kind == OPERAND_REG ? interp_reg(v, o) : (uint64_t)i->imm;
    return true;
}

GP_INLINE bool operand_set(struct interp_vcpu *v, const struct interp_insn *i, unsigned n, uint64_t val)
{
    const struct interp_operand *o = &i->op[n];
    if (o->kind == OPERAND_MEM)
        return interp_write(v, i->seg, insn_ea(v, i), o->size, val);
    interp_set_reg(v, o, val);
    return true;
}

// --- read-modify-write

// Operand 0 in memory: old value in `old`, then `body` computes `new` from it and may set flags in `f`, then it is
// stored and the flags follow. Where the fast path doesn't serve, and for LOCK on it, the same in slow motion.
#define GP_RMW(v, i, B, bits, body)                                                                                    \
    do {                                                                                                               \
        uint64_t ea_ = insn_ea(v, i), wide_;                                                                           \
        struct tlb_near *e_;                                                                                           \
        uint##bits##_t old, new;                                                                                       \
        uint32_t f = 0;                                                                                                \
        void *p_ = access_at_once(v, (i)->seg, ea_, B, true, &e_);                                                     \
        if (likely(p_)) {                                                                                              \
            old = *(const volatile guest_u##bits *)p_;                                                                 \
            body;                                                                                                      \
            *(volatile guest_u##bits *)p_ = new;                                                                       \
            flags_set(v, f);                                                                                           \
            access_stored(v, e_, p_, B);                                                                               \
            return INTERP_NEXT;                                                                                        \
        }                                                                                                              \
        if (!access_read_for_write(v, (i)->seg, ea_, B, &wide_))                                                       \
            return INTERP_FAULT;                                                                                       \
        old = wide_;                                                                                                   \
        body;                                                                                                          \
        if (!interp_write(v, (i)->seg, ea_, B, new))                                                                   \
            return INTERP_FAULT;                                                                                       \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    } while (0)
