// XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B: what atomic algorithms are made of; MOVNTI, MOVDIRI, MOVDIR64B.
//
// On guest memory they are the host's own LOCKed instructions, with or without a LOCK prefix: a guest cannot tell, and
// XCHG locks by itself. Where there is no single piece of memory the world is stopped.
//
// Like processors, a CMPXCHG that finds a difference writes the old value back: it needs the right to write.
#include "engine/interp/gp.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

// With the world stopped.
static enum interp_result stopped(struct interp_vcpu *v, const struct interp_insn *i, interp_fn fn)
{
    interp_bus_lock(v);
    enum interp_result r = fn(v, i);
    interp_bus_unlock(v);
    return r;
}

// --- XCHG and XADD; the memory operand may be either one of XCHG's

GP_INLINE const struct interp_operand *register_of(const struct interp_insn *i)
{
    return i->op[0].kind == OPERAND_MEM ? &i->op[1] : &i->op[0];
}

#define EXCHANGE(B, bits, sfx)                                                                                         \
    HANDLER(xchg##B##_r)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t a = reg_get##B(v, &i->op[0]), b = reg_get##B(v, &i->op[1]);                                     \
        reg_set##B(v, &i->op[0], b);                                                                                   \
        reg_set##B(v, &i->op[1], a);                                                                                   \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(xchg##B##_slow)                                                                                            \
    {                                                                                                                  \
        uint64_t ea = insn_ea(v, i), val;                                                                              \
        if (!access_read_for_write(v, i->seg, ea, B, &val) ||                                                          \
            !interp_write(v, i->seg, ea, B, reg_get##B(v, register_of(i))))                                            \
            return INTERP_FAULT;                                                                                       \
        reg_set##B(v, register_of(i), val);                                                                            \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(xchg##B##_m)                                                                                               \
    {                                                                                                                  \
        struct tlb_near *e;                                                                                            \
        guest_u##bits *p = access_at_once(v, i->seg, insn_ea(v, i), B, true, &e);                                      \
        if (unlikely(!p))                                                                                              \
            return stopped(v, i, xchg##B##_slow);                                                                      \
        uint##bits##_t val = reg_get##B(v, register_of(i));                                                            \
        asm volatile("xchg" sfx " %0, %1" : "+r"(val), "+m"(*p) : : "memory");                                         \
        reg_set##B(v, register_of(i), val);                                                                            \
        access_stored(v, e, p, B);                                                                                     \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(xadd##B##_r)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t d = reg_get##B(v, &i->op[0]), s = reg_get##B(v, &i->op[1]);                                     \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD "xadd" sfx " %1, %0" FLAGS_SAVE : "+&r"(d), "+&r"(s), "+&a"(f) : : "cc");                       \
        reg_set##B(v, &i->op[1], s);                                                                                   \
        reg_set##B(v, &i->op[0], d);                                                                                   \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(xadd##B##_slow)                                                                                            \
    {                                                                                                                  \
        uint64_t ea = insn_ea(v, i), val;                                                                              \
        if (!access_read_for_write(v, i->seg, ea, B, &val))                                                            \
            return INTERP_FAULT;                                                                                       \
        uint##bits##_t d = val, s = reg_get##B(v, &i->op[1]);                                                          \
        uint32_t f = flags_get(v);                                                                                     \
        asm(FLAGS_LOAD "xadd" sfx " %1, %0" FLAGS_SAVE : "+&r"(d), "+&r"(s), "+&a"(f) : : "cc");                       \
        if (!interp_write(v, i->seg, ea, B, d))                                                                        \
            return INTERP_FAULT;                                                                                       \
        reg_set##B(v, &i->op[1], s);                                                                                   \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(xadd##B##_m)                                                                                               \
    {                                                                                                                  \
        struct tlb_near *e;                                                                                            \
        guest_u##bits *p = access_at_once(v, i->seg, insn_ea(v, i), B, true, &e);                                      \
        if (unlikely(!p))                                                                                              \
            return stopped(v, i, xadd##B##_slow);                                                                      \
        uint##bits##_t s = reg_get##B(v, &i->op[1]);                                                                   \
        uint32_t f = flags_get(v);                                                                                     \
        asm volatile(FLAGS_LOAD "lock\n\txadd" sfx " %1, %0" FLAGS_SAVE                                                \
                     : "+m"(*p), "+&r"(s), "+&a"(f)                                                                    \
                     :                                                                                                 \
                     : "cc", "memory");                                                                                \
        reg_set##B(v, &i->op[1], s);                                                                                   \
        flags_set(v, f);                                                                                               \
        access_stored(v, e, p, B);                                                                                     \
        return INTERP_NEXT;                                                                                            \
    }
GP_SIZES(EXCHANGE)

// --- CMPXCHG

// The accumulator, as the host leaves it: rAX is written only when the comparison fails.
#define COMPARE(B, bits, sfx, mod)                                                                                     \
    HANDLER(cmpxchg##B##_r)                                                                                            \
    {                                                                                                                  \
        struct interp_operand acc = {OPERAND_REG, B, CPU_RAX, 0};                                                      \
        uint##bits##_t d = reg_get##B(v, &i->op[0]), s = reg_get##B(v, &i->op[1]), a = reg_get##B(v, &acc);            \
        uint##bits##_t before = d;                                                                                     \
        uint32_t f = flags_get(v);                                                                                     \
        uint64_t a64 = a;                                                                                              \
        asm(FLAGS_LOAD "movq %2, %%rax\n\tcmpxchg" sfx " %3, %0" FLAGS_SAVE                                            \
            : "+&r"(d), "+&a"(f)                                                                                       \
            : "r"(a64), "r"(s)                                                                                         \
            : "cc");                                                                                                   \
        /* A destination that is not written keeps its upper half. */                                                  \
        if (before != a)                                                                                               \
            reg_set##B(v, &acc, before);                                                                               \
        else                                                                                                           \
            reg_set##B(v, &i->op[0], d);                                                                               \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(cmpxchg##B##_slow)                                                                                         \
    {                                                                                                                  \
        struct interp_operand acc = {OPERAND_REG, B, CPU_RAX, 0};                                                      \
        uint64_t ea = insn_ea(v, i), val;                                                                              \
        if (!access_read_for_write(v, i->seg, ea, B, &val))                                                            \
            return INTERP_FAULT;                                                                                       \
        uint##bits##_t a = reg_get##B(v, &acc), old = val;                                                             \
        uint32_t f;                                                                                                    \
        asm("cmp" sfx " %2, %1" FLAGS_SAVE : "=&a"(f) : "r"(a), "r"(old) : "cc");                                      \
        if (!interp_write(v, i->seg, ea, B, a == old ? reg_get##B(v, &i->op[1]) : old))                                \
            return INTERP_FAULT;                                                                                       \
        if (a != old)                                                                                                  \
            reg_set##B(v, &acc, old);                                                                                  \
        flags_set(v, f);                                                                                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(cmpxchg##B##_m)                                                                                            \
    {                                                                                                                  \
        struct interp_operand acc = {OPERAND_REG, B, CPU_RAX, 0};                                                      \
        struct tlb_near *e;                                                                                            \
        guest_u##bits *p = access_at_once(v, i->seg, insn_ea(v, i), B, true, &e);                                      \
        if (unlikely(!p))                                                                                              \
            return stopped(v, i, cmpxchg##B##_slow);                                                                   \
        uint64_t a = reg_get##B(v, &acc);                                                                              \
        uint32_t f = flags_get(v);                                                                                     \
        asm volatile("movq %1, %%rax\n\tlock\n\tcmpxchg" sfx " %3, %2\n\tmovq %%rax, %1" FLAGS_SAVE                    \
                     : "+&a"(f), "+&r"(a), "+m"(*p)                                                                    \
                     : "r"(reg_get##B(v, &i->op[1]))                                                                   \
                     : "cc", "memory");                                                                                \
        if (!(f & RFLAGS_ZF << 8))                                                                                     \
            reg_set##B(v, &acc, a);                                                                                    \
        flags_set(v, f);                                                                                               \
        access_stored(v, e, p, B);                                                                                     \
        return INTERP_NEXT;                                                                                            \
    }
COMPARE(1, 8, "b", "b")
COMPARE(2, 16, "w", "w")
COMPARE(4, 32, "l", "k")
COMPARE(8, 64, "q", "q")

// --- CMPXCHG8B and CMPXCHG16B: rDX:rAX against memory, rCX:rBX into it; ZF

struct pair {
    uint64_t low, high;
};

static struct pair pair_get(const struct interp_vcpu *v, unsigned low, unsigned high, bool wide)
{
    uint64_t a = v->s.gpr[low], d = v->s.gpr[high];
    return wide ? (struct pair){a, d} : (struct pair){(uint32_t)a, (uint32_t)d};
}

static void pair_done(struct interp_vcpu *v, bool equal, struct pair found)
{
    if (equal) {
        v->s.rflags |= RFLAGS_ZF;
        return;
    }
    v->s.rflags &= ~(uint64_t)RFLAGS_ZF;
    v->s.gpr[CPU_RAX] = found.low;
    v->s.gpr[CPU_RDX] = found.high;
}

static enum interp_result pair_slow(struct interp_vcpu *v, uint64_t la, bool wide)
{
    struct pair want = pair_get(v, CPU_RAX, CPU_RDX, wide), put = pair_get(v, CPU_RBX, CPU_RCX, wide), found;
    unsigned half = wide ? 8 : 4;
    uint8_t buf[16];
    if (!interp_probe(v, la, 2 * half, CPU_WRITE, false) || !interp_read_bytes(v, la, buf, 2 * half, false))
        return INTERP_FAULT;
    found = (struct pair){0};
    memcpy(&found.low, buf, half);
    memcpy(&found.high, buf + half, half);
    bool equal = found.low == want.low && found.high == want.high;
    if (equal) {
        memcpy(buf, &put.low, half);
        memcpy(buf + half, &put.high, half);
    }
    if (!interp_write_bytes(v, la, buf, 2 * half, false))
        return INTERP_FAULT;
    pair_done(v, equal, found);
    return INTERP_NEXT;
}

GP_INLINE enum interp_result pair_exchange(struct interp_vcpu *v, const struct interp_insn *i, bool wide)
{
    unsigned size = wide ? 16 : 8;
    uint64_t la;
    if (!interp_linear(v, i->seg, insn_ea(v, i), size, CPU_WRITE, &la))
        return INTERP_FAULT;
    if (wide && la % 16)
        return interp_gp(v, 0);
    if (!interp_aligned(v, la, size))
        return INTERP_FAULT;
    void *p = interp_host_pointer(v, la, size, CPU_WRITE);
    if (!p) {
        if (v->fault.raised)
            return INTERP_FAULT;
        interp_bus_lock(v);
        enum interp_result r = pair_slow(v, la, wide);
        interp_bus_unlock(v);
        return r;
    }
    struct pair found = pair_get(v, CPU_RAX, CPU_RDX, wide), put = pair_get(v, CPU_RBX, CPU_RCX, wide);
    bool equal;
    if (wide)
        asm volatile("lock\n\tcmpxchg16b %1"
                     : "=@ccz"(equal), "+m"(*(struct pair *)p), "+a"(found.low), "+d"(found.high)
                     : "b"(put.low), "c"(put.high)
                     : "memory");
    else
        asm volatile("lock\n\tcmpxchg8b %1"
                     : "=@ccz"(equal), "+m"(*(guest_u64 *)p), "+a"(found.low), "+d"(found.high)
                     : "b"(put.low), "c"(put.high)
                     : "memory");
    pair_done(v, equal, found);
    interp_host_written(v, la, size);
    return INTERP_NEXT;
}

HANDLER(cmpxchg8b)
{
    return pair_exchange(v, i, false);
}

HANDLER(cmpxchg16b)
{
    return pair_exchange(v, i, true);
}

// --- stores that go around the cache: stores

HANDLER(movnti)
{
    return operand_set(v, i, 0, interp_reg(v, &i->op[1])) ? INTERP_NEXT : INTERP_FAULT;
}

// 64 bytes from memory to the address in a register, through ES; the destination must be aligned (Intel SDM vol. 2).
HANDLER(movdir64b)
{
    uint64_t from, to, mask = i->addrsize == 8 ? ~0ull : i->addrsize == 4 ? 0xffffffff : 0xffff;
    uint8_t buf[64];
    if (!interp_linear(v, i->seg, insn_ea(v, i), 64, CPU_READ, &from) ||
        !interp_linear(v, CPU_ES, v->s.gpr[i->op[0].reg] & mask, 64, CPU_WRITE, &to))
        return INTERP_FAULT;
    if (to % 64)
        return interp_gp(v, 0);
    if (!interp_read_bytes(v, from, buf, 64, false) || !interp_write_bytes(v, to, buf, 64, false))
        return INTERP_FAULT;
    return INTERP_NEXT;
}

// --- selection

interp_fn gp_exchange(const struct interp_insn *i)
{
#define TABLE(name, form)                                                                                              \
    {                                                                                                                  \
        name##1##form, name##2##form, name##4##form, name##8##form                                                     \
    }
    static const interp_fn xchg[2][4] = {TABLE(xchg, _r), TABLE(xchg, _m)};
    static const interp_fn xadd[2][4] = {TABLE(xadd, _r), TABLE(xadd, _m)};
    static const interp_fn cmpxchg[2][4] = {TABLE(cmpxchg, _r), TABLE(cmpxchg, _m)};
    bool memory = i->op[0].kind == OPERAND_MEM || i->op[1].kind == OPERAND_MEM;
    unsigned size = size_index(i->op[0].size);
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_XCHG:
        return xchg[memory][size];
    case ZYDIS_MNEMONIC_XADD:
        return xadd[memory][size];
    case ZYDIS_MNEMONIC_CMPXCHG:
        return cmpxchg[memory][size];
    case ZYDIS_MNEMONIC_CMPXCHG8B:
        return cmpxchg8b;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        return cmpxchg16b;
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_MOVDIRI:
        return movnti;
    case ZYDIS_MNEMONIC_MOVDIR64B:
        return movdir64b;
    default:
        return NULL;
    }
}
