// REP MOVS and REP STOS, translated: the host's own, on memory that was checked as a whole.
//
// What the kernel does all day is short: clear a structure, copy a page. So the case that is written in place is the
// one where each operand lies in one page, going upwards:
//
//     DF is clear, RCX elements are one at least and a page at most, [RDI, RDI+bytes) and [RSI, RSI+bytes) each end in
//     the page that they begin in and that page may be accessed: the addends make host addresses, the instruction runs,
//     and the addends are taken off again.
//
// Nothing can fault then, and nothing is to be seen in the middle. Everything else leaves the block before the
// instruction; the interpreter does it by pieces of a page (engine/interp/gp_string.c).
//
// Source: Intel SDM vol. 2, REP, MOVS, STOS.
#include "engine/dbt/translate.h"

#define FIELD(name) offsetof(struct dbt_vcpu, name)

enum { PAGE = 4096, SLOWS = 4 };

struct slow {
    uint8_t *jump[SLOWS];
    unsigned count;
};

static unsigned element_log2(const ZydisDecodedInstruction *z, bool *moves)
{
    *moves = true;
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_STOSB:
        *moves = false;
        return 0;
    case ZYDIS_MNEMONIC_STOSW:
        *moves = false;
        return 1;
    case ZYDIS_MNEMONIC_STOSD:
        *moves = false;
        return 2;
    case ZYDIS_MNEMONIC_STOSQ:
        *moves = false;
        return 3;
    case ZYDIS_MNEMONIC_MOVSB:
        return 0;
    case ZYDIS_MNEMONIC_MOVSW:
        return 1;
    case ZYDIS_MNEMONIC_MOVSD:
        return z->meta.category == ZYDIS_CATEGORY_STRINGOP ? 2 : NO_REG; // not the vector instruction
    case ZYDIS_MNEMONIC_MOVSQ:
        return 3;
    default:
        return NO_REG;
    }
}

bool dbt_string_is(const struct dbt_translation *t, const struct dbt_insn *i, uint16_t *used, uint16_t *written)
{
    bool moves;
    if (t->key & (DBT_KEY_CELL | DBT_KEY_SPLIT) || !(i->z.attributes & ZYDIS_ATTRIB_HAS_REP) ||
        i->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT || i->z.address_width != 64 || element_log2(&i->z, &moves) == NO_REG)
        return false;
    *written = 1u << CPU_RCX | 1u << CPU_RDI | (moves ? 1u << CPU_RSI : 0);
    *used = *written | (moves ? 0 : 1u << CPU_RAX);
    return true;
}

static void slow_if(struct dbt_translation *t, struct slow *s, unsigned cond)
{
    s->jump[s->count++] = e_jcc(&t->e, cond);
}

// [reg, reg + RCX elements) can be accessed, in one page; pool[0] gets what makes a host address of reg.
static void check(struct dbt_translation *t, unsigned index, unsigned reg, unsigned log2, bool write, struct slow *slow)
{
    const struct dbt_mem m = {
        .present = true, .read = !write, .write = write, .base = (uint8_t)reg, .index = NO_REG, .scale = 1, .size = 1};
    struct emit *e = &t->e;
    uint8_t *retry = e->p;
    unsigned s = t->s0, a = t->pool[0];
    dbt_emit_address(t, s, &m, 0);
    dbt_emit_check(t, index, a, m.size, write, retry)->mem = m;
    e_lea(e, s, s, CPU_RCX, 1u << log2, 0);
    e_cmp_imm(e, s, PAGE);
    slow_if(t, slow, COND_A);
    dbt_emit_addend(t, a);
}

// The instruction, without any prefix that does nothing.
static void write_string(struct emit *e, bool moves, unsigned log2)
{
    e8(e, 0xf3);
    if (log2 == 1)
        e8(e, 0x66);
    if (log2 == 3)
        e8(e, 0x48);
    e8(e, (moves ? 0xa4 : 0xaa) | (log2 > 0));
}

void dbt_string_write(struct dbt_translation *t, unsigned index)
{
    const struct dbt_insn *i = &t->insn[index];
    struct emit *e = &t->e;
    struct slow slow = {0};
    bool moves;
    unsigned log2 = element_log2(&i->z, &moves), a = t->pool[0];
    t->group[0].valid = false;
    dbt_flags_free(t, index, t->s0);
    e_gs_test8(e, FIELD(i.s.rflags) + 1, RFLAGS_DF >> 8);
    slow_if(t, &slow, COND_NE);
    e_lea(e, t->s0, CPU_RCX, NO_REG, 1, -1); // with no element nothing may be touched
    e_cmp_imm(e, t->s0, (PAGE >> log2) - 1);
    slow_if(t, &slow, COND_A);
    if (moves) {
        check(t, index, CPU_RSI, log2, false, &slow);
        e_gs_store(e, a, FIELD(scratch[0]));
    }
    check(t, index, CPU_RDI, log2, true, &slow);
    e_gs_store(e, a, FIELD(scratch[1]));
    e_lea(e, CPU_RDI, CPU_RDI, a, 1, 0);
    if (moves)
        e_gs(e, 0x03, CPU_RSI, FIELD(scratch[0])); // add
    write_string(e, moves, log2);
    e_gs(e, 0x2b, CPU_RDI, FIELD(scratch[1])); // sub
    if (moves)
        e_gs(e, 0x2b, CPU_RSI, FIELD(scratch[0]));
    uint8_t *over = e_jmp(e);
    for (unsigned k = 0; k < slow.count; k++)
        e_target(e, slow.jump[k], e->p);
    dbt_exit_step(t, index);
    e_target(e, over, e->p);
}
