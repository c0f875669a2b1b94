// The page-table walk (Intel SDM vol. 3, chapter 4; AMD APM vol. 2, chapter 5).
//
// All paging modes are one loop over levels. What differs between them is data: how wide an entry is, how many bits of
// the linear address select it, which bits are reserved, and where the walk starts. PAE without long mode starts at
// the PDPTE registers, which have neither rights nor an accessed bit and were checked when CR3 was loaded.
//
// Invariants:
//   - An entry is read once; everything is decided from that copy. Accessed and dirty bits go in by
//   compare-and-exchange
//     against the copy, so an entry that another CPU changed in between is looked at again, from the top.
//   - The leaf's bits are touched only when the access is allowed; upper levels' accessed bits are set on the way, as
//     processors do.
//   - A guest whose other CPUs rewrite an entry all the time cannot hold the walk forever: after WALK_ATTEMPTS it ends
//     in a page fault, which the guest sees as spurious.
//
// Example, 4-level, 2 MiB page: PML4E -> PDPTE -> PDE with PS; w->page_shift becomes 21 and w->gpa is the frame's base
// plus the low 21 bits of w->la.
#include "cpu/paging.h"
#include "cpu/exception.h"

enum {
    PTE_P = 1 << 0,
    PTE_W = 1 << 1,
    PTE_U = 1 << 2,
    PTE_A = 1 << 5,
    PTE_D = 1 << 6,
    PTE_PS = 1 << 7,
    PTE_G = 1 << 8,
};
#define PTE_NX (1ull << 63)

enum { WALK_ATTEMPTS = 64 };

enum walk_step { WALK_DONE, WALK_FAULT, WALK_RETRY };

// What the paging mode decides before the first entry is read.
struct walk_mode {
    uint8_t entry; // bytes of an entry: 4 or 8
    uint8_t bits;  // of the linear address per level: 10 or 9
    uint8_t top;   // number of levels that are read from memory
    bool nx;       // bit 63 means no-execute (otherwise it is reserved where there is one)
    bool pae;      // PAE without long mode: bits 52..62 are reserved, too
    bool pse;      // 32-bit paging: PS is honoured in a PDE
    uint64_t root; // guest-physical address of the top table
};

static uint64_t bits_between(unsigned low, unsigned high) // both inclusive
{
    return low > high ? 0 : (~0ull >> (63 - high)) & (~0ull << low);
}

// Reserved bits of an 8-byte entry (Intel SDM vol. 3, tables 4-14 to 4-20).
static uint64_t reserved_wide(const struct walk_mode *m, unsigned phys_bits, unsigned level, bool leaf)
{
    uint64_t r = bits_between(phys_bits, 51);
    if (!m->nx)
        r |= PTE_NX;
    if (m->pae)
        r |= bits_between(52, 62);
    if (level >= 4)
        r |= PTE_PS;
    if (leaf && level > 1)
        r |= bits_between(13, 12 + 9 * (level - 1) - 1);
    return r;
}

// Reserved bits of a 4-byte entry that maps a 4 MiB page (PSE-36; table 4-5).
static uint64_t reserved_pse(unsigned phys_bits)
{
    unsigned top = phys_bits > 40 ? 40 : phys_bits;
    return 1u << 21 | bits_between(top > 32 ? top - 19 : 13, 20);
}

static bool is_leaf(const struct walk_mode *m, unsigned level, uint64_t e)
{
    if (level == 1)
        return true;
    if (!(e & PTE_PS))
        return false;
    return m->entry == 4 ? m->pse : level <= 3;
}

// Where the page or the next table begins.
static uint64_t frame(const struct walk_mode *m, unsigned level, uint64_t e, bool leaf)
{
    if (m->entry == 4)
        return leaf && level == 2 ? (e & 0xffc00000) | (e >> 13 & 0xff) << 32 : e & 0xfffff000;
    uint64_t base = e & bits_between(12, 51);
    return leaf && level > 1 ? base & ~bits_between(0, 12 + 9 * (level - 1) - 1) : base;
}

static uint32_t error_code(const struct cpu_state *s, const struct cpu_walk *w, uint32_t cause)
{
    uint32_t e = cause;
    if (w->access == CPU_WRITE)
        e |= PF_W;
    if (w->user)
        e |= PF_U;
    if (w->access == CPU_EXEC && (((s->cr4 & CR4_PAE) && (s->efer & EFER_NXE)) || (s->cr4 & CR4_SMEP)))
        e |= PF_I;
    return e;
}

static enum walk_step fault(const struct cpu_state *s, struct cpu_walk *w, uint32_t cause)
{
    w->error = error_code(s, w, cause);
    return WALK_FAULT;
}

bool cpu_page_allows(const struct cpu_state *s, bool user_page, bool writable, bool executable, enum cpu_access access,
                     bool user, bool implicit)
{
    if (!(s->cr0 & CR0_PG))
        return true;
    if (user)
        return user_page && (access == CPU_READ || (access == CPU_WRITE ? writable : executable));
    if (access == CPU_EXEC)
        return executable && !(user_page && (s->cr4 & CR4_SMEP));
    if (user_page && (s->cr4 & CR4_SMAP) && (implicit || !(s->rflags & RFLAGS_AC)))
        return false;
    return access == CPU_READ || writable || !(s->cr0 & CR0_WP);
}

// Picks the mode. False: the walk ends before memory is read (a PDPTE register without P).
static bool start(const struct cpu_state *s, uint64_t la, struct walk_mode *m)
{
    *m = (struct walk_mode){.entry = 8, .bits = 9, .nx = s->efer & EFER_NXE};
    if (!(s->cr4 & CR4_PAE)) {
        *m = (struct walk_mode){.entry = 4, .bits = 10, .top = 2, .pse = s->cr4 & CR4_PSE};
        m->root = s->cr3 & 0xfffff000;
    } else if (s->efer & EFER_LMA) {
        m->top = s->cr4 & CR4_LA57 ? 5 : 4;
        m->root = s->cr3 & bits_between(12, 51);
    } else {
        uint64_t pdpte = s->pdpte[la >> 30 & 3];
        m->pae = true;
        m->top = 2;
        m->root = pdpte & bits_between(12, 51);
        return pdpte & PTE_P;
    }
    return true;
}

static enum walk_step walk_once(const struct cpu_state *s, unsigned phys_bits, const struct cpu_phys_ops *ops,
                                void *ctx, struct cpu_walk *w)
{
    struct walk_mode m;
    if (!start(s, w->la, &m))
        return fault(s, w, 0);
    bool user_page = true, writable = true, executable = true;
    uint64_t table = m.root;
    for (unsigned level = m.top;; level--) {
        unsigned shift = 12 + m.bits * (level - 1);
        uint64_t at = table + (w->la >> shift & ((1u << m.bits) - 1)) * m.entry;
        uint64_t e = ops->read(ctx, at, m.entry);
        if (!(e & PTE_P))
            return fault(s, w, 0);
        bool leaf = is_leaf(&m, level, e);
        uint64_t reserved = m.entry == 8         ? reserved_wide(&m, phys_bits, level, leaf)
                            : leaf && level == 2 ? reserved_pse(phys_bits)
                                                 : 0;
        if (e & reserved)
            return fault(s, w, PF_P | PF_RSVD);
        user_page = user_page && (e & PTE_U);
        writable = writable && (e & PTE_W);
        executable = executable && !(m.entry == 8 && (e & PTE_NX));
        uint64_t want = e | PTE_A;
        if (leaf) {
            if (!cpu_page_allows(s, user_page, writable, executable, w->access, w->user, w->implicit))
                return fault(s, w, PF_P);
            if (w->access == CPU_WRITE)
                want |= PTE_D;
        }
        if (want != e && !w->probe) {
            if (!ops->cas(ctx, at, m.entry, e, want))
                return WALK_RETRY;
            e = want;
        }
        if (!leaf) {
            table = frame(&m, level, e, false);
            continue;
        }
        w->gpa = frame(&m, level, e, true) | (w->la & bits_between(0, shift - 1));
        w->page_shift = shift;
        w->global = (e & PTE_G) && (s->cr4 & CR4_PGE);
        w->user_page = user_page;
        w->writable = writable;
        w->executable = executable;
        w->dirty = e & PTE_D;
        return WALK_DONE;
    }
}

int cpu_walk(const struct cpu_state *s, unsigned phys_bits, const struct cpu_phys_ops *ops, void *ctx,
             struct cpu_walk *w)
{
    w->error = 0;
    if (!(s->cr0 & CR0_PG)) {
        w->gpa = w->la;
        w->page_shift = 12;
        w->global = false;
        w->user_page = w->writable = w->executable = w->dirty = true;
        return 0;
    }
    for (unsigned n = 0; n < WALK_ATTEMPTS; n++) {
        enum walk_step r = walk_once(s, phys_bits, ops, ctx, w);
        if (r != WALK_RETRY)
            return r == WALK_DONE ? 0 : -1;
    }
    w->error = error_code(s, w, PF_P);
    return -1;
}
