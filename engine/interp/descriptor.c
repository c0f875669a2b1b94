// Descriptors: reading them from the tables, judging them, and what loading one into a segment register means.
//
// A segment register holds what its descriptor said when it was loaded; memory is looked at only here. The checks are
// those of the Intel SDM vol. 3, chapters 3 and 5; where a task switch loads a register the same checks give #TS
// instead of #GP, so the vector for "bad" is a parameter.
//
// Example: MOV DS, 0x2b at CPL 3: descriptor 5 of the GDT, RPL 3. If it is data with DPL 3 and present, DS takes base,
// limit and attributes from it, and the accessed bit is set in memory.
#include "engine/interp/system.h"
#include <string.h>

bool selector_fault(struct interp_vcpu *v, uint8_t vector, uint16_t sel)
{
    interp_fault_error(v, vector, sel & 0xfffc);
    return false;
}

// The place of `bytes` bytes of a descriptor; false if they are outside of the table.
static bool locate(const struct interp_vcpu *v, uint16_t sel, unsigned bytes, uint64_t *la)
{
    uint64_t base = v->s.gdtr.base;
    uint32_t limit = v->s.gdtr.limit;
    if (sel & 4) {
        if (!(v->s.ldtr.attr & CPU_SEG_P))
            return false;
        base = v->s.ldtr.base;
        limit = v->s.ldtr.limit;
    }
    uint32_t offset = sel & 0xfff8;
    if (offset + bytes - 1 > limit)
        return false;
    *la = base + offset;
    return true;
}

bool descriptor_fetch(struct interp_vcpu *v, uint16_t sel, uint8_t vector, struct descriptor *d)
{
    *d = (struct descriptor){0};
    if (!locate(v, sel, 8, &d->la))
        return selector_fault(v, vector, sel);
    if (!interp_read_bytes(v, d->la, &d->low, 8, true))
        return false;
    d->attr = (d->low >> 40 & 0xff) | (d->low >> 52 & 0xf) << 8;
    return true;
}

bool descriptor_extend(struct interp_vcpu *v, uint16_t sel, uint8_t vector, struct descriptor *d)
{
    uint64_t la;
    if (!is_long(v))
        return true;
    if (!locate(v, sel, 16, &la))
        return selector_fault(v, vector, sel);
    if (!interp_read_bytes(v, la + 8, &d->high, 8, true))
        return false;
    if (d->high >> 40 & 0x1f) // where a descriptor's type would be: must be zero
        return selector_fault(v, vector, sel);
    d->high &= 0xffffffff;
    return true;
}

struct cpu_segment descriptor_segment(uint16_t sel, const struct descriptor *d)
{
    struct cpu_segment g = {.selector = sel, .attr = d->attr};
    g.base = (d->low >> 16 & 0xffffff) | (d->low >> 56) << 24;
    if (!(d->attr & CPU_SEG_S))
        g.base |= d->high << 32;
    g.limit = (d->low & 0xffff) | (d->low >> 48 & 0xf) << 16;
    if (d->attr & CPU_SEG_G)
        g.limit = g.limit << 12 | 0xfff;
    return g;
}

bool descriptor_set_accessed(struct interp_vcpu *v, struct descriptor *d)
{
    if (d->attr & CPU_SEG_ACCESSED)
        return true;
    uint8_t byte = (d->attr | CPU_SEG_ACCESSED) & 0xff;
    if (!interp_write_bytes(v, d->la + 5, &byte, 1, true))
        return false;
    d->attr |= CPU_SEG_ACCESSED;
    return true;
}

bool descriptor_set_busy(struct interp_vcpu *v, uint64_t la, bool busy)
{
    uint8_t byte;
    if (!interp_read_bytes(v, la + 5, &byte, 1, true))
        return false;
    byte = busy ? byte | 2 : byte & ~2;
    return interp_write_bytes(v, la + 5, &byte, 1, true);
}

bool data_segment_fetch(struct interp_vcpu *v, uint16_t sel, unsigned cpl, uint8_t bad, struct cpu_segment *out)
{
    if (selector_null(sel)) {
        *out = null_segment(sel, 0);
        return true;
    }
    struct descriptor d;
    if (!descriptor_fetch(v, sel, bad, &d))
        return false;
    bool code = d.attr & CPU_SEG_CODE, conforming = code && (d.attr & CPU_SEG_DOWN);
    if (!(d.attr & CPU_SEG_S) || (code && !(d.attr & CPU_SEG_WRITE)))
        return selector_fault(v, bad, sel);
    unsigned dpl = descriptor_dpl(&d);
    if (!conforming && (dpl < cpl || dpl < (sel & 3u)))
        return selector_fault(v, bad, sel);
    if (!(d.attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, sel);
    if (!descriptor_set_accessed(v, &d))
        return false;
    *out = descriptor_segment(sel, &d);
    return true;
}

bool stack_segment_fetch(struct interp_vcpu *v, uint16_t sel, unsigned cpl, uint8_t bad, struct cpu_segment *out)
{
    struct descriptor d;
    if (!descriptor_fetch(v, sel, bad, &d))
        return false;
    enum { KIND = CPU_SEG_S | CPU_SEG_CODE | CPU_SEG_WRITE, WANTED = CPU_SEG_S | CPU_SEG_WRITE };
    if ((sel & 3u) != cpl || (d.attr & KIND) != WANTED || descriptor_dpl(&d) != cpl)
        return selector_fault(v, bad, sel);
    if (!(d.attr & CPU_SEG_P))
        return selector_fault(v, EXC_SS, sel);
    if (!descriptor_set_accessed(v, &d))
        return false;
    *out = descriptor_segment(sel, &d);
    return true;
}

struct cpu_segment null_segment(uint16_t sel, unsigned dpl)
{
    return (struct cpu_segment){.selector = sel, .attr = (uint16_t)(dpl << CPU_SEG_DPL_SHIFT)};
}

struct cpu_segment v86_segment(uint16_t sel)
{
    enum { V86 = CPU_SEG_P | CPU_SEG_DPL | CPU_SEG_S | CPU_SEG_WRITE | CPU_SEG_ACCESSED };
    return (struct cpu_segment){.selector = sel, .attr = V86, .limit = 0xffff, .base = (uint64_t)sel << 4};
}

struct cpu_segment flat_segment(uint16_t sel, uint16_t attr)
{
    return (struct cpu_segment){
        .selector = sel, .attr = attr | CPU_SEG_P | CPU_SEG_S | CPU_SEG_ACCESSED | CPU_SEG_G, .limit = 0xffffffff};
}

struct cpu_segment real_segment(const struct interp_vcpu *v, const struct cpu_segment *old, uint16_t sel)
{
    if (is_v86(v))
        return v86_segment(sel);
    // Limit and attributes stay: that is what makes "unreal mode". A segment that was null in protected mode has none.
    struct cpu_segment g = *old;
    if (!(g.attr & CPU_SEG_P))
        g = (struct cpu_segment){.attr = CPU_SEG_P | CPU_SEG_S | CPU_SEG_WRITE | CPU_SEG_ACCESSED, .limit = 0xffff};
    g.selector = sel;
    g.base = (uint64_t)sel << 4;
    return g;
}

bool interp_load_segment(struct interp_vcpu *v, unsigned seg, uint16_t sel)
{
    struct cpu_segment g;
    if (!is_protected(v)) {
        g = real_segment(v, &v->s.seg[seg], sel);
    } else if (seg == CPU_SS) {
        if (selector_null(sel)) {
            // Only a 64-bit kernel may do without (Intel SDM vol. 2, MOV).
            if (v->mode != MODE_LONG64 || v->cpl == 3 || (sel & 3) != v->cpl)
                return selector_fault(v, EXC_GP, 0);
            g = null_segment(sel, v->cpl);
        } else if (!stack_segment_fetch(v, sel, v->cpl, EXC_GP, &g)) {
            return false;
        }
    } else if (!data_segment_fetch(v, sel, v->cpl, EXC_GP, &g)) {
        return false;
    }
    v->s.seg[seg] = g;
    return true;
}
