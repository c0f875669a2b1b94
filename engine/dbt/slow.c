// The path that a missed check takes: fill the table and try again, or leave the block precisely before the
// instruction.
//
// Compiled for general registers only; see mmu.c.
#include "engine/dbt/mmu.h"
#include "engine/dbt/run.h"
#include "engine/dbt/runtime.h"
#include "engine/interp/ram.h"

static int leave(struct dbt_vcpu *v, unsigned why, const struct dbt_site *site)
{
    v->exit_why = why | (site->flags_in_slot ? DBT_WHY_SLOT : 0);
    return 0;
}

static int again(struct dbt_vcpu *v, const struct dbt_site *site)
{
    dbt_unpark(v);
    v->enter_at = (uint64_t)(uintptr_t)(site->block->code + site->retry);
    return 1;
}

// The host's address of a page that a view's table says may be written, or NULL.
static uint8_t *writable(const struct dbt_vcpu *v, enum dbt_view view, uint64_t la)
{
    const struct dbt_tlb *t = &v->tlb[view];
    uint64_t page = la & ~(uint64_t)(PAGE_SIZE - 1);
    unsigned slot = (page >> 12) & (DBT_TLB_SIZE - 1);
    return t->tag_w[slot] == page ? (uint8_t *)(uintptr_t)(page + t->addend[slot]) : NULL; // NOLINT
}

// The window stays when CLAC takes the right to user pages away: it is never on one.
static bool window(struct dbt_vcpu *v, uint64_t la, uint8_t **host)
{
    struct interp_vcpu *i = &v->i;
    enum dbt_view view = dbt_view_of(i);
    *host = writable(v, view == DBT_KERNEL_AC ? DBT_KERNEL : view, la);
    if (*host)
        return true;
    if (view != DBT_KERNEL_AC)
        return dbt_tlb_fill(v, la, true, host);
    i->s.rflags &= ~(uint64_t)RFLAGS_AC;
    interp_tlb_switch(i);
    bool allowed = dbt_tlb_fill(v, la, true, host);
    i->s.rflags |= RFLAGS_AC;
    interp_tlb_switch(i);
    return allowed;
}

static int stack(struct dbt_vcpu *v, const struct dbt_site *site)
{
    uint64_t la = v->exit_address, offset = la & (PAGE_SIZE - 1);
    uint8_t *host;
    bool good = offset + site->span <= PAGE_SIZE && window(v, la, &host);
    if (!good && !site->span && !offset) { // at a page's end just as well
        la -= PAGE_SIZE;
        good = window(v, la, &host);
    }
    if (!good) {
        v->count.stack_splits++;
        return leave(v, DBT_WHY_SPLIT, site);
    }
    uint64_t addend = (uint64_t)(uintptr_t)host - (la - offset);
    v->save[CPU_RSP] += addend - v->stack_addend;
    v->stack_addend = addend;
    v->stack_negative = -addend;
    v->stack_low = (uint64_t)(uintptr_t)host;
    v->count.stack_fills++;
    return again(v, site);
}

// The guest's RSP becomes exit_address, which with the present addend is no address of the host's.
static int set_rsp(struct dbt_vcpu *v, const struct dbt_site *site)
{
    dbt_stack_move(v, v->exit_address);
    v->save[CPU_RSP] = v->exit_address + v->stack_addend;
    return again(v, site);
}

static int tsc(struct dbt_vcpu *v, const struct dbt_site *site)
{
    uint64_t now = v->i.base.vm->config.up->tsc(v->i.base.owner) + v->i.s.msr.tsc_adjust;
    v->save[CPU_RAX] = (uint32_t)now;
    v->save[CPU_RDX] = now >> 32;
    return again(v, site);
}

int dbt_slow(struct dbt_vcpu *v)
{
    const struct dbt_site *site = (const struct dbt_site *)(uintptr_t)v->exit_arg;
    v->count.misses += site->kind <= DBT_SITE_STACK;
    dbt_sanitized(v);
    dbt_view_sync(&v->i);
    if (site->kind == DBT_SITE_STACK)
        return stack(v, site);
    if (site->kind == DBT_SITE_RSP)
        return set_rsp(v, site);
    if (site->kind == DBT_SITE_TSC)
        return tsc(v, site);
    uint64_t offset = v->exit_address & (PAGE_SIZE - 1);
    uint8_t *host;
    if (offset + site->span > PAGE_SIZE)
        return leave(v, site->block->key & DBT_KEY_SPLIT ? DBT_WHY_SITE : DBT_WHY_SPLIT, site);
    if (!dbt_tlb_fill(v, v->exit_address, site->write, &host))
        return leave(v, DBT_WHY_SITE, site);
    return again(v, site);
}
