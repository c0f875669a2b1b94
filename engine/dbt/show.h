// What the translator shows of its work: counters, the code that it makes, and where that lies.
#pragma once
#include "engine/dbt/dbt.h"

struct cell;
struct cell_block;
struct dbt_translation;

// stats.c: everything that v has counted.
void dbt_stats(const struct dbt_vcpu *v, engine_stat_fn emit, void *ctx);

// perf_map.c
void dbt_perf_map(struct dbt_vcpu *v, const struct dbt_block *b);
void cell_perf_map(const struct cell *c, const struct cell_block *b);

// trace.c: after a block was made, to the trace and to perf, if anybody wants to know. The block is the translation
// that was made last; the cell's has just been written from t.
void dbt_show(struct dbt_vcpu *v, const struct dbt_block *b);
void cell_show(const struct cell *c, const struct cell_block *b, const struct dbt_translation *t);
