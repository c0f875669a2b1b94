// The page-table walk: from a linear address to a guest-physical one, as the architecture defines it (Intel SDM vol. 3,
// chapter 4).
//
// One walk for all engines and all paging modes: none, 32-bit (with PSE), PAE, 4-level, 5-level. The walk reads and
// updates page-table entries through callbacks, so it knows nothing of how guest memory is held. Accessed and dirty
// bits are set by compare-and-exchange, and only once the access is known to be allowed (the accessed bits of upper
// levels are set on the way).
//
// Example:
//     struct cpu_walk w = {.la = va, .access = CPU_READ, .user = false};
//     if (cpu_walk(&state, &phys_ops, ctx, &w)) raise(EXC_PF, w.error); else use(w.gpa);
#pragma once
#include "cpu/state.h"

enum cpu_access { CPU_READ, CPU_WRITE, CPU_EXEC };

// Access to guest-physical page-table entries. An entry outside of RAM reads as all ones and ignores writes.
struct cpu_phys_ops {
    uint64_t (*read)(void *ctx, uint64_t gpa, unsigned size);
    // Atomically replaces `old` by `val`; false if the entry had changed meanwhile (the walk then starts again).
    bool (*cas)(void *ctx, uint64_t gpa, unsigned size, uint64_t old, uint64_t val);
};

struct cpu_walk {
    // in
    uint64_t la; // linear address
    enum cpu_access access;
    bool user;     // CPL 3 access (false: supervisor, explicit or implicit)
    bool implicit; // descriptor tables, TSS: supervisor, and SMAP ignores EFLAGS.AC
    bool probe;    // look only: set no accessed or dirty bits
    // out, when the walk returns 0
    uint64_t gpa;       // of `la` itself
    uint8_t page_shift; // 12, 21, 22 or 30
    bool global;        // the leaf's G bit, with CR4.PGE
    bool user_page;     // U/S set at every level
    bool writable;      // R/W set at every level
    bool executable;    // NX clear at every level
    bool dirty;         // the leaf's D bit after this walk: if false, a later write must walk again
    // out, when it returns nonzero
    uint32_t error; // page-fault error code
};

// Returns 0, or -1 with w->error filled. The permission check honours CR0.WP, EFER.NXE, CR4.SMEP/SMAP, RFLAGS.AC and
// reserved bits (MAXPHYADDR = phys_bits).
int cpu_walk(const struct cpu_state *s, unsigned phys_bits, const struct cpu_phys_ops *ops, void *ctx,
             struct cpu_walk *w);

// True if an access to a page with these rights is allowed now; the one place where the permission rules are written.
bool cpu_page_allows(const struct cpu_state *s, bool user_page, bool writable, bool executable, enum cpu_access access,
                     bool user, bool implicit);
