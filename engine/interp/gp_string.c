// String instructions: MOVS STOS LODS SCAS CMPS, alone and repeated.
//
// A repeated one does a bounded number of elements, then lets the loop look at events (INTERP_AGAIN): RIP stays at the
// instruction and rCX, rSI, rDI say how far it has come, just as when a real one is interrupted. A fault in the middle
// leaves them at the element that faulted. When single-stepping, one element at a time.
//
// Forward MOVS and STOS on plain memory go by pieces of a page, done by the host's own REP MOVS and REP STOS: the same
// element size and direction give the same bytes, overlapping operands included.
//
// Example: REP MOVSQ of 4096 bytes, both operands page-aligned: one host instruction, then rCX = 0 and INTERP_NEXT.
#include "engine/interp/gp.h"

enum { CHUNK = 1024, CHUNK_BYTES = 64 * 1024 };

struct string {
    uint64_t mask; // of the address size
    unsigned size; // of an element
    int64_t step;  // size or -size
};

GP_INLINE struct string string_of(const struct interp_vcpu *v, const struct interp_insn *i, unsigned size)
{
    return (struct string){
        .mask = i->addrsize == 8   ? ~0ull
                : i->addrsize == 4 ? 0xffffffff
                                   : 0xffff,
        .size = size,
        .step = v->s.rflags & RFLAGS_DF ? -(int64_t)size : (int64_t)size,
    };
}

GP_INLINE uint64_t get(const struct interp_vcpu *v, const struct string *s, unsigned reg)
{
    return v->s.gpr[reg] & s->mask;
}

// Registers used as addresses and counters: 16 bits leave the rest alone, 32 bits clear the upper half.
GP_INLINE void put(struct interp_vcpu *v, const struct string *s, unsigned reg, uint64_t val)
{
    uint64_t *r = &v->s.gpr[reg];
    *r = s->mask == 0xffff ? (*r & ~0xffffull) | (val & 0xffff) : val & s->mask;
}

GP_INLINE void advance(struct interp_vcpu *v, const struct string *s, unsigned reg)
{
    put(v, s, reg, v->s.gpr[reg] + s->step);
}

static bool one_at_a_time(const struct interp_vcpu *v)
{
    return (v->s.rflags & RFLAGS_TF) || (v->s.dr7 & 0xff);
}

// --- one element

#define LOAD(size, seg, off, val)                                                                                      \
    (size == 1   ? access_load1(v, seg, off, (uint8_t *)(val))                                                         \
     : size == 2 ? access_load2(v, seg, off, (uint16_t *)(val))                                                        \
     : size == 4 ? access_load4(v, seg, off, (uint32_t *)(val))                                                        \
                 : access_load8(v, seg, off, val))
#define STORE(size, seg, off, val)                                                                                     \
    (size == 1   ? access_store1(v, seg, off, val)                                                                     \
     : size == 2 ? access_store2(v, seg, off, val)                                                                     \
     : size == 4 ? access_store4(v, seg, off, val)                                                                     \
                 : access_store8(v, seg, off, val))

GP_INLINE bool movs(struct interp_vcpu *v, const struct interp_insn *i, const struct string *s)
{
    uint64_t val = 0;
    if (!LOAD(s->size, i->seg, get(v, s, CPU_RSI), &val) || !STORE(s->size, CPU_ES, get(v, s, CPU_RDI), val))
        return false;
    advance(v, s, CPU_RSI);
    advance(v, s, CPU_RDI);
    return true;
}

GP_INLINE bool stos(struct interp_vcpu *v, const struct interp_insn *i, const struct string *s)
{
    (void)i;
    if (!STORE(s->size, CPU_ES, get(v, s, CPU_RDI), v->s.gpr[CPU_RAX]))
        return false;
    advance(v, s, CPU_RDI);
    return true;
}

GP_INLINE bool lods(struct interp_vcpu *v, const struct interp_insn *i, const struct string *s)
{
    uint64_t val = 0;
    struct interp_operand rax = {OPERAND_REG, s->size, CPU_RAX, 0};
    if (!LOAD(s->size, i->seg, get(v, s, CPU_RSI), &val))
        return false;
    interp_set_reg(v, &rax, val);
    advance(v, s, CPU_RSI);
    return true;
}

// Flags of a - b.
GP_INLINE uint32_t compare(unsigned size, uint64_t a, uint64_t b)
{
    uint32_t f;
    if (size == 1)
        asm("cmpb %b2, %b1" FLAGS_SAVE : "=&a"(f) : "r"(a), "r"(b) : "cc");
    else if (size == 2)
        asm("cmpw %w2, %w1" FLAGS_SAVE : "=&a"(f) : "r"(a), "r"(b) : "cc");
    else if (size == 4)
        asm("cmpl %k2, %k1" FLAGS_SAVE : "=&a"(f) : "r"(a), "r"(b) : "cc");
    else
        asm("cmpq %2, %1" FLAGS_SAVE : "=&a"(f) : "r"(a), "r"(b) : "cc");
    return f;
}

GP_INLINE bool scas(struct interp_vcpu *v, const struct interp_insn *i, const struct string *s)
{
    uint64_t val = 0;
    (void)i;
    if (!LOAD(s->size, CPU_ES, get(v, s, CPU_RDI), &val))
        return false;
    flags_set(v, compare(s->size, v->s.gpr[CPU_RAX], val));
    advance(v, s, CPU_RDI);
    return true;
}

GP_INLINE bool cmps(struct interp_vcpu *v, const struct interp_insn *i, const struct string *s)
{
    uint64_t a = 0, b = 0;
    if (!LOAD(s->size, i->seg, get(v, s, CPU_RSI), &a) || !LOAD(s->size, CPU_ES, get(v, s, CPU_RDI), &b))
        return false;
    flags_set(v, compare(s->size, a, b));
    advance(v, s, CPU_RSI);
    advance(v, s, CPU_RDI);
    return true;
}

// --- by pieces of a page

// Elements that can be done at one go at seg:offset, and where they are. 0: none.
GP_INLINE uint64_t piece(struct interp_vcpu *v, const struct string *s, unsigned seg, uint64_t offset, uint64_t count,
                         bool write, uint8_t **host, struct tlb_near **e)
{
    uint64_t room =
        PAGE_SIZE - (offset + (v->mode == MODE_LONG64 && seg < CPU_FS ? 0 : v->s.seg[seg].base)) % PAGE_SIZE;
    uint64_t n = room / s->size;
    n = n < count ? n : count;
    // The offset may not wrap within the piece.
    if (!n || n * s->size > s->mask - offset)
        return 0;
    *host = access_at_once(v, seg, offset, n * s->size, write, e);
    return *host ? n : 0;
}

static uint64_t movs_piece(struct interp_vcpu *v, const struct interp_insn *i, const struct string *s, uint64_t count)
{
    uint8_t *to, *from;
    struct tlb_near *e, *unused;
    uint64_t n = piece(v, s, CPU_ES, get(v, s, CPU_RDI), count, true, &to, &e);
    n = n ? piece(v, s, i->seg, get(v, s, CPU_RSI), n, false, &from, &unused) : 0;
    if (!n)
        return 0;
    uint8_t *at = to;
    uint64_t left = n;
    if (s->size == 1)
        asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(left) : : "memory");
    else if (s->size == 2)
        asm volatile("rep movsw" : "+D"(at), "+S"(from), "+c"(left) : : "memory");
    else if (s->size == 4)
        asm volatile("rep movsl" : "+D"(at), "+S"(from), "+c"(left) : : "memory");
    else
        asm volatile("rep movsq" : "+D"(at), "+S"(from), "+c"(left) : : "memory");
    put(v, s, CPU_RSI, v->s.gpr[CPU_RSI] + n * s->size);
    put(v, s, CPU_RDI, v->s.gpr[CPU_RDI] + n * s->size);
    access_stored(v, e, to, n * s->size);
    return n;
}

static uint64_t stos_piece(struct interp_vcpu *v, const struct interp_insn *i, const struct string *s, uint64_t count)
{
    uint8_t *to;
    struct tlb_near *e;
    (void)i;
    uint64_t n = piece(v, s, CPU_ES, get(v, s, CPU_RDI), count, true, &to, &e), left = n;
    if (!n)
        return 0;
    uint8_t *at = to;
    uint64_t val = v->s.gpr[CPU_RAX];
    if (s->size == 1)
        asm volatile("rep stosb" : "+D"(at), "+c"(left) : "a"(val) : "memory");
    else if (s->size == 2)
        asm volatile("rep stosw" : "+D"(at), "+c"(left) : "a"(val) : "memory");
    else if (s->size == 4)
        asm volatile("rep stosl" : "+D"(at), "+c"(left) : "a"(val) : "memory");
    else
        asm volatile("rep stosq" : "+D"(at), "+c"(left) : "a"(val) : "memory");
    put(v, s, CPU_RDI, v->s.gpr[CPU_RDI] + n * s->size);
    access_stored(v, e, to, n * s->size);
    return n;
}

static uint64_t no_piece(struct interp_vcpu *v, const struct interp_insn *i, const struct string *s, uint64_t count)
{
    (void)v, (void)i, (void)s, (void)count;
    return 0;
}

// --- repeating

// `conditional`: ends, too, when ZF is not what the prefix asks for (F3: set, F2: clear).
#define REPEATED(name, B, pieces, conditional)                                                                         \
    static enum interp_result name##B##_h(struct interp_vcpu *v, const struct interp_insn *i)                          \
    {                                                                                                                  \
        struct string s = string_of(v, i, B);                                                                          \
        return name(v, i, &s) ? INTERP_NEXT : INTERP_FAULT;                                                            \
    }                                                                                                                  \
    static enum interp_result name##B##_rep(struct interp_vcpu *v, const struct interp_insn *i)                        \
    {                                                                                                                  \
        struct string s = string_of(v, i, B);                                                                          \
        uint64_t count = get(v, &s, CPU_RCX), budget = one_at_a_time(v) ? 1 : CHUNK;                                   \
        if (!conditional && budget > 1 && s.step > 0)                                                                  \
            for (uint64_t bytes = 0, n; count > 1 && bytes < CHUNK_BYTES; bytes += n * B) {                            \
                n = pieces(v, i, &s, count);                                                                           \
                if (!n)                                                                                                \
                    break;                                                                                             \
                count -= n;                                                                                            \
                put(v, &s, CPU_RCX, count);                                                                            \
            }                                                                                                          \
        for (; count && budget; budget--) {                                                                            \
            if (!name(v, i, &s))                                                                                       \
                return INTERP_FAULT;                                                                                   \
            put(v, &s, CPU_RCX, --count);                                                                              \
            if (conditional && (i->rep == 0xf3) != !!(v->s.rflags & RFLAGS_ZF))                                        \
                return INTERP_NEXT;                                                                                    \
        }                                                                                                              \
        return count ? INTERP_AGAIN : INTERP_NEXT;                                                                     \
    }
#define REPEATED_ALL(name, pieces, conditional)                                                                        \
    REPEATED(name, 1, pieces, conditional)                                                                             \
    REPEATED(name, 2, pieces, conditional)                                                                             \
    REPEATED(name, 4, pieces, conditional)                                                                             \
    REPEATED(name, 8, pieces, conditional)
REPEATED_ALL(movs, movs_piece, false)
REPEATED_ALL(stos, stos_piece, false)
REPEATED_ALL(lods, no_piece, false)
REPEATED_ALL(scas, no_piece, true)
REPEATED_ALL(cmps, no_piece, true)

// MOVSD and CMPSD are SSE instructions as well: those have visible operands.
interp_fn gp_string(const struct interp_insn *i)
{
#define SIZE(name, B)                                                                                                  \
    {                                                                                                                  \
        name##B##_h, name##B##_rep                                                                                     \
    }
    switch (i->ops ? ZYDIS_MNEMONIC_INVALID : i->mnemonic) {
#define CASES(name, NAME)                                                                                              \
    case ZYDIS_MNEMONIC_##NAME##B:                                                                                     \
    case ZYDIS_MNEMONIC_##NAME##W:                                                                                     \
    case ZYDIS_MNEMONIC_##NAME##D:                                                                                     \
    case ZYDIS_MNEMONIC_##NAME##Q: {                                                                                   \
        static const interp_fn fn[4][2] = {SIZE(name, 1), SIZE(name, 2), SIZE(name, 4), SIZE(name, 8)};                \
        return fn[size_index(i->opsize)][!!i->rep];                                                                    \
    }
        CASES(movs, MOVS)
        CASES(stos, STOS)
        CASES(lods, LODS)
        CASES(scas, SCAS)
        CASES(cmps, CMPS)
    default:
        return NULL;
    }
}
