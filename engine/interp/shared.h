// What the vCPUs of a VM share: the memory map, the world's lock, the list of vCPUs.
#pragma once
#include "engine/interp/interp.h"
#include "engine/interp/ram.h"
#include "engine/interp/world.h"

// What an engine that is built on this one (engine/dbt) wants to hear of, because it keeps copies. On the vCPU's
// thread, in the guest, but for prod and for code_written with a NULL vCPU (a device).
struct interp_mirror {
    void (*tlb_flush)(struct interp_vcpu *v, bool global_too);                  // the near tables were emptied
    void (*tlb_flush_page)(struct interp_vcpu *v, uint64_t la, unsigned shift); // 1 << shift bytes around la
    // The page (with PAGE_INLINE) has code from now on: no vCPU may write it unseen any more.
    void (*code_marked)(struct interp_vcpu *v, page_word *page);
    // A page with code was written; `all`: it will not be watched any more, so all of it is to be forgotten.
    void (*code_written)(struct interp_vm *vm, struct interp_vcpu *v, uint64_t gpa, unsigned size, bool all);
    // The memory map has changed: code at a guest-physical address may be other code.
    void (*map_changed)(struct interp_vcpu *v);
    void (*prod)(struct interp_vcpu *v); // pending has something new; any thread
    void (*park)(struct interp_vcpu *v); // the host's vector registers will be used
};

struct interp_vm {
    struct engine_vm base;
    const struct interp_mirror *mirror; // NULL: nobody listens
    struct engine_tuning tuning;        // for the engine that is built on this one
    struct interp_world world;
    struct interp_ram ram;
    _Atomic unsigned vcpus;            // changes under world.stop_lock
    struct interp_vcpu *vcpu[CPU_MAX]; // dense; guarded by world.stop_lock
};

// Before code that is not compiled for general registers only (general.h) runs on behalf of an instruction: the guest's
// vector state may still be in the host's registers.
static inline void interp_vectors_used(struct interp_vcpu *v)
{
    if (v->vm->mirror)
        v->vm->mirror->park(v);
}
