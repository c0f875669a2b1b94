// The fast path to guest memory, inlined into handlers: a segment that is plain, a near TLB entry that hits, and the
// access is a host load or store of the same size (so aligned accesses are single-copy atomic and ordered as on the
// guest's CPU). Everything else is memory.c's.
//
// A store looks at the page word afterwards; see ram.h.
//
// Example: uint32_t x; if (!access_load4(v, CPU_DS, ea, &x)) return INTERP_FAULT;
#pragma once
#include "engine/interp/shared.h"
#include "engine/interp/tlb.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

// Guest data in host memory: any alignment, any type.
typedef uint16_t __attribute__((aligned(1), may_alias)) guest_u16;
typedef uint32_t __attribute__((aligned(1), may_alias)) guest_u32;
typedef uint64_t __attribute__((aligned(1), may_alias)) guest_u64;
typedef uint8_t guest_u8;

// Effective address of the memory operand (interp_ea).
static inline __attribute__((always_inline)) uint64_t insn_ea(const struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t a = i->disp;
    if (i->base < CPU_GPR_COUNT)
        a += v->s.gpr[i->base];
    else if (i->base == INSN_RIP)
        a += v->s.rip + i->len;
    if (i->index < CPU_GPR_COUNT)
        a += v->s.gpr[i->index] * i->scale;
    return i->addrsize == 8 ? a : i->addrsize == 4 ? (uint32_t)a : (uint16_t)a;
}

// Linear address where no check can fail that the TLB doesn't make anyway: in 64-bit mode non-canonical addresses never
// hit. False: interp_linear must decide.
static inline __attribute__((always_inline)) bool access_plain(const struct interp_vcpu *v, unsigned seg,
                                                               uint64_t offset, unsigned size, uint64_t *la)
{
    const struct cpu_segment *g = &v->s.seg[seg];
    if (likely(v->mode == MODE_LONG64)) {
        *la = seg >= CPU_FS ? g->base + offset : offset;
        return true;
    }
    // Present, writable, expand-up data within the limit.
    enum { MASK = CPU_SEG_P | CPU_SEG_S | CPU_SEG_CODE | CPU_SEG_DOWN | CPU_SEG_WRITE };
    *la = (uint32_t)(g->base + offset);
    return (g->attr & MASK) == (CPU_SEG_P | CPU_SEG_S | CPU_SEG_WRITE) && offset + size - 1 <= g->limit;
}

// The host address if the access can be done at once, else NULL. *e is for access_stored.
static inline __attribute__((always_inline)) void *access_at_once(struct interp_vcpu *v, unsigned seg, uint64_t offset,
                                                                  unsigned size, bool write, struct tlb_near **e)
{
    uint64_t la;
    if (unlikely(!access_plain(v, seg, offset, size, &la)))
        return NULL;
    *e = &v->near[tlb_near_index(la)];
    uint64_t d = la - (write ? (*e)->write : (*e)->read);
    return likely(d <= PAGE_SIZE - size) ? (*e)->host + d : NULL;
}

// After a store of `size` bytes at p, which access_at_once gave for writing.
static inline __attribute__((always_inline)) void access_stored(struct interp_vcpu *v, struct tlb_near *e, void *p,
                                                                unsigned size)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (unlikely(atomic_load_explicit(e->page, memory_order_relaxed) & (PAGE_CODE | PAGE_LOG)))
        ram_touched(v->vm, v, e->page, e->gpa + ((uint8_t *)p - e->host), size);
}

// Reads for a read-modify-write of 1, 2, 4 or 8 bytes: checked as a write, so that the write can't fail afterwards.
bool access_read_for_write(struct interp_vcpu *v, unsigned seg, uint64_t offset, unsigned size, uint64_t *val);

// The compiler must not split, merge or repeat guest accesses.
#define ACCESS(bits, bytes)                                                                                            \
    static inline __attribute__((always_inline)) bool access_load##bytes(struct interp_vcpu *v, unsigned seg,          \
                                                                         uint64_t offset, uint##bits##_t *val)         \
    {                                                                                                                  \
        struct tlb_near *e;                                                                                            \
        void *p = access_at_once(v, seg, offset, bytes, false, &e);                                                    \
        if (likely(p)) {                                                                                               \
            *val = *(const volatile guest_u##bits *)p;                                                                 \
            return true;                                                                                               \
        }                                                                                                              \
        uint64_t wide;                                                                                                 \
        if (!interp_read(v, seg, offset, bytes, &wide))                                                                \
            return false;                                                                                              \
        *val = wide;                                                                                                   \
        return true;                                                                                                   \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) bool access_store##bytes(struct interp_vcpu *v, unsigned seg,         \
                                                                          uint64_t offset, uint##bits##_t val)         \
    {                                                                                                                  \
        struct tlb_near *e;                                                                                            \
        void *p = access_at_once(v, seg, offset, bytes, true, &e);                                                     \
        if (unlikely(!p))                                                                                              \
            return interp_write(v, seg, offset, bytes, val);                                                           \
        *(volatile guest_u##bits *)p = val;                                                                            \
        access_stored(v, e, p, bytes);                                                                                 \
        return true;                                                                                                   \
    }
ACCESS(8, 1)
ACCESS(16, 2)
ACCESS(32, 4)
ACCESS(64, 8)
#undef ACCESS
