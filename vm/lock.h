// Locks for guest-visible models, which know no operating system.
//
// A lock is one word (a futex on Linux); zero is an unlocked lock. Not recursive.
//
// The order, outermost first; a thread that holds a lock takes only locks further down:
//     device lock (struct device.lock)  >  interrupt router (struct vm_irq.lock)  >  PIC and IOAPIC  >  local APIC  >
//     timers, vCPU wake-ups
// So a device may raise an interrupt while it holds its own lock, but the local APIC lets its lock go before it tells
// the IOAPIC of an EOI.
#pragma once
#include <stdint.h>

struct vm_lock {
    _Atomic uint32_t word;
};

void vm_lock(struct vm_lock *l);
void vm_unlock(struct vm_lock *l);
