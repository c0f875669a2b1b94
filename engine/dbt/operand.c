// Memory operands: from a guest address to a host operand that has been checked.
//
// The check is  lea s, [address]; rorx a, s, 12; and a, mask; sub s, tag[a]; cmp s, 4096-size; ja slow  and then the
// addend of the same slot gives the host address. One compare covers the tag, the rights (tag_r or tag_w) and the end
// of the page.
//
// Where the address is base + constant, the addend stays in a register of the pool: later accesses off the same,
// unchanged base that lie within what was checked cost nothing (a group). What lies ahead is looked at when the check
// is made, so that it covers the whole group.
//
// In the kernel, reads that are likely to be in its window (window.h) are looked for there first, and the check above
// is what a miss takes.
//
// [rsp + constant] needs none of this: see dbt_stack_check.
#include "engine/dbt/translate.h"
#include "engine/dbt/window.h"

enum { GROUP_SPAN = DBT_WINDOW_SPAN, PAGE = 4096, STACK_SPAN = 2048 };

static size_t view_field(const struct dbt_translation *t, size_t field)
{
    return offsetof(struct dbt_vcpu, tlb) + (t->key & DBT_KEY_VIEW) * sizeof(struct dbt_tlb) + field;
}

size_t dbt_tag_field(const struct dbt_translation *t, bool write)
{
    return view_field(t, write ? offsetof(struct dbt_tlb, tag_w) : offsetof(struct dbt_tlb, tag_r));
}

struct dbt_cold *dbt_cold(struct dbt_translation *t, int kind, unsigned index)
{
    if (t->colds == MAX_COLD || t->sites + t->colds >= MAX_SITES + MAX_COLD) {
        t->e.full = true;
        return &t->cold[0];
    }
    struct dbt_cold *c = &t->cold[t->colds++];
    memset(c, 0, sizeof *c);
    c->kind = kind;
    c->insn = index;
    c->flags_in_slot = t->flags_in_slot;
    return c;
}

void dbt_groups_drop(struct dbt_translation *t, uint16_t written)
{
    for (unsigned k = 0; k < t->pools; k++)
        if (t->group[k].valid && written & 1u << t->group[k].base)
            t->group[k].valid = false;
}

void dbt_emit_address(struct dbt_translation *t, unsigned reg, const struct dbt_mem *m, int32_t more)
{
    struct emit *e = &t->e;
    if (m->rip_relative || (m->base == NO_REG && m->index == NO_REG)) {
        uint64_t a = (uint64_t)m->disp + (uint64_t)(int64_t)more;
        e_mov_imm(e, reg, m->addr32 ? (uint32_t)a : a);
        if (m->seg) {
            size_t base = offsetof(struct dbt_vcpu, i.s.seg) + m->seg * sizeof(struct cpu_segment) +
                          offsetof(struct cpu_segment, base);
            // lea can't take a gs: operand: load the base into the register and add the constant, or the other way
            // round.
            if (fits32((int64_t)a)) {
                e_gs_load(e, reg, base);
                e_lea(e, reg, reg, NO_REG, 1, (int32_t)a);
            } else {
                unsigned other = t->pool[0];
                e_gs_load(e, other, base);
                e_lea(e, reg, reg, other, 1, 0);
                t->group[0].valid = false;
            }
        }
        return;
    }
    int32_t disp = (int32_t)m->disp + more;
    unsigned base = m->base, index = m->index, scale = m->scale;
    if (base == CPU_RSP) { // the host's RSP is translated: back to the guest's
        e_gs_load(e, reg, offsetof(struct dbt_vcpu, stack_negative));
        e_lea(e, reg, CPU_RSP, reg, 1, m->addr32 ? 0 : disp);
        if (m->addr32) {
            e_lea32(e, reg, reg, index, scale, disp);
        } else if (index != NO_REG) {
            e_lea(e, reg, reg, index, scale, 0);
        }
    } else if (m->addr32) {
        e_lea32(e, reg, base, index, scale, disp);
    } else {
        if (m->seg) {
            e_gs_load(e, reg,
                      offsetof(struct dbt_vcpu, i.s.seg) + m->seg * sizeof(struct cpu_segment) +
                          offsetof(struct cpu_segment, base));
            if (base != NO_REG)
                e_lea(e, reg, reg, base, 1, disp);
            if (index != NO_REG || base == NO_REG)
                e_lea(e, reg, reg, index, scale, base == NO_REG ? disp : 0);
            return;
        }
        e_lea(e, reg, base, index, scale, disp);
        return;
    }
    if (m->seg) {
        unsigned other = t->pool[0];
        t->group[0].valid = false;
        e_gs_load(e, other,
                  offsetof(struct dbt_vcpu, i.s.seg) + m->seg * sizeof(struct cpu_segment) +
                      offsetof(struct cpu_segment, base));
        e_lea(e, reg, reg, other, 1, 0);
    }
}

struct dbt_cold *dbt_emit_check(struct dbt_translation *t, unsigned index, unsigned a, unsigned span, bool write,
                                uint8_t *retry)
{
    struct emit *e = &t->e;
    e_rorx(e, a, t->s0, 12);
    e_and32(e, a, DBT_TLB_SIZE - 1);
    e_gs_indexed(e, 0x2b, t->s0, a, dbt_tag_field(t, write));
    e_cmp_imm(e, t->s0, (int32_t)(PAGE - span));
    struct dbt_cold *c = dbt_cold(t, COLD_ACCESS, index);
    c->jump[0] = e_jcc(e, COND_A);
    c->span = span;
    c->write = write;
    c->retry = retry;
    return c;
}

void dbt_emit_addend(struct dbt_translation *t, unsigned a)
{
    e_gs_indexed(&t->e, 0x8b, a, a, view_field(t, offsetof(struct dbt_tlb, addend)));
}

// --- the kernel's window

// Whether the access of instruction `index` at base + low had better be tried in the window first. What the register
// holds is known if the block does not change it before; if it does, it most likely follows pointers, and where these
// lead that is mostly in the window.
static bool window_likely(const struct dbt_translation *t, unsigned index, const struct dbt_mem *m, bool write)
{
    const struct dbt_vcpu *v = t->v;
    if (write || (t->key & DBT_KEY_VIEW) == DBT_USER || t->key & DBT_KEY_SPLIT || !v->window.seen || m->addr32 ||
        m->base == NO_REG || m->base == CPU_RSP || m->seg)
        return false;
    for (unsigned k = 0; k < index; k++)
        if (t->insn[k].written & 1u << m->base)
            return true;
    return dbt_window_has(v, v->i.s.gpr[m->base] + (uint64_t)m->disp);
}

// s0 holds the address; it becomes the offset in the window. What comes after is reached with the cold path's `retry`.
static struct dbt_cold *window_check(struct dbt_translation *t, unsigned index, unsigned span)
{
    struct emit *e = &t->e;
    e_gs(e, 0x2b, t->s0, offsetof(struct dbt_vcpu, window.low));
    e_gs(e, 0x3b, t->s0, offsetof(struct dbt_vcpu, window.room));
    struct dbt_cold *c = dbt_cold(t, COLD_WINDOW, index);
    c->jump[0] = e_jcc(e, COND_AE);
    c->span = span;
    return c;
}

// s0 is the offset in the page, `a` the slot: makes s0 the host's address.
static void make_whole(struct dbt_translation *t, unsigned a, bool write)
{
    e_gs_indexed(&t->e, 0x03, t->s0, a, dbt_tag_field(t, write));
    e_gs_indexed(&t->e, 0x03, t->s0, a, view_field(t, offsetof(struct dbt_tlb, addend)));
}

void dbt_write_window_miss(struct dbt_translation *t, const struct dbt_cold *c)
{
    struct emit *e = &t->e;
    const struct dbt_cold miss = *c; // there will be more of them
    if (t->v->counting)
        e_gs_inc(e, offsetof(struct dbt_vcpu, count.window_misses));
    bool in_slot = t->flags_in_slot;
    t->flags_in_slot = miss.flags_in_slot;
    uint8_t *retry = e->p;
    dbt_emit_address(t, t->s0, &miss.mem, miss.low);
    struct dbt_cold *table = dbt_emit_check(t, miss.insn, miss.reg, miss.span, false, retry);
    table->mem = miss.mem;
    table->low = miss.low;
    t->flags_in_slot = in_slot;
    if (miss.whole)
        make_whole(t, miss.reg, false);
    else
        dbt_emit_addend(t, miss.reg);
    e_target(e, e_jmp(e), miss.retry);
}

// How far a group off `base` goes: looks ahead until base changes; widens [low, high) and the rights by what fits.
static void look_ahead(const struct dbt_translation *t, unsigned index, unsigned base, struct dbt_group *g)
{
    for (unsigned k = index + 1; k < t->count && !(t->insn[k - 1].written & 1u << base); k++) {
        const struct dbt_insn *i = &t->insn[k];
        const struct dbt_mem *m = &i->mem;
        bool same = m->present && m->base == base && m->index == NO_REG && !m->seg && !m->addr32 && !i->bit_string &&
                    i->class != CLASS_LEA && i->class != CLASS_SKIP && fits32(m->disp) && fits32(m->disp + m->size);
        if (!same)
            continue;
        int32_t low = (int32_t)m->disp < g->low ? (int32_t)m->disp : g->low;
        int32_t end = (int32_t)m->disp + m->size;
        int32_t high = end > g->high ? end : g->high;
        if ((int64_t)high - low > GROUP_SPAN)
            break;
        g->low = low;
        g->high = high;
        g->write |= m->write;
    }
}

static bool access_group(struct dbt_translation *t, unsigned index, const struct dbt_mem *m, struct dbt_place *p)
{
    int32_t low = (int32_t)m->disp, high = low + m->size;
    for (unsigned k = 0; k < t->pools; k++) {
        const struct dbt_group *g = &t->group[k];
        if (g->valid && g->base == m->base && low >= g->low && high <= g->high && (g->write || !m->write)) {
            *p = (struct dbt_place){t->pool[k], m->base, 1, low};
            return true;
        }
    }
    struct dbt_group g = {.valid = true, .write = m->write, .base = m->base, .low = low, .high = high};
    if (!(t->key & DBT_KEY_SPLIT))
        look_ahead(t, index, m->base, &g);
    unsigned k = t->next_pool;
    t->next_pool = (k + 1) % t->pools;
    unsigned a = t->pool[k];
    dbt_flags_free(t, index, t->s0);
    uint8_t *retry = t->e.p;
    t->group[k].valid = false;
    dbt_emit_address(t, t->s0, m, g.low - low);
    unsigned span = (unsigned)(g.high - g.low);
    bool window = window_likely(t, index, m, g.write);
    struct dbt_cold *c = window ? window_check(t, index, span) : dbt_emit_check(t, index, a, span, g.write, retry);
    c->mem = *m;
    c->low = g.low - low;
    if (window) {
        c->reg = (uint8_t)a;
        e_gs_load(&t->e, a, offsetof(struct dbt_vcpu, window.addend));
        c->retry = t->e.p;
    } else {
        dbt_emit_addend(t, a);
    }
    t->group[k] = g;
    *p = (struct dbt_place){a, m->base, 1, low};
    return true;
}

static bool access_constant(struct dbt_translation *t, unsigned index, const struct dbt_mem *m, struct dbt_place *p)
{
    uint64_t a = m->addr32 ? (uint32_t)m->disp : (uint64_t)m->disp, page = a & ~(uint64_t)(PAGE - 1);
    if ((a & (PAGE - 1)) + m->size > PAGE)
        return false;
    unsigned slot = (unsigned)(a >> 12) & (DBT_TLB_SIZE - 1), r = t->pool[0];
    size_t tag = dbt_tag_field(t, m->write) + 8u * slot;
    dbt_flags_free(t, index, t->s0);
    uint8_t *retry = t->e.p;
    struct emit *e = &t->e;
    e_mov_imm(e, t->s0, page);
    e_gs(e, 0x3b, t->s0, tag);
    struct dbt_cold *c = dbt_cold(t, COLD_ACCESS, index);
    c->jump[0] = e_jcc(e, COND_NE);
    c->mem = *m;
    c->span = m->size;
    c->write = m->write;
    c->retry = retry;
    t->group[0].valid = false;
    e_gs_load(e, r, view_field(t, offsetof(struct dbt_tlb, addend)) + 8u * slot);
    *p = (struct dbt_place){t->s0, r, 1, (int32_t)(a & (PAGE - 1))};
    return true;
}

static bool pushes(const struct dbt_insn *i)
{
    return i->class == CLASS_PUSH || i->class == CLASS_CALL || i->class == CLASS_CALL_INDIRECT;
}

static bool on_stack(const struct dbt_mem *m)
{
    return m->base == CPU_RSP && m->index == NO_REG && !m->seg && !m->addr32;
}

// `call *0x10c8(%rsp)`: what it pushes and what it reads are not within one window. What it reads is then an access
// like any other.
static bool far_operand(const struct dbt_insn *i)
{
    const struct dbt_mem *m = &i->mem;
    int32_t disp = (int32_t)m->disp;
    return m->present && on_stack(m) && pushes(i) && (disp > STACK_SPAN - 64 || disp < -STACK_SPAN);
}

// BT and its like with a register as bit number access the operand-size unit that has the bit, anywhere around the
// operand. That unit is what is checked; with the addend of its page the host's instruction then finds it by itself.
static bool access_bits(struct dbt_translation *t, unsigned index, const struct dbt_mem *m, struct dbt_place *p)
{
    const struct dbt_insn *i = &t->insn[index];
    unsigned a = t->pool[0], bit = (unsigned)ZydisRegisterGetId(i->op[1].reg.value);
    bool wide = m->size == 8;
    struct emit *e = &t->e;
    t->group[0].valid = false;
    dbt_flags_free(t, index, t->s0);
    uint8_t *retry = e->p;
    dbt_emit_address(t, t->s0, m, 0);
    if (wide)
        e_mov(e, a, bit);
    else
        e_movsxd(e, a, bit);
    e_shift(e, SHIFT_SIGNED, true, a, wide ? 6 : 5);
    e_lea(e, t->s0, t->s0, a, m->size, 0);
    struct dbt_cold *c = dbt_emit_check(t, index, a, m->size, m->write, retry);
    c->kind = COLD_COMPUTED;
    c->reg = (uint8_t)a;
    dbt_emit_addend(t, a);
    if (m->base != NO_REG && m->base != CPU_RSP && m->index == NO_REG) {
        *p = (struct dbt_place){(uint8_t)a, m->base, 1, (int32_t)m->disp};
        return true;
    }
    dbt_emit_address(t, t->s0, m, 0);
    *p = (struct dbt_place){t->s0, (uint8_t)a, 1, 0};
    return true;
}

bool dbt_access(struct dbt_translation *t, unsigned index, const struct dbt_mem *m, struct dbt_place *p)
{
    if (t->insn[index].bit_string)
        return access_bits(t, index, m, p);
    bool constant = m->base == NO_REG && m->index == NO_REG && !m->seg;
    bool far = m == &t->insn[index].mem && far_operand(&t->insn[index]);
    if (on_stack(m) && !far && !(t->key & DBT_KEY_SPLIT)) {
        dbt_stack_check(t, index);
        *p = (struct dbt_place){CPU_RSP, NO_REG, 1, (int32_t)m->disp};
        return true;
    }
    if (constant)
        return access_constant(t, index, m, p);
    if (m->base != NO_REG && m->base != CPU_RSP && m->index == NO_REG && !m->seg && !m->addr32)
        return access_group(t, index, m, p);
    dbt_flags_free(t, index, t->s0);
    uint8_t *retry = t->e.p;
    unsigned a = t->pool[0];
    t->group[0].valid = false;
    dbt_emit_address(t, t->s0, m, 0);
    if (window_likely(t, index, m, m->write)) {
        struct dbt_cold *c = window_check(t, index, m->size);
        c->mem = *m;
        c->reg = (uint8_t)a;
        c->whole = true;
        e_gs(&t->e, 0x03, t->s0, offsetof(struct dbt_vcpu, window.low));
        e_gs(&t->e, 0x03, t->s0, offsetof(struct dbt_vcpu, window.addend));
        c->retry = t->e.p;
    } else {
        dbt_emit_check(t, index, a, m->size, m->write, retry)->mem = *m;
        make_whole(t, a, m->write);
    }
    *p = (struct dbt_place){t->s0, NO_REG, 1, 0};
    return true;
}

// --- the stack window

// What stack bytes instruction i touches, relative to RSP before it. False: none.
static bool stack_bytes(const struct dbt_insn *i, int32_t *low, int32_t *high)
{
    bool any = false;
    *low = INT32_MAX;
    *high = INT32_MIN;
    if (pushes(i) || (i->class == CLASS_SENSITIVE && i->rsp_change)) {
        *low = -8;
        *high = 0;
        any = true;
    } else if (i->class == CLASS_POP || i->class == CLASS_RET || i->class == CLASS_POP_RSP) {
        *low = 0;
        *high = 8;
        any = true;
    } else if (i->class == CLASS_RSP_ADD) { // nothing, but it must not lead ever farther away
        *low = *high = 0;
        any = true;
    }
    const struct dbt_mem *m = &i->mem;
    if (m->present && on_stack(m) && !far_operand(i) && !i->bit_string && i->class != CLASS_LEA &&
        i->class != CLASS_SKIP && i->class != CLASS_RSP_ADD && i->class != CLASS_STEP) {
        int32_t a = (int32_t)m->disp, b = a + m->size;
        *low = a < *low ? a : *low;
        *high = b > *high ? b : *high;
        any = true;
    }
    return any;
}

void dbt_stack_check(struct dbt_translation *t, unsigned index)
{
    if (index < t->stack_covered)
        return;
    int32_t low = INT32_MAX, high = INT32_MIN, at = 0;
    unsigned k = index;
    for (; k < t->count; k++) {
        int32_t a, b;
        const struct dbt_insn *i = &t->insn[k];
        if (stack_bytes(i, &a, &b)) {
            int32_t l = at + a < low ? at + a : low, h = at + b > high ? at + b : high;
            if (h - l > STACK_SPAN && k > index)
                break;
            low = l;
            high = h;
        }
        if (i->rsp_unknown || i->class == CLASS_STEP) {
            k++;
            break;
        }
        at += i->rsp_change;
        if (i->class == CLASS_RET && i->z.operand_count_visible)
            break;
        if (at > 1 << 20 || at < -(1 << 20)) {
            k++;
            break;
        }
    }
    t->stack_covered = k > index ? k : index + 1;
    dbt_stack_check_reg(t, index, CPU_RSP, low, (unsigned)(high - low));
}

void dbt_stack_check_reg(struct dbt_translation *t, unsigned index, unsigned reg, int32_t low, unsigned span)
{
    struct emit *e = &t->e;
    unsigned s = reg == t->s0 ? t->pool[0] : t->s0;
    if (s == t->pool[0])
        t->group[0].valid = false;
    dbt_flags_free(t, index, s);
    uint8_t *retry = e->p;
    e_lea(e, s, reg, NO_REG, 1, low);
    e_gs(e, 0x2b, s, offsetof(struct dbt_vcpu, stack_low));
    e_cmp_imm(e, s, (int32_t)(PAGE - (int)span));
    struct dbt_cold *c = dbt_cold(t, COLD_STACK, index);
    c->jump[0] = e_jcc(e, COND_A);
    c->reg = (uint8_t)reg;
    c->low = low;
    c->span = span;
    c->write = true;
    c->retry = retry;
}

void dbt_stack_set(struct dbt_translation *t, unsigned index, unsigned reg)
{
    struct emit *e = &t->e;
    e_gs(e, 0x3b, reg, offsetof(struct dbt_vcpu, stack_limit));
    struct dbt_cold *c = dbt_cold(t, COLD_RSP, index);
    c->jump[0] = e_jcc(e, COND_AE);
    e_mov(e, CPU_RSP, reg);
    c->reg = (uint8_t)reg;
    c->retry = e->p;
    t->stack_covered = 0;
}
