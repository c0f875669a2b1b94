// Guest memory as instructions see it: segment checks, alignment checks, accesses that cross pages, MMIO.
//
// This is the complete path; what handlers inline (access.h) is the part of it that hits the near TLB. The order of
// checks is that of processors: segment (#GP, #SS), alignment (#AC), then pages (#PF), all before anything is read or
// written. So an access that crosses a page either happens on both pages or on neither.
//
// Example: a store of 8 bytes at 0x1ffc writes the low half at the end of one page and the high half at the beginning
// of the next, after both were translated for writing; were the second one not present, the first would stay as it is.
#include "engine/interp/access.h"
#include <string.h>

// --- segments

static bool segment_fault(struct interp_vcpu *v, unsigned seg)
{
    interp_fault_error(v, seg == CPU_SS ? EXC_SS : EXC_GP, 0);
    return false;
}

// Rights of a data access through a segment in protected mode (Intel SDM vol. 3, 5.5 and table 3-1).
static bool segment_allows(const struct cpu_segment *g, enum cpu_access access)
{
    if (!(g->attr & CPU_SEG_P))
        return false;
    if (access == CPU_EXEC)
        return true;
    if (g->attr & CPU_SEG_CODE)
        return access == CPU_READ && (g->attr & CPU_SEG_WRITE);
    return access == CPU_READ || (g->attr & CPU_SEG_WRITE);
}

bool interp_linear(struct interp_vcpu *v, unsigned seg, uint64_t offset, unsigned size, enum cpu_access access,
                   uint64_t *la)
{
    const struct cpu_segment *g = &v->s.seg[seg];
    uint64_t last = size ? size - 1 : 0;
    if (v->mode == MODE_LONG64) {
        *la = seg >= CPU_FS ? g->base + offset : offset;
        if (cpu_is_canonical(&v->s, *la) && cpu_is_canonical(&v->s, *la + last))
            return true;
        return segment_fault(v, seg);
    }
    // Real and virtual-8086 mode know no rights.
    if (v->mode != MODE_REAL && !segment_allows(g, access))
        return segment_fault(v, seg);
    bool down = (g->attr & (CPU_SEG_CODE | CPU_SEG_DOWN)) == CPU_SEG_DOWN;
    if (down) {
        uint64_t top = g->attr & CPU_SEG_DB ? 0xffffffff : 0xffff;
        if (offset <= g->limit || offset + last > top)
            return segment_fault(v, seg);
    } else if (offset + last > g->limit && g->limit != 0xffffffff) { // a segment of 4 GiB has no end: it wraps
        return segment_fault(v, seg);
    }
    *la = (uint32_t)(g->base + offset);
    return true;
}

uint64_t interp_ea(const struct interp_vcpu *v, const struct interp_insn *i)
{
    return insn_ea(v, i);
}

// --- pages

// An access of up to a page, translated: one piece, or two where it crosses a page.
struct pieces {
    struct tlb_hit hit[2];
    unsigned size[2]; // [1] is 0 when there is one piece
};

static bool translate(struct interp_vcpu *v, uint64_t la, unsigned size, enum cpu_access access, enum tlb_as as,
                      struct pieces *p)
{
    unsigned room = PAGE_SIZE - (la & (PAGE_SIZE - 1));
    p->size[0] = size < room ? size : room;
    p->size[1] = size - p->size[0];
    return tlb_translate(v, la, access, as, &p->hit[0]) &&
           (!p->size[1] || tlb_translate(v, la + room, access, as, &p->hit[1]));
}

// Device registers are read and written in naturally aligned pieces of 1, 2, 4 or 8 bytes.
static unsigned device_piece(uint64_t gpa, unsigned size)
{
    unsigned n = 8;
    while (n > size || (gpa & (n - 1)))
        n /= 2;
    return n;
}

static void device_read(struct interp_vcpu *v, uint64_t gpa, uint8_t *buf, unsigned size)
{
    for (unsigned n; size; gpa += n, buf += n, size -= n) {
        n = device_piece(gpa, size);
        uint64_t val = interp_up_mmio_read(v, gpa, n);
        memcpy(buf, &val, n);
    }
}

static void device_write(struct interp_vcpu *v, uint64_t gpa, const uint8_t *buf, unsigned size)
{
    for (unsigned n; size; gpa += n, buf += n, size -= n) {
        n = device_piece(gpa, size);
        uint64_t val = 0;
        memcpy(&val, buf, n);
        interp_up_mmio_write(v, gpa, n, val);
    }
}

// Guest memory changes under our hands, and 8, 4 and 2 aligned bytes must move at once: never memcpy for those.
static void ram_read(uint8_t *to, const uint8_t *from, unsigned size)
{
    if (size == 8)
        *(guest_u64 *)to = *(const volatile guest_u64 *)from;
    else if (size == 4)
        *(guest_u32 *)to = *(const volatile guest_u32 *)from;
    else if (size == 2)
        *(guest_u16 *)to = *(const volatile guest_u16 *)from;
    else
        memcpy(to, from, size);
}

static void ram_write(uint8_t *to, const uint8_t *from, unsigned size)
{
    if (size == 8)
        *(volatile guest_u64 *)to = *(const guest_u64 *)from;
    else if (size == 4)
        *(volatile guest_u32 *)to = *(const guest_u32 *)from;
    else if (size == 2)
        *(volatile guest_u16 *)to = *(const guest_u16 *)from;
    else
        memcpy(to, from, size);
}

// An upcall may unmap what the second piece has been translated to: memory first, devices last. If both pieces are
// devices there is no host pointer to lose.
static void move_in(struct interp_vcpu *v, const struct pieces *p, uint8_t *buf)
{
    for (unsigned n = 0, at = 0; n < 2; at += p->size[n++])
        if (p->size[n] && p->hit[n].host)
            ram_read(buf + at, p->hit[n].host, p->size[n]);
    for (unsigned n = 0, at = 0; n < 2; at += p->size[n++])
        if (p->size[n] && !p->hit[n].host)
            device_read(v, p->hit[n].gpa, buf + at, p->size[n]);
}

static void move_out(struct interp_vcpu *v, const struct pieces *p, const uint8_t *buf)
{
    for (unsigned n = 0, at = 0; n < 2; at += p->size[n++]) {
        if (!p->size[n] || !p->hit[n].host)
            continue;
        ram_write(p->hit[n].host, buf + at, p->size[n]);
        atomic_signal_fence(memory_order_seq_cst);
        if (*p->hit[n].page & (PAGE_CODE | PAGE_LOG))
            ram_touched(v->vm, v, p->hit[n].page, p->hit[n].gpa, p->size[n]);
    }
    for (unsigned n = 0, at = 0; n < 2; at += p->size[n++])
        if (p->size[n] && !p->hit[n].host)
            device_write(v, p->hit[n].gpa, buf + at, p->size[n]);
}

static void watch(struct interp_vcpu *v, uint64_t la, unsigned size, enum cpu_access access)
{
    if (unlikely(v->s.dr7 & 0xff))
        interp_data_breakpoint(v, la, size, access);
}

// --- data

bool interp_aligned(struct interp_vcpu *v, uint64_t la, unsigned size)
{
    if (likely(!(la & (size - 1)) || v->cpl != 3 || !(v->s.cr0 & CR0_AM) || !(v->s.rflags & RFLAGS_AC)))
        return true;
    interp_fault_error(v, EXC_AC, 0);
    return false;
}

bool interp_read(struct interp_vcpu *v, unsigned seg, uint64_t offset, unsigned size, uint64_t *val)
{
    uint64_t la;
    struct pieces p;
    if (!interp_linear(v, seg, offset, size, CPU_READ, &la) || !interp_aligned(v, la, size) ||
        !translate(v, la, size, CPU_READ, TLB_AS_CPL, &p))
        return false;
    *val = 0;
    move_in(v, &p, (uint8_t *)val);
    watch(v, la, size, CPU_READ);
    return true;
}

bool interp_write(struct interp_vcpu *v, unsigned seg, uint64_t offset, unsigned size, uint64_t val)
{
    uint64_t la;
    struct pieces p;
    if (!interp_linear(v, seg, offset, size, CPU_WRITE, &la) || !interp_aligned(v, la, size) ||
        !translate(v, la, size, CPU_WRITE, TLB_AS_CPL, &p))
        return false;
    move_out(v, &p, (const uint8_t *)&val);
    watch(v, la, size, CPU_WRITE);
    return true;
}

bool interp_read_bytes(struct interp_vcpu *v, uint64_t la, void *buf, unsigned size, bool system)
{
    struct pieces p;
    if (!translate(v, la, size, CPU_READ, system ? TLB_AS_SYSTEM : TLB_AS_CPL, &p))
        return false;
    move_in(v, &p, buf);
    if (!system)
        watch(v, la, size, CPU_READ);
    return true;
}

bool interp_write_bytes(struct interp_vcpu *v, uint64_t la, const void *buf, unsigned size, bool system)
{
    struct pieces p;
    if (!translate(v, la, size, CPU_WRITE, system ? TLB_AS_SYSTEM : TLB_AS_CPL, &p))
        return false;
    move_out(v, &p, buf);
    if (!system)
        watch(v, la, size, CPU_WRITE);
    return true;
}

bool interp_probe(struct interp_vcpu *v, uint64_t la, unsigned size, enum cpu_access access, bool system)
{
    struct pieces p;
    return translate(v, la, size, access, system ? TLB_AS_SYSTEM : TLB_AS_CPL, &p);
}

// --- host pointers

void *interp_host_pointer(struct interp_vcpu *v, uint64_t la, unsigned size, enum cpu_access access)
{
    struct tlb_hit hit;
    v->fault.raised = false;
    if ((la & (PAGE_SIZE - 1)) + size > PAGE_SIZE || !tlb_translate(v, la, access, TLB_AS_CPL, &hit) || !hit.host)
        return NULL;
    watch(v, la, size, access);
    return hit.host;
}

void interp_host_written(struct interp_vcpu *v, uint64_t la, unsigned size)
{
    struct tlb_hit hit;
    // It has just been translated, so this finds it; should another vCPU have taken the right away from the tables
    // since, the fault is not this instruction's any more.
    struct cpu_fault before = v->fault;
    if (!tlb_translate(v, la, CPU_WRITE, TLB_AS_CPL, &hit)) {
        v->fault = before;
        return;
    }
    if (hit.page && (*hit.page & (PAGE_CODE | PAGE_LOG)))
        ram_touched(v->vm, v, hit.page, hit.gpa, size);
}

bool access_read_for_write(struct interp_vcpu *v, unsigned seg, uint64_t offset, unsigned size, uint64_t *val)
{
    uint64_t la;
    struct pieces p;
    if (!interp_linear(v, seg, offset, size, CPU_WRITE, &la) || !interp_aligned(v, la, size) ||
        !translate(v, la, size, CPU_WRITE, TLB_AS_CPL, &p))
        return false;
    *val = 0;
    for (unsigned n = 0; n < 2; n++) // ROM is read from memory, though writes to it go to a device
        if (p.size[n] && !p.hit[n].host)
            p.hit[n].host = ram_at(&v->vm->ram, p.hit[n].gpa);
    move_in(v, &p, (uint8_t *)val);
    return true;
}
