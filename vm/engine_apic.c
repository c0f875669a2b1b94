// Local APICs of the engine's own: see engine_apic.h.
#include "vm/engine_apic.h"
#include "engine/engine.h"
#include "vm/vm.h"
#include <string.h>

bool vm_apic_is_engines(const struct vm *vm)
{
    return vm->engine && vm->engine->own_apic;
}

void vm_apic_get(struct vm *vm, unsigned cpu, struct cpu_apic *a)
{
    vm->engine_ops->apic->get(vm_engine_vcpu(vm, cpu), a);
}

int vm_apic_set(struct vm *vm, unsigned cpu, const struct cpu_apic *a, struct error *err)
{
    return vm->engine_ops->apic->set(vm_engine_vcpu(vm, cpu), a, err);
}

uint64_t vm_apic_get_msr(struct vm *vm, unsigned cpu, uint32_t msr)
{
    return vm->engine_ops->apic->get_msr(vm_engine_vcpu(vm, cpu), msr);
}

int vm_apic_set_msr(struct vm *vm, unsigned cpu, uint32_t msr, uint64_t val)
{
    return vm->engine_ops->apic->set_msr(vm_engine_vcpu(vm, cpu), msr, val);
}

void vm_apic_send(struct vm *vm, uint64_t address, uint32_t data)
{
    vm->engine_ops->apic->send(vm->engine, &(struct cpu_msi){address, data});
}

void vm_apic_routes(struct vm *vm, const struct cpu_msi *m, unsigned count)
{
    int e = vm->engine_ops->apic->routes(vm->engine, m, count);
    if (e)
        log_error(vm->log, "IOAPIC: the engine refuses its level-triggered lines: %s", strerror(-e));
}
