// The buses: see bus.h.
//
// The table is an array of (first address, last address, slot), sorted, that readers search under a sequence counter: a
// reader that finds the counter odd or changed tries again, and after some tries takes the lock instead of spinning on
// a writer that may have been preempted. The slot says whose the range is and how it wants its accesses; it lives as
// long as the bus. A range that is removed and added again (a BAR that moves) finds its old slot, so memory stays
// bounded by the number of different ranges, and the slot's counters go on.
//
// The array grows only while there are more ranges than ever before; an outgrown one is kept until the bus is destroyed
// because readers may be in it. There are at most log2(ranges) of those.
//
// Example: 4 bytes at port 0x6e, with the RTC at 0x70 and 0x71 taking bytes: the first byte's address has no range but
// the access reaches into one, so it is split into bytes; 0x6e and 0x6f read 0xff.
#include "vm/bus.h"
#include "vm/alloc.h"
#include "vm/vm.h"
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { TRIES = 64, SLOTS_MAX = 4096 };

struct bus_slot {
    struct bus_slot *next;
    struct bus_range range; // base: of the last time that it was added
    bool present;
    _Atomic uint64_t reads, writes;
};

struct bus_entry {
    _Atomic uint64_t first, last;
    _Atomic(struct bus_slot *) slot;
};

struct bus_table {
    struct bus_table *outgrown;
    _Atomic uint32_t count;
    uint32_t capacity;
    struct bus_entry entry[];
};

// What a look-up found. slot NULL: nobody at addr, and `next` is the first address above it that is taken.
struct found {
    struct bus_slot *slot;
    uint64_t first, last, next;
};

int bus_init(struct bus *b, struct vm *vm, const char *name, uint64_t limit)
{
    memset(b, 0, sizeof *b);
    b->vm = vm;
    b->name = name;
    b->limit = limit;
    return 0;
}

void bus_destroy(struct bus *b)
{
    for (struct bus_table *t = b->table, *next; t; t = next) {
        next = t->outgrown;
        vm_free(t);
    }
    for (struct bus_slot *s = b->slots, *next; s; s = next) {
        next = s->next;
        vm_free(s);
    }
    b->table = NULL;
    b->slots = NULL;
}

// Place of the first entry whose last address is at or above addr.
static uint32_t search(struct bus_table *t, uint32_t count, uint64_t addr)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (atomic_load_explicit(&t->entry[middle].last, memory_order_relaxed) < addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct found look(struct bus *b, uint64_t addr)
{
    struct found f = {.next = UINT64_MAX};
    struct bus_table *t = atomic_load_explicit(&b->table, memory_order_acquire);
    if (!t)
        return f;
    uint32_t count = atomic_load_explicit(&t->count, memory_order_relaxed);
    uint32_t i = search(t, count, addr);
    if (i == count)
        return f;
    // These are acquire loads so that the sequence counter's second reading stays behind them.
    f.first = atomic_load_explicit(&t->entry[i].first, memory_order_acquire);
    f.last = atomic_load_explicit(&t->entry[i].last, memory_order_acquire);
    struct bus_slot *slot = atomic_load_explicit(&t->entry[i].slot, memory_order_acquire);
    if (f.first <= addr)
        f.slot = slot;
    else
        f.next = f.first;
    return f;
}

static struct found find(struct bus *b, uint64_t addr)
{
    for (int i = 0; i < TRIES; i++) {
        uint32_t sequence = atomic_load_explicit(&b->sequence, memory_order_acquire);
        struct found f = look(b, addr);
        if (!(sequence & 1) && sequence == atomic_load_explicit(&b->sequence, memory_order_relaxed))
            return f;
        __builtin_ia32_pause();
    }
    vm_lock(&b->lock);
    struct found f = look(b, addr);
    vm_unlock(&b->lock);
    return f;
}

// --- changing the table; the lock is held

static void set(struct bus_entry *e, uint64_t first, uint64_t last, struct bus_slot *slot)
{
    atomic_store_explicit(&e->first, first, memory_order_release);
    atomic_store_explicit(&e->last, last, memory_order_release);
    atomic_store_explicit(&e->slot, slot, memory_order_release);
}

static void copy(struct bus_entry *to, const struct bus_entry *from)
{
    set(to, from->first, from->last, from->slot);
}

static int make_room(struct bus *b)
{
    struct bus_table *old = b->table;
    uint32_t count = old ? old->count : 0;
    if (old && count < old->capacity)
        return 0;
    uint32_t capacity = old ? 2 * old->capacity : 32;
    struct bus_table *t = vm_alloc(sizeof *t + capacity * sizeof t->entry[0]);
    if (!t)
        return -ENOMEM;
    t->capacity = capacity;
    t->outgrown = old;
    for (uint32_t i = 0; i < count; i++)
        copy(&t->entry[i], &old->entry[i]);
    t->count = count;
    atomic_store_explicit(&b->table, t, memory_order_release);
    return 0;
}

static struct bus_slot *slot_for(struct bus *b, const struct bus_range *r)
{
    unsigned slots = 0;
    struct bus_slot **link = &b->slots;
    for (struct bus_slot *s; (s = *link); link = &s->next, slots++) {
        const struct bus_range *o = &s->range;
        if (!s->present && o->dev == r->dev && o->region == r->region && o->size == r->size &&
            o->min_size == r->min_size && o->max_size == r->max_size)
            return s;
    }
    struct bus_slot *s = slots < SLOTS_MAX ? vm_alloc(sizeof *s) : NULL;
    if (s) {
        s->range = *r;
        *link = s;
    }
    return s;
}

int bus_add(struct bus *b, const struct bus_range *r, struct error *err)
{
    uint64_t last = r->base + r->size - 1;
    if (!r->size || last < r->base || last > b->limit)
        return error_set(err, ERANGE, "%s: %s range 0x%" PRIx64 "+0x%" PRIx64 " leaves the bus", r->dev->name, b->name,
                         r->base, r->size);
    vm_lock(&b->lock);
    struct bus_table *t = b->table;
    uint32_t i = t ? search(t, t->count, r->base) : 0;
    if (t && i < t->count && t->entry[i].first <= last) {
        struct bus_slot *other = t->entry[i].slot;
        int e = error_set(err, EEXIST, "%s: %s range 0x%" PRIx64 "+0x%" PRIx64 " is taken by %s", r->dev->name, b->name,
                          r->base, r->size, other->range.dev->name);
        vm_unlock(&b->lock);
        return e;
    }
    struct bus_slot *slot = slot_for(b, r);
    if (!slot || make_room(b) < 0) {
        vm_unlock(&b->lock);
        return error_set(err, ENOMEM, "%s: no memory for a %s range", r->dev->name, b->name);
    }
    slot->present = true;
    t = b->table;
    b->sequence++;
    for (uint32_t n = t->count; n > i; n--)
        copy(&t->entry[n], &t->entry[n - 1]);
    set(&t->entry[i], r->base, last, slot);
    t->count++;
    b->sequence++;
    vm_unlock(&b->lock);
    return 0;
}

void bus_remove(struct bus *b, struct device *dev, unsigned region)
{
    vm_lock(&b->lock);
    struct bus_table *t = b->table;
    for (uint32_t i = 0; t && i < t->count;) {
        struct bus_slot *slot = t->entry[i].slot;
        if (slot->range.dev != dev || slot->range.region != region) {
            i++;
            continue;
        }
        slot->present = false;
        b->sequence++;
        for (uint32_t n = i; n + 1 < t->count; n++)
            copy(&t->entry[n], &t->entry[n + 1]);
        t->count--;
        b->sequence++;
    }
    vm_unlock(&b->lock);
}

// --- accesses

static uint64_t ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (1ull << 8 * size) - 1;
}

static void count(_Atomic uint64_t *counter, bool locked)
{
    if (locked) // the device's lock makes us the only one
        atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
    else
        atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static void trace(struct bus *b, unsigned cpu, const char *verb, uint64_t addr, unsigned size, uint64_t val,
                  const char *who)
{
    unsigned kind = TRACE_EXITS | (b == &b->vm->ports ? TRACE_PIO : TRACE_MMIO);
    if (log_tracing(b->vm->log, kind))
        log_trace(b->vm->log, kind, "cpu%u %s %s 0x%" PRIx64 " size %u = 0x%" PRIx64 " %s", cpu, b->name, verb, addr,
                  size, val, who);
}

// How many bytes to hand over at a time: size itself if the access is whole and the device takes it, a smaller number
// to split, 0 where nobody answers. Always a divisor of size.
static unsigned piece(const struct found *f, uint64_t addr, unsigned size)
{
    if (!f->slot)
        return f->next != UINT64_MAX && f->next - addr < size ? 1 : 0; // (next is above addr)
    if (f->last - addr < size - 1)
        return 1;
    unsigned most = f->slot->range.max_size, least = f->slot->range.min_size;
    if (most && size > most)
        return most;
    return size < least ? 0 : size;
}

uint64_t bus_read(struct bus *b, unsigned cpu, uint64_t addr, unsigned size)
{
    struct found f = find(b, addr);
    unsigned part = piece(&f, addr, size);
    if (part && part < size) {
        uint64_t val = 0;
        for (unsigned i = 0; i < size; i += part)
            val |= (addr + i >= addr ? bus_read(b, cpu, addr + i, part) : ones(part)) << 8 * i;
        return val;
    }
    uint64_t val = ones(size);
    if (part) {
        struct bus_slot *s = f.slot;
        struct device *d = s->range.dev;
        struct bus_access a = {.cpu = cpu, .region = s->range.region, .size = size, .offset = addr - f.first};
        bool locked = !d->ops->unlocked;
        if (locked)
            vm_lock(&d->lock);
        count(&s->reads, locked);
        if (d->ops->read)
            val = d->ops->read(d, a) & ones(size);
        if (locked)
            vm_unlock(&d->lock);
    }
    trace(b, cpu, "read", addr, size, val, part ? f.slot->range.dev->name : "nobody");
    return val;
}

void bus_write(struct bus *b, unsigned cpu, uint64_t addr, unsigned size, uint64_t val)
{
    struct found f = find(b, addr);
    unsigned part = piece(&f, addr, size);
    if (part && part < size) {
        for (unsigned i = 0; i < size && addr + i >= addr; i += part)
            bus_write(b, cpu, addr + i, part, val >> 8 * i);
        return;
    }
    val &= ones(size);
    trace(b, cpu, "write", addr, size, val, part ? f.slot->range.dev->name : "nobody");
    if (!part)
        return;
    struct bus_slot *s = f.slot;
    struct device *d = s->range.dev;
    struct bus_access a = {.cpu = cpu, .region = s->range.region, .size = size, .offset = addr - f.first};
    bool locked = !d->ops->unlocked;
    if (locked)
        vm_lock(&d->lock);
    count(&s->writes, locked);
    if (d->ops->write)
        d->ops->write(d, a, val);
    if (locked)
        vm_unlock(&d->lock);
}

void bus_stats(struct bus *b, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    vm_lock(&b->lock);
    for (struct bus_slot *s = b->slots; s; s = s->next) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s.%u.reads", b->name, s->range.dev->name, s->range.region);
        if (s->reads)
            emit(ctx, name, s->reads);
        snprintf(name, sizeof name, "%s.%s.%u.writes", b->name, s->range.dev->name, s->range.region);
        if (s->writes)
            emit(ctx, name, s->writes);
    }
    vm_unlock(&b->lock);
}
