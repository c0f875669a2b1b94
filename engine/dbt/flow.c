// Ways out of a block, and what is written behind it: the cold paths.
//
// Before a way out, guest registers go where they belong between blocks: R14 and R15 to memory if the block changed
// them, borrowed registers back from memory. None of that touches flags.
//
// Flags at an exit: near exits leave them in the host's flags, far and indirect ones in flag_slot.
#include "engine/dbt/cache.h"
#include "engine/dbt/runtime.h"
#include "engine/dbt/translate.h"

enum { PAGE_MASK = ~4095 };

// --- flags

void dbt_flags_save(struct dbt_translation *t, unsigned temp)
{
    static const uint8_t save[] = {0x9f, 0x0f, 0x90, 0xc0}; // lahf; seto al
    if (t->flags_in_slot)
        return;
    if (temp != CPU_RAX)
        e_mov(&t->e, temp, CPU_RAX);
    e_bytes(&t->e, save, sizeof save);
    e_gs_store32(&t->e, CPU_RAX, offsetof(struct dbt_vcpu, flag_slot));
    if (temp != CPU_RAX)
        e_mov(&t->e, CPU_RAX, temp);
    t->flags_in_slot = true;
}

void dbt_flags_restore(struct dbt_translation *t, unsigned temp)
{
    static const uint8_t restore[] = {0x04, 0x7f, 0x9e}; // add al, 0x7f: overflows if al is 1; sahf
    if (!t->flags_in_slot)
        return;
    e_mov(&t->e, temp, CPU_RAX);
    e_gs_load32(&t->e, CPU_RAX, offsetof(struct dbt_vcpu, flag_slot));
    e_bytes(&t->e, restore, sizeof restore);
    e_mov(&t->e, CPU_RAX, temp);
    t->flags_in_slot = false;
}

void dbt_flags_free(struct dbt_translation *t, unsigned index, unsigned temp)
{
    if (t->insn[index].flags_live_in)
        dbt_flags_save(t, temp);
}

// --- registers

static uint16_t high_registers(const struct dbt_translation *t)
{
    return t->live & (1u << CPU_R14 | 1u << CPU_R15);
}

// Stores what the block has changed of R14 and R15; takes no register.
static void store_high(struct dbt_translation *t)
{
    uint16_t changed = high_registers(t) & t->written;
    for (unsigned r = CPU_R14; r <= CPU_R15; r++)
        if (changed & 1u << r)
            e_gs_store(&t->e, r, dbt_home(r));
}

static void load_borrowed(struct dbt_translation *t)
{
    uint16_t b = t->borrowed & ~(1u << CPU_R14 | 1u << CPU_R15);
    for (unsigned r = 0; r < CPU_GPR_COUNT; r++)
        if (b & 1u << r)
            e_gs_load(&t->e, r, dbt_home(r));
}

static bool leaves_registers_alone(const struct dbt_translation *t)
{
    return !(high_registers(t) & t->written) && !(t->borrowed & ~(1u << CPU_R14 | 1u << CPU_R15));
}

// --- direct exits

static unsigned new_exit(struct dbt_translation *t, unsigned index, uint64_t target)
{
    if (t->exits == t->exit_room) {
        t->e.full = true;
        return 0;
    }
    struct dbt_exit *x = &t->exit[t->exits];
    *x = (struct dbt_exit){.target = target, .key = t->key & DBT_KEY_SPLIT, .done = (uint8_t)(index + 1)};
    x->far = ((target ^ t->rip) & (uint64_t)(int64_t)PAGE_MASK) != 0;
    x->back = !x->far && target <= t->insn[index].rip;
    t->stepped[t->exits] = NULL;
    return t->exits++;
}

// Writes the exit: registers, flags, jump (to the cold stub for now).
static void write_exit(struct dbt_translation *t, unsigned index, unsigned x)
{
    // flags first: they need a scratch register, which may be a borrowed one
    if (t->exit[x].far)
        dbt_flags_save(t, t->s0);
    else
        dbt_flags_restore(t, t->s0);
    store_high(t);
    load_borrowed(t);
    struct dbt_cold *c = dbt_cold(t, COLD_EXIT, index);
    c->exit = x;
    c->jump[0] = e_jmp(&t->e);
    t->exit[x].jump = c->jump[0];
}

void dbt_exit_direct(struct dbt_translation *t, unsigned index, uint64_t target)
{
    write_exit(t, index, new_exit(t, index, target));
}

void dbt_exit_cond(struct dbt_translation *t, unsigned index, uint64_t target, unsigned cond)
{
    unsigned x = new_exit(t, index, target);
    dbt_flags_restore(t, t->s0);
    if (!t->exit[x].far && leaves_registers_alone(t)) {
        struct dbt_cold *c = dbt_cold(t, COLD_EXIT, index);
        c->exit = x;
        c->jump[0] = e_jcc(&t->e, cond);
        t->exit[x].jump = c->jump[0];
        return;
    }
    uint8_t *over = e_jcc(&t->e, cond ^ 1);
    write_exit(t, index, x);
    t->flags_in_slot = false; // on the way past it nothing was saved
    e_target(&t->e, over, t->e.p);
}

// --- indirect exits

// Says which block it is that jumps.
static void write_from(struct dbt_translation *t)
{
    e_gs_set32(&t->e, offsetof(struct dbt_vcpu, exit_from), dbt_block_number(t->v->cache, t->block));
}

// To where the table says that R14 is.
static void write_hash(struct dbt_translation *t, unsigned view)
{
    e_movzx16(&t->e, CPU_R15, CPU_R14);
    e_jmp_gs(&t->e, CPU_R15, offsetof(struct dbt_vcpu, ibl) + view * sizeof(uint64_t[DBT_IBL_SIZE]));
}

// The inline cache: if R14 is the target that was guessed, straight to the block there; R15 may go. The first target is
// the guess (dbt_guess): until then the jump goes to the dispatcher. Targets are like the block's own address: either
// both fit into 32 bits, or the comparison takes a register.
static void write_guess(struct dbt_translation *t, unsigned index)
{
    struct emit *e = &t->e;
    struct dbt_exit *x = &t->exit[new_exit(t, index, 0)];
    x->far = true;
    if (fits32((int64_t)t->rip)) {
        e_cmp_imm(e, CPU_R14, 0);
        x->guess_size = 4;
    } else {
        e_mov_imm64(e, CPU_R15, 0);
        x->guess_size = 8;
    }
    x->guess = e->p - x->guess_size;
    if (x->guess_size == 8)
        e_cmp(e, CPU_R14, CPU_R15);
    uint8_t *over = e_jcc(e, COND_NE);
    if (t->v->counting)
        e_gs_inc(e, offsetof(struct dbt_vcpu, count.guess_hits));
    x->jump = e_jmp(e);
    x->stub = e->p;
    e_target(e, over, e->p);
    e_target(e, x->jump, e->p);
    write_from(t);
    x->guess_first = (uint8_t)(e->p - x->stub);
    e_target(e, e_jmp(e), dbt_runtime(t->v)->indirect_miss);
}

void dbt_exit_indirect(struct dbt_translation *t, unsigned index, unsigned target)
{
    t->block->branch_length = t->insn[index].len;
    dbt_flags_save(t, target == t->s0 ? t->pool[0] : t->s0);
    store_high(t);
    if (target != CPU_R14)
        e_mov(&t->e, CPU_R14, target);
    load_borrowed(t);
    if (t->key & DBT_KEY_ALONE) {
        write_from(t);
        e_target(&t->e, e_jmp(&t->e), dbt_runtime(t->v)->indirect_miss);
        return;
    }
    write_guess(t, index);
    write_hash(t, t->key & DBT_KEY_VIEW);
}

void dbt_exit_view(struct dbt_translation *t, unsigned index, enum dbt_view view, unsigned target_reg, size_t target)
{
    t->block->branch_length = t->insn[index].len;
    store_high(t);
    load_borrowed(t);
    if (target_reg == NO_REG)
        e_gs_load(&t->e, CPU_R14, target);
    else
        e_mov(&t->e, CPU_R14, target_reg);
    write_from(t);
    write_hash(t, view);
}

// To the interpreter, never linked; what follows may be reached on another way, as if nothing were here.
static unsigned exit_to_interpreter(struct dbt_translation *t, unsigned index, uint64_t target)
{
    bool in_slot = t->flags_in_slot;
    unsigned x = new_exit(t, index, target);
    t->exit[x].far = false;
    dbt_flags_restore(t, t->s0);
    store_high(t);
    load_borrowed(t);
    struct dbt_cold *c = dbt_cold(t, COLD_EXIT, index);
    c->exit = x;
    c->write = true;
    c->jump[0] = e_jmp(&t->e);
    t->flags_in_slot = in_slot;
    return x;
}

void dbt_exit_step(struct dbt_translation *t, unsigned index)
{
    unsigned x = exit_to_interpreter(t, index, t->insn[index].rip);
    t->exit[x].done = (uint8_t)index;
    t->stepped[x] = &t->insn[index];
}

void dbt_exit_look(struct dbt_translation *t, unsigned index)
{
    exit_to_interpreter(t, index, t->insn[index].rip + t->insn[index].len);
}

// --- cold paths

// R14 is at home by now.
static void write_leave(struct dbt_translation *t, const void *arg, unsigned why, bool in_slot)
{
    e_mov_imm(&t->e, CPU_R14, (uintptr_t)arg);
    e_target(&t->e, e_jmp(&t->e), dbt_runtime(t->v)->leave_for[why][in_slot]);
}

static void write_slow(struct dbt_translation *t, struct dbt_cold *c)
{
    struct emit *e = &t->e;
    if (t->sites == MAX_SITES) {
        e->full = true;
        return;
    }
    unsigned s = t->s0;
    if (c->kind == COLD_ACCESS) {
        // The same computation as in the check, on the same registers.
        dbt_emit_address(t, s, &c->mem, c->low);
    } else if (c->kind == COLD_COMPUTED) { // the offset and the page: what was compared is what was taken off
        e_gs_indexed(e, 0x03, s, c->reg, dbt_tag_field(t, c->write));
    } else if (c->kind == COLD_STACK) {
        s = c->reg == t->s0 ? t->pool[0] : t->s0;
        e_lea(e, s, c->reg, NO_REG, 1, c->low);
        e_gs(e, 0x03, s, offsetof(struct dbt_vcpu, stack_negative));
    } else if (c->kind == COLD_RSP) {
        s = c->reg;
        e_gs(e, 0x03, s, offsetof(struct dbt_vcpu, stack_negative));
    }
    static const uint8_t kinds[] = {[COLD_ACCESS] = DBT_SITE_ACCESS,
                                    [COLD_COMPUTED] = DBT_SITE_ACCESS,
                                    [COLD_STACK] = DBT_SITE_STACK,
                                    [COLD_RSP] = DBT_SITE_RSP,
                                    [COLD_TSC] = DBT_SITE_TSC};
    struct dbt_site *site = &t->site[t->sites];
    *site = (struct dbt_site){.rip_offset = (uint16_t)(t->insn[c->insn].rip - t->rip),
                              .flags_in_slot = c->flags_in_slot,
                              .kind = kinds[c->kind],
                              .write = c->write,
                              .span = (uint16_t)c->span,
                              .done = (uint8_t)c->insn,
                              .retry = (uint32_t)(c->retry - t->start)};
    if (c->kind != COLD_TSC)
        e_gs_store(e, s, offsetof(struct dbt_vcpu, exit_address));
    e_mov_imm(e, s, (uintptr_t)(t->site_base + t->sites));
    const struct dbt_runtime *r = dbt_runtime(t->v);
    e_target(e, e_jmp(e),
             c->kind == COLD_STACK ? r->stack_for[(t->key & DBT_KEY_VIEW) == DBT_USER][s] : r->slow_for[s]);
    t->sites++;
}

void dbt_write_cold(struct dbt_translation *t)
{
    for (unsigned k = 0; k < t->colds && !t->e.full; k++) {
        struct dbt_cold *c = &t->cold[k];
        uint8_t *here = t->e.p;
        c->at = (uint32_t)(here - t->start);
        e_target(&t->e, c->jump[0], here);
        if (c->jump[1])
            e_target(&t->e, c->jump[1], here);
        switch (c->kind) {
        case COLD_ACCESS:
        case COLD_COMPUTED:
        case COLD_STACK:
        case COLD_RSP:
        case COLD_TSC:
            write_slow(t, c);
            break;
        case COLD_WINDOW:
            dbt_write_window_miss(t, c);
            break;
        case COLD_EXIT:
            t->exit[c->exit].stub = here;
            write_leave(t, t->exit_base + c->exit, c->write ? DBT_WHY_STEP : DBT_WHY_LINK, t->exit[c->exit].far);
            break;
        case COLD_POLL:
            write_leave(t, t->block, DBT_WHY_POLL, c->flags_in_slot);
            break;
        case COLD_FAR_MISS:
            e_mov_imm(&t->e, CPU_R14, t->rip);
            e_target(&t->e, e_jmp(&t->e), dbt_runtime(t->v)->far_miss);
            break;
        }
    }
}
