// Pieces about memory: blocks that string instructions fill and copy, bit strings, targets of indirect jumps that
// change, and the range of addresses at which ring 0 finds all memory. See maker.h.
#include "maker.h"

// As many different ones.
static void some_values(struct maker *m, unsigned *r, unsigned n)
{
    uint16_t left = m->values;
    for (unsigned k = 0; k < n; k++) {
        r[k] = one_of(m, left);
        left &= ~(1u << r[k]);
    }
}

// REP MOVS or REP STOS of about as much as the page has left, of a page, or less.
void piece_block(struct maker *m)
{
    bool moves = chance(m, 50), down = chance(m, 6);
    unsigned log2 = below(m, 4);
    uint64_t own = m->p->setup.data + DATA_OWN * (uint64_t)PAGE, to, from, n = below(m, 48);
    do
        to = data_address(m);
    while (to - own < PAGE);
    from = chance(m, 25) ? to + below(m, 128) - 64 : data_address(m);
    switch (below(m, 6)) {
    case 0:
        n = ((PAGE - (to & (PAGE - 1))) >> log2) + below(m, 3);
        break;
    case 1:
        n = (PAGE >> log2) + below(m, 3) - 1;
        to &= ~(uint64_t)(PAGE - 1);
        if (chance(m, 60))
            from &= ~(uint64_t)(PAGE - 1);
        break;
    case 2:
        n = below(m, 900);
        break;
    default:
        break;
    }
    e_mov_imm(&m->e, CPU_RDI, to);
    if (moves)
        e_mov_imm(&m->e, CPU_RSI, from);
    e_mov_imm(&m->e, CPU_RCX, n);
    if (chance(m, 50))
        all_flags(m);
    if (down)
        e8(&m->e, 0xfd);
    if (log2 == 1)
        e8(&m->e, 0x66);
    e8(&m->e, 0xf3);
    if (log2 == 3)
        e8(&m->e, 0x48);
    e8(&m->e, (moves ? 0xa4 : 0xaa) | (log2 > 0));
    if (down)
        e8(&m->e, 0xfc);
}

// BT, BTS, BTR or BTC with the bit's number in a register: somewhere around the operand.
void piece_bits(struct maker *m)
{
    static const uint8_t op[] = {0xa3, 0xab, 0xb3, 0xbb};
    unsigned which = below(m, sizeof op), bit = value(m), r = chance(m, 15) ? CPU_RSP : pointer(m);
    unsigned index = chance(m, 25) ? one_of(m, m->indexes) : NO_REG, wide = chance(m, 60);
    uint64_t n = (uint64_t)(int64_t)((int)below(m, 80000) - 40000);
    e_mov_imm(&m->e, bit, wide || chance(m, 50) ? n : (n & UINT32_MAX) | random_bits(&m->r) << 32);
    if (r != CPU_RSP && chance(m, 40))
        e_mov_imm(&m->e, r, data_address(m));
    if (which && chance(m, 25))
        e8(&m->e, 0xf0);
    if (chance(m, 8))
        e8(&m->e, 0x66);
    e8(&m->e, rex_for(wide, bit, index, r));
    e8(&m->e, 0x0f);
    e8(&m->e, op[which]);
    e_mem(&m->e, bit, r, index, index == NO_REG ? 1 : 1u << below(m, 4), (int)below(m, 256) - 64);
    rex_op(m, 0x83, 2, value(m)); // adc: makes all flags
    e8(&m->e, 0);
}

// Two of the targets that calls by memory go to change places.
void piece_targets(struct maker *m)
{
    unsigned r[2];
    int a = 8 * (int)below(m, TARGETS_TAKEN), b = 8 * (int)below(m, TARGETS_TAKEN);
    some_values(m, r, 2);
    e_mov_imm(&m->e, r[0], m->p->setup.data + DATA_OWN * (uint64_t)PAGE + TARGETS);
    e_op64(&m->e, 0x8b, r[1], r[0], NO_REG, 1, a);
    e_op64(&m->e, 0x87, r[1], r[0], NO_REG, 1, b);
    e_op64(&m->e, 0x89, r[1], r[0], NO_REG, 1, a);
}

// --- the direct map (machine.c)

// Not page tables, nor what handlers use.
static uint64_t mapped(struct maker *m)
{
    static const uint32_t edge[] = {RAM, LARGE, 2 * LARGE, 3 * LARGE};
    switch (below(m, 4)) {
    case 0:
        return edge[below(m, sizeof edge / sizeof *edge)] + (uint64_t)below(m, 48) - 32;
    case 1:
        return RAM + below(m, 3 * LARGE - RAM);
    default:
        return MAPPED_FIRST + below(m, RAM - MAPPED_FIRST);
    }
}

// Reads page after page, so that a translator may come to think that it is worth something.
void piece_map_walk(struct maker *m)
{
    unsigned r[3];
    some_values(m, r, 3);
    if (m->p->setup.user)
        return;
    e_mov_imm(&m->e, r[0], DIRECT_MAP + RAM + below(m, LARGE));
    e_mov_imm(&m->e, r[1], 130 + below(m, 40));
    unsigned again = here(m);
    e_op64(&m->e, 0x8b, r[2], r[0], NO_REG, 1, (int)below(m, 64));
    e_lea(&m->e, r[0], r[0], NO_REG, 1, PAGE);
    rex_op(m, 0xff, 1, r[1]); // dec
    e8(&m->e, 0x75);
    e8(&m->e, (again - here(m) - 1) & 0xff);
}

void piece_map_read(struct maker *m)
{
    static const uint8_t op[] = {0x8b, 0x8b, 0x03, 0x3b, 0x33, 0x13};
    unsigned r[3];
    some_values(m, r, 3);
    if (m->p->setup.user)
        return;
    e_mov_imm(&m->e, r[0], DIRECT_MAP + mapped(m));
    unsigned index = chance(m, 30) ? one_of(m, m->indexes) : NO_REG;
    for (unsigned n = 1 + below(m, 3); n--;)
        e_op64(&m->e, op[below(m, sizeof op)], r[1 + below(m, 2)], r[0], index, 1,
               (int)below(m, chance(m, 20) ? 2000 : 40));
}

// The direct map changes, and the TLB is told: by INVLPG for any address of the page, or by closing and opening
// CR4.PGE.
void piece_map_change(struct maker *m)
{
    // Other memory; absent; not accessed; user's; not global.
    static const uint32_t change[] = {2 * LARGE, 2 * LARGE, 2 * LARGE, 1, 0x20, 4, 0x100};
    static const uint8_t pge[] = {0x0f, 0x20, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0};
    unsigned r = value(m), page = below(m, 3);
    uint64_t la = DIRECT_MAP + page * (uint64_t)LARGE;
    if (m->p->setup.user)
        return;
    e_mov_imm(&m->e, r,
              (uint64_t)-1 << 48 | (uint64_t)TABLES_SLOT << 39 | (uint64_t)TABLES_SLOT << 30 |
                  ((la >> 21) & 0x7ffffff) << 3);
    e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
    e8(&m->e, 0x81); // xorl
    e_mem(&m->e, 6, r, NO_REG, 1, 0);
    e32(&m->e, change[below(m, sizeof change / sizeof *change)]);
    if (chance(m, 30)) {
        e_bytes(&m->e, pge, sizeof pge);
    } else {
        e_mov_imm(&m->e, r, la + below(m, LARGE));
        e8(&m->e, rex_for(0, NO_REG, NO_REG, r));
        e8(&m->e, 0x0f); // invlpg
        e8(&m->e, 0x01);
        e_mem(&m->e, 7, r, NO_REG, 1, 0);
    }
    all_flags(m); // those of the entry tell of its accessed and dirty bits
}
