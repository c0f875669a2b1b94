// Frames: what exceptions, far calls and returns push and pop, on the present stack or on one that is not yet SS:RSP.
//
// A frame is written as a whole or not at all. It is written with the rights of the level it is for (so an interrupt
// from user mode writes the kernel's stack as the kernel), through the segment that is about to become SS. Nearly
// always it is contiguous and goes out as one write; only a 16- or 32-bit stack pointer that wraps makes it go out
// value by value.
//
// Example, an interrupt in 64-bit mode with an error code:
//     struct frame f; frame_from_tss(v, 0, ist, &f); f.rsp &= ~15; frame_push(v, &f, {ss, rsp, rflags, cs, rip, error},
//     6, 8)
#include "engine/interp/system.h"
#include <string.h>

static uint64_t mask_of(const struct cpu_segment *ss, bool wide)
{
    return wide ? ~0ull : ss->attr & CPU_SEG_DB ? 0xffffffff : 0xffff;
}

struct frame frame_here(const struct interp_vcpu *v)
{
    bool wide = v->mode == MODE_LONG64;
    return (struct frame){.ss = v->s.seg[CPU_SS],
                          .rsp = v->s.gpr[CPU_RSP] & mask_of(&v->s.seg[CPU_SS], wide),
                          .cpl = v->cpl,
                          .wide = wide};
}

void frame_set_rsp(struct interp_vcpu *v, const struct cpu_segment *ss, bool wide, uint64_t rsp)
{
    uint64_t *r = &v->s.gpr[CPU_RSP], mask = mask_of(ss, wide);
    *r = mask == 0xffff ? (*r & ~mask) | (rsp & mask) : rsp & mask;
}

static bool stack_fault(struct interp_vcpu *v, uint32_t error)
{
    interp_fault_error(v, EXC_SS, error);
    return false;
}

// As interp_linear, for a segment that is not loaded.
static bool linear(struct interp_vcpu *v, const struct frame *f, uint64_t offset, unsigned size, uint64_t *la)
{
    if (f->wide) {
        *la = offset;
        return (cpu_is_canonical(&v->s, offset) && cpu_is_canonical(&v->s, offset + size - 1)) ||
               stack_fault(v, f->error);
    }
    uint64_t last = offset + size - 1;
    bool down = f->ss.attr & CPU_SEG_DOWN;
    bool inside = down ? offset > f->ss.limit && last <= mask_of(&f->ss, false) : last <= f->ss.limit;
    if (v->mode != MODE_REAL && (!(f->ss.attr & CPU_SEG_P) || !(f->ss.attr & CPU_SEG_WRITE)))
        inside = false;
    *la = (uint32_t)(f->ss.base + offset);
    return inside || stack_fault(v, f->error);
}

static void act_as(struct interp_vcpu *v, unsigned cpl)
{
    if (v->cpl == cpl)
        return;
    v->cpl = (uint8_t)cpl;
    interp_tlb_switch(v);
}

enum { FRAME_VALUES = 48 }; // a far call through a gate pushes up to 4 + 31

static bool push_whole(struct interp_vcpu *v, const struct frame *f, uint64_t bottom, const uint64_t *val, unsigned n,
                       unsigned size)
{
    uint8_t buf[8 * FRAME_VALUES];
    uint64_t la;
    for (unsigned i = 0; i < n; i++)
        memcpy(buf + (n - 1 - i) * size, &val[i], size);
    if (!linear(v, f, bottom, n * size, &la))
        return false;
    if (interp_write_bytes(v, la, buf, n * size, false))
        return true;
    // The fault is that of the first value which cannot be written, and the highest one is written first.
    for (unsigned i = n; i-- > 0;)
        if (!interp_probe(v, la + i * size, size, CPU_WRITE, false))
            break;
    return false;
}

static bool push_wrapping(struct interp_vcpu *v, const struct frame *f, const uint64_t *val, unsigned n, unsigned size)
{
    uint64_t mask = mask_of(&f->ss, f->wide), la[FRAME_VALUES];
    for (unsigned i = 0; i < n; i++)
        if (!linear(v, f, (f->rsp - (i + 1) * size) & mask, size, &la[i]) ||
            !interp_probe(v, la[i], size, CPU_WRITE, false))
            return false;
    for (unsigned i = 0; i < n; i++)
        if (!interp_write_bytes(v, la[i], &val[i], size, false))
            return false;
    return true;
}

bool frame_push(struct interp_vcpu *v, struct frame *f, const uint64_t *val, unsigned n, unsigned size)
{
    uint64_t mask = mask_of(&f->ss, f->wide), bottom = (f->rsp - n * size) & mask;
    unsigned cpl = v->cpl;
    bool wraps = bottom + n * size - 1 > mask || bottom + n * size - 1 < bottom;
    act_as(v, f->cpl);
    bool done = wraps ? push_wrapping(v, f, val, n, size) : push_whole(v, f, bottom, val, n, size);
    act_as(v, cpl);
    if (done)
        f->rsp = bottom;
    return done;
}

bool frame_read(struct interp_vcpu *v, unsigned skip, uint64_t *val, unsigned n, unsigned size)
{
    uint64_t mask = mask_of(&v->s.seg[CPU_SS], v->mode == MODE_LONG64);
    for (unsigned i = 0; i < n; i++)
        if (!interp_read(v, CPU_SS, (v->s.gpr[CPU_RSP] + skip + i * size) & mask, size, &val[i]))
            return false;
    return true;
}

// Intel SDM vol. 3, 6.12.1 and 6.14.5; figures 7-2 (32-bit TSS), 7-10 (16-bit), 7-11 (64-bit).
bool frame_from_tss(struct interp_vcpu *v, unsigned cpl, unsigned ist, struct frame *f)
{
    const struct cpu_segment *tr = &v->s.tr;
    *f = (struct frame){.cpl = cpl};
    if (is_long(v)) {
        uint32_t offset = ist ? 36 + 8 * (ist - 1) : 4 + 8 * cpl;
        if (offset + 7 > tr->limit)
            return selector_fault(v, EXC_TS, tr->selector);
        f->wide = true;
        f->ss = null_segment((uint16_t)cpl, cpl);
        return interp_read_bytes(v, tr->base + offset, &f->rsp, 8, true);
    }
    bool is16 = (tr->attr & CPU_SEG_TYPE) == SYS_TSS16_BUSY;
    uint32_t offset = is16 ? 2 + 4 * cpl : 4 + 8 * cpl;
    if (offset + (is16 ? 3 : 5) > tr->limit)
        return selector_fault(v, EXC_TS, tr->selector);
    uint8_t raw[6];
    uint16_t sel;
    if (!interp_read_bytes(v, (uint32_t)(tr->base + offset), raw, is16 ? 4 : 6, true))
        return false;
    memcpy(&f->rsp, raw, is16 ? 2 : 4);
    memcpy(&sel, raw + (is16 ? 2 : 4), 2);
    if (selector_null(sel))
        return selector_fault(v, EXC_TS, 0);
    f->error = sel & 0xfffc;
    return stack_segment_fetch(v, sel, cpl, EXC_TS, &f->ss);
}
