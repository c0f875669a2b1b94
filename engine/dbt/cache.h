// The code cache of one vCPU: translated blocks, how they are found, linked, and forgotten.
//
// Of the cache's size, code has one half and records (blocks, exits, sites) have the other.
//
// Code lives in one memory area that is mapped twice: writable for us, executable for running; nothing is ever both at
// one address. When it is full, all of it is thrown away and translation begins anew. Records
// lie in an arena beside it and go the same way.
//
// A block is valid as long as the bytes it was made from are unchanged. Guest-physical pages with blocks are known to
// the VM (interp's code map), so that every write to them, by this vCPU, another one or a device, ends in
// dbt_invalidate().
//
// page_id. Each pair (linear page, physical page) that was ever executed has a number; itlb, at the linear page's slot,
// holds the number of the pair that is mapped now, or 0. A far entry compares the two, so links and indirect jumps need
// not be undone when mappings change: itlb entries are.
#pragma once
#include "engine/dbt/dbt.h"
#include "engine/dbt/emit.h"
#include "engine/dbt/runtime.h"
#include "engine/interp/ram.h"

enum { DBT_HASH = 1 << 17, DBT_RECENT = 1 << 12, DBT_PAGE_HASH = 1 << 12, DBT_PAIR_HASH = 1 << 12 };
// Code is interpreted until it has been come to so often; how that is known is forgotten after so many blocks.
enum { DBT_HOT = 16, DBT_COLD = 1 << 16, DBT_COLD_KEPT = 1 << 14 };
enum { DBT_CACHE_DEFAULT = 64 << 20 }; // per vCPU, where nobody says

struct code_page;
struct code_pair;
struct dbt_translation;

struct dbt_cache {
    uint8_t *rw, *rx;
    uint64_t size;
    uint8_t *begin, *at; // in rw: behind the runtime; free from here on
    uint8_t *arena;      // records
    size_t arena_size, arena_at;
    struct dbt_block *hash[DBT_HASH];
    struct dbt_block *recent[DBT_RECENT]; // what the dispatcher found last, by RIP
    struct code_page *page[DBT_PAGE_HASH];
    struct code_pair *pair[DBT_PAIR_HASH];
    struct dbt_block **order; // blocks by address, ascending
    unsigned orders, order_room;
    uint32_t next_id;
    struct dbt_runtime runtime;
    struct dbt_translation *t;
    uint8_t cold[DBT_COLD]; // how often code without a block was come to
    unsigned colds;         // entries that are not 0
};

static inline unsigned dbt_hash(uint64_t rip, uint64_t phys, unsigned key)
{
    uint64_t h = (rip ^ phys >> 12 ^ (uint64_t)key << 40) * 0x9e3779b97f4a7c15ull;
    return (unsigned)(h >> 40) & (DBT_HASH - 1);
}

// Where among the vCPU's fields it is said which page is mapped at rip.
static inline size_t dbt_itlb_field(bool user, uint64_t rip)
{
    unsigned page = (unsigned)(rip >> 12),
             n = user ? (page ^ page >> 10) & (DBT_ITLB_USER - 1) : (page ^ page >> 14) & (DBT_ITLB_KERNEL - 1);
    return (user ? offsetof(struct dbt_vcpu, itlb_user) : offsetof(struct dbt_vcpu, itlb_kernel)) + 4 * n;
}

static inline uint32_t *dbt_itlb(struct dbt_vcpu *v, bool user, uint64_t rip)
{
    return (uint32_t *)((char *)v + dbt_itlb_field(user, rip));
}

// A block's number is its place among the records.
static inline uint32_t dbt_block_number(const struct dbt_cache *c, const struct dbt_block *b)
{
    return (uint32_t)(((const uint8_t *)b - c->arena) / 16);
}

static inline struct dbt_block *dbt_block_numbered(const struct dbt_cache *c, uint32_t number)
{
    return (struct dbt_block *)(c->arena + (uint64_t)number * 16);
}

// For the runtime, which comes first in the cache: where to write, what was written; and the executable address of
// something written.
struct emit dbt_cache_emitter(struct dbt_vcpu *v);
void dbt_cache_emitted(struct dbt_vcpu *v, const struct emit *e);
uint8_t *dbt_executable(struct dbt_vcpu *v, const uint8_t *writable);

int dbt_cache_create(struct dbt_vcpu *v, uint64_t size, struct error *err);
void dbt_cache_destroy(struct dbt_vcpu *v);

// Guest code: its linear address, and the memory behind that.
struct dbt_code {
    uint64_t rip, phys;
    const uint8_t *page; // host address of the page that holds the first byte
    uint64_t
        phys2; // the next page, if an instruction at rip might cross into it and it can be executed; else DBT_NO_PAGE
    const uint8_t *page2;
    page_word *word2;
};

// The block for this code, translated now if need be. NULL: it cannot be translated.
struct dbt_block *dbt_block(struct dbt_vcpu *v, const struct dbt_code *code, unsigned key);
// Only if it is there already.
struct dbt_block *dbt_block_find(struct dbt_vcpu *v, const struct dbt_code *code, unsigned key);

// Counts one more time that there was no block for this code. False once that was often enough: it is hot.
bool dbt_cold_still(struct dbt_vcpu *v, const struct dbt_code *code);

void dbt_patch(struct dbt_exit *x, const uint8_t *target);
// Makes exit x go to `to` directly.
void dbt_link(struct dbt_vcpu *v, struct dbt_exit *x, struct dbt_block *to);
// The indirect jump that ends `from` has gone to `to` and had no guess (dbt_exit.guess): it has one now.
void dbt_guess(struct dbt_vcpu *v, struct dbt_block *from, struct dbt_block *to);
// Makes indirect jumps find b.
void dbt_ibl_set(struct dbt_vcpu *v, struct dbt_block *b);
// Makes them find nothing.
void dbt_ibl_clear(struct dbt_vcpu *v);

// [gpa, gpa+size) has changed: forgets blocks made from it.
void dbt_invalidate(struct dbt_vcpu *v, uint64_t gpa, uint64_t size);
void dbt_cache_flush(struct dbt_vcpu *v);

// Notes that linear page `rip` maps to physical page `phys` now, and returns the pair's number.
uint32_t dbt_page_id(struct dbt_vcpu *v, uint64_t rip, uint64_t phys, bool user);

// The block and the instruction that a host address lies in; NULL if it is no translated code. *insn is NULL in the
// block's entry code.
struct dbt_block *dbt_block_at(struct dbt_vcpu *v, uint64_t host_rip, const struct dbt_map **insn);
