// What the translator counted, for trapeze run --stats.
//
// Hits happen in translated code, which counts them only if it was asked to (engine_tuning.count): then each block
// begins by counting itself and the checks of memory accesses in it, and its indirect entry counts what came through. A
// block that is left early has done fewer checks than were counted.
#include "engine/dbt/show.h"

static uint64_t permille(uint64_t part, uint64_t all)
{
    return all ? part > all ? 1000 : part * 1000 / all : 0;
}

static uint64_t minus(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

void dbt_stats(const struct dbt_vcpu *v, engine_stat_fn emit, void *ctx)
{
    static const struct {
        const char *name;
        size_t offset;
    } table[] = {
#define COUNTER(name) {"dbt_" #name, offsetof(struct dbt_counters, name)}
        // what was made
        COUNTER(blocks),
        COUNTER(guest_bytes),
        COUNTER(host_bytes),
        COUNTER(record_bytes),
        COUNTER(translate_ns),
        COUNTER(cache_flushes),
        COUNTER(invalidated),
        // how it went from block to block
        COUNTER(dispatches),
        COUNTER(links),
        COUNTER(guesses),
        COUNTER(indirect_misses),
        COUNTER(far_misses),
        COUNTER(polls),
        COUNTER(steps),
        COUNTER(quick),
        COUNTER(cold),
        COUNTER(host_faults),
        COUNTER(fpu_parks),
        // memory
        COUNTER(misses),
        COUNTER(tlb_fills),
        COUNTER(tlb_walks),
        COUNTER(tlb_flushes),
        COUNTER(tlb_page_flushes),
        COUNTER(windows),
        COUNTER(window_drops),
        COUNTER(stack_fills),
        COUNTER(stack_splits),
        // cells
        COUNTER(cells),
        COUNTER(cell_visits),
        COUNTER(cell_links),
        COUNTER(cell_steps),
        COUNTER(cell_misses),
        COUNTER(cell_kicks),
        COUNTER(cell_pages),
        COUNTER(cell_faults),
        // only counted on request
        COUNTER(entries),
        COUNTER(guess_hits),
        COUNTER(indirect_hits),
        COUNTER(checks),
        COUNTER(window_misses),
#undef COUNTER
    };
    const struct dbt_counters *c = &v->count;
    for (unsigned n = 0; n < sizeof table / sizeof *table; n++)
        emit(ctx, table[n].name, *(const uint64_t *)((const char *)c + table[n].offset));
    uint64_t indirect = c->guess_hits + c->indirect_hits, direct = minus(c->entries, indirect);
    emit(ctx, "dbt_chain_hit_permille", permille(minus(direct, c->dispatches), direct));
    emit(ctx, "dbt_guess_hit_permille", permille(c->guess_hits, indirect + c->indirect_misses));
    emit(ctx, "dbt_indirect_hit_permille", permille(indirect, indirect + c->indirect_misses));
    emit(ctx, "dbt_tlb_hit_permille", permille(minus(c->checks, c->misses), c->checks));
}
