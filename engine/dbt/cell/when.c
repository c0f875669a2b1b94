// When a program goes to a cell (cell.h), and when it no longer does.
//
// Interrupts are samples: the time since the last one is credited to the program that was interrupted in user code. One
// that has used enough of it is tried. What a cell brings is a part of the processor time that is spent in it; what it
// costs are visits and pages, each a few system calls and switches between processes. The balance begins with a
// little credit. A program that has used that up is not tried again before it has used twice as much processor time as
// before the last try, so that trying never costs more than a small part of what a program does.
//
// Example: a compiler that lives for 20 ms never sees a cell. A loop that computes goes there after 16 ms and stays. A
// program that makes a system call every 50 us is tried for 2 ms after 16, 32, 64, ... ms.
#include "engine/dbt/cell/cell.h"
#include "engine/interp/tlb.h"
#include <time.h>

enum {
    SAMPLE_NS = 4000000, // no interrupt stands for more
    NEED_NS = 16000000,  // user time before the first try; doubled up to
    NEED_MAX_NS = 256000000,
    CREDIT_NS = 2000000, // what a try may lose
    CREDIT_MAX_NS = 4000000,
    VISIT_NS = 30000, // what coming and going takes
    PAGE_NS = 60000,  // and more, if it is for a page
    GAIN = 2,         // a part of so many of the time in a cell is what would be lost elsewhere
};

uint64_t cells_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct cell_program *program(struct cells *cells, uint64_t context)
{
    for (unsigned n = 0; n < CELL_PROGRAMS; n++)
        if (cells->program[n].context == context)
            return &cells->program[n];
    return NULL;
}

static struct cell_program *new_program(struct cells *cells, uint64_t context)
{
    struct cell_program *oldest = &cells->program[0];
    for (unsigned n = 1; n < CELL_PROGRAMS; n++)
        if (cells->program[n].seen < oldest->seen)
            oldest = &cells->program[n];
    *oldest = (struct cell_program){.context = context, .need = NEED_NS};
    return oldest;
}

void cells_note_interrupt(struct dbt_vcpu *v, bool user)
{
    struct cells *cells = v->cells;
    if (!cells)
        return;
    uint64_t time = cells_now(), sample = time - cells->interrupted, context = v->i.tlb->context;
    cells->interrupted = time;
    cells->looked = 0;
    v->direct = 0;
    if (!user)
        return;
    struct cell_program *p = program(cells, context);
    if (!p)
        p = new_program(cells, context);
    p->seen = time;
    p->used += sample < SAMPLE_NS ? sample : SAMPLE_NS;
}

static bool ready(struct cells *cells, uint64_t context)
{
    if (cells->looked != context) {
        const struct cell_program *p = program(cells, context);
        cells->looked = context;
        cells->ready = p && p->used >= p->need;
    }
    return cells->ready;
}

void cells_refuse(struct dbt_vcpu *v)
{
    v->cells->looked = v->i.tlb->context;
    v->cells->ready = false;
}

bool cells_wanted(struct dbt_vcpu *v)
{
    const uint64_t closed = RFLAGS_TF | RFLAGS_DF | RFLAGS_AC | RFLAGS_RF;
    struct cells *cells = v->cells;
    const struct cpu_state *s = &v->i.s;
    return cells && v->i.cpl == 3 && !(s->rflags & closed) && !(s->cr4 & CR4_LA57) && s->gpr[CPU_RSP] >> 47 == 0 &&
           s->rip >> 47 == 0 && !cells->impossible && (cells->always || ready(cells, v->i.tlb->context));
}

void cell_credit(struct cell *c)
{
    c->credit = CREDIT_NS;
}

// Processor time counts, not the clock, because the host may have had other things to do.
void cell_judge(struct cell *c, unsigned visits, unsigned pages)
{
    struct cells *cells = c->v->cells;
    uint64_t before = c->time;
    c->time = cell_time(c);
    c->used = cells_now();
    if (cells->always)
        return;
    c->credit += (int64_t)((c->time - before) / GAIN) - (int64_t)visits * VISIT_NS - (int64_t)pages * PAGE_NS;
    struct cell_program *p = program(cells, c->context);
    if (c->credit > CREDIT_MAX_NS) {
        c->credit = CREDIT_MAX_NS;
        if (p)
            p->need = NEED_NS;
    } else if (c->credit < 0) {
        cell_credit(c);
        cells->looked = 0;
        if (p) {
            p->used = 0;
            p->need = p->need < NEED_MAX_NS ? 2 * p->need : NEED_MAX_NS;
        }
    }
}
