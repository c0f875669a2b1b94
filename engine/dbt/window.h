// The kernel's window: a range of linear addresses that are memory one after the other, as Linux maps all of it.
//
// In it no table is asked. A read at a is in the window if a - low is below room, and then is at the host's a + addend:
// two instructions less than a look at the table, and where the base register comes from memory the addend does not
// wait for it. Pages do not compete for slots. Reads only: a page with translated code may be read like others, while
// writes to it must be seen.
//
// What makes it no more than a big TLB entry: every page in it is present, a supervisor's, global, and has been
// accessed before (what a processor may have cached for an address that nobody has used yet); it lies in guest memory,
// at the same distance from the host's as all others. Any invalidation that concerns a page in it, by whatever address
// in that page, and every flush of global pages, ends it. It is used in the kernel's views only.
//
// It is found by voting: each page that the table is filled with tells how far the host's memory is from it. When
// enough have agreed, the page tables around are walked (window.c).
//
// Example: Linux, 1 GiB: ffff888000100000 to ffff888040000000, by 2 MiB pages; four walks in ten of a boot's would
// otherwise be for it.
#pragma once
#include "engine/dbt/dbt.h"

// Accesses checked at once are not longer; room is so much less than the range.
enum { DBT_WINDOW_SPAN = 1024 };

void dbt_window_create(struct dbt_vcpu *v);
// The table was filled with the page at la, at host, for a view of the kernel's.
void dbt_window_vote(struct dbt_vcpu *v, uint64_t la, const uint8_t *host);
// 1 << shift bytes around la are not to be relied on any more.
void dbt_window_flush_page(struct dbt_vcpu *v, uint64_t la, unsigned shift);
void dbt_window_drop(struct dbt_vcpu *v);

static inline bool dbt_window_has(const struct dbt_vcpu *v, uint64_t la)
{
    return la - v->window.low < v->window.room;
}
