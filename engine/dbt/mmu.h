// The translator's own view of the interpreter's TLB (engine/interp/tlb.h): tables that translated code can look at in
// a few instructions.
//
// What is in them is a copy of what the interpreter's near tables would say, so rights are decided in one place. Every
// flush there is a flush here (struct interp_mirror).
#pragma once
#include "engine/dbt/dbt.h"
#include "engine/interp/tlb.h"

void dbt_tlb_create(struct dbt_vcpu *v);

// Makes the page at la accessible to translated code, walking if need be. True if [la, la+span), which is in one page,
// can be accessed directly now (for writing if `write`). `host` gets the page's host address. False: it faults, is no
// memory, or holds code that is being written.
bool dbt_tlb_fill(struct dbt_vcpu *v, uint64_t la, bool write, uint8_t **host);

void dbt_tlb_flush(struct interp_vcpu *i, bool global_too);
void dbt_tlb_flush_page(struct interp_vcpu *i, uint64_t la, unsigned shift);
// No write may go to this host page without the interpreter's knowledge any more; NULL: to no page at all.
void dbt_tlb_protect(struct dbt_vcpu *v, const uint8_t *host);

// Guest RSP is `rsp`: makes the addend one that leads into the middle of the host's addresses. There is no window then.
void dbt_stack_move(struct dbt_vcpu *v, uint64_t rsp);

// Translated code changes AC by itself: the interpreter's tables in force follow before anybody looks at them.
static inline void dbt_view_sync(struct interp_vcpu *i)
{
    bool ac = (i->s.cr4 & CR4_SMAP) && (i->s.rflags & RFLAGS_AC);
    enum tlb_set set = i->cpl == 3 ? TLB_USER : ac ? TLB_SUPERVISOR_AC : TLB_SUPERVISOR;
    if (i->near != i->tlb->near[set] && i->near != i->tlb->near[TLB_NONE])
        interp_tlb_switch(i);
}

static inline enum dbt_view dbt_view_of(const struct interp_vcpu *i)
{
    return i->cpl == 3 ? DBT_USER : (i->s.cr4 & CR4_SMAP) && (i->s.rflags & RFLAGS_AC) ? DBT_KERNEL_AC : DBT_KERNEL;
}
