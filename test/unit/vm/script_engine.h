// An engine for tests of the VM's life: it handles pending bits as engine.h asks of every engine, and instead of guest
// instructions it calls a C function of the test's again and again.
//
// Example: a guest that powers off at once:
//     static enum script step(struct script_vcpu *v) { script_out(v, 0x604, 4, 1); return SCRIPT_GO; }
//     struct script_guest g = {.step = step};
//     vm_init(&vm, &(struct vm_config){.engine = &script_engine, .model = &g.model, ...}, err);
#pragma once
#include "engine/engine.h"
#include "vm/vm.h"

enum script { SCRIPT_GO, SCRIPT_HALT, SCRIPT_TRIPLE_FAULT, SCRIPT_BROKEN };

struct script_vcpu {
    struct engine_vcpu base;
    struct script_guest *guest;
    struct cpu_state state; // what set_state gave; activity is the engine's
    _Atomic uint64_t steps; // executed since ever
    _Atomic uint64_t interrupts;
    uint8_t last_vector;
    uint64_t user[4]; // the script's own; zeroed by set_state
};

struct script_guest {
    enum script (*step)(struct script_vcpu *v);
    void *ctx; // the script's
    struct cpu_model model;
    _Atomic unsigned live; // engine VMs and vCPUs that are not destroyed
    _Atomic unsigned sets; // calls of set_state
};

extern const struct engine_ops script_engine;

struct script_vcpu *script_vcpu(struct vm *vm, unsigned cpu);

static inline uint64_t script_in(struct script_vcpu *v, uint16_t port, unsigned size)
{
    return v->base.vm->config.up->port_read(v->base.owner, port, size);
}

static inline void script_out(struct script_vcpu *v, uint16_t port, unsigned size, uint64_t val)
{
    v->base.vm->config.up->port_write(v->base.owner, port, size, val);
}
