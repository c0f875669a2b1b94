// The dispatcher: what happens between blocks. And the FPU state, which is the guest's own while translated code runs.
#pragma once
#include "engine/dbt/dbt.h"

// The guest's vector and x87 state goes to s.xsave, and C may use the registers. Does nothing if it is there already.
void dbt_park(struct dbt_vcpu *v);
// And back.
void dbt_unpark(struct dbt_vcpu *v);

// `count` instructions at most (UINT64_MAX: no limit).
enum engine_exit dbt_run(struct dbt_vcpu *v, uint64_t count, struct error *err);
