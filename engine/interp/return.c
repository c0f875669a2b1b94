// Far RET and IRET: back to the same or an outer level, to virtual-8086 mode, to the previous task (Intel SDM vol. 2,
// RET and IRET; vol. 3, 5.8.6).
//
// Returning outward, data segments that the outer level may not use become null: otherwise a user program would keep
// the kernel's. IRET also ends the blocking of NMIs, even if it faults.
//
// Example: IRETQ from a page fault of user code: RIP, CS, RFLAGS, RSP, SS are read; CS.RPL 3 makes it an outward
// return; RF comes from the image, so a breakpoint on the restarted instruction does not hit again.
#include "engine/interp/system.h"

// Rights of a code segment that is returned to.
static bool code_fetch(struct interp_vcpu *v, uint16_t sel, struct cpu_segment *cs)
{
    struct descriptor d;
    if (selector_null(sel))
        return selector_fault(v, EXC_GP, 0);
    if (!descriptor_fetch(v, sel, EXC_GP, &d))
        return false;
    enum { CODE = CPU_SEG_S | CPU_SEG_CODE };
    unsigned rpl = sel & 3, dpl = descriptor_dpl(&d);
    if ((d.attr & CODE) != CODE || rpl < v->cpl)
        return selector_fault(v, EXC_GP, sel);
    if (d.attr & CPU_SEG_DOWN ? dpl > rpl : dpl != rpl)
        return selector_fault(v, EXC_GP, sel);
    if (is_long(v) && (d.attr & (CPU_SEG_L | CPU_SEG_DB)) == (CPU_SEG_L | CPU_SEG_DB))
        return selector_fault(v, EXC_GP, sel);
    if (!(d.attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, sel);
    if (!descriptor_set_accessed(v, &d))
        return false;
    *cs = descriptor_segment(sel, &d);
    return true;
}

static bool is_long_code(const struct interp_vcpu *v, const struct cpu_segment *cs)
{
    return is_long(v) && (cs->attr & CPU_SEG_L);
}

static bool rip_exists(struct interp_vcpu *v, const struct cpu_segment *cs, uint64_t rip)
{
    if (is_long_code(v, cs) ? cpu_is_canonical(&v->s, rip) : rip <= cs->limit)
        return true;
    interp_gp(v, 0);
    return false;
}

// SS for an outward return (or any IRET from 64-bit mode) to code at level rpl.
static bool return_stack_fetch(struct interp_vcpu *v, uint16_t sel, const struct cpu_segment *cs,
                               struct cpu_segment *ss)
{
    unsigned rpl = cs->selector & 3;
    if (!selector_null(sel))
        return stack_segment_fetch(v, sel, rpl, EXC_GP, ss);
    if (!is_long_code(v, cs) || rpl == 3 || (sel & 3u) != rpl)
        return selector_fault(v, EXC_GP, 0);
    *ss = null_segment(sel, rpl);
    return true;
}

static void drop_inner_segments(struct interp_vcpu *v, unsigned cpl)
{
    static const uint8_t data[] = {CPU_ES, CPU_DS, CPU_FS, CPU_GS};
    for (unsigned i = 0; i < 4; i++) {
        struct cpu_segment *g = &v->s.seg[data[i]];
        bool conforming = (g->attr & CPU_SEG_CODE) && (g->attr & CPU_SEG_DOWN);
        if ((g->attr & CPU_SEG_P) && !conforming && segment_dpl(g) < cpl)
            *g = null_segment(0, 0);
    }
}

// --- RET

static enum interp_result return_far(struct interp_vcpu *v, unsigned size, unsigned release)
{
    uint64_t val[2];
    if (!frame_read(v, 0, val, 2, size))
        return INTERP_FAULT;
    uint16_t sel = val[1] & 0xffff;
    struct frame here = frame_here(v);
    struct cpu_segment cs, ss = here.ss;
    if (!is_protected(v)) {
        cs = real_segment(v, &v->s.seg[CPU_CS], sel);
        if (!rip_exists(v, &cs, val[0]))
            return INTERP_FAULT;
        frame_set_rsp(v, &ss, false, here.rsp + 2 * size + release);
        transfer(v, &cs, &ss, val[0]);
        return INTERP_JUMP;
    }
    if (!code_fetch(v, sel, &cs))
        return INTERP_FAULT;
    unsigned rpl = sel & 3;
    if (rpl == v->cpl) {
        if (!rip_exists(v, &cs, val[0]))
            return INTERP_FAULT;
        frame_set_rsp(v, &ss, here.wide, here.rsp + 2 * size + release);
        transfer(v, &cs, &ss, val[0]);
        return INTERP_JUMP;
    }
    uint64_t outer[2];
    if (!frame_read(v, 2 * size + release, outer, 2, size) || !return_stack_fetch(v, outer[1] & 0xffff, &cs, &ss) ||
        !rip_exists(v, &cs, val[0]))
        return INTERP_FAULT;
    frame_set_rsp(v, &ss, is_long_code(v, &cs), outer[0] + release);
    transfer(v, &cs, &ss, val[0]);
    drop_inner_segments(v, rpl);
    return INTERP_JUMP;
}

enum interp_result sys_far_ret(struct interp_vcpu *v, const struct interp_insn *i)
{
    return return_far(v, i->opsize, i->ops && i->op[0].kind == OPERAND_IMM ? (uint16_t)i->imm : 0);
}

// --- IRET

static enum interp_result iret_real(struct interp_vcpu *v, unsigned size)
{
    uint64_t val[3];
    uint64_t mask = flags_iret_mask(v, size);
    if (!frame_read(v, 0, val, 3, size))
        return INTERP_FAULT;
    struct frame here = frame_here(v);
    struct cpu_segment cs = real_segment(v, &v->s.seg[CPU_CS], val[1] & 0xffff);
    if (!rip_exists(v, &cs, val[0]))
        return INTERP_FAULT;
    if (is_v86(v) && (v->s.rflags & RFLAGS_IOPL) != RFLAGS_IOPL) {
        // With CR4.VME and 16 bits the program returns by itself: IF of the image is the virtual one.
        bool flag = val[2] & RFLAGS_IF;
        if (!(v->s.cr4 & CR4_VME) || size != 2 || (val[2] & RFLAGS_TF) || (flag && (v->s.rflags & RFLAGS_VIP)))
            return interp_gp(v, 0);
        val[2] = (val[2] & ~RFLAGS_VIF) | (flag ? RFLAGS_VIF : 0);
        mask = (mask & ~(RFLAGS_IF | RFLAGS_IOPL)) | RFLAGS_VIF;
    }
    frame_set_rsp(v, &here.ss, false, here.rsp + 3 * size);
    transfer(v, &cs, &here.ss, val[0]);
    flags_load(v, val[2], mask);
    return INTERP_JUMP;
}

static enum interp_result iret_to_v86(struct interp_vcpu *v, const uint64_t *val)
{
    uint64_t more[6]; // ESP, SS, ES, DS, FS, GS
    if (!frame_read(v, 12, more, 6, 4))
        return INTERP_FAULT;
    struct cpu_segment cs = v86_segment(val[1] & 0xffff), ss = v86_segment(more[1] & 0xffff);
    if ((val[0] & 0xffffffff) > 0xffff)
        return interp_gp(v, 0);
    static const uint8_t data[] = {CPU_ES, CPU_DS, CPU_FS, CPU_GS};
    for (unsigned i = 0; i < 4; i++)
        v->s.seg[data[i]] = v86_segment(more[2 + i] & 0xffff);
    v->s.gpr[CPU_RSP] = (uint32_t)more[0];
    flags_load(v, val[2], flags_iret_mask(v, 4) | RFLAGS_VM | RFLAGS_VIF | RFLAGS_VIP);
    transfer(v, &cs, &ss, val[0] & 0xffff);
    return INTERP_JUMP;
}

enum interp_result sys_iret(struct interp_vcpu *v, const struct interp_insn *i)
{
    unsigned size = i->opsize;
    v->s.ev.nmi_masked = false;
    v->keep_rf = true;
    if (!is_protected(v))
        return iret_real(v, size);
    if (v->s.rflags & RFLAGS_NT) {
        if (is_long(v))
            return interp_gp(v, 0);
        return task_return(v, v->s.rip + i->len) ? INTERP_JUMP : INTERP_FAULT;
    }
    uint64_t val[5];
    if (!frame_read(v, 0, val, 3, size))
        return INTERP_FAULT;
    if (!is_long(v) && size == 4 && (val[2] & RFLAGS_VM) && v->cpl == 0)
        return iret_to_v86(v, val);

    struct cpu_segment cs, ss = v->s.seg[CPU_SS];
    uint16_t sel = val[1] & 0xffff;
    unsigned rpl = sel & 3;
    if (!code_fetch(v, sel, &cs))
        return INTERP_FAULT;
    struct frame here = frame_here(v);
    uint64_t mask = flags_iret_mask(v, size), rsp = here.rsp + 3 * size;
    bool outward = rpl != v->cpl, wide = here.wide;
    if (outward || here.wide) { // from 64-bit mode SS:RSP are always there
        if (!frame_read(v, 3 * size, val + 3, 2, size) || !return_stack_fetch(v, val[4] & 0xffff, &cs, &ss))
            return INTERP_FAULT;
        rsp = val[3];
        wide = is_long_code(v, &cs);
    }
    if (!rip_exists(v, &cs, val[0]))
        return INTERP_FAULT;
    flags_load(v, val[2], mask);
    frame_set_rsp(v, &ss, wide, rsp);
    transfer(v, &cs, &ss, val[0]);
    if (outward)
        drop_inner_segments(v, rpl);
    return INTERP_JUMP;
}
