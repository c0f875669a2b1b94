// The cache of decoded blocks; what it promises is in cache.h.
//
// Making a block: mark the page as code, note its word, copy the bytes, decode from the copy. From then on every write
// to the page steps the word, so nothing is missed between the copy and the first look. The bytes stay with the block:
// when the word has moved they are compared with memory, and only a difference drops the block.
//
// A vCPU that overwrites the block it is running in sees its new code at the very next instruction, as x86 promises:
// cache_written finds that bytes differ and replaces the handlers of the whole block by one that leaves it. This costs
// nothing as long as it doesn't happen. (Another vCPU's writes are seen when the block is entered next; more is
// promised only to those who serialize.)
//
// Code that is not in memory (a fetch from a device) is fetched byte by byte and decoded each time.
#include "engine/interp/cache.h"
#include "engine/interp/access.h"
#include "engine/interp/decode.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { LONGEST = 15 };

struct interp_cache {
    struct interp_block *bucket[CACHE_BUCKETS];
    struct interp_block *running;
    uint8_t *arena;
    size_t used;
    _Alignas(64) uint8_t uncached[sizeof(struct interp_block) + sizeof(struct interp_insn)];
};

int cache_create(struct interp_vcpu *v, struct error *err)
{
    struct interp_cache *c = aligned_alloc(64, sizeof *c);
    if (!c)
        return error_set(err, ENOMEM, "vCPU %u: no memory for decoded code", v->base.id);
    memset(c, 0, sizeof *c);
    c->arena = mmap(NULL, CACHE_ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->arena == MAP_FAILED) {
        int e = errno;
        free(c);
        return error_set(err, e, "vCPU %u: no memory for decoded code", v->base.id);
    }
    madvise(c->arena, CACHE_ARENA, MADV_DONTFORK); // it would be copied as it changes
    v->cache = c;
    return 0;
}

void cache_destroy(struct interp_vcpu *v)
{
    if (!v->cache)
        return;
    munmap(v->cache->arena, CACHE_ARENA);
    free(v->cache);
    v->cache = NULL;
}

void cache_flush(struct interp_vcpu *v)
{
    struct interp_cache *c = v->cache;
    memset(c->bucket, 0, sizeof c->bucket);
    c->used = 0;
    c->running = NULL;
    interp_host_forget(v);
}

void cache_running(struct interp_vcpu *v, struct interp_block *b)
{
    v->cache->running = b;
}

static struct interp_block **bucket_of(struct interp_cache *c, uint64_t gpa, uint8_t key)
{
    return &c->bucket[(gpa ^ gpa >> 13 ^ key * 0x515) % CACHE_BUCKETS];
}

// --- bytes

static uint8_t *block_bytes(const struct interp_block *b)
{
    return (uint8_t *)&b->insn[b->count];
}

// Host memory of the block's first and second part, as the region table says now.
static const uint8_t *memory_of(const struct interp_vcpu *v, uint64_t gpa)
{
    return ram_at(&v->vm->ram, gpa);
}

static unsigned first_part(const struct interp_block *b)
{
    unsigned room = PAGE_SIZE - (b->gpa[0] & (PAGE_SIZE - 1));
    return b->size < room ? b->size : room;
}

static bool bytes_same(const struct interp_vcpu *v, const struct interp_block *b)
{
    unsigned first = first_part(b);
    const uint8_t *bytes = block_bytes(b), *m = memory_of(v, b->gpa[0]);
    if (!m || memcmp(m, bytes, first))
        return false;
    if (!b->page[1])
        return true;
    m = memory_of(v, b->gpa[1]);
    return m && !memcmp(m, bytes + first, b->size - first);
}

static enum interp_result leave(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)v;
    (void)i;
    return INTERP_AGAIN;
}

static bool overlap(uint64_t a, unsigned a_size, uint64_t b, unsigned b_size)
{
    return a < b + b_size && b < a + a_size;
}

void cache_written(struct interp_vcpu *v, uint64_t gpa, unsigned size)
{
    struct interp_block *b = v->cache->running;
    if (!b)
        return;
    unsigned first = first_part(b);
    bool hit = overlap(gpa, size, b->gpa[0], first) || (b->page[1] && overlap(gpa, size, b->gpa[1], b->size - first));
    if (!hit || bytes_same(v, b))
        return;
    for (unsigned n = 0; n < b->count; n++)
        b->insn[n].fn = leave;
}

// --- making blocks

static struct interp_block *block_alloc(struct interp_vcpu *v, unsigned insns)
{
    struct interp_cache *c = v->cache;
    size_t size = sizeof(struct interp_block) + insns * (sizeof(struct interp_insn) + LONGEST);
    size = (size + 63) & ~(size_t)63;
    if (c->used + size > CACHE_ARENA)
        cache_flush(v);
    struct interp_block *b = (struct interp_block *)(c->arena + c->used);
    c->used += size;
    return b;
}

// Gives back what a block that was made for BLOCK_INSNS doesn't need.
static void block_trim(struct interp_vcpu *v, struct interp_block *b)
{
    size_t end = (size_t)(block_bytes(b) + b->size - v->cache->arena);
    v->cache->used = (end + 63) & ~(size_t)63;
}

static void block_insert(struct interp_vcpu *v, struct interp_block *b)
{
    struct interp_block **bucket = bucket_of(v->cache, b->gpa[0], b->key);
    b->next = *bucket;
    *bucket = b;
    v->count.blocks_decoded++;
}

// Decodes from `bytes` what lies whole in them. 0 if not even the first instruction does.
static unsigned decode_run(struct interp_vcpu *v, const uint8_t *bytes, unsigned available, unsigned limit,
                           struct interp_block *b)
{
    bool last = false;
    b->count = b->size = 0;
    while (b->count < limit && !last && b->size < available &&
           decode_insn(v, bytes + b->size, available - b->size, &b->insn[b->count], &last))
        b->size += b->insn[b->count++].len;
    return b->count;
}

// One byte of code from wherever it is. False: the fetch faults.
static bool fetch_byte(struct interp_vcpu *v, uint64_t la, uint8_t *byte)
{
    uint64_t gpa;
    const struct tlb_near_code *e = tlb_fetch(v, la, &gpa);
    if (e)
        *byte = e->host[la & (PAGE_SIZE - 1)];
    else if (!v->fault.raised)
        *byte = interp_up_mmio_read(v, gpa, 1);
    else
        return false;
    return true;
}

// One instruction, byte by byte, not kept.
static struct interp_block *make_uncached(struct interp_vcpu *v, uint64_t la)
{
    struct interp_block *b = (struct interp_block *)v->cache->uncached;
    uint8_t bytes[LONGEST];
    *b = (struct interp_block){.key = v->mode | BLOCK_SINGLE};
    for (unsigned n = 0; n < LONGEST; n++) {
        if (!fetch_byte(v, la + n, &bytes[n]))
            return NULL;
        if (decode_run(v, bytes, n + 1, 1, b))
            break;
    }
    return b;
}

// One instruction that begins at la, near the end of a page, and goes on in the next.
static struct interp_block *make_crossing(struct interp_vcpu *v, uint64_t la, const struct tlb_near_code *e,
                                          uint8_t key)
{
    uint64_t gpa, first_gpa = e->gpa | (la & (PAGE_SIZE - 1));
    page_word *first_page = e->page;
    unsigned room = PAGE_SIZE - (la & (PAGE_SIZE - 1));
    const struct tlb_near_code *second = tlb_fetch(v, la + room, &gpa);
    if (!second)
        return v->fault.raised ? NULL : make_uncached(v, la);
    struct interp_block *b = block_alloc(v, 1);
    *b = (struct interp_block){.page = {first_page, second->page}, .gpa = {first_gpa, second->gpa}, .key = key};
    b->word[0] = ram_mark_code(v, b->page[0]) & PAGE_VERSION;
    if (!v->flush_wanted)
        b->word[1] = ram_mark_code(v, b->page[1]) & PAGE_VERSION;
    if (v->flush_wanted)
        return make_uncached(v, la);
    uint8_t bytes[2 * LONGEST];
    memcpy(bytes, memory_of(v, first_gpa), room);
    memcpy(bytes + room, second->host, LONGEST);
    decode_run(v, bytes, room + LONGEST, 1, b);
    if (b->size <= room)
        b->page[1] = NULL; // another vCPU has just changed it
    memcpy(block_bytes(b), bytes, b->size);
    block_trim(v, b);
    block_insert(v, b);
    return b;
}

static struct interp_block *make(struct interp_vcpu *v, uint64_t la, const struct tlb_near_code *e, uint8_t key)
{
    unsigned at = la & (PAGE_SIZE - 1), room = PAGE_SIZE - at;
    unsigned limit = key & BLOCK_SINGLE ? 1 : BLOCK_INSNS;
    struct interp_block *b = block_alloc(v, limit);
    *b = (struct interp_block){.page = {e->page}, .gpa = {e->gpa | at}, .key = key};
    b->word[0] = ram_mark_code(v, e->page) & PAGE_VERSION;
    if (v->flush_wanted)
        return make_uncached(v, la);
    uint8_t bytes[BLOCK_INSNS * LONGEST];
    unsigned available = room < sizeof bytes ? room : sizeof bytes;
    memcpy(bytes, e->host + at, available);
    if (!decode_run(v, bytes, available, limit, b)) {
        v->cache->used = (uint8_t *)b - v->cache->arena;
        return make_crossing(v, la, e, key);
    }
    memcpy(block_bytes(b), bytes, b->size);
    block_trim(v, b);
    block_insert(v, b);
    return b;
}

// --- finding

static void block_remove(struct interp_vcpu *v, struct interp_block *b)
{
    struct interp_block **p = bucket_of(v->cache, b->gpa[0], b->key);
    while (*p != b)
        p = &(*p)->next;
    *p = b->next;
    v->count.code_invalidated++;
}

static bool current(const struct interp_block *b)
{
    return (*b->page[0] & PAGE_VERSION) == b->word[0] && (!b->page[1] || (*b->page[1] & PAGE_VERSION) == b->word[1]);
}

// The page word has moved: are the bytes what they were?
static bool revalidate(struct interp_vcpu *v, struct interp_block *b)
{
    for (unsigned n = 0; n < 2 && b->page[n] && !v->flush_wanted; n++)
        b->word[n] = ram_mark_code(v, b->page[n]) & PAGE_VERSION;
    return !v->flush_wanted && b->insn[0].fn != leave && bytes_same(v, b);
}

// Does the second page of a crossing instruction lie where it lay? 1: yes, 0: no, -1: the fetch faults.
static int second_page(struct interp_vcpu *v, const struct interp_block *b, uint64_t la)
{
    uint64_t gpa;
    const struct tlb_near_code *e = tlb_fetch(v, (la | (PAGE_SIZE - 1)) + 1, &gpa);
    if (!e && v->fault.raised)
        return -1;
    return e && e->gpa == b->gpa[1];
}

static struct interp_block *find(struct interp_vcpu *v, uint64_t la, bool single)
{
    uint64_t gpa;
    const struct tlb_near_code *e = &v->near_code[tlb_code_index(la)];
    if (unlikely(la - e->la >= PAGE_SIZE)) {
        v->fault.raised = false;
        e = tlb_fetch(v, la, &gpa);
        if (!e)
            return v->fault.raised ? NULL : make_uncached(v, la);
    }
    gpa = e->gpa | (la & (PAGE_SIZE - 1));
    uint8_t key = single ? v->mode | BLOCK_SINGLE : v->mode;
    struct interp_block *b = *bucket_of(v->cache, gpa, key);
    while (b && (b->gpa[0] != gpa || b->key != key))
        b = b->next;
    if (likely(b)) {
        int good = current(b) || revalidate(v, b);
        if (unlikely(good && b->page[1])) {
            v->fault.raised = false;
            good = second_page(v, b, la);
        }
        if (likely(good > 0))
            return b;
        if (good < 0)
            return NULL;
        block_remove(v, b);
    }
    v->fault.raised = false;
    return v->flush_wanted ? make_uncached(v, la) : make(v, la, e, key);
}

struct interp_block *cache_find(struct interp_vcpu *v, bool single)
{
    uint64_t rip = v->s.rip;
    if (likely(v->mode == MODE_LONG64))
        return find(v, rip, single);
    const struct cpu_segment *cs = &v->s.seg[CPU_CS];
    if (rip > cs->limit) {
        interp_gp(v, 0);
        return NULL;
    }
    uint32_t la = cs->base + rip;
    struct interp_block *b = find(v, la, single);
    // A block must lie within the code segment; one that doesn't is run instruction by instruction up to the limit.
    if (b && !single && rip + b->size - 1 > cs->limit)
        b = find(v, la, true);
    if (b && rip + b->size - 1 > cs->limit) {
        interp_gp(v, 0);
        return NULL;
    }
    return b;
}
