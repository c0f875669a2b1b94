// Reset: every device and CPU as after power-on, and what the guest starts with loaded again.
#include "engine/engine.h"
#include "vm/life.h"
#include "vm/timers.h"
#include <errno.h>

static int reset_cpu(struct vm *vm, unsigned id, struct error *err)
{
    struct engine_vcpu *engine = vm->vcpu[id]->engine;
    struct cpu_state s;
    cpu_reset(&s, id == 0);
    s.gpr[CPU_RDX] = cpu_model_signature(vm->model);
    if (vm->prepare_cpu)
        vm->prepare_cpu(&s, id);
    if (id == 0 && vm->boot) {
        int e = vm->boot(vm, vm->boot_ctx, &s, err);
        if (e < 0)
            return e;
    }
    // What was signalled before the reset is gone with it. An order to stop is not: its sender has set `command` too.
    // Other bits are the engine's own.
    engine->pending &= ~(uint32_t)(ENGINE_INTR | ENGINE_NMI | ENGINE_INIT | ENGINE_SIPI | ENGINE_EXIT | ENGINE_UNHALT |
                                   ENGINE_TLB_FLUSH);
    vm->vcpu[id]->unhalt = false;
    return vm->engine_ops->set_state(engine, &s, CPU_GROUP_ALL, err);
}

int vm_reset(struct vm *vm, struct error *err)
{
    if (!vm_timers_complete(vm->timers))
        return error_set(err, ENOMEM, "timers: no memory");
    device_drain_all(vm);
    device_reset_all(vm);
    for (unsigned i = 0; i < vm->cpus; i++) {
        int e = reset_cpu(vm, i, err);
        if (e < 0)
            return e;
    }
    return 0;
}
