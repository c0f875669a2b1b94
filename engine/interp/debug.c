// Debug exceptions: single step, breakpoints on instructions, data and ports, guarded debug registers (Intel SDM vol.
// 3, chapter 17).
//
// A trap is collected in ev.pending_debug as DR6 bits while an instruction runs, and delivered at the boundary after
// it. MOV SS and POP SS hold it off for one more instruction. A breakpoint on an instruction is a fault before it,
// unless RF is set; RF goes when the instruction is done, except when the instruction is what loaded it (IRET, a task
// switch).
//
// Example: DR7 = 0x000d0402: DR0 watches writes of 4 bytes, globally. A store to it completes, memory.c calls
// interp_data_breakpoint, pending_debug gets B0, and the #DB comes with RIP after the store.
#include "cpu/msr.h"
#include "engine/interp/system.h"

enum { BREAK_EXEC = 0, BREAK_WRITE = 1, BREAK_PORT = 2, BREAK_ACCESS = 3 };

// DR7 fields of breakpoint n.
static bool enabled(uint64_t dr7, unsigned n)
{
    return dr7 >> 2 * n & 3;
}

static unsigned kind(uint64_t dr7, unsigned n)
{
    return dr7 >> (16 + 4 * n) & 3;
}

static unsigned length(uint64_t dr7, unsigned n)
{
    static const uint8_t bytes[] = {1, 2, 8, 4};
    return bytes[dr7 >> (18 + 4 * n) & 3];
}

// Does [a, a + size) touch the watched bytes? Watched ranges are aligned to their length.
static bool touches(const struct cpu_state *s, unsigned n, uint64_t a, unsigned size)
{
    uint64_t len = length(s->dr7, n), from = s->dr[n] & ~(len - 1);
    return a < from + len && from < a + size;
}

static uint64_t matches(const struct cpu_state *s, unsigned kinds, uint64_t a, unsigned size)
{
    uint64_t hit = 0;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(s->dr7, n) && kinds >> kind(s->dr7, n) & 1 && touches(s, n, a, size))
            hit |= 1u << n;
    return hit;
}

void interp_data_breakpoint(struct interp_vcpu *v, uint64_t la, unsigned size, enum cpu_access access)
{
    unsigned kinds = 1 << BREAK_ACCESS | (access == CPU_WRITE ? 1 << BREAK_WRITE : 0);
    v->s.ev.pending_debug |= matches(&v->s, kinds, la, size);
}

void debug_port(struct interp_vcpu *v, uint16_t port, unsigned size)
{
    if ((v->s.dr7 & 0xff) && (v->s.cr4 & CR4_DE))
        v->s.ev.pending_debug |= matches(&v->s, 1 << BREAK_PORT, port, size);
}

// What a #DB says in DR6. The breakpoint bits are those of this event alone, the others accumulate. It switches off
// stepping by branches and the guard of the debug registers.
static void record(struct interp_vcpu *v, uint64_t bits)
{
    v->s.dr6 = (v->s.dr6 & ~0xfull) | bits;
    v->s.dr7 &= ~(uint64_t)DR7_GD;
    v->s.msr.debugctl &= ~DEBUGCTL_BTF;
}

enum interp_result debug_fault(struct interp_vcpu *v, uint64_t bits)
{
    record(v, bits);
    return interp_fault(v, EXC_DB);
}

// Breakpoints on the instruction that is next.
static uint64_t code_matches(const struct interp_vcpu *v)
{
    uint64_t la = v->mode == MODE_LONG64 ? v->s.rip : (uint32_t)(v->s.seg[CPU_CS].base + v->s.rip), hit = 0;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(v->s.dr7, n) && kind(v->s.dr7, n) == BREAK_EXEC && v->s.dr[n] == la)
            hit |= 1u << n;
    return hit;
}

// A trap tells of a breakpoint on the next instruction, too: the handler may resume behind it with RF.
static bool trap(struct interp_vcpu *v)
{
    uint64_t bits = v->s.ev.pending_debug;
    if (!bits)
        return false;
    v->s.ev.pending_debug = 0;
    record(v, bits | code_matches(v));
    deliver_trap(v, EXC_DB, v->s.rip);
    return true;
}

bool interp_after_debug(struct interp_vcpu *v, bool single_step_was_on, bool branched)
{
    if (!v->keep_rf && !v->amid)
        v->s.rflags &= ~RFLAGS_RF;
    if (single_step_was_on && !v->no_step && (branched || !(v->s.msr.debugctl & DEBUGCTL_BTF)))
        v->s.ev.pending_debug |= DR6_BS;
    if (v->s.ev.shadow == CPU_SHADOW_MOV_SS)
        return false;
    return trap(v);
}

bool interp_before_debug(struct interp_vcpu *v)
{
    v->keep_rf = v->no_step = false;
    if (v->s.ev.shadow == CPU_SHADOW_MOV_SS)
        return false;
    if (trap(v))
        return true;
    if (v->s.rflags & RFLAGS_RF || !(v->s.dr7 & 0xff))
        return false;
    uint64_t hit = code_matches(v);
    if (!hit)
        return false;
    debug_fault(v, hit);
    interp_deliver_fault(v);
    return true;
}

// --- MOV DR

// Which register a number means; -1 for #UD (Intel SDM vol. 3, 17.2.2).
static int alias(const struct interp_vcpu *v, unsigned n)
{
    if (n > 7)
        return -1;
    if (n == 4 || n == 5)
        return v->s.cr4 & CR4_DE ? -1 : (int)n + 2;
    return (int)n;
}

static enum interp_result check(struct interp_vcpu *v, int n)
{
    if (n < 0)
        return interp_ud(v);
    if (v->cpl != 0)
        return interp_gp(v, 0);
    if (v->s.dr7 & DR7_GD)
        return debug_fault(v, DR6_BD);
    return INTERP_NEXT;
}

enum interp_result sys_mov_from_dr(struct interp_vcpu *v, const struct interp_insn *i)
{
    int n = alias(v, i->op[1].reg);
    enum interp_result r = check(v, n);
    if (r == INTERP_FAULT)
        return r;
    interp_set_reg(v, &i->op[0], n < 4 ? v->s.dr[n] : n == 6 ? v->s.dr6 : v->s.dr7);
    return INTERP_NEXT;
}

enum interp_result sys_mov_to_dr(struct interp_vcpu *v, const struct interp_insn *i)
{
    int n = alias(v, i->op[0].reg);
    enum interp_result r = check(v, n);
    if (r == INTERP_FAULT)
        return r;
    uint64_t val = interp_reg(v, &i->op[1]);
    if (n >= 6 && val >> 32)
        return interp_gp(v, 0);
    if (n < 4)
        v->s.dr[n] = val;
    else if (n == 6)
        v->s.dr6 = (val & 0xe00f) | 0xffff0ff0;
    else
        v->s.dr7 = (val & 0xffff23ff) | 0x400;
    interp_tlb_switch(v); // armed breakpoints take the fast paths away
    return INTERP_BREAK;
}

enum interp_result sys_int1(struct interp_vcpu *v, const struct interp_insn *i)
{
    v->no_step = true;
    deliver_trap(v, EXC_DB, v->s.rip + i->len);
    return INTERP_JUMP;
}
