// Visits to cells (cell.h): which cell, and what to do when a visit ends. When to make one: when.c.
#include "engine/interp/run.h"
#include "engine/dbt/cache.h"
#include "engine/dbt/cell/cell.h"
#include "engine/dbt/mmu.h"
#include "engine/interp/shared.h"
#include "engine/interp/tlb.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

enum {
    VISITS = 64,          // in one stay, before it is looked at again
    KEEP_NS = 60000000,   // a cell that was used so recently is not given to another program
    TRAP_PAGE_FAULT = 14, // as the host's kernel says it
    ERROR_WRITE = 2,
    XSAVE_FIP = 8,
    XSAVE_MXCSR = 24,
    XSAVE_HEADER = 512,
    XSAVE_USED = 832, // x87, SSE, header, AVX
};

int cells_create(struct dbt_vcpu *v, uint64_t *code_cache, struct error *err)
{
    // A quarter of the room, but one cell if there is any sense in it.
    uint64_t limit = *code_cache / 4 / CELL_SIZE;
    if (!limit && *code_cache >= 2 * CELL_SIZE)
        limit = 1;
    if (!limit)
        return 0;
    v->cells = calloc(1, sizeof *v->cells);
    if (!v->cells)
        return error_set(err, ENOMEM, "vCPU %u: out of memory", v->i.base.id);
    v->cells->limit = limit < CELLS ? (unsigned)limit : CELLS;
    v->cells->always = v->i.vm->tuning.cells == ENGINE_CELLS_ALWAYS;
    *code_cache -= (uint64_t)v->cells->limit * CELL_SIZE;
    return 0;
}

void cells_destroy(struct dbt_vcpu *v)
{
    if (!v->cells)
        return;
    for (unsigned n = 0; n < CELLS; n++)
        cell_destroy(v->cells->cell[n]);
    free(v->cells);
    v->cells = NULL;
}

// --- what may no longer be true

void cells_forget(struct dbt_vcpu *v)
{
    for (unsigned n = 0; v->cells && n < CELLS; n++)
        if (v->cells->cell[n])
            v->cells->cell[n]->pages_stale = v->cells->cell[n]->code_stale = true;
}

void cells_code_written(struct dbt_vcpu *v, uint64_t gpa, uint64_t size)
{
    for (unsigned n = 0; v->cells && n < CELLS; n++) {
        struct cell *c = v->cells->cell[n];
        for (unsigned k = 0; c && !c->code_stale && k < c->pages; k++)
            c->code_stale = c->page[k].phys < gpa + size && c->page[k].phys + PAGE_SIZE > gpa;
    }
}

void cells_kick(struct dbt_vcpu *v)
{
    struct cell *c = v->cells ? atomic_load(&v->cells->running) : NULL;
    if (c)
        cell_kick(c);
}

// --- which

static uint64_t table_entry(const struct dbt_vcpu *v, uint64_t table, unsigned index)
{
    const uint8_t *entry = ram_at(&v->i.vm->ram, (table & 0x000ffffffffff000) + 8 * (uint64_t)index);
    return entry ? *(const volatile uint64_t *)entry : 0;
}

// The cell's own part must be where the guest program has nothing. It lies in one gigabyte, in two tables of pages.
static bool own_part_free(const struct cell *c)
{
    const struct dbt_vcpu *v = c->v;
    enum { PRESENT = 1, LARGE_PAGE = 1 << 7 };
    uint64_t e = table_entry(v, v->i.s.cr3, c->base >> 39 & 511);
    if (!(e & PRESENT))
        return true;
    e = table_entry(v, e, c->base >> 30 & 511);
    if (!(e & PRESENT) || (e & LARGE_PAGE))
        return !(e & PRESENT);
    unsigned index = c->base >> 21 & 511;
    return !(table_entry(v, e, index) & PRESENT) && !(table_entry(v, e, index + 1) & PRESENT);
}

static struct cell *new_cell(struct dbt_vcpu *v, struct cell **slot)
{
    struct error err;
    if (!cell_create(v, slot, &err)) {
        log_debug(v->i.base.vm->config.log, "vCPU %u: a cell, its own part at %#llx", v->i.base.id,
                  (unsigned long long)(*slot)->base);
        return *slot;
    }
    v->cells->impossible = true;
    log_info(v->i.base.vm->config.log, "%s", err.text);
    return NULL;
}

// The cell of the current address space, or one that becomes it. NULL: none is to be had now.
static struct cell *select_cell(struct dbt_vcpu *v)
{
    struct cells *cells = v->cells;
    uint64_t context = v->i.tlb->context, cr3 = v->i.s.cr3 & 0x000ffffffffff000, time = cells_now();
    struct cell *best = NULL, **empty = NULL;
    for (unsigned n = 0; n < cells->limit; n++) {
        struct cell *c = cells->cell[n];
        if (!c)
            empty = &cells->cell[n];
        else if (c->context == context)
            return c;
        else if (!best || c->cr3 == cr3 || (best->cr3 != cr3 && c->used < best->used))
            best = c; // with the same cr3: the same program, perhaps, and its code may still be good
    }
    if (empty && !(best && best->cr3 == cr3))
        best = new_cell(v, empty);
    else if (best && best->cr3 != cr3 && time - best->used < KEEP_NS && !cells->always)
        best = NULL;
    if (!best)
        return NULL;
    best->context = context;
    best->cr3 = cr3;
    cell_credit(best);
    best->pages_stale = best->code_unverified = true;
    return best;
}

// --- state

static void give(struct cell *c)
{
    struct cell_shared *s = c->s;
    const struct cpu_state *g = &c->v->i.s;
    memcpy(s->gpr, g->gpr, sizeof s->gpr);
    s->flags = (g->rflags & RFLAGS_STATUS) | RFLAGS_FIXED | RFLAGS_IF;
    memcpy(s->xsave, g->xsave, XSAVE_USED);
    uint64_t fs = g->seg[CPU_FS].base;
    if (!c->fs_known || c->fs_base != fs)
        c->fs_known = cell_command(c, (struct cell_command){.op = CELL_FS_BASE, .address = fs});
    c->fs_base = fs;
}

// The shared page may hold anything: registers are taken as they are, the vector state only as far as the host can load
// it.
static void take(struct cell *c)
{
    const struct cell_shared *s = c->s;
    struct cpu_state *g = &c->v->i.s;
    memcpy(g->gpr, s->gpr, sizeof g->gpr);
    g->rflags = (g->rflags & ~(uint64_t)RFLAGS_STATUS) | (s->flags & RFLAGS_STATUS);
    memcpy(g->xsave, s->xsave, XSAVE_USED);
    memset(&g->xsave[XSAVE_HEADER + 8], 0, 56);
    *(uint64_t *)&g->xsave[XSAVE_HEADER] &= XSTATE_X87 | XSTATE_SSE | XSTATE_AVX;
    *(uint32_t *)&g->xsave[XSAVE_MXCSR] &= 0xffff;
    uint64_t *fip = (uint64_t *)&g->xsave[XSAVE_FIP];
    if (*fip - c->base < CELL_SIZE) {
        const struct cell_place *p;
        const struct cell_block *b = cell_code_at(c, *fip, &p);
        *fip = b ? b->rip + p->rip : 0;
    }
}

// From the registers at a place to the guest's.
static void mend(struct cell *c, const struct cell_block *b, const struct cell_place *p)
{
    struct cpu_state *g = &c->v->i.s;
    const struct cell_shared *s = c->s;
    g->rip = p->fix & PLACE_TARGET ? g->gpr[CPU_RCX] : p->fix & PLACE_STORED ? s->target : b->rip + p->rip;
    if (p->fix & PLACE_RCX)
        g->gpr[CPU_RCX] = s->spill[0];
    if (p->fix & PLACE_SCRATCH)
        g->gpr[p->reg] = s->spill[2];
    if (p->fix & PLACE_UNDO_PUSH)
        g->gpr[CPU_RSP] += 8;
}

// --- visits

enum outcome { AGAIN, AGAIN_HERE, DONE, STEP };

static enum outcome branch_fault(struct cell *c, uint32_t block)
{
    struct interp_vcpu *i = &c->v->i;
    if (block >= c->blocks)
        block = 0; // nonsense from a program that wrote to the shared page
    const struct cell_block *b = &c->block[block];
    i->s.rip = b->rip + b->last;
    i->s.gpr[CPU_RSP] -= (uint64_t)(int64_t)b->last_rsp;
    interp_gp(i, 0);
    interp_deliver_fault(i);
    return DONE;
}

static enum outcome stopped_by_signal(struct cell *c)
{
    struct cell_shared *s = c->s;
    const struct cell_place *p;
    const struct cell_block *b = cell_code_at(c, s->host_rip, &p);
    bool at_place = b && c->base + p->host == s->host_rip;
    s->gpr[CPU_RSP] = s->rsp;
    if (s->signal == SIGUSR1) {
        c->v->count.cell_kicks++;
        if (!at_place) { // amid something: a little further
            s->enter_at = s->host_rip;
            return AGAIN_HERE;
        }
        take(c);
        mend(c, b, p);
        return DONE;
    }
    if (!b) { // a program that wrote to the shared page; or we are wrong
        take(c);
        c->dead = true;
        return DONE;
    }
    bool write = s->fault_error & ERROR_WRITE;
    if (s->trap == TRAP_PAGE_FAULT && (s->host_rip != c->fault_rip || s->fault_address != c->fault_address)) {
        c->fault_rip = s->host_rip;
        c->fault_address = s->fault_address;
        if (cell_page_in(c, s->fault_address, write)) {
            c->v->count.cell_pages++;
            s->enter_at = s->host_rip;
            return AGAIN_HERE;
        }
    }
    // Guest code faults only at places. Elsewhere it was an interrupt of the host's that found no address in RSP.
    if (!at_place && s->host_rip != c->fault_rip) {
        c->fault_rip = s->enter_at = s->host_rip;
        c->fault_address = 0;
        return AGAIN_HERE;
    }
    c->fault_rip = 0;
    c->v->count.cell_faults++;
    take(c);
    mend(c, b, p);
    return STEP;
}

static enum outcome look(struct cell *c)
{
    struct cell_shared *s = c->s;
    struct interp_vcpu *i = &c->v->i;
    uint32_t exit = s->exit;
    switch (s->why) {
    case CELL_WHY_LINK:
    case CELL_WHY_STEP:
        take(c);
        *(s->why == CELL_WHY_STEP ? &c->v->count.cell_steps : &c->v->count.cell_links) += 1;
        i->s.rip = c->exit[exit < c->exits ? exit : 0].target;
        return s->why == CELL_WHY_STEP ? STEP : AGAIN;
    case CELL_WHY_INDIRECT:
        take(c);
        if (!cpu_is_canonical(&i->s, s->target))
            return branch_fault(c, exit);
        i->s.rip = s->target;
        c->v->count.cell_misses++;
        return AGAIN;
    case CELL_WHY_SIGNAL:
        return stopped_by_signal(c);
    default:
        return DONE; // not entered
    }
}

// From `here`, or from the guest's RIP, until something has to be done outside of the cell.
static bool visit(struct cell *c, enum outcome *how)
{
    struct dbt_vcpu *v = c->v;
    struct cell_shared *s = c->s;
    if (*how != AGAIN_HERE) {
        if (c->code_unverified && !cell_code_verify(c))
            c->code_stale = true;
        if (c->code_stale)
            cell_code_flush(c);
        struct cell_block *b = cell_block(c, v->i.s.rip);
        if (!b || v->i.flush_wanted)
            return false;
        if (s->why == CELL_WHY_INDIRECT && *how == AGAIN)
            cell_code_indirect(c, b);
        if (c->pages_stale)
            cell_pages_flush(c);
        give(c);
        s->enter_at = c->base + b->host;
    }
    s->kicked = 0;
    s->why = CELL_WHY_NOTHING;
    atomic_store(&v->cells->running, c);
    bool attention = interp_attention(&v->i);
    if (attention && *how != AGAIN_HERE) {
        atomic_store(&v->cells->running, NULL);
        *how = DONE;
        return true;
    }
    v->count.cell_visits++;
    bool alive = cell_visit(c, attention);
    atomic_store(&v->cells->running, NULL);
    if (s->why == CELL_WHY_NOTHING && *how == AGAIN_HERE)
        return alive; // a kick came before guest code was reached: once more
    *how = alive ? look(c) : DONE;
    return true;
}

bool cells_lost(const struct dbt_vcpu *v)
{
    return v->cells->lost;
}

bool cells_run(struct dbt_vcpu *v)
{
    struct cells *cells = v->cells;
    struct cell *c = select_cell(v);
    if (!c || !own_part_free(c)) {
        cells_refuse(v);
        return false;
    }
    enum outcome how = STEP;
    bool entered = false;
    unsigned visits = 0;
    uint64_t pages = v->count.cell_pages;
    do {
        if (!visit(c, &how)) {
            how = DONE;
            break;
        }
        entered = true;
        visits++;
    } while (how == AGAIN_HERE || (how == AGAIN && visits < VISITS));
    cell_judge(c, visits, (unsigned)(v->count.cell_pages - pages));
    if (c->dead) {
        for (unsigned n = 0; n < CELLS; n++)
            if (cells->cell[n] == c)
                cells->cell[n] = NULL;
        cell_destroy(c);
        cells->lost = true;
        return true;
    }
    if (how == STEP) {
        v->count.steps++;
        interp_step(&v->i);
    }
    return entered;
}
