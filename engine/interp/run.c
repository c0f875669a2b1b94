// The loop: blocks of decoded instructions, and what happens between them.
//
// Fast path: nothing is pending and nothing needs a look after each instruction; a block is found, and its handlers are
// called one after the other. Anything else (interrupts, a stopped world, HLT) is looked at between blocks, and what
// must be seen between instructions (single step, the shadow after STI and MOV SS, armed debug registers) makes the
// loop go one instruction at a time.
//
// Order of events at an instruction boundary: Intel SDM vol. 3, table 6-2 (INIT, traps of the previous instruction,
// NMI, interrupts, then code breakpoints and faults of the next).
//
// Example: STI; HLT with an interrupt pending. STI leaves the block and sets the shadow; HLT runs alone, with the
// shadow, and halts; now the interrupt is taken and wakes the CPU.
#include "engine/interp/run.h"
#include "engine/interp/access.h"
#include "engine/interp/cache.h"

enum { WAKE_ALWAYS = ENGINE_INIT | ENGINE_EXIT | ENGINE_UNHALT };

void interp_mode_changed(struct interp_vcpu *v)
{
    const struct cpu_state *s = &v->s;
    uint16_t cs = s->seg[CPU_CS].attr;
    v->cpl = s->cr0 & CR0_PE ? s->rflags & RFLAGS_VM ? 3 : cpu_cpl(s) : 0;
    if (!(s->cr0 & CR0_PE) || (s->rflags & RFLAGS_VM))
        v->mode = MODE_REAL;
    else if (s->efer & EFER_LMA)
        v->mode = cs & CPU_SEG_L ? MODE_LONG64 : cs & CPU_SEG_DB ? MODE_COMPAT32 : MODE_COMPAT16;
    else
        v->mode = cs & CPU_SEG_DB ? MODE_PROT32 : MODE_PROT16;
    interp_tlb_switch(v);
}

// --- one block

// RIP after an instruction: 32 bits outside of 64-bit mode.
static uint64_t advanced(const struct interp_vcpu *v, uint64_t rip, unsigned len)
{
    return v->mode == MODE_LONG64 ? rip + len : (uint32_t)(rip + len);
}

// Runs a block until it is left; rip says where. `limit` instructions at most.
static enum interp_result block_run(struct interp_vcpu *v, struct interp_block *b)
{
    const struct interp_insn *i = b->insn, *end = i + b->count;
    uint64_t rip = v->s.rip;
    enum interp_result r;
    cache_running(v, b);
    for (;;) {
        r = i->fn(v, i);
        if (unlikely(r != INTERP_NEXT))
            break;
        rip = rip + i->len;
        v->s.rip = rip;
        if (++i == end)
            break;
    }
    v->amid = r == INTERP_AGAIN;
    v->count.instructions += i - b->insn;
    if (r == INTERP_NEXT)
        v->s.rip = advanced(v, rip, 0);
    else if (r == INTERP_BREAK)
        v->s.rip = advanced(v, rip, i->len);
    if (r == INTERP_BREAK || r == INTERP_JUMP)
        v->count.instructions++;
    return r;
}

// --- events

static bool take(struct interp_vcpu *v, uint32_t bit)
{
    if (!(v->base.pending & bit))
        return false;
    atomic_fetch_and(&v->base.pending, ~bit);
    return true;
}

static void reset_by_init(struct interp_vcpu *v)
{
    cpu_init(&v->s, v->base.id == 0);
    v->s.gpr[CPU_RDX] = cpu_model_signature(v->model);
    interp_mode_changed(v);
    interp_tlb_flush_all(v);
    if (v->base.vm->config.up->init) { // its local APIC takes the INIT too
        world_leave(v);
        v->base.vm->config.up->init(v->base.owner);
        world_enter(v);
    }
}

static void sleep_until(struct interp_vcpu *v, uint32_t mask)
{
    v->count.halts++;
    world_leave(v);
    v->base.vm->config.up->halt(v->base.owner, mask);
    world_enter(v);
}

static bool nmi_open(const struct interp_vcpu *v)
{
    return !v->s.ev.nmi_masked && v->s.ev.shadow == CPU_SHADOW_NONE;
}

static bool interrupts_open(const struct interp_vcpu *v)
{
    return (v->s.rflags & RFLAGS_IF) && v->s.ev.shadow == CPU_SHADOW_NONE;
}

// True if an NMI or an interrupt was delivered.
static bool external(struct interp_vcpu *v)
{
    struct cpu_events *ev = &v->s.ev;
    if (take(v, ENGINE_NMI))
        ev->nmi_pending = true;
    if (ev->nmi_pending && nmi_open(v)) {
        ev->nmi_pending = false;
        ev->activity = CPU_RUNNING;
        v->count.nmis++;
        interp_deliver_external(v, EXC_NMI);
        return true;
    }
    if (interrupts_open(v) && take(v, ENGINE_INTR)) {
        world_leave(v);
        int vector = v->base.vm->config.up->interrupt_ack(v->base.owner);
        world_enter(v);
        if (vector >= 0) {
            ev->activity = CPU_RUNNING;
            v->count.interrupts++;
            interp_deliver_external(v, vector);
            return true;
        }
    }
    return false;
}

// What a saved state brought along: an exception, or an NMI or interrupt that had been acknowledged (cpu/state.h).
static void deliver_pending(struct interp_vcpu *v)
{
    struct cpu_events *ev = &v->s.ev;
    ev->exception_pending = false;
    if (ev->exception_vector == EXC_NMI || ev->exception_vector > 31) {
        interp_deliver_external(v, ev->exception_vector);
        return;
    }
    v->fault = (struct cpu_fault){.raised = true,
                                  .vector = ev->exception_vector,
                                  .has_error = ev->exception_has_error,
                                  .error = ev->exception_error,
                                  .cr2 = v->s.cr2};
    interp_deliver_fault(v);
}

// What was made from memory that may not be there any more.
static void take_new_map(struct interp_vcpu *v)
{
    if (!v->flush_wanted)
        return;
    v->flush_wanted = false;
    cache_flush(v);
    if (v->vm->mirror)
        v->vm->mirror->map_changed(v);
}

enum interp_event interp_events(struct interp_vcpu *v)
{
    struct cpu_events *ev = &v->s.ev;
    if (v->base.pending & WORLD_STOP) {
        world_pause(v);
        take_new_map(v);
    }
    if (take(v, ENGINE_TLB_FLUSH))
        interp_tlb_flush_all(v);
    if (take(v, ENGINE_UNHALT) && ev->activity == CPU_HALTED)
        ev->activity = CPU_RUNNING;
    if (take(v, ENGINE_EXIT))
        return EVENT_EXIT;
    if (ev->activity == CPU_SHUTDOWN)
        return EVENT_SHUTDOWN;
    if (take(v, ENGINE_INIT))
        reset_by_init(v);
    if (take(v, ENGINE_SIPI) && ev->activity == CPU_WAIT_SIPI) {
        cpu_startup(&v->s, v->base.sipi_vector);
        interp_mode_changed(v);
    }
    if (ev->activity == CPU_WAIT_SIPI) {
        sleep_until(v, WAKE_ALWAYS | ENGINE_SIPI);
        return EVENT_AGAIN;
    }
    if (ev->exception_pending) {
        deliver_pending(v);
        return EVENT_AGAIN;
    }
    if (external(v))
        return EVENT_AGAIN;
    if (ev->activity == CPU_HALTED) {
        uint32_t mask = WAKE_ALWAYS;
        if (!ev->nmi_masked)
            mask |= ENGINE_NMI;
        if (v->s.rflags & RFLAGS_IF)
            mask |= ENGINE_INTR;
        sleep_until(v, mask);
        return EVENT_AGAIN;
    }
    return EVENT_NONE;
}

// --- running

// One instruction, everything looked at.
static enum interp_result step(struct interp_vcpu *v)
{
    struct cpu_events *ev = &v->s.ev;
    interp_tlb_switch(v); // debug registers may have been armed or disarmed
    if (interp_before_debug(v))
        return INTERP_JUMP;
    struct interp_block *b = cache_find(v, true);
    if (!b) {
        ev->shadow = CPU_SHADOW_NONE;
        interp_deliver_fault(v);
        return INTERP_FAULT;
    }
    bool trap = v->s.rflags & RFLAGS_TF;
    ev->shadow = CPU_SHADOW_NONE;
    enum interp_result r = block_run(v, b);
    if (r == INTERP_FAULT)
        interp_deliver_fault(v);
    else
        interp_after_debug(v, trap, r == INTERP_JUMP);
    return r;
}

enum interp_result interp_step(struct interp_vcpu *v)
{
    if (external(v))
        return INTERP_JUMP;
    return step(v);
}

static void found_run(struct interp_vcpu *v, struct interp_block *b)
{
    if (unlikely(!b) || unlikely(block_run(v, b) == INTERP_FAULT))
        interp_deliver_fault(v);
}

void interp_block(struct interp_vcpu *v)
{
    found_run(v, cache_find(v, false));
}

void interp_guest_enter(struct interp_vcpu *v)
{
    world_enter(v);
    take_new_map(v);
}

void interp_guest_leave(struct interp_vcpu *v)
{
    world_leave(v);
}

enum engine_exit interp_run(struct interp_vcpu *v, uint64_t count)
{
    enum engine_exit how = ENGINE_EXIT_REQUESTED;
    uint64_t until = v->count.instructions + count;
    if (until < count)
        until = UINT64_MAX;
    bool counted = count != UINT64_MAX;
    interp_guest_enter(v);
    for (;;) {
        if (unlikely(interp_attention(v))) {
            enum interp_event e = interp_events(v);
            if (e == EVENT_EXIT)
                break;
            if (e == EVENT_SHUTDOWN) {
                how = ENGINE_EXIT_SHUTDOWN;
                break;
            }
            if (e == EVENT_AGAIN)
                continue;
            if (interp_stepping(v)) {
                if (counted && v->count.instructions >= until)
                    break;
                step(v);
                continue;
            }
        }
        if (unlikely(counted)) {
            if (v->count.instructions >= until)
                break;
            found_run(v, cache_find(v, true));
        } else {
            interp_block(v);
        }
    }
    interp_guest_leave(v);
    return how;
}
