// Between the loop (run.c) and those who drive it (engine.c, other software engines).
#pragma once
#include "engine/interp/shared.h"

enum interp_event {
    EVENT_NONE,  // nothing to do: execute
    EVENT_AGAIN, // something was delivered, or the CPU slept: look again
    EVENT_EXIT,  // ENGINE_EXIT was set, and is cleared
    EVENT_SHUTDOWN,
};

// Looks at everything that can happen between two instructions. In the guest (world.h).
enum interp_event interp_events(struct interp_vcpu *v);

// Whether instructions must be done one at a time.
static inline bool interp_stepping(const struct interp_vcpu *v)
{
    return (v->s.rflags & (RFLAGS_TF | RFLAGS_RF)) || v->s.ev.shadow || (v->s.dr7 & 0xff) || v->s.ev.pending_debug;
}

// Whether interp_events() has something to look at, or interp_stepping().
static inline bool interp_attention(const struct interp_vcpu *v)
{
    const struct cpu_events *ev = &v->s.ev;
    return atomic_load_explicit(&v->base.pending, memory_order_relaxed) || ev->activity || ev->nmi_pending ||
           ev->exception_pending || interp_stepping(v);
}

// Into the guest and out of it (world.h), as run() does.
void interp_guest_enter(struct interp_vcpu *v);
void interp_guest_leave(struct interp_vcpu *v);

// Runs one block. In the guest, and with nothing for interp_attention().
void interp_block(struct interp_vcpu *v);

// As ops->vcpu_create, for an engine whose vCPU begins with a struct interp_vcpu and has `size` bytes in all (zeroed).
int interp_vcpu_create(struct engine_vm *e, size_t size, unsigned id, void *owner, struct interp_vcpu **out,
                       struct error *err);

// Runs until told otherwise; `count` instructions at most (UINT64_MAX: no limit). Out of the guest before and after.
enum engine_exit interp_run(struct interp_vcpu *v, uint64_t count);
