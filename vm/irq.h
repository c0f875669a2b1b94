// Interrupt routing: from a device's line or message to the chips that deliver it.
//
// A device owns irq lines (one struct per source); several sources may share a GSI, which is then the logical OR of
// them. The machine connects the router to its interrupt controllers once. Messages (MSI) go straight to the local
// APICs.
//
// Example: irq_line_init(&uart->irq, vm, 4); irq_set(&uart->irq, true);
#pragma once
#include "vm/lock.h"
#include <stdbool.h>
#include <stdint.h>

struct vm;

enum { IRQ_GSI_MAX = 64, IRQ_SOURCES = 32 };

struct irq_line {
    struct vm *vm;
    uint16_t gsi;
    uint8_t source; // bit in the GSI's mask of raised sources
};

// The machine's interrupt controllers, as the router sees them. Called with the router's lock held (line) or without
// any lock of the router's (msi).
struct irq_controllers {
    void *ctx;
    void (*line)(void *ctx, unsigned gsi, bool level); // the OR of all sources changed
    void (*msi)(void *ctx, uint64_t address, uint32_t data);
};

struct vm_irq {
    struct vm_lock lock;
    uint32_t raised[IRQ_GSI_MAX]; // sources that are up; guarded by lock
    uint8_t sources[IRQ_GSI_MAX]; // how many there are
    struct irq_controllers to;    // set once by the machine
};

void irq_line_init(struct irq_line *l, struct vm *vm, unsigned gsi);
void irq_set(struct irq_line *l, bool level);
void irq_pulse(struct irq_line *l); // up and down: an edge
void irq_msi(struct vm *vm, uint64_t address, uint32_t data);
