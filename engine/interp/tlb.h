// The soft TLB: what the memory fast path looks at, and the larger store behind it.
//
// Near: small direct-mapped tables of what can be done at once, one for each set of rights (user, supervisor,
// supervisor with SMAP lifted by AC), plus one that never hits, for when every access must be looked at (alignment
// checks, data breakpoints). They hold the current address space only. v->near points to the table in force, so a
// change of CPL is a change of a pointer.
//
// Far: a table of all recent translations, of several address spaces at once. An entry belongs to a context, a number
// that is never used twice: the current one, that of another PCID, or the one of all global pages. Flushing a PCID
// gives it a new number; nothing is searched.
//
// Entries are 4 KiB each; those that are pieces of a large page say so, and INVLPG finds all of them. A filter keeps
// INVLPG of small pages from searching.
//
// Example: a load at la hits when la - near->read <= 4096 - size, which covers the page crossing, too.
#pragma once
#include "cpu/paging.h"
#include "engine/interp/interp.h"
#include "engine/interp/ram.h"

// The page of an empty entry of the far table, which is asked only for addresses that exist: this one is not canonical
// with 48 or 57 bits, and more than 32.
//
// The near tables are asked for any address whatever, so there an empty entry holds a page that belongs to another
// entry (tlb_near_never, tlb_code_never).
#define TLB_NEVER 0x7ffffffffffff000ull

enum { TLB_NEAR = 256, TLB_NEAR_CODE = 128, TLB_FAR = 4096, TLB_PCIDS = 8, TLB_FILTER = 4096 };
enum tlb_set { TLB_USER, TLB_SUPERVISOR, TLB_SUPERVISOR_AC, TLB_NONE, TLB_SETS };

struct tlb_near {
    uint64_t read, write; // the page's linear address if such an access may be done at once, else tlb_near_never
    uint8_t *host;        // the page
    page_word *page;
    uint64_t gpa;
    uint64_t la;
    uint8_t shift; // of the page it is a piece of
    bool global;
};

struct tlb_near_code {
    uint64_t la; // tlb_code_never: empty
    const uint8_t *host;
    page_word *page;
    uint64_t gpa;
    uint8_t shift;
    bool global;
};

struct tlb_far {
    uint64_t la; // TLB_NEVER: empty
    uint64_t context;
    uint64_t gpa;
    uint8_t *host; // NULL: no memory there
    page_word *page;
    uint8_t shift;
    bool global, user_page, writable, executable, dirty, readonly;
};

struct tlb_pcid {
    uint16_t pcid;
    uint64_t context; // 0: free
    uint64_t used;    // when last; the oldest is recycled
};

struct interp_tlb {
    struct interp_vcpu *owner;
    _Alignas(64) struct tlb_near near[TLB_SETS][TLB_NEAR];
    struct tlb_near_code code[2][TLB_NEAR_CODE]; // user, supervisor
    struct tlb_far far[TLB_FAR];
    uint64_t context, global_context, next_context;
    unsigned slot; // of pcids: the current one
    struct tlb_pcid pcids[TLB_PCIDS];
    uint64_t clock;
    uint64_t structure, rules;       // control bits that the far and near tables depend on
    uint64_t large[TLB_FILTER / 64]; // one bit per hash of la >> 21: large pages were seen there
};

// One translated page for one access.
struct tlb_hit {
    uint64_t gpa;  // of la
    uint8_t *host; // of la; NULL: MMIO (or ROM, for a write)
    page_word *page;
};

enum tlb_as { TLB_AS_CPL, TLB_AS_SYSTEM };

int tlb_create(struct interp_vcpu *v, struct error *err);
void tlb_destroy(struct interp_vcpu *v);

// Translates; fills near and far tables. False: v->fault is the #PF (or #GP(0) for a non-canonical address).
bool tlb_translate(struct interp_vcpu *v, uint64_t la, enum cpu_access access, enum tlb_as as, struct tlb_hit *hit);

// The translation of la that a supervisor's read finds in the page tables (w->gpa and the rest), walking them without a
// trace. False: there is none, or accessed bits would have to be set.
bool tlb_probe(struct interp_vcpu *v, uint64_t la, struct cpu_walk *w);

// The page that a fetch at la is from. NULL: the fetch faults (v->fault.raised), or there is no memory (gpa in
// *no_memory).
const struct tlb_near_code *tlb_fetch(struct interp_vcpu *v, uint64_t la, uint64_t *no_memory);

static inline unsigned tlb_near_index(uint64_t la)
{
    return (la >> 12 ^ la >> 20) & (TLB_NEAR - 1);
}

static inline unsigned tlb_code_index(uint64_t la)
{
    return (la >> 12 ^ la >> 19) & (TLB_NEAR_CODE - 1);
}

// Pages that are looked for in another entry than number n.
static inline uint64_t tlb_near_never(unsigned n)
{
    return (uint64_t)(n ^ 1) << 12;
}

static inline uint64_t tlb_code_never(unsigned n)
{
    return (uint64_t)(n ^ 1) << 12;
}
