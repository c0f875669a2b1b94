// Hardware task switches, 16- and 32-bit (Intel SDM vol. 3, chapter 7).
//
// A switch has a point of no return. Before it, everything is checked and both state segments are known to be readable
// and writable, and a fault is raised in the old task with nothing changed. After it, the registers are the new task's,
// and a fault (a bad segment, a bad LDT) is raised there, at its first instruction.
//
// Example: an exception through a task gate: the old state goes to the old TSS, the new TSS gets the old selector as
// its back link, NT is set, both are busy; the handler's IRET goes back along the link.
#include "engine/interp/system.h"
#include <string.h>

struct layout {
    uint8_t word; // 2 or 4
    uint8_t size; // bytes, the least limit is one less
    uint8_t cr3, rip, flags, gpr, seg, ldt, segs;
};

static const struct layout layout16 = {
    .word = 2, .size = 44, .rip = 14, .flags = 16, .gpr = 18, .seg = 34, .ldt = 42, .segs = 4};
static const struct layout layout32 = {
    .word = 4, .size = 104, .cr3 = 28, .rip = 32, .flags = 36, .gpr = 40, .seg = 72, .ldt = 96, .segs = 6};

static const struct layout *layout_of(unsigned type)
{
    return type & 8 ? &layout32 : &layout16;
}

bool task_fetch(struct interp_vcpu *v, uint16_t sel, uint8_t vector, struct descriptor *d)
{
    if (sel & 4 || selector_null(sel))
        return selector_fault(v, vector, sel);
    if (!descriptor_fetch(v, sel, vector, d))
        return false;
    int type = descriptor_system_type(d);
    if (type != SYS_TSS && type != SYS_TSS16)
        return selector_fault(v, vector, sel);
    if (!(d->attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, sel);
    return true;
}

// --- the image in memory

static uint32_t get(const uint8_t *image, unsigned offset, unsigned size)
{
    uint32_t val = 0;
    memcpy(&val, image + offset, size);
    return val;
}

static void put(uint8_t *image, unsigned offset, unsigned size, uint64_t val)
{
    memcpy(image + offset, &val, size);
}

// State segments are addressed like everything else outside of long mode: 32 bits, wrapping.
static bool image_read(struct interp_vcpu *v, uint64_t base, unsigned offset, uint8_t *image, unsigned size)
{
    return interp_read_bytes(v, (uint32_t)(base + offset), image + offset, size, true);
}

static bool image_write(struct interp_vcpu *v, uint64_t base, unsigned offset, const uint8_t *image, unsigned size)
{
    return interp_write_bytes(v, (uint32_t)(base + offset), image + offset, size, true);
}

// The part that a switch saves: from the instruction pointer to the last segment selector.
static unsigned saved_size(const struct layout *l)
{
    return l->seg + l->segs * l->word - l->rip;
}

static bool save_old(struct interp_vcpu *v, const struct layout *l, uint64_t rip, uint64_t flags)
{
    uint8_t image[104] = {0};
    put(image, l->rip, l->word, rip);
    put(image, l->flags, l->word, flags);
    for (unsigned i = 0; i < 8; i++)
        put(image, l->gpr + i * l->word, l->word, v->s.gpr[i]);
    // The upper half of a selector's dword stays as it is in memory.
    for (unsigned i = 0; i < l->segs && l->word == 2; i++)
        put(image, l->seg + 2 * i, 2, v->s.seg[i].selector);
    unsigned registers = l->seg - l->rip;
    if (l->word == 2)
        return image_write(v, v->s.tr.base, l->rip, image, saved_size(l));
    if (!image_write(v, v->s.tr.base, l->rip, image, registers))
        return false;
    for (unsigned i = 0; i < l->segs; i++) {
        put(image, l->seg + 4 * i, 2, v->s.seg[i].selector);
        if (!image_write(v, v->s.tr.base, l->seg + 4 * i, image, 2))
            return false;
    }
    return true;
}

// --- the new task's segments; a fault here is the new task's

static bool load_ldt(struct interp_vcpu *v, uint16_t sel)
{
    struct descriptor d;
    v->s.ldtr = null_segment(sel, 0);
    if (selector_null(sel))
        return true;
    if (sel & 4)
        return selector_fault(v, EXC_TS, sel);
    if (!descriptor_fetch(v, sel, EXC_TS, &d))
        return false;
    if (descriptor_system_type(&d) != SYS_LDT || !(d.attr & CPU_SEG_P))
        return selector_fault(v, EXC_TS, sel);
    v->s.ldtr = descriptor_segment(sel, &d);
    return true;
}

static bool load_code(struct interp_vcpu *v, uint16_t sel)
{
    struct descriptor d;
    if (selector_null(sel))
        return selector_fault(v, EXC_TS, 0);
    if (!descriptor_fetch(v, sel, EXC_TS, &d))
        return false;
    enum { CODE = CPU_SEG_S | CPU_SEG_CODE };
    unsigned rpl = sel & 3, dpl = descriptor_dpl(&d);
    if ((d.attr & CODE) != CODE || (d.attr & CPU_SEG_DOWN ? dpl > rpl : dpl != rpl))
        return selector_fault(v, EXC_TS, sel);
    if (!(d.attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, sel);
    if (!descriptor_set_accessed(v, &d))
        return false;
    v->s.seg[CPU_CS] = descriptor_segment(sel, &d);
    return true;
}

static bool load_segments(struct interp_vcpu *v, const uint16_t *sel, uint16_t ldt)
{
    if (!load_ldt(v, ldt))
        return false;
    if (is_v86(v))
        return true;
    unsigned cpl = sel[CPU_CS] & 3;
    if (!load_code(v, sel[CPU_CS]))
        return false;
    if (selector_null(sel[CPU_SS]))
        return selector_fault(v, EXC_TS, 0);
    if (!stack_segment_fetch(v, sel[CPU_SS], cpl, EXC_TS, &v->s.seg[CPU_SS]))
        return false;
    static const uint8_t data[] = {CPU_ES, CPU_DS, CPU_FS, CPU_GS};
    for (unsigned i = 0; i < 4; i++)
        if (!data_segment_fetch(v, sel[data[i]], cpl, EXC_TS, &v->s.seg[data[i]]))
            return false;
    return true;
}

// --- the switch

// Registers of the new task, segments still unchecked: only selectors, and CPL from CS.
static void take_registers(struct interp_vcpu *v, const struct layout *l, const uint8_t *image, uint16_t sel[6])
{
    v->s.rip = get(image, l->rip, l->word);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t val = get(image, l->gpr + i * l->word, l->word);
        v->s.gpr[i] = l->word == 2 ? (v->s.gpr[i] & 0xffff0000) | val : val;
    }
    enum {
        KNOWN = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM |
                RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID
    };
    v->s.rflags = (get(image, l->flags, l->word) & KNOWN) | RFLAGS_FIXED;
    for (unsigned i = 0; i < CPU_SEG_COUNT; i++) {
        sel[i] = i < l->segs ? (uint16_t)get(image, l->seg + i * l->word, 2) : 0;
        v->s.seg[i] = is_v86(v) ? v86_segment(sel[i]) : null_segment(sel[i], 0);
    }
    if (!is_v86(v))
        v->s.seg[CPU_SS] = null_segment(sel[CPU_SS], sel[CPU_CS] & 3);
}

static bool finish(struct interp_vcpu *v, const struct layout *l, const uint8_t *image, const uint16_t *sel,
                   const uint32_t *error)
{
    bool done = load_segments(v, sel, (uint16_t)get(image, l->ldt, 2));
    interp_mode_changed(v);
    if (!done)
        return false;
    if (l->word == 4 && (image[100] & 1))
        v->s.ev.pending_debug |= DR6_BT;
    if (error) {
        struct frame f = frame_here(v);
        const uint64_t val[] = {*error};
        if (!frame_push(v, &f, val, 1, l->word))
            return false;
        frame_set_rsp(v, &f.ss, false, f.rsp);
    }
    if (v->s.rip > v->s.seg[CPU_CS].limit) {
        interp_gp(v, 0);
        return false;
    }
    return true;
}

bool task_switch(struct interp_vcpu *v, uint16_t sel, struct descriptor *d, enum task_reason reason, uint64_t next_rip,
                 const uint32_t *error)
{
    const struct layout *from = layout_of(v->s.tr.attr & CPU_SEG_TYPE), *to = layout_of(d->attr & CPU_SEG_TYPE);
    struct cpu_segment tr = descriptor_segment(sel, d);
    if (tr.limit < to->size - 1u || v->s.tr.limit < from->size - 1u)
        return selector_fault(v, EXC_TS, tr.limit < to->size - 1u ? sel : v->s.tr.selector);
    uint8_t image[104] = {0};
    bool nested = reason == TASK_CALL || reason == TASK_INTERRUPT, back = reason == TASK_RETURN;
    struct descriptor old = {.la = v->s.gdtr.base + (v->s.tr.selector & 0xfff8)};
    if (!image_read(v, tr.base, 0, image, to->size) ||
        !interp_probe(v, (uint32_t)(v->s.tr.base + from->rip), saved_size(from), CPU_WRITE, true) ||
        !interp_probe(v, d->la + 5, 1, CPU_WRITE, true) || !interp_probe(v, old.la + 5, 1, CPU_WRITE, true) ||
        (nested && !interp_probe(v, (uint32_t)tr.base, 2, CPU_WRITE, true)))
        return false;
    uint64_t cr3 = to->cr3 && v->s.cr0 & CR0_PG ? get(image, to->cr3, 4) : v->s.cr3;
    uint64_t pdpte[4];
    memcpy(pdpte, v->s.pdpte, sizeof pdpte);
    if (cr3 != v->s.cr3 && !load_pdptes(v, v->s.cr0, cr3, v->s.cr4, v->s.efer))
        return false;

    uint64_t flags = v->s.rflags & ~(back ? RFLAGS_NT : 0);
    uint64_t link = v->s.tr.selector;
    if (!save_old(v, from, next_rip, flags) || (!nested && !descriptor_set_busy(v, old.la, false)) ||
        (!back && !descriptor_set_busy(v, d->la, true)) ||
        (nested && !image_write(v, tr.base, 0, (const uint8_t *)&link, 2))) {
        // Probed above: another CPU has changed the tables since.
        memcpy(v->s.pdpte, pdpte, sizeof pdpte);
        return false;
    }

    // The point of no return.
    uint16_t segs[CPU_SEG_COUNT];
    tr.attr |= 2; // busy
    v->s.tr = tr;
    v->s.cr0 |= CR0_TS;
    take_registers(v, to, image, segs);
    if (nested)
        v->s.rflags |= RFLAGS_NT;
    v->s.dr7 &= ~0x155ull; // local breakpoints and LE
    v->keep_rf = v->no_step = true;
    if (cr3 != v->s.cr3) {
        v->s.cr3 = cr3;
        interp_tlb_flush_nonglobal(v);
    }
    interp_mode_changed(v);
    return finish(v, to, image, segs, error);
}

bool task_return(struct interp_vcpu *v, uint64_t next_rip)
{
    uint16_t sel = 0;
    struct descriptor d;
    if (!interp_read_bytes(v, (uint32_t)v->s.tr.base, &sel, 2, true))
        return false;
    if (sel & 4 || selector_null(sel))
        return selector_fault(v, EXC_TS, sel);
    if (!descriptor_fetch(v, sel, EXC_TS, &d))
        return false;
    int type = descriptor_system_type(&d);
    if (type != SYS_TSS_BUSY && type != SYS_TSS16_BUSY)
        return selector_fault(v, EXC_TS, sel);
    if (!(d.attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, sel);
    return task_switch(v, sel, &d, TASK_RETURN, next_rip, NULL);
}
