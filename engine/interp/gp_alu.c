// ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT: all sizes and forms, LOCKed and not.
//
// The macros below make about three hundred short functions; each is what one would write by hand for that instruction.
// A LOCKed one executes the host's LOCKed instruction on guest memory; only where there is no single piece of memory
// (a page crossing, a device) the world is stopped and it is done in steps.
#include "engine/interp/gp.h"

// --- the operations on values: the result in *d, flags returned

#define BINARY(name, B, bits, text)                                                                                    \
    GP_INLINE uint32_t name##B(const struct interp_vcpu *v, uint##bits##_t *d, uint##bits##_t s)                       \
    {                                                                                                                  \
        uint32_t f;                                                                                                    \
        (void)v;                                                                                                       \
        asm(text " %2, %0" FLAGS_SAVE : "+r"(*d), "=&a"(f) : "r"(s) : "cc");                                           \
        return f;                                                                                                      \
    }
#define BINARY_CARRY(name, B, bits, text)                                                                              \
    GP_INLINE uint32_t name##B(const struct interp_vcpu *v, uint##bits##_t *d, uint##bits##_t s)                       \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD text " %2, %0" FLAGS_SAVE : "+&r"(*d), "+&a"(f) : "r"(s) : "cc");                               \
        return f;                                                                                                      \
    }
#define UNARY(name, B, bits, text)                                                                                     \
    GP_INLINE uint32_t name##B(const struct interp_vcpu *v, uint##bits##_t *d)                                         \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD text " %0" FLAGS_SAVE : "+&r"(*d), "+&a"(f) : : "cc");                                          \
        return f;                                                                                                      \
    }

// --- the same on memory, LOCKed

#define LOCKED_BINARY(name, B, bits, text)                                                                             \
    GP_INLINE uint32_t name##B##_locked(const struct interp_vcpu *v, guest_u##bits *p, uint##bits##_t s)               \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        asm volatile(FLAGS_LOAD "lock\n\t" text " %2, %0" FLAGS_SAVE : "+m"(*p), "+&a"(f) : "r"(s) : "cc", "memory");  \
        return f;                                                                                                      \
    }
#define LOCKED_UNARY(name, B, bits, text)                                                                              \
    GP_INLINE uint32_t name##B##_locked(const struct interp_vcpu *v, guest_u##bits *p)                                 \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        asm volatile(FLAGS_LOAD "lock\n\t" text " %0" FLAGS_SAVE : "+m"(*p), "+&a"(f) : : "cc", "memory");             \
        return f;                                                                                                      \
    }

// --- handlers

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

// Into a register; `write` is 0 for CMP and TEST.
#define FORMS_REG(name, B, bits, write)                                                                                \
    HANDLER(name##B##_rr)                                                                                              \
    {                                                                                                                  \
        uint##bits##_t d = reg_get##B(v, &i->op[0]);                                                                   \
        uint32_t f = name##B(v, &d, reg_get##B(v, &i->op[1]));                                                         \
        if (write)                                                                                                     \
            reg_set##B(v, &i->op[0], d);                                                                               \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name##B##_ri)                                                                                              \
    {                                                                                                                  \
        uint##bits##_t d = reg_get##B(v, &i->op[0]);                                                                   \
        uint32_t f = name##B(v, &d, i->imm);                                                                           \
        if (write)                                                                                                     \
            reg_set##B(v, &i->op[0], d);                                                                               \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name##B##_rm)                                                                                              \
    {                                                                                                                  \
        uint##bits##_t s, d;                                                                                           \
        if (!access_load##B(v, i->seg, insn_ea(v, i), &s))                                                             \
            return INTERP_FAULT;                                                                                       \
        d = reg_get##B(v, &i->op[0]);                                                                                  \
        uint32_t f = name##B(v, &d, s);                                                                                \
        if (write)                                                                                                     \
            reg_set##B(v, &i->op[0], d);                                                                               \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }

#define FORMS_COMPARE(name, B, bits)                                                                                   \
    HANDLER(name##B##_mr)                                                                                              \
    {                                                                                                                  \
        uint##bits##_t d;                                                                                              \
        if (!access_load##B(v, i->seg, insn_ea(v, i), &d))                                                             \
            return INTERP_FAULT;                                                                                       \
        flags_set(v, name##B(v, &d, reg_get##B(v, &i->op[1])));                                                        \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name##B##_mi)                                                                                              \
    {                                                                                                                  \
        uint##bits##_t d;                                                                                              \
        if (!access_load##B(v, i->seg, insn_ea(v, i), &d))                                                             \
            return INTERP_FAULT;                                                                                       \
        flags_set(v, name##B(v, &d, i->imm));                                                                          \
        return INTERP_NEXT;                                                                                            \
    }

#define RMW_BODY(name, B, ...)                                                                                         \
    {                                                                                                                  \
        new = old;                                                                                                     \
        f = name##B(v, &new, ##__VA_ARGS__);                                                                           \
    }

// A LOCKed instruction with `fast` on guest memory p, or else `slow` with the world stopped.
#define LOCKED(v, i, B, bits, fast, slow)                                                                              \
    do {                                                                                                               \
        struct tlb_near *e_;                                                                                           \
        guest_u##bits *p = access_at_once(v, (i)->seg, insn_ea(v, i), B, true, &e_);                                   \
        if (likely(p)) {                                                                                               \
            flags_set(v, fast);                                                                                        \
            access_stored(v, e_, p, B);                                                                                \
            return INTERP_NEXT;                                                                                        \
        }                                                                                                              \
        interp_bus_lock(v);                                                                                            \
        enum interp_result r_ = slow(v, i);                                                                            \
        interp_bus_unlock(v);                                                                                          \
        return r_;                                                                                                     \
    } while (0)

#define FORMS_MEMORY(name, B, bits)                                                                                    \
    HANDLER(name##B##_mr)                                                                                              \
    {                                                                                                                  \
        GP_RMW(v, i, B, bits, RMW_BODY(name, B, reg_get##B(v, &i->op[1])));                                            \
    }                                                                                                                  \
    HANDLER(name##B##_mi)                                                                                              \
    {                                                                                                                  \
        GP_RMW(v, i, B, bits, RMW_BODY(name, B, i->imm));                                                              \
    }                                                                                                                  \
    HANDLER(name##B##_mr_lock)                                                                                         \
    {                                                                                                                  \
        LOCKED(v, i, B, bits, name##B##_locked(v, p, reg_get##B(v, &i->op[1])), name##B##_mr);                         \
    }                                                                                                                  \
    HANDLER(name##B##_mi_lock)                                                                                         \
    {                                                                                                                  \
        LOCKED(v, i, B, bits, name##B##_locked(v, p, i->imm), name##B##_mi);                                           \
    }

#define FORMS_UNARY(name, B, bits)                                                                                     \
    HANDLER(name##B##_r)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t d = reg_get##B(v, &i->op[0]);                                                                   \
        uint32_t f = name##B(v, &d);                                                                                   \
        reg_set##B(v, &i->op[0], d);                                                                                   \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name##B##_m)                                                                                               \
    {                                                                                                                  \
        GP_RMW(v, i, B, bits, RMW_BODY(name, B));                                                                      \
    }                                                                                                                  \
    HANDLER(name##B##_m_lock)                                                                                          \
    {                                                                                                                  \
        LOCKED(v, i, B, bits, name##B##_locked(v, p), name##B##_m);                                                    \
    }

// clang-format off
#define WRITING(name, text, kind)                                                                                      \
    kind(name, 1, 8, text "b") kind(name, 2, 16, text "w") kind(name, 4, 32, text "l") kind(name, 8, 64, text "q")     \
    LOCKED_BINARY(name, 1, 8, text "b") LOCKED_BINARY(name, 2, 16, text "w")                                           \
    LOCKED_BINARY(name, 4, 32, text "l") LOCKED_BINARY(name, 8, 64, text "q")                                          \
    FORMS_REG(name, 1, 8, 1) FORMS_REG(name, 2, 16, 1) FORMS_REG(name, 4, 32, 1) FORMS_REG(name, 8, 64, 1)             \
    FORMS_MEMORY(name, 1, 8) FORMS_MEMORY(name, 2, 16) FORMS_MEMORY(name, 4, 32) FORMS_MEMORY(name, 8, 64)
#define COMPARING(name, text)                                                                                          \
    BINARY(name, 1, 8, text "b") BINARY(name, 2, 16, text "w")                                                         \
    BINARY(name, 4, 32, text "l") BINARY(name, 8, 64, text "q")                                                        \
    FORMS_REG(name, 1, 8, 0) FORMS_REG(name, 2, 16, 0) FORMS_REG(name, 4, 32, 0) FORMS_REG(name, 8, 64, 0)             \
    FORMS_COMPARE(name, 1, 8) FORMS_COMPARE(name, 2, 16) FORMS_COMPARE(name, 4, 32) FORMS_COMPARE(name, 8, 64)
#define CHANGING(name, text)                                                                                           \
    UNARY(name, 1, 8, text "b") UNARY(name, 2, 16, text "w")                                                           \
    UNARY(name, 4, 32, text "l") UNARY(name, 8, 64, text "q")                                                          \
    LOCKED_UNARY(name, 1, 8, text "b") LOCKED_UNARY(name, 2, 16, text "w")                                             \
    LOCKED_UNARY(name, 4, 32, text "l") LOCKED_UNARY(name, 8, 64, text "q")                                            \
    FORMS_UNARY(name, 1, 8) FORMS_UNARY(name, 2, 16) FORMS_UNARY(name, 4, 32) FORMS_UNARY(name, 8, 64)
// clang-format on

WRITING(add, "add", BINARY)
WRITING(or, "or", BINARY)
WRITING(adc, "adc", BINARY_CARRY)
WRITING(sbb, "sbb", BINARY_CARRY)
WRITING(and, "and", BINARY)
WRITING(sub, "sub", BINARY)
WRITING(xor, "xor", BINARY)
COMPARING(cmp, "cmp")
COMPARING(test, "test")
CHANGING(inc, "inc")
CHANGING(dec, "dec")
CHANGING(neg, "neg")
CHANGING(not, "not")

// --- selection

enum form { RR, RI, RM, MR, MI, MR_LOCK, MI_LOCK, FORMS };

#define ROW(name, B)                                                                                                   \
    {                                                                                                                  \
        name##B##_rr, name##B##_ri, name##B##_rm, name##B##_mr, name##B##_mi                                           \
    }
#define ROW_LOCK(name, B)                                                                                              \
    {                                                                                                                  \
        name##B##_rr, name##B##_ri, name##B##_rm, name##B##_mr, name##B##_mi, name##B##_mr_lock, name##B##_mi_lock     \
    }
#define TABLE(row, name)                                                                                               \
    {                                                                                                                  \
        row(name, 1), row(name, 2), row(name, 4), row(name, 8)                                                         \
    }
#define ROW_UNARY(name, B)                                                                                             \
    {                                                                                                                  \
        name##B##_r, name##B##_m, name##B##_m_lock                                                                     \
    }

static const struct {
    uint16_t mnemonic;
    interp_fn fn[4][FORMS];
} binary[] = {
    {ZYDIS_MNEMONIC_ADD, TABLE(ROW_LOCK, add)}, {ZYDIS_MNEMONIC_OR, TABLE(ROW_LOCK, or)},
    {ZYDIS_MNEMONIC_ADC, TABLE(ROW_LOCK, adc)}, {ZYDIS_MNEMONIC_SBB, TABLE(ROW_LOCK, sbb)},
    {ZYDIS_MNEMONIC_AND, TABLE(ROW_LOCK, and)}, {ZYDIS_MNEMONIC_SUB, TABLE(ROW_LOCK, sub)},
    {ZYDIS_MNEMONIC_XOR, TABLE(ROW_LOCK, xor)}, {ZYDIS_MNEMONIC_CMP, TABLE(ROW, cmp)},
    {ZYDIS_MNEMONIC_TEST, TABLE(ROW, test)},
};

static const struct {
    uint16_t mnemonic;
    interp_fn fn[4][3];
} unary[] = {
    {ZYDIS_MNEMONIC_INC, TABLE(ROW_UNARY, inc)},
    {ZYDIS_MNEMONIC_DEC, TABLE(ROW_UNARY, dec)},
    {ZYDIS_MNEMONIC_NEG, TABLE(ROW_UNARY, neg)},
    {ZYDIS_MNEMONIC_NOT, TABLE(ROW_UNARY, not )},
};

interp_fn gp_alu(const struct interp_insn *i)
{
    unsigned size = size_index(i->op[0].size);
    bool memory = i->op[0].kind == OPERAND_MEM;
    for (unsigned n = 0; n < sizeof unary / sizeof unary[0]; n++)
        if (unary[n].mnemonic == i->mnemonic)
            return unary[n].fn[size][memory ? i->lock ? 2 : 1 : 0];
    enum form form;
    if (memory)
        form = (i->op[1].kind == OPERAND_IMM ? MI : MR) + (i->lock ? MR_LOCK - MR : 0);
    else
        form = i->op[1].kind == OPERAND_IMM ? RI : i->op[1].kind == OPERAND_MEM ? RM : RR;
    for (unsigned n = 0; n < sizeof binary / sizeof binary[0]; n++)
        if (binary[n].mnemonic == i->mnemonic)
            return binary[n].fn[size][form];
    return NULL;
}
