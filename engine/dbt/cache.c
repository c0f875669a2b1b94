// See cache.h.
#include "engine/dbt/cache.h"
#include "engine/dbt/cell/cell.h"
#include "engine/dbt/quick.h"
#include "engine/dbt/runtime.h"
#include "engine/dbt/show.h"
#include "engine/dbt/translate.h"
#include "engine/interp/decode.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    MARGIN = 64 << 10, // a block and its cold paths are smaller
    PAGE = 4096,
};

struct code_page { // a guest-physical page that blocks were made from
    uint64_t phys;
    struct dbt_block *blocks;
    struct dbt_block *crossing; // blocks of one instruction that ends in this page
    struct code_page *next;
};

struct code_pair { // a linear page and the physical page it was mapped to
    uint64_t linear, phys;
    uint32_t id;
    struct code_pair *next;
};

// Records, all of which die together. NULL: full.
static void *arena_take(struct dbt_cache *c, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    c->arena_at = (c->arena_at + 15) & ~(size_t)15;
    if (c->arena_size - c->arena_at < size)
        return NULL;
    void *p = c->arena + c->arena_at;
    c->arena_at += size;
    return p;
}

static unsigned page_hash(uint64_t phys)
{
    return (unsigned)((phys >> 12) * 0x9e3779b1u >> 16) & (DBT_PAGE_HASH - 1);
}

int dbt_cache_create(struct dbt_vcpu *v, uint64_t size, struct error *err)
{
    struct dbt_cache *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, ENOMEM, "code cache: out of memory");
    uint64_t all = size & ~(uint64_t)(PAGE - 1);
    size = all / 2 & ~(uint64_t)(PAGE - 1);
    int fd = memfd_create("trapeze-code", MFD_CLOEXEC);
    c->rw = c->rx = c->arena = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0) {
        c->rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        c->rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    if (fd >= 0)
        close(fd);
    c->t = calloc(1, sizeof *c->t);
    c->size = size;
    c->arena_size = all - size;
    // Code names records: that takes four bytes less if they lie low.
    static const int anywhere = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    c->arena = mmap(NULL, c->arena_size, PROT_READ | PROT_WRITE, anywhere | MAP_32BIT, -1, 0);
    if (c->arena == MAP_FAILED)
        c->arena = mmap(NULL, c->arena_size, PROT_READ | PROT_WRITE, anywhere, -1, 0);
    if (c->arena != MAP_FAILED)
        madvise(c->arena, c->arena_size, MADV_DONTFORK); // a cell that is forked would have us copy it
    v->cache = c;
    if (c->rw == MAP_FAILED || c->rx == MAP_FAILED || c->arena == MAP_FAILED || !c->t) {
        int e = errno;
        dbt_cache_destroy(v);
        return error_set(err, e ? e : ENOMEM, "code cache of %llu bytes: no memory that can be executed",
                         (unsigned long long)size);
    }
    c->t->decoder = decoder_zydis(v->i.decoder, MODE_LONG64);
    c->t->v = v;
    c->next_id = 1;
    c->at = c->rw;
    dbt_runtime_write(v);
    c->begin = c->at;
    dbt_cache_flush(v);
    return 0;
}

void dbt_cache_destroy(struct dbt_vcpu *v)
{
    struct dbt_cache *c = v->cache;
    if (!c)
        return;
    if (c->rw != MAP_FAILED)
        munmap(c->rw, c->size);
    if (c->rx != MAP_FAILED)
        munmap(c->rx, c->size);
    if (c->arena != MAP_FAILED)
        munmap(c->arena, c->arena_size);
    free(c->order);
    free(c->t);
    free(c);
    v->cache = NULL;
}

// Room for the runtime; used once.
struct emit dbt_cache_emitter(struct dbt_vcpu *v)
{
    struct dbt_cache *c = v->cache;
    return (struct emit){.p = c->at, .end = c->rw + c->size};
}

void dbt_cache_emitted(struct dbt_vcpu *v, const struct emit *e)
{
    v->cache->at = e->p;
}

uint8_t *dbt_executable(struct dbt_vcpu *v, const uint8_t *writable)
{
    return v->cache->rx + (writable - v->cache->rw);
}

void dbt_cache_flush(struct dbt_vcpu *v)
{
    struct dbt_cache *c = v->cache;
    memset(c->hash, 0, sizeof c->hash);
    memset(c->recent, 0, sizeof c->recent);
    memset(c->page, 0, sizeof c->page);
    memset(c->pair, 0, sizeof c->pair);
    memset(v->itlb_kernel, 0, sizeof v->itlb_kernel);
    memset(v->itlb_user, 0, sizeof v->itlb_user);
    dbt_ibl_clear(v);
    c->orders = 0;
    c->arena_at = 0;
    c->at = c->begin;
    v->count.cache_flushes++;
}

// --- pairs and pages

uint32_t dbt_page_id(struct dbt_vcpu *v, uint64_t rip, uint64_t phys, bool user)
{
    struct dbt_cache *c = v->cache;
    uint64_t linear = rip & ~(uint64_t)(PAGE - 1), page = phys & ~(uint64_t)(PAGE - 1);
    unsigned h = (unsigned)((linear >> 12) ^ (page >> 12) * 31) & (DBT_PAIR_HASH - 1);
    struct code_pair *p = c->pair[h];
    while (p && (p->linear != linear || p->phys != page))
        p = p->next;
    if (!p) {
        p = arena_take(c, sizeof *p);
        if (!p)
            return 0;
        *p = (struct code_pair){.linear = linear, .phys = page, .id = c->next_id++, .next = c->pair[h]};
        c->pair[h] = p;
    }
    *dbt_itlb(v, user, rip) = p->id;
    return p->id;
}

static struct code_page *page_of(struct dbt_cache *c, uint64_t phys, bool make)
{
    phys &= ~(uint64_t)(PAGE - 1);
    unsigned h = page_hash(phys);
    struct code_page *p = c->page[h];
    while (p && p->phys != phys)
        p = p->next;
    if (!p && make && (p = arena_take(c, sizeof *p))) {
        *p = (struct code_page){.phys = phys, .next = c->page[h]};
        c->page[h] = p;
    }
    return p;
}

// --- finding and making blocks

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// The records of the finished block move from the translation into the arena places that cold paths have named already.
static void keep(struct dbt_cache *c, struct dbt_block *b)
{
    struct dbt_translation *t = c->t;
    b->exit = t->exit_base;
    b->exits = (uint16_t)t->exits;
    b->site = t->site_base;
    b->sites = (uint16_t)t->sites;
    for (unsigned k = 0; k < t->exits; k++) {
        t->exit_base[k] = t->exit[k];
        t->exit_base[k].from = b;
    }
    for (unsigned k = 0; k < t->sites; k++) {
        t->site_base[k] = t->site[k];
        t->site_base[k].block = b;
    }
    unsigned last = 0;
    for (unsigned k = 0; k < t->count && k <= b->insns; k++) {
        b->map[k] = (struct dbt_map){t->host_offset[k], (uint16_t)(t->insn[k].rip - b->rip), t->slot_in_fault[k]};
        last = k;
    }
    b->length = (uint16_t)(t->insn[last].rip + t->insn[last].len - b->rip);
}

static bool note_order(struct dbt_cache *c, struct dbt_block *b)
{
    if (c->orders == c->order_room) {
        unsigned room = c->order_room ? 2 * c->order_room : 4096;
        struct dbt_block **bigger = realloc(c->order, room * sizeof(struct dbt_block *));
        if (!bigger)
            return false;
        c->order = bigger;
        c->order_room = room;
    }
    c->order[c->orders++] = b;
    return true;
}

// An instruction that begins in one page and ends in the next. True if there is one.
static bool scan_crossing(struct dbt_vcpu *v, const struct dbt_code *code)
{
    enum { LONGEST = 15 };
    struct dbt_translation *t = v->cache->t;
    uint8_t both[2 * LONGEST];
    unsigned room = PAGE - (unsigned)(code->phys & (PAGE - 1));
    if (room >= LONGEST || code->phys2 == DBT_NO_PAGE)
        return false;
    ram_mark_code(&v->i, code->word2);
    if (v->i.flush_wanted)
        return false;
    memcpy(both, code->page + (code->phys & (PAGE - 1)), room);
    memcpy(both + room, code->page2, LONGEST);
    dbt_scan(t, code->rip, both, room + LONGEST, 1);
    return t->count && t->insn[0].len > room;
}

// The instruction as the interpreter can do it without ceremony; NULL: it cannot, or no room.
static const struct interp_insn *quick(struct dbt_vcpu *v, const struct dbt_insn *i)
{
    struct interp_insn *q = i && dbt_quick_can(i->z.mnemonic) ? arena_take(v->cache, sizeof *q) : NULL;
    if (q)
        interp_decode(&v->i, i->bytes, i->len, q);
    return q;
}

static struct dbt_block *make(struct dbt_vcpu *v, const struct dbt_code *code, unsigned key)
{
    struct dbt_cache *c = v->cache;
    struct dbt_translation *t = c->t;
    uint64_t rip = code->rip, phys = code->phys;
    bool user = (key & DBT_KEY_VIEW) == DBT_USER;
    t->key = (uint8_t)key;
    dbt_scan(t, rip, code->page + (phys & (PAGE - 1)), PAGE - (unsigned)(phys & (PAGE - 1)),
             key & DBT_KEY_SINGLE ? 1 : DBT_MAX_INSNS);
    bool crosses = !t->count && scan_crossing(v, code);
    if (!t->count)
        return NULL;
    size_t records = c->arena_at;
    struct code_page *cp = page_of(c, phys, true);
    uint32_t id = dbt_page_id(v, rip, phys, user);
    struct code_page *second = crosses ? page_of(c, code->phys2, true) : NULL;
    uint32_t id2 = crosses ? dbt_page_id(v, (rip | (PAGE - 1)) + 1, code->phys2, user) : 0;
    struct dbt_block *b = arena_take(c, sizeof *b);
    t->exit_room = t->side_exits + 1; // one at its end
    t->exit_base = arena_take(c, t->exit_room * sizeof *t->exit_base);
    void *map = arena_take(c, (t->count + 1) * sizeof *b->map);
    size_t sites_at = c->arena_at;
    t->site_base = arena_take(c, MAX_SITES * sizeof *t->site_base);
    if (!cp || !id || (crosses && (!second || !id2)) || !b || !t->exit_base || !map || !t->site_base ||
        c->rw + c->size - c->at < MARGIN)
        return NULL;
    *b = (struct dbt_block){.rip = rip,
                            .phys = phys,
                            .phys2 = crosses ? code->phys2 : DBT_NO_PAGE,
                            .key = (uint8_t)key,
                            .page_id = id,
                            .page_id2 = id2,
                            .map = map};
    t->e = (struct emit){.p = c->at, .end = c->rw + c->size};
    if (!dbt_translate(t, b))
        return NULL;
    b->code = dbt_executable(v, c->at);
    keep(c, b);
    if (!note_order(c, b))
        return NULL;
    c->arena_at = sites_at + t->sites * sizeof *t->site_base; // sites that were reserved and not used go back
    for (unsigned k = 0; k < t->exits; k++)
        b->exit[k].quick = quick(v, t->stepped[k]);
    c->at = (uint8_t *)(((uintptr_t)t->e.p + 15) & ~(uintptr_t)15);
    unsigned h = dbt_hash(rip, phys, key);
    b->next_hash = c->hash[h];
    c->hash[h] = b;
    b->next_page = cp->blocks;
    cp->blocks = b;
    if (second) {
        b->next_page2 = second->crossing;
        second->crossing = b;
    }
    dbt_show(v, b);
    v->count.blocks++;
    v->count.record_bytes += c->arena_at - records;
    v->count.guest_bytes += b->length;
    v->count.host_bytes += b->end;
    return b;
}

struct dbt_block *dbt_block(struct dbt_vcpu *v, const struct dbt_code *code, unsigned key)
{
    struct dbt_block *b = dbt_block_find(v, code, key);
    if (b)
        return b;
    uint64_t begin = now_ns();
    b = make(v, code, key);
    if (!b && v->cache->t->count) { // no room: begin anew
        dbt_cache_flush(v);
        b = make(v, code, key);
    }
    v->count.translate_ns += now_ns() - begin;
    return b;
}

bool dbt_cold_still(struct dbt_vcpu *v, const struct dbt_code *code)
{
    struct dbt_cache *c = v->cache;
    uint8_t *n = &c->cold[dbt_hash(code->rip, code->phys, 0) & (DBT_COLD - 1)];
    if (!*n && ++c->colds == DBT_COLD_KEPT) {
        memset(c->cold, 0, sizeof c->cold);
        c->colds = 1;
    }
    *n += *n < DBT_HOT;
    return *n < DBT_HOT;
}

struct dbt_block *dbt_block_at(struct dbt_vcpu *v, uint64_t host, const struct dbt_map **insn)
{
    struct dbt_cache *c = v->cache;
    const uint8_t *p = (const uint8_t *)host;
    unsigned low = 0, high = c->orders;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (c->order[mid]->code <= p)
            low = mid + 1;
        else
            high = mid;
    }
    if (!low)
        return NULL;
    struct dbt_block *b = c->order[low - 1];
    uint32_t at = (uint32_t)(p - b->code);
    if (at >= b->end)
        return NULL;
    *insn = NULL;
    for (unsigned k = 0; k < b->insns && b->map[k].host <= at; k++)
        *insn = &b->map[k];
    return b;
}

// --- forgetting

static void unlink_in(struct dbt_block *b)
{
    for (struct dbt_exit *x = b->links_in, *next; x; x = next) {
        next = x->next_in;
        x->to = NULL;
        x->next_in = NULL;
        dbt_patch(x, x->stub);
    }
    b->links_in = NULL;
}

static void unlink_out(struct dbt_block *b)
{
    for (unsigned k = 0; k < b->exits; k++) {
        struct dbt_exit *x = &b->exit[k];
        if (!x->to)
            continue;
        struct dbt_exit **from = &x->to->links_in;
        while (*from && *from != x)
            from = &(*from)->next_in;
        if (*from)
            *from = x->next_in;
        x->to = NULL;
    }
}

static void kill_block(struct dbt_vcpu *v, struct dbt_block *b)
{
    struct dbt_cache *c = v->cache;
    if (b->dead)
        return;
    struct dbt_block **from = &c->hash[dbt_hash(b->rip, b->phys, b->key)];
    while (*from && *from != b)
        from = &(*from)->next_hash;
    if (*from)
        *from = b->next_hash;
    unlink_in(b);
    unlink_out(b);
    uint64_t *ibl = &v->ibl[b->key & DBT_KEY_VIEW][b->rip & (DBT_IBL_SIZE - 1)];
    if (*ibl == (uint64_t)(uintptr_t)(b->code + b->indirect))
        *ibl = c->runtime.indirect_miss_address;
    b->dead = true;
    v->count.invalidated++;
}

void dbt_invalidate(struct dbt_vcpu *v, uint64_t gpa, uint64_t size)
{
    struct dbt_cache *c = v->cache;
    uint64_t end = gpa + size;
    cells_code_written(v, gpa, size);
    for (uint64_t page = gpa & ~(uint64_t)(PAGE - 1); page < end; page += PAGE) {
        struct code_page *cp = page_of(c, page, false);
        if (!cp)
            continue;
        struct dbt_block **from = &cp->blocks;
        while (*from) {
            struct dbt_block *b = *from;
            if (b->dead || (b->phys < end && b->phys + b->length > gpa)) {
                *from = b->next_page;
                kill_block(v, b);
            } else {
                from = &b->next_page;
            }
        }
        for (from = &cp->crossing; *from; from = &(*from)->next_page2)
            if ((*from)->phys2 < end && ((*from)->phys2 | 15) >= gpa)
                kill_block(v, *from);
    }
}
