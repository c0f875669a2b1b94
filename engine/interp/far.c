// Far JMP and CALL: to code, through call gates, and to tasks (Intel SDM vol. 3, 5.8 and vol. 2, CALL and JMP).
//
// Nothing is committed before every check has passed and the frame is written. In real and virtual-8086 mode a far
// transfer only loads CS.
//
// Example: CALL through a call gate of the GDT from CPL 3 to a nonconforming code segment of DPL 0 in protected mode:
// SS0:ESP0 from the TSS, the caller's SS:ESP, N parameters copied from the caller's stack, CS:EIP; then CPL is 0.
#include "engine/interp/system.h"

void transfer(struct interp_vcpu *v, const struct cpu_segment *cs, const struct cpu_segment *ss, uint64_t rip)
{
    v->s.seg[CPU_CS] = *cs;
    v->s.seg[CPU_SS] = *ss;
    v->s.rip = rip;
    interp_mode_changed(v);
}

// Is the offset inside of the code segment, or canonical for 64-bit code?
static bool target_exists(struct interp_vcpu *v, const struct cpu_segment *cs, uint64_t rip)
{
    bool fine = is_long(v) && (cs->attr & CPU_SEG_L) ? cpu_is_canonical(&v->s, rip) : rip <= cs->limit;
    if (!fine)
        interp_gp(v, 0);
    return fine;
}

static bool long_code_valid(const struct interp_vcpu *v, const struct descriptor *d)
{
    return !is_long(v) || (d->attr & (CPU_SEG_L | CPU_SEG_DB)) != (CPU_SEG_L | CPU_SEG_DB);
}

struct far {
    uint16_t sel;
    uint64_t offset;
    unsigned opsize;
    bool call;
    uint64_t next; // return address
};

static bool to_code(struct interp_vcpu *v, const struct far *t, struct descriptor *d)
{
    unsigned dpl = descriptor_dpl(d), rpl = t->sel & 3;
    bool conforming = d->attr & CPU_SEG_DOWN;
    if (conforming ? dpl > v->cpl : (rpl > v->cpl || dpl != v->cpl))
        return selector_fault(v, EXC_GP, t->sel);
    if (!long_code_valid(v, d))
        return selector_fault(v, EXC_GP, t->sel);
    if (!(d->attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, t->sel);
    struct cpu_segment cs = descriptor_segment((t->sel & ~3u) | v->cpl, d);
    struct frame f = frame_here(v);
    if (!descriptor_set_accessed(v, d) || !target_exists(v, &cs, t->offset))
        return false;
    cs.attr |= CPU_SEG_ACCESSED;
    if (t->call) {
        const uint64_t val[] = {v->s.seg[CPU_CS].selector, t->next};
        if (!frame_push(v, &f, val, 2, t->opsize))
            return false;
        frame_set_rsp(v, &f.ss, f.wide, f.rsp);
    }
    transfer(v, &cs, &v->s.seg[CPU_SS], t->offset);
    return true;
}

// Parameters of a 16- or 32-bit call gate: the lowest on the caller's stack is pushed last.
static bool copy_parameters(struct interp_vcpu *v, uint64_t *val, unsigned n, unsigned size)
{
    uint64_t param[31];
    if (!frame_read(v, 0, param, n, size))
        return false;
    for (unsigned i = 0; i < n; i++)
        val[i] = param[n - 1 - i];
    return true;
}

static bool through_gate(struct interp_vcpu *v, const struct far *t, struct descriptor *gate)
{
    uint16_t sel = gate_selector(gate);
    unsigned gate_dpl = descriptor_dpl(gate);
    if (gate_dpl < v->cpl || gate_dpl < (t->sel & 3u))
        return selector_fault(v, EXC_GP, t->sel);
    if (!(gate->attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, t->sel);
    if (!descriptor_extend(v, t->sel, EXC_GP, gate))
        return false;
    struct descriptor d;
    if (selector_null(sel))
        return selector_fault(v, EXC_GP, 0);
    if (!descriptor_fetch(v, sel, EXC_GP, &d))
        return false;
    enum { CODE = CPU_SEG_S | CPU_SEG_CODE };
    unsigned dpl = descriptor_dpl(&d);
    bool conforming = d.attr & CPU_SEG_DOWN;
    if ((d.attr & CODE) != CODE || dpl > v->cpl)
        return selector_fault(v, EXC_GP, sel);
    if (!t->call && !conforming && dpl != v->cpl)
        return selector_fault(v, EXC_GP, sel);
    if (is_long(v) && (d.attr & (CPU_SEG_L | CPU_SEG_DB)) != CPU_SEG_L)
        return selector_fault(v, EXC_GP, sel);
    if (!(d.attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, sel);
    bool is16 = descriptor_system_type(gate) == SYS_CALL16;
    unsigned size = is_long(v) ? 8 : is16 ? 2 : 4, cpl = conforming ? v->cpl : dpl;
    uint64_t rip = is16 ? gate_offset(gate) & 0xffff : gate_offset(gate);
    struct cpu_segment cs = descriptor_segment((sel & ~3u) | cpl, &d);
    if (!descriptor_set_accessed(v, &d) || !target_exists(v, &cs, rip))
        return false;
    cs.attr |= CPU_SEG_ACCESSED;
    if (!t->call) {
        transfer(v, &cs, &v->s.seg[CPU_SS], rip);
        return true;
    }
    struct frame f = frame_here(v);
    f.wide = is_long(v);
    uint64_t val[4 + 31];
    unsigned n = 0;
    if (cpl != v->cpl) {
        if (!frame_from_tss(v, cpl, 0, &f))
            return false;
        unsigned params = is_long(v) ? 0 : gate->low >> 32 & 31;
        val[n++] = v->s.seg[CPU_SS].selector;
        val[n++] = v->s.gpr[CPU_RSP];
        if (!copy_parameters(v, val + n, params, size))
            return false;
        n += params;
    }
    val[n++] = v->s.seg[CPU_CS].selector;
    val[n++] = t->next;
    if (!frame_push(v, &f, val, n, size))
        return false;
    frame_set_rsp(v, &f.ss, f.wide, f.rsp);
    transfer(v, &cs, &f.ss, rip);
    return true;
}

static bool to_task(struct interp_vcpu *v, const struct far *t, uint16_t sel)
{
    struct descriptor d;
    if (!task_fetch(v, sel, EXC_GP, &d))
        return false;
    return task_switch(v, sel, &d, t->call ? TASK_CALL : TASK_JUMP, t->next, NULL);
}

static bool go(struct interp_vcpu *v, const struct far *t)
{
    if (!is_protected(v)) {
        struct cpu_segment cs = real_segment(v, &v->s.seg[CPU_CS], t->sel);
        if (!target_exists(v, &cs, t->offset))
            return false;
        if (t->call) {
            struct frame f = frame_here(v);
            const uint64_t val[] = {v->s.seg[CPU_CS].selector, t->next};
            if (!frame_push(v, &f, val, 2, t->opsize))
                return false;
            frame_set_rsp(v, &f.ss, false, f.rsp);
        }
        transfer(v, &cs, &v->s.seg[CPU_SS], t->offset);
        return true;
    }
    struct descriptor d;
    if (selector_null(t->sel))
        return selector_fault(v, EXC_GP, 0);
    if (!descriptor_fetch(v, t->sel, EXC_GP, &d))
        return false;
    if (d.attr & CPU_SEG_S)
        return d.attr & CPU_SEG_CODE ? to_code(v, t, &d) : selector_fault(v, EXC_GP, t->sel);
    switch (descriptor_system_type(&d)) {
    case SYS_CALL16:
        return is_long(v) ? selector_fault(v, EXC_GP, t->sel) : through_gate(v, t, &d);
    case SYS_CALL:
        return through_gate(v, t, &d);
    case SYS_TASK_GATE:
        if (is_long(v) || descriptor_dpl(&d) < v->cpl || descriptor_dpl(&d) < (t->sel & 3u))
            return selector_fault(v, EXC_GP, t->sel);
        if (!(d.attr & CPU_SEG_P))
            return selector_fault(v, EXC_NP, t->sel);
        return to_task(v, t, gate_selector(&d));
    case SYS_TSS16:
    case SYS_TSS:
        if (is_long(v) || descriptor_dpl(&d) < v->cpl || descriptor_dpl(&d) < (t->sel & 3u))
            return selector_fault(v, EXC_GP, t->sel);
        return to_task(v, t, t->sel);
    default:
        return selector_fault(v, EXC_GP, t->sel);
    }
}

static enum interp_result far_transfer(struct interp_vcpu *v, const struct interp_insn *i, bool call)
{
    struct far t = {.opsize = i->opsize, .call = call};
    if (i->op[0].kind == OPERAND_MEM) {
        t.opsize = far_opsize(v, i);
        if (!operand_far(v, i, t.opsize, &t.sel, &t.offset))
            return INTERP_FAULT;
    } else {
        t.sel = (uint16_t)i->disp;
        t.offset = (uint64_t)i->imm & (t.opsize == 2 ? 0xffff : 0xffffffff);
    }
    t.next = v->s.rip + i->len;
    if (v->mode != MODE_LONG64)
        t.next = (uint32_t)t.next;
    return go(v, &t) ? INTERP_JUMP : INTERP_FAULT;
}

enum interp_result sys_far_jmp(struct interp_vcpu *v, const struct interp_insn *i)
{
    return far_transfer(v, i, false);
}

enum interp_result sys_far_call(struct interp_vcpu *v, const struct interp_insn *i)
{
    return far_transfer(v, i, true);
}
