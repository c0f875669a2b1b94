// The part of the code cache that is used between blocks (cache.h): finding a block, and linking it.
//
// Compiled for general registers only: see mmu.c.
#include "engine/dbt/cache.h"

struct dbt_runtime *dbt_runtime(struct dbt_vcpu *v)
{
    return &v->cache->runtime;
}

static bool is_of(const struct dbt_block *b, const struct dbt_code *code, unsigned key)
{
    return b->rip == code->rip && b->phys == code->phys && b->key == key &&
           (b->phys2 == DBT_NO_PAGE || b->phys2 == code->phys2);
}

struct dbt_block *dbt_block_find(struct dbt_vcpu *v, const struct dbt_code *code, unsigned key)
{
    struct dbt_cache *c = v->cache;
    struct dbt_block **recent = &c->recent[(code->rip ^ code->rip >> 12) & (DBT_RECENT - 1)], *b = *recent;
    if (b && is_of(b, code, key) && !b->dead)
        return b;
    b = c->hash[dbt_hash(code->rip, code->phys, key)];
    while (b && !is_of(b, code, key))
        b = b->next_hash;
    if (b)
        *recent = b;
    return b;
}

void dbt_patch(struct dbt_exit *x, const uint8_t *target)
{
    int32_t d = (int32_t)(target - (x->jump + 4));
    __builtin_memcpy(x->jump, &d, 4);
}

void dbt_link(struct dbt_vcpu *v, struct dbt_exit *x, struct dbt_block *to)
{
    struct dbt_cache *c = v->cache;
    if (x->to || to->dead || x->from->dead)
        return;
    x->to = to;
    x->next_in = to->links_in;
    to->links_in = x;
    uint32_t entry = x->far ? to->far : x->back ? to->back : to->near;
    dbt_patch(x, c->rw + (to->code - c->rx) + entry);
    v->count.links++;
}

void dbt_guess(struct dbt_vcpu *v, struct dbt_block *from, struct dbt_block *to)
{
    static const uint8_t nop[] = {0x0f, 0x1f, 0x44, 0x00, 0x00}; // as long as a jump
    for (unsigned k = 0; k < from->exits; k++) {
        struct dbt_exit *x = &from->exit[k];
        if (!x->guess || x->to || from->dead)
            continue;
        __builtin_memcpy(x->stub + x->guess_first, nop, sizeof nop);
        if ((x->guess_size == 4 && !fits32((int64_t)to->rip)) || (from->key ^ to->key) & (DBT_KEY_VIEW | DBT_KEY_FPU))
            continue;
        x->target = to->rip;
        __builtin_memcpy(x->guess, &x->target, x->guess_size);
        dbt_link(v, x, to);
        v->count.guesses++;
    }
}

void dbt_ibl_clear(struct dbt_vcpu *v)
{
    for (unsigned view = 0; view < DBT_VIEWS; view++)
        for (unsigned k = 0; k < DBT_IBL_SIZE; k++)
            v->ibl[view][k] = v->cache->runtime.indirect_miss_address;
}

void dbt_ibl_set(struct dbt_vcpu *v, struct dbt_block *b)
{
    if (!(b->key & DBT_KEY_SPLIT))
        v->ibl[b->key & DBT_KEY_VIEW][b->rip & (DBT_IBL_SIZE - 1)] = (uint64_t)(uintptr_t)(b->code + b->indirect);
}
