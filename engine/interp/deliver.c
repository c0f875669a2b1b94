// Delivery of exceptions and interrupts: through the real-mode vector table, the gates of protected mode, task gates,
// and the gates of long mode.
//
// What is delivered is one struct event. Delivery either succeeds (CS:RIP is the handler, a frame is on its stack) or
// raises a fault of its own with no register changed; interp_deliver_fault() then combines the two (Intel SDM vol. 3,
// table 6-5). Faults raised here carry EXT in their error code unless the event is INT n, INT3 or INTO.
//
// What the frame says about RF (Intel SDM vol. 3, 17.3.1.1): set for faults, so that the instruction does not hit its
// breakpoint again when it is restarted; as it was, for everything else. A string instruction that is interrupted
// between two iterations counts as one that will be restarted.
//
// Example: a #GP in 64-bit user mode with IST 0: RSP0 from the TSS, aligned to 16; SS, RSP, RFLAGS, CS, RIP and error
// pushed; SS becomes null with RPL 0, IF cleared if it is an interrupt gate.
#include "engine/interp/system.h"

struct event {
    uint8_t vector;
    bool software; // INT n, INT3, INTO: checks the gate's DPL
    bool has_error;
    uint32_t error;
    uint64_t rip;   // to return to
    uint64_t flags; // to push
};

enum { ERROR_EXT = 1, ERROR_IDT = 2 };

static bool gate_fault(struct interp_vcpu *v, uint8_t vector, const struct event *e)
{
    interp_fault_error(v, vector, e->vector * 8u + ERROR_IDT);
    return false;
}

// --- real mode, and INT n that virtual-8086 mode sends to its own table

static bool deliver_real(struct interp_vcpu *v, const struct event *e, uint64_t clear)
{
    uint32_t vec = 0;
    uint64_t table = is_v86(v) ? 0 : v->s.idtr.base;
    if (!is_v86(v) && e->vector * 4u + 3 > v->s.idtr.limit) {
        interp_fault_error(v, EXC_GP, e->vector * 8u + ERROR_IDT);
        return false;
    }
    if (!interp_read_bytes(v, (uint32_t)(table + e->vector * 4u), &vec, 4, true))
        return false;
    struct frame f = frame_here(v);
    const uint64_t val[] = {e->flags & 0xffff, v->s.seg[CPU_CS].selector, e->rip & 0xffff};
    if (!frame_push(v, &f, val, 3, 2))
        return false;
    frame_set_rsp(v, &f.ss, false, f.rsp);
    v->s.seg[CPU_CS] = real_segment(v, &v->s.seg[CPU_CS], vec >> 16);
    v->s.rip = vec & 0xffff;
    v->s.rflags &= ~clear;
    return true;
}

// --- gates

// Rights of a handler's code segment (Intel SDM vol. 3, 6.12.1.1). *cpl becomes the level it runs at.
static bool handler_segment(struct interp_vcpu *v, uint16_t sel, struct cpu_segment *cs, unsigned *cpl)
{
    struct descriptor d;
    if (selector_null(sel))
        return selector_fault(v, EXC_GP, 0);
    if (!descriptor_fetch(v, sel, EXC_GP, &d))
        return false;
    enum { CODE = CPU_SEG_S | CPU_SEG_CODE };
    unsigned dpl = descriptor_dpl(&d);
    if ((d.attr & CODE) != CODE || dpl > v->cpl)
        return selector_fault(v, EXC_GP, sel);
    if (is_long(v) && (d.attr & (CPU_SEG_L | CPU_SEG_DB)) != CPU_SEG_L)
        return selector_fault(v, EXC_GP, sel);
    if (!(d.attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, sel);
    *cpl = d.attr & CPU_SEG_DOWN ? v->cpl : dpl; // conforming: at the level of what was interrupted
    if (is_v86(v) && *cpl != 0)
        return selector_fault(v, EXC_GP, sel);
    if (!descriptor_set_accessed(v, &d))
        return false;
    *cs = descriptor_segment((sel & ~3u) | *cpl, &d);
    return true;
}

static void enter_handler(struct interp_vcpu *v, const struct frame *f, const struct cpu_segment *cs, uint64_t rip,
                          bool interrupt_gate)
{
    uint64_t clear = RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | (interrupt_gate ? RFLAGS_IF : 0);
    v->s.rflags &= ~clear;
    frame_set_rsp(v, &f->ss, f->wide, f->rsp);
    transfer(v, cs, &f->ss, rip);
}

static bool deliver_long(struct interp_vcpu *v, const struct event *e)
{
    struct descriptor gate = {0};
    uint32_t offset = e->vector * 16u;
    if (offset + 15 > v->s.idtr.limit)
        return gate_fault(v, EXC_GP, e);
    uint64_t raw[2];
    if (!interp_read_bytes(v, v->s.idtr.base + offset, raw, 16, true))
        return false;
    gate.low = raw[0];
    gate.high = raw[1] & 0xffffffff;
    gate.attr = raw[0] >> 40 & 0xff;
    int type = descriptor_system_type(&gate);
    if ((type != SYS_INT && type != SYS_TRAP) || raw[1] >> 40 & 0x1f)
        return gate_fault(v, EXC_GP, e);
    if (e->software && descriptor_dpl(&gate) < v->cpl)
        return gate_fault(v, EXC_GP, e);
    if (!(gate.attr & CPU_SEG_P))
        return gate_fault(v, EXC_NP, e);
    struct cpu_segment cs;
    unsigned cpl, ist = gate.low >> 32 & 7;
    if (!handler_segment(v, gate_selector(&gate), &cs, &cpl))
        return false;
    struct frame f = {.ss = v->s.seg[CPU_SS], .rsp = v->s.gpr[CPU_RSP], .cpl = cpl, .wide = true};
    if (cpl != v->cpl || ist) {
        if (!frame_from_tss(v, cpl, ist, &f))
            return false;
        if (cpl == v->cpl)
            f.ss = v->s.seg[CPU_SS];
    }
    if (!cpu_is_canonical(&v->s, gate_offset(&gate))) {
        interp_gp(v, 0);
        return false;
    }
    f.rsp &= ~15ull;
    const uint64_t val[] = {
        v->s.seg[CPU_SS].selector, v->s.gpr[CPU_RSP], e->flags, v->s.seg[CPU_CS].selector, e->rip, e->error};
    if (!frame_push(v, &f, val, e->has_error ? 6 : 5, 8))
        return false;
    enter_handler(v, &f, &cs, gate_offset(&gate), type == SYS_INT);
    return true;
}

static bool deliver_task(struct interp_vcpu *v, const struct event *e, const struct descriptor *gate)
{
    struct descriptor d;
    uint16_t sel = gate_selector(gate);
    uint32_t error = e->error;
    uint64_t rip = e->rip;
    // What is saved in the old task is what a frame would hold.
    uint64_t flags = v->s.rflags;
    if (!task_fetch(v, sel, EXC_GP, &d))
        return false;
    v->s.rflags = e->flags;
    if (task_switch(v, sel, &d, TASK_INTERRUPT, rip, e->has_error ? &error : NULL))
        return true;
    if (v->s.tr.selector != sel)
        v->s.rflags = flags;
    return false;
}

static bool deliver_protected(struct interp_vcpu *v, const struct event *e)
{
    struct descriptor gate = {0};
    uint32_t offset = e->vector * 8u;
    if (offset + 7 > v->s.idtr.limit)
        return gate_fault(v, EXC_GP, e);
    if (!interp_read_bytes(v, (uint32_t)(v->s.idtr.base + offset), &gate.low, 8, true))
        return false;
    gate.attr = gate.low >> 40 & 0xff;
    int type = descriptor_system_type(&gate);
    if (type != SYS_TASK_GATE && type != SYS_INT16 && type != SYS_TRAP16 && type != SYS_INT && type != SYS_TRAP)
        return gate_fault(v, EXC_GP, e);
    if (e->software && descriptor_dpl(&gate) < v->cpl)
        return gate_fault(v, EXC_GP, e);
    if (!(gate.attr & CPU_SEG_P))
        return gate_fault(v, EXC_NP, e);
    if (type == SYS_TASK_GATE)
        return deliver_task(v, e, &gate);

    struct cpu_segment cs;
    unsigned cpl, n = 0, size = type == SYS_INT || type == SYS_TRAP ? 4 : 2;
    if (!handler_segment(v, gate_selector(&gate), &cs, &cpl))
        return false;
    struct frame f = frame_here(v);
    uint64_t val[10];
    bool inner = cpl != v->cpl;
    if (inner) {
        if (!frame_from_tss(v, cpl, 0, &f))
            return false;
        if (is_v86(v)) {
            static const uint8_t data[] = {CPU_GS, CPU_FS, CPU_DS, CPU_ES};
            for (unsigned i = 0; i < 4; i++)
                val[n++] = v->s.seg[data[i]].selector;
        }
        val[n++] = v->s.seg[CPU_SS].selector;
        val[n++] = v->s.gpr[CPU_RSP];
    }
    val[n++] = e->flags;
    val[n++] = v->s.seg[CPU_CS].selector;
    val[n++] = e->rip;
    if (e->has_error)
        val[n++] = e->error;
    uint64_t rip = size == 4 ? gate_offset(&gate) : gate_offset(&gate) & 0xffff;
    if (rip > cs.limit) {
        interp_gp(v, 0);
        return false;
    }
    if (!frame_push(v, &f, val, n, size))
        return false;
    bool from_v86 = is_v86(v);
    enter_handler(v, &f, &cs, rip, type == SYS_INT || type == SYS_INT16);
    if (from_v86) {
        static const uint8_t data[] = {CPU_GS, CPU_FS, CPU_DS, CPU_ES};
        for (unsigned i = 0; i < 4; i++)
            v->s.seg[data[i]] = null_segment(0, 0);
    }
    return true;
}

static bool deliver(struct interp_vcpu *v, const struct event *e)
{
    bool done;
    if (!(v->s.cr0 & CR0_PE))
        done = deliver_real(v, e, RFLAGS_TF | RFLAGS_IF | RFLAGS_AC | RFLAGS_RF);
    else if (is_long(v))
        done = deliver_long(v, e);
    else
        done = deliver_protected(v, e);
    if (done) {
        v->amid = false;
        v->s.ev.shadow = CPU_SHADOW_NONE;
        v->s.ev.activity = CPU_RUNNING;
        return true;
    }
    // All error codes that hold a selector (or none) tell whether the event came from outside of the program.
    bool selector = v->fault.vector != EXC_PF && v->fault.has_error;
    if (selector && !e->software)
        v->fault.error |= ERROR_EXT;
    return false;
}

// --- doors

void interp_deliver_fault(struct interp_vcpu *v)
{
    struct cpu_fault f = v->fault;
    v->s.ev.pending_debug = 0; // the instruction did not complete
    for (;;) {
        if (f.vector == EXC_PF)
            v->s.cr2 = f.cr2;
        if (f.vector < 32)
            v->count.exceptions[f.vector]++;
        // An instruction breakpoint leaves it to its handler to set RF; a guarded access to a debug register does not.
        bool restarts = f.vector != EXC_DB || (v->s.dr6 & DR6_BD);
        // Real mode pushes no error codes.
        struct event e = {.vector = f.vector,
                          .has_error = f.has_error && (v->s.cr0 & CR0_PE),
                          .error = f.error,
                          .rip = v->s.rip,
                          .flags = v->s.rflags | (restarts ? RFLAGS_RF : 0)};
        if (deliver(v, &e))
            break;
        switch (cpu_exception_combine(f.vector, v->fault.vector)) {
        case CPU_SERIAL:
            f = v->fault;
            break;
        case CPU_DOUBLE_FAULT:
            if (v->fault.vector == EXC_PF)
                v->s.cr2 = v->fault.cr2;
            f = (struct cpu_fault){.raised = true, .vector = EXC_DF, .has_error = true};
            break;
        case CPU_TRIPLE_FAULT:
            if (v->fault.vector == EXC_PF)
                v->s.cr2 = v->fault.cr2;
            v->s.ev.activity = CPU_SHUTDOWN;
            v->fault.raised = false;
            return;
        }
    }
    v->fault.raised = false;
}

enum interp_result interp_soft_interrupt(struct interp_vcpu *v, uint8_t vector, uint64_t return_rip)
{
    struct event e = {.vector = vector, .software = true, .rip = return_rip, .flags = v->s.rflags & ~RFLAGS_RF};
    return deliver(v, &e) ? INTERP_JUMP : INTERP_FAULT;
}

bool deliver_v86_redirected(struct interp_vcpu *v, uint8_t vector, uint64_t return_rip)
{
    struct event e = {.vector = vector, .software = true, .rip = return_rip, .flags = v->s.rflags};
    uint64_t clear = RFLAGS_TF | RFLAGS_IF;
    if ((v->s.rflags & RFLAGS_IOPL) != RFLAGS_IOPL) { // the virtual flag stands for the real one
        e.flags |= RFLAGS_IOPL;
        e.flags = (e.flags & ~RFLAGS_IF) | (v->s.rflags & RFLAGS_VIF ? RFLAGS_IF : 0);
        clear = RFLAGS_TF | RFLAGS_VIF;
    }
    return deliver_real(v, &e, clear);
}

// A trap (#DB), INT1, or something from outside: it comes after an instruction, and is not a fault.
static void deliver_between(struct interp_vcpu *v, uint8_t vector)
{
    struct event e = {.vector = vector, .rip = v->s.rip, .flags = v->s.rflags | (v->amid ? RFLAGS_RF : 0)};
    if (deliver(v, &e))
        return;
    // Not an exception's fault: it is delivered by itself, after what an exception of the benign class would do.
    if (v->fault.vector == EXC_PF)
        v->s.cr2 = v->fault.cr2;
    uint64_t waiting = v->s.ev.pending_debug;
    interp_deliver_fault(v);
    v->s.ev.pending_debug = waiting;
}

void interp_deliver_external(struct interp_vcpu *v, uint8_t vector)
{
    if (vector == EXC_NMI)
        v->s.ev.nmi_masked = true;
    deliver_between(v, vector);
}

void deliver_trap(struct interp_vcpu *v, uint8_t vector, uint64_t rip)
{
    v->count.exceptions[vector]++;
    v->s.rip = rip;
    deliver_between(v, vector);
}
