// A CPU's registers as a table of saved state. All engines speak struct cpu_state, so this one table carries a CPU from
// any of them to any other. Whoever loads it checks the values with cpu_state_check (cpu/check.h).
#include "vm/save_cpu.h"
#include "cpu/state.h"

#define CPU struct cpu_state
#define SEGMENT(member)                                                                                                \
    STATE_U16(CPU, member.selector, 1), STATE_U16(CPU, member.attr, 1), STATE_U32(CPU, member.limit, 1),               \
        STATE_U64(CPU, member.base, 1)

static const struct state_field fields[] = {
    // general registers
    STATE_U64(CPU, gpr, 1),
    STATE_U64(CPU, rip, 1),
    STATE_U64(CPU, rflags, 1),
    // segments and tables
    STATE_EACH(CPU, seg, selector, 1),
    STATE_EACH(CPU, seg, attr, 1),
    STATE_EACH(CPU, seg, limit, 1),
    STATE_EACH(CPU, seg, base, 1),
    SEGMENT(ldtr),
    SEGMENT(tr),
    STATE_U64(CPU, gdtr.base, 1),
    STATE_U16(CPU, gdtr.limit, 1),
    STATE_U64(CPU, idtr.base, 1),
    STATE_U16(CPU, idtr.limit, 1),
    // control and debug registers
    STATE_U64(CPU, cr0, 1),
    STATE_U64(CPU, cr2, 1),
    STATE_U64(CPU, cr3, 1),
    STATE_U64(CPU, cr4, 1),
    STATE_U64(CPU, efer, 1),
    STATE_U64(CPU, xcr0, 1),
    STATE_U64(CPU, pdpte, 1),
    STATE_U64(CPU, dr, 1),
    STATE_U64(CPU, dr6, 1),
    STATE_U64(CPU, dr7, 1),
    // model-specific registers
    STATE_U64(CPU, msr.star, 1),
    STATE_U64(CPU, msr.lstar, 1),
    STATE_U64(CPU, msr.cstar, 1),
    STATE_U64(CPU, msr.sfmask, 1),
    STATE_U64(CPU, msr.kernel_gs_base, 1),
    STATE_U64(CPU, msr.sysenter_cs, 1),
    STATE_U64(CPU, msr.sysenter_esp, 1),
    STATE_U64(CPU, msr.sysenter_eip, 1),
    STATE_U64(CPU, msr.pat, 1),
    STATE_U64(CPU, msr.tsc_aux, 1),
    STATE_U64(CPU, msr.tsc_adjust, 1),
    STATE_U64(CPU, msr.spec_ctrl, 1),
    STATE_U64(CPU, msr.misc_enable, 1),
    STATE_U64(CPU, msr.xss, 1),
    STATE_U64(CPU, msr.debugctl, 1),
    STATE_U64(CPU, msr.mtrr_def_type, 1),
    STATE_U64(CPU, msr.mtrr_fixed, 1),
    STATE_U64(CPU, msr.mtrr_base, 1),
    STATE_U64(CPU, msr.mtrr_mask, 1),
    STATE_U64(CPU, msr.mcg_status, 1),
    STATE_U64(CPU, msr.mcg_ctl, 1),
    // between two instructions
    STATE_U8(CPU, ev.activity, 1),
    STATE_U8(CPU, ev.shadow, 1),
    STATE_U8(CPU, ev.nmi_masked, 1),
    STATE_U8(CPU, ev.nmi_pending, 1),
    STATE_U8(CPU, ev.exception_pending, 1),
    STATE_U8(CPU, ev.exception_vector, 1),
    STATE_U8(CPU, ev.exception_has_error, 1),
    STATE_U32(CPU, ev.exception_error, 1),
    STATE_U64(CPU, ev.pending_debug, 1),
    // x87, SSE, AVX
    STATE_BYTES(CPU, xsave, 1),
    STATE_END,
};

const struct state_table cpu_state_table = {"cpu", 1, fields};
