// See mmu.h. Compiled for general registers only: the guest's vector registers are live while this runs, until
// dbt_park().
#include "engine/dbt/mmu.h"
#include "engine/dbt/cache.h"
#include "engine/dbt/cell/cell.h"
#include "engine/dbt/run.h"
#include "engine/dbt/window.h"
#include "engine/interp/shared.h"
#include "engine/interp/tlb.h"

static uint64_t empty_tag(unsigned slot)
{
    return (uint64_t)(slot ^ 1) << 12; // a page of another slot
}

static void empty(struct dbt_tlb *t, unsigned slot)
{
    t->tag_r[slot] = t->tag_w[slot] = empty_tag(slot);
    t->addend[slot] = 0;
    t->global[slot] = false;
}

static void no_window(struct dbt_vcpu *v)
{
    v->stack_low = v->user_low = DBT_NO_WINDOW;
}

void dbt_stack_move(struct dbt_vcpu *v, uint64_t rsp)
{
    v->stack_addend = DBT_HOST_MIDDLE - rsp;
    v->stack_negative = -v->stack_addend;
    no_window(v);
}

void dbt_tlb_create(struct dbt_vcpu *v)
{
    v->stack_limit = DBT_HOST_END;
    dbt_window_create(v);
    dbt_tlb_flush(&v->i, true);
}

// Not by memset(), which takes vector registers.
static void zero(uint32_t *p, size_t n)
{
    __asm__ volatile("rep stosl" : "+D"(p), "+c"(n) : "a"(0) : "memory");
}

static void code_forget(struct dbt_vcpu *v, bool kernel_too)
{
    zero(v->itlb_user, DBT_ITLB_USER);
    if (kernel_too)
        zero(v->itlb_kernel, DBT_ITLB_KERNEL);
}

void dbt_tlb_flush(struct interp_vcpu *i, bool global_too)
{
    struct dbt_vcpu *v = (struct dbt_vcpu *)i;
    for (unsigned view = 0; view < DBT_VIEWS; view++) {
        struct dbt_tlb *t = &v->tlb[view];
        if (global_too || v->fills[view] > DBT_FILLED) {
            for (unsigned k = 0; k < DBT_TLB_SIZE; k++)
                if (global_too || !t->global[k])
                    empty(t, k);
        } else {
            for (unsigned k = 0; k < v->fills[view]; k++)
                if (!t->global[v->filled[view][k]])
                    empty(t, v->filled[view][k]);
        }
        v->fills[view] = 0;
    }
    code_forget(v, global_too || v->kernel_code_not_global);
    v->kernel_code_not_global = false;
    no_window(v);
    if (global_too)
        dbt_window_drop(v);
    v->count.tlb_flushes++;
}

void dbt_tlb_flush_page(struct interp_vcpu *i, uint64_t la, unsigned shift)
{
    struct dbt_vcpu *v = (struct dbt_vcpu *)i;
    uint64_t page = la & ~(uint64_t)(PAGE_SIZE - 1);
    for (unsigned view = 0; view < DBT_VIEWS; view++) {
        struct dbt_tlb *t = &v->tlb[view];
        unsigned first = (page >> 12) & (DBT_TLB_SIZE - 1), count = 1;
        if (shift > 12) {
            first = 0;
            count = DBT_TLB_SIZE;
        }
        for (unsigned k = first; k < first + count; k++)
            if ((t->tag_r[k] ^ la) >> shift == 0 || (t->tag_w[k] ^ la) >> shift == 0)
                empty(t, k);
    }
    if (shift == 12)
        *dbt_itlb(v, false, la) = *dbt_itlb(v, true, la) = 0;
    else
        code_forget(v, true);
    if (((v->stack_low - v->stack_addend) ^ la) >> shift == 0 || ((v->user_low - v->user_addend) ^ la) >> shift == 0)
        no_window(v);
    dbt_window_flush_page(v, la, shift);
    cells_flush_page(v, la, shift);
    v->count.tlb_page_flushes++;
}

void dbt_tlb_protect(struct dbt_vcpu *v, const uint8_t *host)
{
    for (unsigned view = 0; view < DBT_VIEWS; view++) {
        struct dbt_tlb *t = &v->tlb[view];
        for (unsigned k = 0; k < DBT_TLB_SIZE; k++)
            if (!host || t->tag_w[k] + t->addend[k] == (uint64_t)(uintptr_t)host)
                t->tag_w[k] = empty_tag(k);
    }
    if (!host || v->stack_low == (uint64_t)(uintptr_t)host || v->user_low == (uint64_t)(uintptr_t)host)
        no_window(v);
    cells_protect(v, host);
}

bool dbt_tlb_fill(struct dbt_vcpu *v, uint64_t la, bool write, uint8_t **host)
{
    struct interp_vcpu *i = &v->i;
    uint64_t page = la & ~(uint64_t)(PAGE_SIZE - 1);
    struct tlb_near *e = &i->near[tlb_near_index(la)];
    if (e->la != page || (write ? e->write : e->read) != page) {
        struct tlb_hit hit;
        v->count.tlb_walks++;
        i->fault.raised = false;
        if (!tlb_translate(i, la, write ? CPU_WRITE : CPU_READ, TLB_AS_CPL, &hit)) {
            i->fault.raised = false;
            return false;
        }
        if (e->la != page || (write ? e->write : e->read) != page)
            return false; // MMIO, ROM
    }
    // From here on writes may come that nobody looks at: say so before looking whether the page is special.
    bool writable = e->write == page;
    if (writable) {
        if (!(*e->page & PAGE_INLINE))
            atomic_fetch_or(e->page, PAGE_INLINE);
        writable = !(*e->page & (PAGE_CODE | PAGE_LOG));
    }
    enum dbt_view view = dbt_view_of(i);
    struct dbt_tlb *t = &v->tlb[view];
    unsigned slot = (page >> 12) & (DBT_TLB_SIZE - 1);
    t->tag_r[slot] = e->read == page ? page : empty_tag(slot);
    t->tag_w[slot] = writable ? page : empty_tag(slot);
    t->addend[slot] = (uint64_t)(uintptr_t)e->host - page;
    t->global[slot] = e->global;
    if (!e->global && v->fills[view] <= DBT_FILLED) {
        if (v->fills[view] < DBT_FILLED)
            v->filled[view][v->fills[view]] = (uint16_t)slot;
        v->fills[view]++;
    }
    v->count.tlb_fills++;
    *host = e->host;
    if (view != DBT_USER)
        dbt_window_vote(v, page, e->host);
    return !write || writable;
}
