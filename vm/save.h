// A machine's state as bytes: everything but the contents of its memory and disks.
//
// What is saved: the clock, each vCPU (registers, pending events, whether it sleeps) in the terms of cpu/state.h, and
// each device that has a state table, in order of creation. What follows from these (levels of interrupt lines, armed
// timers, addresses of BARs) is not saved but made again by each device's loaded().
//
// The stream is a sequence of tables (state.h): "machine", then for each vCPU "cpu" and "vcpu", then for each device
// "device", which names it, and the device's own, and "end".
//
// Saving. The VM is paused (vm_pause). Timers that are due fire first, so nothing that has happened in guest time is
// lost between the two machines; requests that are under way end first. Afterwards the machine may go on or be
// destroyed. The caller copies the memory while the VM is still paused: from vm_save until vm_resume nobody writes it.
//
// Loading. The same machine is built by the same calls (the configuration is the caller's to keep) with its memory
// filled, and gets vm_load in place of vm_reset, paused as well. Guest time goes on where it stood. What is loaded may
// be hostile: it is refused or harmless. After an error the VM is good for nothing but vm_destroy.
//
// Example:
//     vm_pause(vm); vm_save(vm, &state, &err); ...write memory... vm_resume(vm);
//     vm_init(&other, ...); pc_create(&other, ...); vm_add_cpus(&other, ...); vm_pause(&other);
//     vm_load(&other, &state, &err); vm_resume(&other); vm_run(&other, &err);
#pragma once
#include "report/error.h"
#include "vm/state.h"

struct vm;

// -EBUSY: it is not paused, has ended, or is just being reset (then it is worth another try after vm_resume).
int vm_save(struct vm *vm, struct state_buffer *b, struct error *err);
// -EINVAL: damaged, or the state of another machine: err says where they differ. -ENOTSUP: from a newer version.
int vm_load(struct vm *vm, struct state_buffer *b, struct error *err);
