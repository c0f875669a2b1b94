// See window.h. Compiled for general registers only.
#include "engine/dbt/window.h"
#include "engine/interp/shared.h"
#include "engine/interp/tlb.h"

enum {
    // Votes; doubled when what they led to was too small, up to the maximum. Not fewer than pages were walked the last
    // time: whoever closes windows all the time makes each miss dearer by one walk, not more.
    NEED = 128,
    NEED_MAX = 1 << 20,
    STEPS = 1 << 15, // pages of whatever size to be walked at most, each way
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
    uint64_t rest = (1ull << shift) - 1;
    if (v->window.room && (la & ~rest) <= v->window.last && (la | rest) >= v->window.first)
        dbt_window_drop(v);
}

// Of a page, all bytes and those that are memory where they should be: [low, high).
struct piece {
    uint64_t first, last, low, high;
};

// The page around la. False: it has no place in a window.
static bool piece(struct interp_vcpu *i, uint64_t la, uint64_t addend, struct piece *p)
{
    struct cpu_walk w;
    if (!cpu_is_canonical(&i->s, la) || !tlb_probe(i, la, &w) || w.user_page || !w.global)
        return false;
    const struct ram_region *r = ram_find(&i->vm->ram, w.gpa);
    if (!r || (uint64_t)(uintptr_t)r->host + (w.gpa - r->gpa) - la != addend)
        return false;
    uint64_t mask = (1ull << w.page_shift) - 1, before = la & mask, after = mask - before;
    uint64_t room_before = w.gpa - r->gpa, room_after = r->gpa + r->size - 1 - w.gpa;
    p->first = la - before;
    p->last = la + after;
    p->low = la - (before < room_before ? before : room_before);
    p->high = la + (after < room_after ? after : room_after) + 1;
    return true;
}

static void build(struct dbt_vcpu *v, uint64_t la)
{
    struct interp_vcpu *i = &v->i;
    struct dbt_window *w = &v->window;
    struct piece all, p;
    uint32_t up = 0, down = 0;
    w->votes = 0;
    if (!piece(i, la, w->candidate, &all))
        return;
    for (; up < STEPS && all.high && piece(i, all.high, w->candidate, &p); up++) {
        all.high = p.high;
        all.last = p.last;
    }
    for (; down < STEPS && piece(i, all.low - 1, w->candidate, &p); down++) {
        all.low = p.low;
        all.first = p.first;
    }
    if (all.high - all.low < SMALLEST) {
        w->need = w->need < NEED_MAX ? 2 * w->need : NEED_MAX;
        return;
    }
    w->low = all.low;
    w->room = all.high - all.low - DBT_WINDOW_SPAN;
    w->first = all.first;
    w->last = all.last;
    w->addend = w->candidate;
    w->need = up + down > NEED ? up + down : NEED;
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
