// The generation of a virtual machine: 128 bits that tell a guest that it has been copied or set back (Microsoft's
// "Virtual Machine Generation ID"; the ACPI device is in machine/dsdt.c).
//
// They lie in reserved memory, and change whenever the machine goes on from what was saved; an edge on an interrupt
// line says so. What a guest makes of it: Linux mixes them into its random numbers, so that two machines from one
// snapshot do not give out the same; databases notice that they are older than they believe.
//
// Example: generation_create(vm, 5, 0xff000, &g, err); ... after loading a saved machine: generation_renew(g);
#pragma once
#include "vm/vm.h"

enum { GENERATION_BYTES = 16 };

struct generation {
    struct device dev;
    struct irq_line irq;
    uint64_t address;
    uint8_t id[GENERATION_BYTES];
};

// The bytes will lie at `address`, which is RAM that no system takes for itself, a multiple of 8.
int generation_create(struct vm *vm, unsigned gsi, uint64_t address, struct generation **out, struct error *err);
// Writes them into memory, as firmware does before the system starts.
void generation_publish(struct generation *g);
// New ones, and the guest is told. The vCPUs may run.
void generation_renew(struct generation *g);
