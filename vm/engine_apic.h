// Local APICs that are the engine's own, as chips see them. (engine/engine.h says what that means.)
//
// While the vCPUs stand still the chips' models hold the state, while they run the engine does: device_ops.hold and
// release say when it changes hands.
//
// Example: a disk's interrupt, sent from its I/O thread, is vm_apic_send(vm, 0xfee01000, 0x4041): no vCPU has to leave
// the guest for it, and the one that takes it need not either, where the hardware can do that.
#pragma once
#include "cpu/apic.h"
#include "report/error.h"
#include <stdbool.h>
#include <stdint.h>

struct vm;

bool vm_apic_is_engines(const struct vm *vm);
// The vCPUs stand still.
void vm_apic_get(struct vm *vm, unsigned cpu, struct cpu_apic *a);
int vm_apic_set(struct vm *vm, unsigned cpu, const struct cpu_apic *a, struct error *err);
uint64_t vm_apic_get_msr(struct vm *vm, unsigned cpu, uint32_t msr);
int vm_apic_set_msr(struct vm *vm, unsigned cpu, uint32_t msr, uint64_t val); // 0, or a negative errno
// Any thread.
void vm_apic_send(struct vm *vm, uint64_t address, uint32_t data);
void vm_apic_routes(struct vm *vm, const struct cpu_msi *m, unsigned count);
