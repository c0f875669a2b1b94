// See window.h. Compiled for general registers only.
#include "engine/dbt/window.h"
#include "engine/interp/shared.h"
#include "engine/interp/tlb.h"

enum {
    NEED = 128,         // votes; doubled when what they led to was too small,
    NEED_MAX = 1 << 20, // up to this
    STEPS = 1 << 15,    // pages of whatever size to be walked at most, each way
};
#define SMALLEST (4ull << 20) // not worth the trouble below

void dbt_window_create(struct dbt_vcpu *v)
{
    v->window = (struct dbt_window){.need = NEED};
}

void dbt_window_drop(struct dbt_vcpu *v)
{
    v->count.window_drops += v->window.room != 0;
    v->window.room = 0;
    v->window.votes = 0;
}

void dbt_window_flush_page(struct dbt_vcpu *v, uint64_t la, unsigned shift)
{
    uint64_t size = 1ull << shift, page = la & ~(size - 1), end = v->window.room + DBT_WINDOW_SPAN;
    if (v->window.room && (page - v->window.low < end || v->window.low - page < size))
        dbt_window_drop(v);
}

// The part [*low, *high) of the page around la that is memory at addend. False: it has no place in a window.
static bool piece(struct interp_vcpu *i, uint64_t la, uint64_t addend, uint64_t *low, uint64_t *high)
{
    struct cpu_walk w;
    if (!tlb_probe(i, la, &w) || w.user_page || !w.global)
        return false;
    const struct ram_region *r = ram_find(&i->vm->ram, w.gpa);
    if (!r || (uint64_t)(uintptr_t)r->host + (w.gpa - r->gpa) - la != addend)
        return false;
    uint64_t mask = (1ull << w.page_shift) - 1, before = la & mask, after = mask - before;
    uint64_t room_before = w.gpa - r->gpa, room_after = r->gpa + r->size - 1 - w.gpa;
    *low = la - (before < room_before ? before : room_before);
    *high = la + (after < room_after ? after : room_after) + 1;
    return true;
}

static void build(struct dbt_vcpu *v, uint64_t la)
{
    struct interp_vcpu *i = &v->i;
    struct dbt_window *w = &v->window;
    uint64_t low, high, a, b;
    w->votes = 0;
    if (!piece(i, la, w->candidate, &low, &high))
        return;
    for (unsigned n = 0; n < STEPS && high && piece(i, high, w->candidate, &a, &b); n++)
        high = b;
    for (unsigned n = 0; n < STEPS && low >> 63 && piece(i, low - 1, w->candidate, &a, &b); n++)
        low = a;
    if (high - low < SMALLEST) {
        w->need = w->need < NEED_MAX ? 2 * w->need : NEED_MAX;
        return;
    }
    w->low = low;
    w->room = high - low - DBT_WINDOW_SPAN;
    w->addend = w->candidate;
    w->need = NEED;
    w->seen = true;
    v->count.windows++;
}

void dbt_window_vote(struct dbt_vcpu *v, uint64_t la, const uint8_t *host)
{
    struct dbt_window *w = &v->window;
    uint64_t addend = (uint64_t)(uintptr_t)host - (la & ~(uint64_t)(PAGE_SIZE - 1));
    if (w->room || !(la >> 63))
        return;
    if (w->candidate == addend) {
        if (++w->votes >= w->need)
            build(v, la);
    } else if (w->votes) {
        w->votes--;
    } else {
        w->candidate = addend;
        w->votes = 1;
    }
}
