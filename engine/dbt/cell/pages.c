// Guest pages in a cell (cell.h): mapping them when they are touched, unmapping them when the guest's TLB would forget
// them.
//
// What is mapped is remembered as ranges that are never split: a range says that its pages may be mapped. Unmapping
// a page that is not is harmless.
#include "engine/dbt/cell/cell.h"
#include "engine/interp/shared.h"
#include "engine/interp/tlb.h"
#include <sys/mman.h>

enum { LARGE = 2 << 20 };

bool cell_command(struct cell *c, struct cell_command command)
{
    if (c->commands == CELL_COMMANDS)
        return false;
    c->s->command[c->commands++] = command;
    return true;
}

void cell_pages_flush(struct cell *c)
{
    c->commands = 0;
    c->ranges = 0;
    c->pages_stale = false;
    c->fs_known = false;
    cell_command(c, (struct cell_command){.op = CELL_UNMAP, .size = c->base});
    cell_command(c, (struct cell_command){.op = CELL_UNMAP,
                                          .address = c->base + CELL_SIZE,
                                          .size = 0x7ffffffff000 - c->base - CELL_SIZE});
}

static bool note_range(struct cell *c, uint64_t la, uint64_t size, const uint8_t *host)
{
    for (unsigned n = 0; n < c->ranges; n++) {
        const struct cell_range *r = &c->range[n];
        if (la - r->la < r->size && la + size <= r->la + r->size && r->host - r->la == host - la)
            return true;
    }
    if (c->ranges == CELL_MAX_RANGES)
        return false;
    c->range[c->ranges++] = (struct cell_range){la, size, host};
    return true;
}

static bool map(struct cell *c, uint64_t la, uint64_t size, const uint8_t *host, bool write)
{
    const uint8_t *memory = c->v->i.vm->tuning.memory;
    if (!note_range(c, la, size, host)) {
        c->pages_stale = true;
        return false;
    }
    return cell_command(c, (struct cell_command){.op = CELL_MAP,
                                                 .prot = PROT_READ | (write ? PROT_WRITE : 0),
                                                 .address = la,
                                                 .size = size,
                                                 .offset = (uint64_t)(host - memory)});
}

// Whether the cell may write the page and nobody need see it; says so in its word before looking.
static bool quiet(page_word *page)
{
    if (!(*page & PAGE_INLINE))
        atomic_fetch_or(page, PAGE_INLINE);
    return !(*page & (PAGE_CODE | PAGE_LOG));
}

// All of the guest's large page around la, in runs of the same right. `first` is the word of its first 4 KiB.
static bool map_large(struct cell *c, uint64_t la, const uint8_t *host, page_word *first, bool write)
{
    enum { PAGES = LARGE / PAGE_SIZE };
    unsigned begin = 0;
    bool now = write && quiet(&first[0]);
    for (unsigned n = 1; n <= PAGES; n++) {
        bool next = n < PAGES && write && quiet(&first[n]);
        if (n < PAGES && next == now)
            continue;
        if (!map(c, la + begin * (uint64_t)PAGE_SIZE, (n - begin) * (uint64_t)PAGE_SIZE,
                 host + begin * (uint64_t)PAGE_SIZE, now))
            return false;
        begin = n;
        now = next;
    }
    return true;
}

// The near entry of a page that the cell may have, or NULL.
static const struct tlb_near *usable(struct cell *c, uint64_t la, bool write)
{
    struct interp_vcpu *i = &c->v->i;
    const struct engine_tuning *tuning = &i->vm->tuning;
    uint64_t page = la & ~(uint64_t)(PAGE_SIZE - 1);
    struct tlb_hit hit;
    if (la - c->base < CELL_SIZE)
        return NULL;
    i->fault.raised = false;
    bool allowed = tlb_translate(i, la, write ? CPU_WRITE : CPU_READ, TLB_AS_CPL, &hit);
    i->fault.raised = false;
    const struct tlb_near *e = &i->near[tlb_near_index(la)];
    return allowed && e->la == page && (write ? e->write : e->read) == page && e->read == page && !e->global &&
                   !(e->la >> 47) && (uint64_t)(e->host - (const uint8_t *)tuning->memory) < tuning->memory_size
               ? e
               : NULL;
}

static struct cell_stream *stream_at(struct cell *c, uint64_t page)
{
    for (unsigned n = 0; n < CELL_STREAMS; n++)
        if (c->stream[n].next == page)
            return &c->stream[n];
    struct cell_stream *s = &c->stream[c->next_stream++ % CELL_STREAMS];
    *s = (struct cell_stream){.next = page};
    return s;
}

// Programs go through memory in order: a fault just behind what was mapped last has more pages mapped ahead, twice as
// many each time. Runs that are together in the guest's memory, too, take one system call.
static void map_ahead(struct cell *c, uint64_t page)
{
    enum { AHEAD_MIN = 4, AHEAD_MAX = 64 };
    struct cell_stream *s = stream_at(c, page);
    unsigned ahead = s->ahead;
    s->ahead = ahead ? 2 * ahead : AHEAD_MIN;
    if (s->ahead > AHEAD_MAX)
        s->ahead = AHEAD_MAX;
    uint64_t begin = 0;
    const uint8_t *host = NULL;
    bool write = false;
    s->next = page + PAGE_SIZE;
    for (unsigned n = 0;; n++, s->next += PAGE_SIZE) {
        const struct tlb_near *e = n < ahead ? usable(c, s->next, false) : NULL;
        if (e && e->shift >= 21)
            e = NULL;
        bool writable = e && e->write == e->la && quiet(e->page);
        if (host && !(e && e->host - host == (ptrdiff_t)(e->la - begin) && writable == write)) {
            map(c, begin, s->next - begin, host, write);
            host = NULL;
        }
        if (!e)
            break;
        if (!host) {
            begin = e->la;
            host = e->host;
            write = writable;
        }
    }
}

bool cell_page_in(struct cell *c, uint64_t la, bool write)
{
    struct interp_vcpu *i = &c->v->i;
    uint64_t page = la & ~(uint64_t)(PAGE_SIZE - 1);
    const struct tlb_near *e = usable(c, la, write);
    if (!e)
        return false;
    bool writable = e->write == page;
    if (e->shift >= 21) {
        uint64_t offset = page & (LARGE - 1), gpa = e->gpa - offset;
        const struct ram_region *r = ram_find(&i->vm->ram, gpa);
        if (e->gpa >= offset && r && gpa + LARGE <= r->gpa + r->size && !r->readonly &&
            !(c->base - (page - offset) < LARGE))
            return map_large(c, page - offset, e->host - offset, e->page - offset / PAGE_SIZE, writable) &&
                   (!write || !(*e->page & (PAGE_CODE | PAGE_LOG)));
    }
    writable = writable && quiet(e->page);
    bool mapped = map(c, page, PAGE_SIZE, e->host, writable) && (!write || writable);
    map_ahead(c, page);
    return mapped;
}

static void unmap(struct cell *c, uint64_t la, uint64_t size)
{
    if (!cell_command(c, (struct cell_command){.op = CELL_UNMAP, .address = la, .size = size}))
        c->pages_stale = true;
}

void cells_flush_page(struct dbt_vcpu *v, uint64_t la, unsigned shift)
{
    if (!v->cells)
        return;
    uint64_t size = 1ull << shift, from = la & ~(size - 1);
    for (unsigned n = 0; n < CELLS; n++) {
        struct cell *c = v->cells->cell[n];
        if (!c || c->context != v->i.tlb->context)
            continue;
        for (unsigned k = 0; k < c->pages; k++)
            c->code_unverified |= (c->page[k].linear ^ la) >> shift == 0;
        for (unsigned k = 0; k < c->ranges && !c->pages_stale; k++) {
            const struct cell_range *r = &c->range[k];
            uint64_t begin = r->la > from ? r->la : from;
            uint64_t end = r->la + r->size < from + size ? r->la + r->size : from + size;
            if (begin < end)
                unmap(c, begin, end - begin);
        }
    }
}

void cells_protect(struct dbt_vcpu *v, const uint8_t *host)
{
    if (!v->cells)
        return;
    for (unsigned n = 0; n < CELLS; n++) {
        struct cell *c = v->cells->cell[n];
        if (!c)
            continue;
        c->pages_stale |= !host;
        for (unsigned k = 0; k < c->ranges && !c->pages_stale; k++) {
            const struct cell_range *r = &c->range[k];
            if ((uint64_t)(host - r->host) < r->size)
                unmap(c, r->la + (uint64_t)(host - r->host), PAGE_SIZE);
        }
    }
}
