// Guest-physical memory: mapping, the protocol for written code, the dirty log. The rules are in ram.h.
#include "engine/interp/cache.h"
#include "engine/interp/shared.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int ram_init(struct interp_ram *r, struct error *err)
{
    int e = pthread_mutex_init(&r->lock, NULL);
    return e ? error_set(err, e, "engine interp: %s", strerror(e)) : 0;
}

static void arrays_free(struct ram_region *g)
{
    free((void *)g->page);
    free((void *)g->dirty);
}

void ram_destroy(struct interp_ram *r)
{
    for (unsigned n = 0; n < r->count; n++)
        arrays_free(&r->region[n]);
    pthread_mutex_destroy(&r->lock);
}

void ram_populate(const struct ram_region *r, uint64_t gpa)
{
    enum { AROUND = 64 << 10 };
    uint64_t begin = (gpa - r->gpa) & ~(uint64_t)(AROUND - 1);
    uint64_t size = r->size - begin < AROUND ? r->size - begin : AROUND;
    if (!r->readonly && !r->sparing)
        madvise(r->host + begin, size, MADV_POPULATE_WRITE);
    for (uint64_t n = begin / PAGE_SIZE; n < (begin + size) / PAGE_SIZE; n++)
        atomic_fetch_or(&r->page[n], PAGE_THERE);
}

// --- written pages

static void log_page(struct interp_ram *r, page_word *page, uint64_t gpa)
{
    const struct ram_region *g = ram_find(r, gpa);
    // The word first: a write that finds PAGE_LOG gone is either in this fetch or still to be noted here.
    atomic_fetch_and(page, ~PAGE_LOG);
    if (!g || !g->dirty)
        return;
    uint64_t n = (gpa - g->gpa) / PAGE_SIZE;
    atomic_fetch_or(&g->dirty[n / 64], 1ull << n % 64);
}

void ram_touched(struct interp_vm *vm, struct interp_vcpu *v, page_word *page, uint64_t gpa, unsigned size)
{
    uint64_t word = *page;
    if (word & PAGE_LOG)
        log_page(&vm->ram, page, gpa);
    if (!(word & PAGE_CODE))
        return;
    uint64_t stepped;
    do {
        stepped = word + PAGE_STEP;
        if (stepped % PAGE_PATIENCE < PAGE_STEP)
            stepped &= ~PAGE_CODE;
    } while (!atomic_compare_exchange_weak(page, &word, stepped));
    if (v) {
        interp_vectors_used(v);
        cache_written(v, gpa, size);
    }
    if (vm->mirror)
        vm->mirror->code_written(vm, v, gpa, size, !(stepped & PAGE_CODE));
}

uint64_t ram_mark_code(struct interp_vcpu *v, page_word *page)
{
    if (!(*page & PAGE_CODE)) {
        interp_vectors_used(v);
        atomic_fetch_or(page, PAGE_CODE);
        if (v->vm->vcpus > 1) // a lone vCPU's writes are in order with this, and devices fence for themselves
            world_barrier();
        if (*page & PAGE_INLINE)
            v->vm->mirror->code_marked(v, page);
        if (v->flush_wanted) // code_marked has stopped the world: the page may be gone
            return 0;
    }
    return *page;
}

void ram_invalidate(struct interp_vm *vm, uint64_t gpa, uint64_t size)
{
    atomic_thread_fence(memory_order_seq_cst); // the device's stores before our look at the words
    pthread_mutex_lock(&vm->ram.lock);
    for (unsigned n = 0; n < vm->ram.count; n++) {
        const struct ram_region *g = &vm->ram.region[n];
        uint64_t from = gpa > g->gpa ? gpa : g->gpa;
        uint64_t to = gpa + size < g->gpa + g->size ? gpa + size : g->gpa + g->size;
        for (; from < to; from = (from | (PAGE_SIZE - 1)) + 1) {
            page_word *page = &g->page[(from - g->gpa) / PAGE_SIZE];
            uint64_t end = (from | (PAGE_SIZE - 1)) + 1;
            if (*page & (PAGE_CODE | PAGE_LOG))
                ram_touched(vm, NULL, page, from, (to < end ? to : end) - from);
        }
    }
    pthread_mutex_unlock(&vm->ram.lock);
}

// As ram_invalidate; and where memory is touched again, more than the one page is worth asking for.
void ram_discarded(struct interp_vm *vm, uint64_t gpa, uint64_t size)
{
    ram_invalidate(vm, gpa, size);
    pthread_mutex_lock(&vm->ram.lock);
    const struct ram_region *g = ram_find(&vm->ram, gpa);
    for (uint64_t at = gpa; g && at - g->gpa < g->size && at < gpa + size; at += PAGE_SIZE)
        atomic_fetch_and(&g->page[(at - g->gpa) / PAGE_SIZE], ~PAGE_THERE);
    pthread_mutex_unlock(&vm->ram.lock);
}

// --- mapping

static void flush_everyone(struct interp_vm *vm)
{
    for (unsigned n = 0; n < vm->vcpus; n++) {
        vm->vcpu[n]->flush_wanted = true;
        world_want(vm->vcpu[n]);
    }
}

static int log_arm(struct ram_region *g)
{
    uint64_t pages = g->size / PAGE_SIZE;
    free((void *)g->dirty);
    g->dirty = calloc((pages + 63) / 64, sizeof *g->dirty);
    if (!g->dirty)
        return -ENOMEM;
    for (uint64_t n = 0; n < pages; n++)
        atomic_fetch_or(&g->page[n], PAGE_LOG);
    return 0;
}

static int map_locked(struct interp_ram *r, const struct ram_region *wanted, struct error *err)
{
    struct ram_region g = *wanted;
    unsigned at = 0;
    for (unsigned n = 0; n < r->count; n++) {
        if (g.gpa < r->region[n].gpa + r->region[n].size && r->region[n].gpa < g.gpa + g.size)
            return error_set(err, EEXIST, "guest memory at %#lx: overlaps what is mapped at %#lx", (long)g.gpa,
                             (long)r->region[n].gpa);
        if (r->region[n].gpa < g.gpa)
            at = n + 1;
    }
    if (r->count == RAM_REGIONS)
        return error_set(err, ENOSPC, "guest memory at %#lx: more than %d regions", (long)g.gpa, RAM_REGIONS);
    g.page = calloc(g.size / PAGE_SIZE, sizeof *g.page);
    if (!g.page || (r->logging && log_arm(&g))) {
        arrays_free(&g);
        return error_set(err, ENOMEM, "guest memory at %#lx: no memory for its page table", (long)g.gpa);
    }
    memmove(&r->region[at + 1], &r->region[at], (r->count - at) * sizeof r->region[0]);
    r->region[at] = g;
    r->count++;
    return 0;
}

int ram_map(struct interp_vm *vm, uint64_t gpa, uint64_t size, void *host, bool readonly, struct error *err)
{
    if (!size || (gpa | size | (uintptr_t)host) % PAGE_SIZE || gpa + size < gpa)
        return error_set(err, EINVAL, "guest memory at %#lx: not made of whole pages", (long)gpa);
    struct ram_region g = {.gpa = gpa, .size = size, .host = host, .readonly = readonly, .sparing = vm->tuning.sparing};
    world_stop(vm);
    pthread_mutex_lock(&vm->ram.lock);
    int e = map_locked(&vm->ram, &g, err);
    pthread_mutex_unlock(&vm->ram.lock);
    flush_everyone(vm); // what was MMIO before may be in a TLB
    world_start(vm);
    return e;
}

int ram_unmap(struct interp_vm *vm, uint64_t gpa, uint64_t size, struct error *err)
{
    struct interp_ram *r = &vm->ram;
    int e = 0;
    world_stop(vm);
    pthread_mutex_lock(&r->lock);
    unsigned n = 0;
    while (n < r->count && !(r->region[n].gpa == gpa && r->region[n].size == size))
        n++;
    if (n == r->count) {
        e = error_set(err, ENOENT, "guest memory at %#lx: no region of %#lx bytes is mapped there", (long)gpa,
                      (long)size);
    } else {
        // TLBs are flushed before their vCPU is in again, and a block is entered only after the pending word was looked
        // at: nobody will use the page words.
        arrays_free(&r->region[n]);
        memmove(&r->region[n], &r->region[n + 1], (r->count - n - 1) * sizeof r->region[0]);
        r->count--;
    }
    pthread_mutex_unlock(&r->lock);
    flush_everyone(vm);
    world_start(vm);
    return e;
}

// --- the dirty log

int ram_log_start(struct interp_vm *vm, struct error *err)
{
    struct interp_ram *r = &vm->ram;
    int e = 0;
    world_stop(vm);
    pthread_mutex_lock(&r->lock);
    r->logging = true;
    for (unsigned n = 0; n < r->count && !e; n++)
        if (log_arm(&r->region[n]))
            e = error_set(err, ENOMEM, "dirty log: no memory");
    pthread_mutex_unlock(&r->lock);
    world_start(vm);
    if (e)
        ram_log_stop(vm);
    return e;
}

void ram_log_stop(struct interp_vm *vm)
{
    struct interp_ram *r = &vm->ram;
    world_stop(vm);
    pthread_mutex_lock(&r->lock);
    r->logging = false;
    for (unsigned n = 0; n < r->count; n++) {
        struct ram_region *g = &r->region[n];
        for (uint64_t p = 0; p < g->size / PAGE_SIZE; p++)
            if (g->page[p] & PAGE_LOG)
                atomic_fetch_and(&g->page[p], ~PAGE_LOG);
        free((void *)g->dirty);
        g->dirty = NULL;
    }
    pthread_mutex_unlock(&r->lock);
    world_start(vm);
}

int ram_log_fetch(struct interp_vm *vm, uint64_t gpa, uint64_t size, uint64_t *bitmap)
{
    struct interp_ram *r = &vm->ram;
    int e = 0;
    pthread_mutex_lock(&r->lock);
    const struct ram_region *g = ram_find(r, gpa);
    if (!g || !g->dirty || size > g->size - (gpa - g->gpa))
        e = -EINVAL;
    for (uint64_t n = 0; !e && n < size / PAGE_SIZE; n++) {
        uint64_t p = (gpa - g->gpa) / PAGE_SIZE + n, bit = 1ull << p % 64;
        if (n % 64 == 0)
            bitmap[n / 64] = 0;
        if (!(g->dirty[p / 64] & bit))
            continue;
        atomic_fetch_and(&g->dirty[p / 64], ~bit);
        atomic_fetch_or(&g->page[p], PAGE_LOG);
        bitmap[n / 64] |= 1ull << n % 64;
    }
    pthread_mutex_unlock(&r->lock);
    // Writes that found no PAGE_LOG are visible to whoever copies the pages now.
    world_barrier();
    return e;
}
