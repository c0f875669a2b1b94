// Single bits and bit counts: BT BTS BTR BTC, BSF BSR, LZCNT TZCNT POPCNT, CRC32.
//
// A bit test on memory with its index in a register addresses a string of bits of any length: the index is signed and
// moves the address by whole operands first.
#include "engine/interp/gp.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

// --- BT and its kin

#define BIT(name, text, B, bits, sfx)                                                                                  \
    GP_INLINE uint32_t name##B(const struct interp_vcpu *v, uint##bits##_t *d, uint##bits##_t n)                       \
    {                                                                                                                  \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD text sfx " %2, %0" FLAGS_SAVE : "+&r"(*d), "+&a"(f) : "r"(n) : "cc");                           \
        return f;                                                                                                      \
    }                                                                                                                  \
    HANDLER(name##B##_r)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t d = reg_get##B(v, &i->op[0]);                                                                   \
        uint##bits##_t n = i->op[1].kind == OPERAND_IMM ? (uint##bits##_t)i->imm : reg_get##B(v, &i->op[1]);           \
        uint32_t f = name##B(v, &d, n % bits);                                                                         \
        if (i->mnemonic != ZYDIS_MNEMONIC_BT)                                                                          \
            reg_set##B(v, &i->op[0], d);                                                                               \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }

// Offset of the operand that holds the bit; *n is the bit in it.
#define BIT_ADDRESS(B, bits, sfx)                                                                                      \
    GP_INLINE uint64_t bit_address##B(const struct interp_vcpu *v, const struct interp_insn *i, unsigned *n)           \
    {                                                                                                                  \
        if (i->op[1].kind == OPERAND_IMM) {                                                                            \
            *n = i->imm & (bits - 1);                                                                                  \
            return insn_ea(v, i);                                                                                      \
        }                                                                                                              \
        int64_t index = (int##bits##_t)reg_get##B(v, &i->op[1]);                                                       \
        *n = index & (bits - 1);                                                                                       \
        uint64_t a = insn_ea(v, i) + (uint64_t)((index - *n) / 8);                                                     \
        return i->addrsize == 8 ? a : i->addrsize == 4 ? (uint32_t)a : (uint16_t)a;                                    \
    }
GP_SIZES_248(BIT_ADDRESS)

#define BIT_TEST_MEMORY(B, bits, sfx)                                                                                  \
    HANDLER(bt##B##_m)                                                                                                 \
    {                                                                                                                  \
        unsigned n;                                                                                                    \
        uint64_t ea = bit_address##B(v, i, &n);                                                                        \
        uint##bits##_t d;                                                                                              \
        if (!access_load##B(v, i->seg, ea, &d))                                                                        \
            return INTERP_FAULT;                                                                                       \
        flags_set(v, bt##B(v, &d, n));                                                                                 \
        return INTERP_NEXT;                                                                                            \
    }

#define BIT_CHANGE_MEMORY(name, text, B, bits, sfx)                                                                    \
    static enum interp_result name##B##_slow(struct interp_vcpu *v, const struct interp_insn *i, uint64_t ea,          \
                                             unsigned n)                                                               \
    {                                                                                                                  \
        uint64_t wide;                                                                                                 \
        if (!access_read_for_write(v, i->seg, ea, B, &wide))                                                           \
            return INTERP_FAULT;                                                                                       \
        uint##bits##_t d = wide;                                                                                       \
        uint32_t f = name##B(v, &d, n);                                                                                \
        if (!interp_write(v, i->seg, ea, B, d))                                                                        \
            return INTERP_FAULT;                                                                                       \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name##B##_m)                                                                                               \
    {                                                                                                                  \
        struct tlb_near *e;                                                                                            \
        unsigned n;                                                                                                    \
        uint64_t ea = bit_address##B(v, i, &n);                                                                        \
        guest_u##bits *p = access_at_once(v, i->seg, ea, B, true, &e);                                                 \
        if (unlikely(!p))                                                                                              \
            return name##B##_slow(v, i, ea, n);                                                                        \
        uint##bits##_t d = *(const volatile guest_u##bits *)p;                                                         \
        flags_set(v, name##B(v, &d, n));                                                                               \
        *(volatile guest_u##bits *)p = d;                                                                              \
        access_stored(v, e, p, B);                                                                                     \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name##B##_m_lock)                                                                                          \
    {                                                                                                                  \
        struct tlb_near *e;                                                                                            \
        unsigned n;                                                                                                    \
        uint64_t ea = bit_address##B(v, i, &n);                                                                        \
        guest_u##bits *p = access_at_once(v, i->seg, ea, B, true, &e);                                                 \
        if (unlikely(!p)) {                                                                                            \
            interp_bus_lock(v);                                                                                        \
            enum interp_result r = name##B##_slow(v, i, ea, n);                                                        \
            interp_bus_unlock(v);                                                                                      \
            return r;                                                                                                  \
        }                                                                                                              \
        uint32_t f = flags_get(v);                                                                                     \
        asm volatile(FLAGS_LOAD "lock\n\t" text sfx " %2, %0" FLAGS_SAVE                                               \
                     : "+m"(*p), "+&a"(f)                                                                              \
                     : "r"((uint##bits##_t)n)                                                                          \
                     : "cc", "memory");                                                                                \
        flags_set(v, f);                                                                                               \
        access_stored(v, e, p, B);                                                                                     \
        return INTERP_NEXT;                                                                                            \
    }

#define BITS(name, text) BIT(name, text, 2, 16, "w") BIT(name, text, 4, 32, "l") BIT(name, text, 8, 64, "q")
#define BITS_CHANGE(name, text)                                                                                        \
    BITS(name, text)                                                                                                   \
    BIT_CHANGE_MEMORY(name, text, 2, 16, "w")                                                                          \
    BIT_CHANGE_MEMORY(name, text, 4, 32, "l")                                                                          \
    BIT_CHANGE_MEMORY(name, text, 8, 64, "q")
BITS(bt, "bt")
GP_SIZES_248(BIT_TEST_MEMORY)
BITS_CHANGE(bts, "bts")
BITS_CHANGE(btr, "btr")
BITS_CHANGE(btc, "btc")

// --- searching and counting

// The whole destination register goes through the host: BSF and BSR of zero leave it, or a part of it, alone.
#define SEARCH(name, text, B, bits, sfx, mod)                                                                          \
    HANDLER(name##B)                                                                                                   \
    {                                                                                                                  \
        uint64_t s, d = v->s.gpr[i->op[0].reg];                                                                        \
        if (!operand_get(v, i, 1, &s))                                                                                 \
            return INTERP_FAULT;                                                                                       \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD text sfx " %" mod "2, %" mod "0" FLAGS_SAVE : "+&r"(d), "+&a"(f) : "r"(s) : "cc");              \
        v->s.gpr[i->op[0].reg] = d;                                                                                    \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }
#define SEARCHES(name, text)                                                                                           \
    SEARCH(name, text, 2, 16, "w", "w") SEARCH(name, text, 4, 32, "l", "k") SEARCH(name, text, 8, 64, "q", "q")
SEARCHES(bsf, "bsf")
SEARCHES(bsr, "bsr")
SEARCHES(lzcnt, "lzcnt")
SEARCHES(tzcnt, "tzcnt")
SEARCHES(popcnt, "popcnt")

// --- CRC32: no flags; the destination is 32 bits wide, or 64 with a zero upper half

#define CRC(B, bits, sfx)                                                                                              \
    HANDLER(crc32_##B)                                                                                                 \
    {                                                                                                                  \
        uint64_t s, d = (uint32_t)v->s.gpr[i->op[0].reg];                                                              \
        if (!operand_get(v, i, 1, &s))                                                                                 \
            return INTERP_FAULT;                                                                                       \
        uint##bits##_t narrow = s;                                                                                     \
        if (B == 8)                                                                                                    \
            asm("crc32q %1, %0" : "+r"(d) : "r"(s));                                                                   \
        else                                                                                                           \
            asm("crc32" sfx " %1, %k0" : "+r"(d) : "r"(narrow));                                                       \
        v->s.gpr[i->op[0].reg] = (uint32_t)d;                                                                          \
        return INTERP_NEXT;                                                                                            \
    }
GP_SIZES(CRC)

// --- selection

interp_fn gp_bit(const struct interp_insn *i)
{
#define SIZES(name, form)                                                                                              \
    {                                                                                                                  \
        NULL, name##2##form, name##4##form, name##8##form                                                              \
    }
#define CHANGE(name)                                                                                                   \
    {                                                                                                                  \
        SIZES(name, _r), SIZES(name, _m), SIZES(name, _m_lock)                                                         \
    }
    static const struct {
        uint16_t mnemonic;
        interp_fn fn[3][4]; // register, memory, LOCKed
    } tests[] = {
        {ZYDIS_MNEMONIC_BT, {SIZES(bt, _r), SIZES(bt, _m)}},
        {ZYDIS_MNEMONIC_BTS, CHANGE(bts)},
        {ZYDIS_MNEMONIC_BTR, CHANGE(btr)},
        {ZYDIS_MNEMONIC_BTC, CHANGE(btc)},
    };
    static const struct {
        uint16_t mnemonic;
        interp_fn fn[4];
    } searches[] = {
        {ZYDIS_MNEMONIC_BSF, SIZES(bsf, )},       {ZYDIS_MNEMONIC_BSR, SIZES(bsr, )},
        {ZYDIS_MNEMONIC_LZCNT, SIZES(lzcnt, )},   {ZYDIS_MNEMONIC_TZCNT, SIZES(tzcnt, )},
        {ZYDIS_MNEMONIC_POPCNT, SIZES(popcnt, )},
    };
    unsigned size = size_index(i->op[0].size);
    for (unsigned n = 0; n < sizeof tests / sizeof tests[0]; n++)
        if (tests[n].mnemonic == i->mnemonic)
            return tests[n].fn[i->op[0].kind == OPERAND_MEM ? i->lock ? 2 : 1 : 0][size];
    for (unsigned n = 0; n < sizeof searches / sizeof searches[0]; n++)
        if (searches[n].mnemonic == i->mnemonic)
            return searches[n].fn[size];
    static const interp_fn crc[4] = {crc32_1, crc32_2, crc32_4, crc32_8};
    return i->mnemonic == ZYDIS_MNEMONIC_CRC32 ? crc[size_index(i->op[1].size)] : NULL;
}
