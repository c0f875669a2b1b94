// What a guest's kernel asks of the hypervisor directly, as it would ask KVM (Linux,
// Documentation/virt/kvm/x86/hypercalls.rst): VMMCALL with a number in RAX.
//
//     5   KVM_HC_KICK_CPU      end the HLT of the CPU whose APIC id is argument 1 (a waiter's turn at a spin lock)
//     10  KVM_HC_SEND_IPI      an interrupt to up to 128 CPUs at once
//     11  KVM_HC_SCHED_YIELD   let other CPUs run: the one whose APIC id is argument 0 is waited for
//
// Each only if CPUID offers its feature; all other numbers are -KVM_ENOSYS, as they are in KVM.
//
// Example: vm_hypercall(vm, 0, 10, (uint64_t[]){0xe, 0, 0, 0xfb}, true) sends vector 0xfb to CPUs 1 to 3 and returns 3.
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct vm;

// On the thread of `cpu`, at its CPL 0. `wide`: it is in 64-bit mode. Returns what the guest gets in RAX.
uint64_t vm_hypercall(struct vm *vm, unsigned cpu, uint64_t nr, const uint64_t arg[4], bool wide);
