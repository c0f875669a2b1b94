// The dispatcher: what happens between blocks. And the FPU state, which is the guest's own while translated code runs.
#pragma once
#include "engine/dbt/dbt.h"

// The guest's vector and x87 state goes to s.xsave, and C may use the registers. Does nothing if it is there already.
void dbt_park(struct dbt_vcpu *v);
// And back.
void dbt_unpark(struct dbt_vcpu *v);

// After translated code was left. The sanitizers put calls into their library everywhere, and that uses vector
// registers.
#if defined(__SANITIZE_ADDRESS__)
#define DBT_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DBT_SANITIZED 1
#endif
#endif
static inline void dbt_sanitized(struct dbt_vcpu *v)
{
#ifdef DBT_SANITIZED
    dbt_park(v);
#else
    (void)v;
#endif
}

// `count` instructions at most (UINT64_MAX: no limit).
enum engine_exit dbt_run(struct dbt_vcpu *v, uint64_t count, struct error *err);
