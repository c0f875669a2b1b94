// The soft TLB (tlb.h): filling, switching, flushing; and the page-table walk's way to guest memory.
//
// Invariants:
//   - A near entry belongs to the current context or is global, and its read and write tags say what the rules of the
//     moment allow (CPL, AC, CR0.WP, SMEP, SMAP): when rules change, near tables are emptied; far entries keep raw
//     rights and stay.
//   - A write tag implies that the leaf's dirty bit is set and that the page is memory and not ROM.
//   - A translation that does not allow an access is never the reason of a fault: the tables are walked again, as
//     processors do, so a guest that only adds rights needs no INVLPG.
//
// Example: fork marks a page read-only and flushes it; the next store misses near and far, the walk says #PF with P and
// W; the kernel copies the page, sets W, and the store walks again and fills the entry with a write tag.
#include "engine/interp/shared.h"
#include "engine/interp/tlb.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

// --- guest memory for the walk

static uint64_t walk_read(void *ctx, uint64_t gpa, unsigned size)
{
    struct interp_vcpu *v = ctx;
    const struct ram_region *r = ram_find(&v->vm->ram, gpa);
    if (!r)
        return ~0ull;
    const uint8_t *p = r->host + (gpa - r->gpa);
    return size == 8 ? __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED)
                     : __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}

static bool walk_cas(void *ctx, uint64_t gpa, unsigned size, uint64_t old, uint64_t val)
{
    struct interp_vcpu *v = ctx;
    const struct ram_region *r = ram_find(&v->vm->ram, gpa);
    if (!r || r->readonly)
        return true;
    uint8_t *p = r->host + (gpa - r->gpa);
    bool done;
    if (size == 8) {
        done = __atomic_compare_exchange_n((uint64_t *)p, &old, val, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        uint32_t old32 = old;
        done = __atomic_compare_exchange_n((uint32_t *)p, &old32, (uint32_t)val, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    }
    page_word *page = &r->page[(gpa - r->gpa) / PAGE_SIZE];
    if (done && (*page & (PAGE_CODE | PAGE_LOG)))
        ram_touched(v->vm, v, page, gpa, size);
    return done;
}

static const struct cpu_phys_ops walk_ops = {walk_read, walk_cas};

struct probe {
    struct interp_vcpu *v;
    bool changes; // the walk would have set an accessed bit
};

static uint64_t probe_read(void *ctx, uint64_t gpa, unsigned size)
{
    return walk_read(((struct probe *)ctx)->v, gpa, size);
}

static bool probe_cas(void *ctx, uint64_t gpa, unsigned size, uint64_t old, uint64_t val)
{
    (void)gpa, (void)size, (void)old, (void)val;
    ((struct probe *)ctx)->changes = true;
    return true;
}

bool tlb_probe(struct interp_vcpu *v, uint64_t la, struct cpu_walk *w)
{
    static const struct cpu_phys_ops ops = {probe_read, probe_cas};
    struct probe p = {.v = v};
    *w = (struct cpu_walk){.la = la, .access = CPU_READ};
    return !cpu_walk(&v->s, v->model->phys_bits, &ops, &p, w) && !p.changes;
}

// --- contexts

static void near_clear(struct tlb_near *set, unsigned n)
{
    set[n].la = set[n].read = set[n].write = tlb_near_never(n);
    set[n].shift = 12;
}

static void code_clear(struct tlb_near_code *set, unsigned n)
{
    set[n].la = tlb_code_never(n);
    set[n].shift = 12;
}

static void near_flush(struct interp_tlb *t, bool global_too)
{
    for (unsigned set = 0; set < TLB_NONE; set++)
        for (unsigned n = 0; n < TLB_NEAR; n++)
            if (global_too || !t->near[set][n].global)
                near_clear(t->near[set], n);
    for (unsigned set = 0; set < 2; set++)
        for (unsigned n = 0; n < TLB_NEAR_CODE; n++)
            if (global_too || !t->code[set][n].global)
                code_clear(t->code[set], n);
    if (t->owner->vm->mirror)
        t->owner->vm->mirror->tlb_flush(t->owner, global_too);
}

static uint64_t pcid_of(const struct cpu_state *s)
{
    return s->cr4 & CR4_PCIDE ? s->cr3 & 0xfff : 0;
}

// Makes the PCID's context the current one; an unknown PCID takes the place of the one that was not used for longest.
static void select_pcid(struct interp_tlb *t, uint16_t pcid)
{
    unsigned best = 0;
    for (unsigned n = 0; n < TLB_PCIDS; n++) {
        if (t->pcids[n].context && t->pcids[n].pcid == pcid) {
            best = n;
            goto found;
        }
        if (t->pcids[n].used < t->pcids[best].used)
            best = n;
    }
    t->pcids[best].pcid = pcid;
    t->pcids[best].context = t->next_context++;
found:
    t->slot = best;
    t->pcids[best].used = ++t->clock;
    if (t->context != t->pcids[best].context) {
        t->context = t->pcids[best].context;
        near_flush(t, false);
    }
}

int tlb_create(struct interp_vcpu *v, struct error *err)
{
    struct interp_tlb *t = aligned_alloc(64, sizeof *t);
    if (!t)
        return error_set(err, ENOMEM, "vCPU %u: no memory for its TLB", v->base.id);
    memset(t, 0, sizeof *t);
    t->owner = v;
    t->next_context = 1;
    for (unsigned n = 0; n < TLB_NEAR; n++)
        near_clear(t->near[TLB_NONE], n);
    v->tlb = t;
    interp_tlb_flush_all(v);
    interp_tlb_switch(v);
    return 0;
}

void tlb_destroy(struct interp_vcpu *v)
{
    free(v->tlb);
    v->tlb = NULL;
}

void interp_tlb_flush_all(struct interp_vcpu *v)
{
    struct interp_tlb *t = v->tlb;
    t->global_context = t->next_context++;
    for (unsigned n = 0; n < TLB_FAR; n++)
        t->far[n].la = TLB_NEVER;
    memset(t->large, 0, sizeof t->large);
    near_flush(t, true);
    interp_tlb_flush_nonglobal(v);
}

void interp_tlb_flush_nonglobal(struct interp_vcpu *v)
{
    struct interp_tlb *t = v->tlb;
    for (unsigned n = 0; n < TLB_PCIDS; n++)
        t->pcids[n] = (struct tlb_pcid){0};
    select_pcid(t, pcid_of(&v->s));
    v->count.tlb_flushes++;
}

void interp_tlb_flush_pcid(struct interp_vcpu *v, unsigned pcid)
{
    struct interp_tlb *t = v->tlb;
    for (unsigned n = 0; n < TLB_PCIDS; n++)
        if (t->pcids[n].context && t->pcids[n].pcid == pcid) {
            t->pcids[n] = (struct tlb_pcid){0};
            if (n == t->slot)
                select_pcid(t, pcid_of(&v->s));
        }
    v->count.tlb_flushes++;
}

void interp_tlb_switch(struct interp_vcpu *v)
{
    struct interp_tlb *t = v->tlb;
    const struct cpu_state *s = &v->s;
    uint64_t structure = (s->cr0 & CR0_PG) | (s->cr4 & (CR4_PAE | CR4_PSE | CR4_LA57 | CR4_PGE)) |
                         (s->efer & EFER_LMA) << 20 | (s->efer & EFER_NXE) << 20;
    uint64_t rules = (s->cr0 & CR0_WP) | (s->cr4 & (CR4_SMEP | CR4_SMAP));
    if (structure != t->structure) {
        t->structure = structure;
        interp_tlb_flush_all(v);
    }
    if (rules != t->rules) {
        t->rules = rules;
        near_flush(t, true);
    }
    uint64_t pcid = pcid_of(s);
    if (pcid != t->pcids[t->slot].pcid)
        select_pcid(t, pcid);
    enum tlb_set set = TLB_SUPERVISOR;
    if ((s->dr7 & 0xff) || (v->cpl == 3 && (s->cr0 & CR0_AM) && (s->rflags & RFLAGS_AC)))
        set = TLB_NONE;
    else if (v->cpl == 3)
        set = TLB_USER;
    else if ((s->cr4 & CR4_SMAP) && (s->rflags & RFLAGS_AC))
        set = TLB_SUPERVISOR_AC;
    v->near = t->near[set];
    v->near_code = t->code[v->cpl != 3];
}

// --- large pages

static unsigned filter_bit(uint64_t la)
{
    uint64_t n = la >> 21;
    return (n ^ n >> 12) & (TLB_FILTER - 1);
}

static void large_note(struct interp_tlb *t, uint64_t la, uint8_t shift)
{
    // INVLPG may name any address in the page. A 4 MiB page is two of the filter's units; 1 GiB pages are noted under
    // their own first address.
    if (shift == 30)
        la &= ~0x3fffffffull;
    t->large[filter_bit(la) / 64] |= 1ull << filter_bit(la) % 64;
    if (shift == 22) {
        la ^= 1ull << 21;
        t->large[filter_bit(la) / 64] |= 1ull << filter_bit(la) % 64;
    }
}

static bool large_possible(const struct interp_tlb *t, uint64_t la)
{
    uint64_t giant = la & ~0x3fffffffull;
    return (t->large[filter_bit(la) / 64] >> filter_bit(la) % 64 & 1) ||
           (t->large[filter_bit(giant) / 64] >> filter_bit(giant) % 64 & 1);
}

static bool same_page(uint64_t entry_la, uint8_t shift, uint64_t la)
{
    return entry_la != TLB_NEVER && (entry_la ^ la) >> shift == 0;
}

// Drops every piece of large pages around la, and makes the filter anew from what is left.
static void large_flush(struct interp_tlb *t, uint64_t la)
{
    memset(t->large, 0, sizeof t->large);
    for (unsigned n = 0; n < TLB_FAR; n++) {
        struct tlb_far *e = &t->far[n];
        if (e->la == TLB_NEVER || e->shift == 12)
            continue;
        if (same_page(e->la, e->shift, la) && (e->context == t->context || e->context == t->global_context))
            e->la = TLB_NEVER;
        else
            large_note(t, e->la, e->shift);
    }
    for (unsigned set = 0; set < TLB_NONE; set++)
        for (unsigned n = 0; n < TLB_NEAR; n++) {
            struct tlb_near *e = &t->near[set][n];
            if (same_page(e->la, e->shift, la))
                near_clear(t->near[set], n);
            else if (e->shift > 12)
                large_note(t, e->la, e->shift);
        }
    for (unsigned set = 0; set < 2; set++)
        for (unsigned n = 0; n < TLB_NEAR_CODE; n++) {
            struct tlb_near_code *e = &t->code[set][n];
            if (same_page(e->la, e->shift, la))
                code_clear(t->code[set], n);
            else if (e->shift > 12)
                large_note(t, e->la, e->shift);
        }
}

// --- far

static struct tlb_far *far_slot(struct interp_tlb *t, uint64_t la, uint64_t context)
{
    uint64_t n = la >> 12;
    return &t->far[(n ^ n >> 12 ^ context * 0x9e5) & (TLB_FAR - 1)];
}

static struct tlb_far *far_find(struct interp_tlb *t, uint64_t page_la)
{
    struct tlb_far *e = far_slot(t, page_la, t->context);
    if (e->la == page_la && e->context == t->context)
        return e;
    e = far_slot(t, page_la, t->global_context);
    return e->la == page_la && e->context == t->global_context ? e : NULL;
}

static void page_flush(struct interp_tlb *t, uint64_t la)
{
    uint64_t page_la = la & ~(uint64_t)(PAGE_SIZE - 1);
    for (unsigned set = 0; set < TLB_NONE; set++) {
        unsigned n = tlb_near_index(page_la);
        if (t->near[set][n].la == page_la)
            near_clear(t->near[set], n);
    }
    for (unsigned set = 0; set < 2; set++) {
        unsigned n = tlb_code_index(page_la);
        if (t->code[set][n].la == page_la)
            code_clear(t->code[set], n);
    }
    struct tlb_far *e;
    while ((e = far_find(t, page_la)))
        e->la = TLB_NEVER;
    bool large = large_possible(t, la);
    if (large)
        large_flush(t, la);
    if (t->owner->vm->mirror)
        t->owner->vm->mirror->tlb_flush_page(t->owner, la, large ? 30 : 12);
}

void interp_tlb_flush_page(struct interp_vcpu *v, uint64_t la)
{
    if (!(v->s.efer & EFER_LMA))
        la = (uint32_t)la;
    else if (!cpu_is_canonical(&v->s, la))
        return; // nothing is there (AMD APM vol. 3, INVLPG)
    page_flush(v->tlb, la);
    v->count.tlb_flushes++;
}

static struct tlb_far *far_fill(struct interp_vcpu *v, uint64_t page_la, const struct cpu_walk *w)
{
    struct interp_tlb *t = v->tlb;
    struct tlb_far *e = far_find(t, page_la);
    if (e)
        e->la = TLB_NEVER; // it may have been global and not be so any more
    uint64_t context = w->global ? t->global_context : t->context;
    e = far_slot(t, page_la, context);
    uint64_t gpa = w->gpa & ~(uint64_t)(PAGE_SIZE - 1);
    const struct ram_region *r = ram_find(&v->vm->ram, gpa);
    *e = (struct tlb_far){
        .la = page_la,
        .context = context,
        .gpa = gpa,
        .shift = w->page_shift,
        .global = w->global,
        .user_page = w->user_page,
        .writable = w->writable,
        .executable = w->executable,
        .dirty = w->dirty,
    };
    if (r) {
        e->host = r->host + (gpa - r->gpa);
        e->page = &r->page[(gpa - r->gpa) / PAGE_SIZE];
        if (!(*e->page & PAGE_THERE))
            ram_populate(r, gpa);
        e->readonly = r->readonly;
    }
    if (w->page_shift > 12)
        large_note(t, page_la, w->page_shift);
    v->count.tlb_fills++;
    return e;
}

// The far entry that allows the access, walking if there is none. NULL: #PF is recorded.
static struct tlb_far *far_get(struct interp_vcpu *v, uint64_t la, enum cpu_access access, enum tlb_as as)
{
    uint64_t page_la = la & ~(uint64_t)(PAGE_SIZE - 1);
    bool user = as == TLB_AS_CPL && v->cpl == 3;
    struct tlb_far *e = far_find(v->tlb, page_la);
    if (e && (access != CPU_WRITE || e->dirty) &&
        cpu_page_allows(&v->s, e->user_page, e->writable, e->executable, access, user, as == TLB_AS_SYSTEM))
        return e;
    struct cpu_walk w = {.la = la, .access = access, .user = user, .implicit = as == TLB_AS_SYSTEM};
    if (cpu_walk(&v->s, v->model->phys_bits, &walk_ops, v, &w)) {
        // A fault drops what was cached for the address (Intel SDM vol. 3, 4.10.4.1).
        page_flush(v->tlb, la);
        interp_fault_page(v, la, w.error);
        return NULL;
    }
    return far_fill(v, page_la, &w);
}

// --- near

static void near_fill(struct interp_vcpu *v, struct tlb_near *set, const struct tlb_far *f, bool user, bool implicit)
{
    if (!f->host)
        return;
    unsigned n = tlb_near_index(f->la);
    bool read = cpu_page_allows(&v->s, f->user_page, f->writable, f->executable, CPU_READ, user, implicit);
    bool write = f->dirty && !f->readonly &&
                 cpu_page_allows(&v->s, f->user_page, f->writable, f->executable, CPU_WRITE, user, implicit);
    set[n] = (struct tlb_near){
        .read = read ? f->la : tlb_near_never(n),
        .write = write ? f->la : tlb_near_never(n),
        .host = f->host,
        .page = f->page,
        .gpa = f->gpa,
        .la = f->la,
        .shift = f->shift,
        .global = f->global,
    };
}

// Linear addresses that exist: canonical ones in long mode, 32 bits otherwise.
static bool linear_exists(struct interp_vcpu *v, uint64_t *la)
{
    if (!(v->s.efer & EFER_LMA)) {
        *la = (uint32_t)*la;
        return true;
    }
    if (cpu_is_canonical(&v->s, *la))
        return true;
    interp_gp(v, 0);
    return false;
}

bool tlb_translate(struct interp_vcpu *v, uint64_t la, enum cpu_access access, enum tlb_as as, struct tlb_hit *hit)
{
    struct interp_tlb *t = v->tlb;
    if (!linear_exists(v, &la))
        return false;
    struct tlb_near *set = as == TLB_AS_SYSTEM ? t->near[TLB_SUPERVISOR] : v->near;
    struct tlb_near *e = &set[tlb_near_index(la)];
    uint64_t offset = la & (PAGE_SIZE - 1);
    if ((access == CPU_WRITE ? e->write : e->read) == la - offset) {
        *hit = (struct tlb_hit){e->gpa + offset, e->host + offset, e->page};
        return true;
    }
    struct tlb_far *f = far_get(v, la, access, as);
    if (!f)
        return false;
    if (set != t->near[TLB_NONE])
        near_fill(v, set, f, as == TLB_AS_CPL && v->cpl == 3, as == TLB_AS_SYSTEM);
    *hit = (struct tlb_hit){.gpa = f->gpa + offset, .page = f->page};
    if (f->host && !(access == CPU_WRITE && f->readonly))
        hit->host = f->host + offset;
    return true;
}

const struct tlb_near_code *tlb_fetch(struct interp_vcpu *v, uint64_t la, uint64_t *no_memory)
{
    if (!linear_exists(v, &la))
        return NULL;
    uint64_t page_la = la & ~(uint64_t)(PAGE_SIZE - 1);
    struct tlb_near_code *e = &v->near_code[tlb_code_index(la)];
    if (e->la == page_la)
        return e;
    struct tlb_far *f = far_get(v, la, CPU_EXEC, TLB_AS_CPL);
    if (!f)
        return NULL;
    if (!f->host) {
        *no_memory = f->gpa + (la - page_la);
        return NULL;
    }
    *e = (struct tlb_near_code){
        .la = page_la, .host = f->host, .page = f->page, .gpa = f->gpa, .shift = f->shift, .global = f->global};
    return e;
}
