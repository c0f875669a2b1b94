// Making a piece (program.h): what there is to choose from, and how bytes and references get into it.
#pragma once
#include "engine/dbt/emit.h"
#include "program.h"

struct grammar;

struct maker {
    struct program *p;
    const struct grammar *g;
    struct random r;
    struct emit e; // of the piece
    struct piece *piece;
    uint16_t pointers, indexes, values;
};

// flow.c: branches, calls, and what moves RSP.
void piece_branch(struct maker *m);
void piece_loop(struct maker *m);
void piece_call(struct maker *m);
void piece_push_pop(struct maker *m);
void piece_rsp(struct maker *m);
void piece_edge(struct maker *m);
// memory.c: string instructions, bit strings, the direct map.
void piece_block(struct maker *m);
void piece_bits(struct maker *m);
void piece_targets(struct maker *m);
void piece_map_walk(struct maker *m);
void piece_map_read(struct maker *m);
void piece_map_change(struct maker *m);
// system.c: what changes code and page tables, and what only operating systems do.
void piece_patchable(struct maker *m);
void piece_modify(struct maker *m);
void piece_remap(struct maker *m);
void piece_flags_register(struct maker *m);
void piece_system(struct maker *m);
void piece_segment(struct maker *m);

enum { PATCH = INT16_MIN }; // `more` of a reference to a patchable byte: found when all pieces are there

// --- choices

static inline unsigned below(struct maker *m, unsigned n)
{
    return random_below(&m->r, n);
}

static inline bool chance(struct maker *m, unsigned percent)
{
    return random_chance(&m->r, percent);
}

static inline unsigned one_of(struct maker *m, uint16_t from)
{
    for (unsigned n = below(m, (unsigned)__builtin_popcount(from)); n; n--)
        from &= from - 1;
    return (unsigned)__builtin_ctz(from);
}

static inline unsigned pointer(struct maker *m)
{
    return one_of(m, m->pointers);
}

static inline unsigned value(struct maker *m)
{
    return one_of(m, m->values);
}

static inline unsigned any(struct maker *m)
{
    return below(m, GPRS);
}

static inline unsigned a_piece(struct maker *m)
{
    return below(m, m->p->pieces);
}

// Near a page's edge, mostly.
static inline uint64_t near_edge(struct maker *m)
{
    return chance(m, 60) ? (uint64_t)(int64_t)((int)below(m, 80) - 40) & (PAGE - 1) : below(m, PAGE);
}

static inline uint64_t data_address(struct maker *m)
{
    static const uint8_t page[] = {DATA_FIRST,    DATA_FIRST,  DATA_FIRST, DATA_SECOND, DATA_SECOND, DATA_SECOND,
                                   DATA_READONLY, DATA_ABSENT, DATA_ALIAS, DATA_DEVICE, DATA_KERNEL, DATA_OWN};
    if (chance(m, 2))
        return random_integer(&m->r);
    if (!m->p->setup.user && chance(m, 6)) // all but DATA_OWN
        return DIRECT_MAP + MAPPED_DATA + (chance(m, 20) ? RAM - MAPPED_DATA : 0) + below(m, 7 * PAGE);
    unsigned n = page[below(m, sizeof page)];
    // Not where counters and targets are: those keep programs from running astray.
    uint64_t offset = n == DATA_OWN ? 64 + below(m, COUNTERS - 512) : near_edge(m);
    return m->p->setup.data + n * (uint64_t)PAGE + offset;
}

static inline uint64_t stack_address(struct maker *m)
{
    uint64_t base = m->p->setup.stack;
    unsigned how = below(m, 100);
    if (how < 50) // near an edge between two pages
        return base + PAGE * (uint64_t)(2 + below(m, STACK_PAGES - 1)) + 8 * below(m, 12) - 48 +
               (chance(m, 15) ? below(m, 8) : 0);
    if (how < 80)
        return base + PAGE + 8 * below(m, STACK_PAGES * PAGE / 8);
    if (how < 88) // either end
        return base + PAGE * (chance(m, 50) ? 1 : 1 + STACK_PAGES) + 8 * below(m, 8) - 32;
    return how < 97 ? data_address(m) & ~7ull : random_integer(&m->r);
}

// --- pieces of pieces

static inline void rex_op(struct maker *m, unsigned op, unsigned ext, unsigned reg) // op r/m64 with an opcode extension
{
    e8(&m->e, rex_for(1, NO_REG, NO_REG, reg));
    e8(&m->e, op);
    e8(&m->e, 0xc0 | ext << 3 | (reg & 7));
}

static inline void push(struct maker *m, unsigned reg)
{
    if (reg & 8)
        e8(&m->e, 0x41);
    e8(&m->e, 0x50 | (reg & 7));
}

static inline void pop(struct maker *m, unsigned reg)
{
    if (reg & 8)
        e8(&m->e, 0x41);
    e8(&m->e, 0x58 | (reg & 7));
}

static inline unsigned here(const struct maker *m)
{
    return (unsigned)(m->e.p - m->piece->bytes);
}

// The field that ends here refers to a piece.
static inline void refer(struct maker *m, unsigned kind, unsigned target, int more)
{
    unsigned size = kind == REF_SHORT ? 1 : kind == REF_NEAR ? 4 : 8;
    if (m->piece->refs == MAX_REFERENCES || m->e.full)
        return;
    m->piece->ref[m->piece->refs].kind = (uint8_t)kind;
    m->piece->ref[m->piece->refs].at = (uint8_t)(here(m) - size);
    m->piece->ref[m->piece->refs].next = (uint8_t)here(m);
    m->piece->ref[m->piece->refs].target = (uint8_t)target;
    m->piece->ref[m->piece->refs++].more = (int16_t)more;
}

static inline void mov_address(struct maker *m, unsigned reg, unsigned kind, unsigned target, int more)
{
    e8(&m->e, rex_for(1, NO_REG, NO_REG, reg));
    e8(&m->e, 0xb8 | (reg & 7));
    e64(&m->e, 0);
    refer(m, kind, target, more);
}

// jmp, call (e9, e8) or jcc (80 + condition, after 0f).
static inline void near(struct maker *m, unsigned op, unsigned target)
{
    if ((op & 0xf0) == 0x80)
        e8(&m->e, 0x0f);
    e8(&m->e, op);
    e32(&m->e, 0);
    refer(m, REF_NEAR, target, 0);
}

static inline void all_flags(struct maker *m)
{
    e_cmp(&m->e, any(m), any(m));
}
