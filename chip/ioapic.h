// The I/O APIC: 24 pins, each with an entry that says which message goes to whom (Intel 82093AA data sheet; the EOI
// register is that of version 0x20).
//
// dev.lock guards everything; messages are sent with it held, for a local APIC's lock comes after it. Pins are in
// logical terms: true is "asserted", whatever the entry says about polarity.
//
// Example: ioapic_set(io, 16, true) for a PCI function's INTA; ioapic_eoi(io, vector) when its handler is done.
#pragma once
#include "chip/apic_message.h"
#include "vm/vm.h"

enum { IOAPIC_PINS = 24, IOAPIC_MMIO_BASE = 0xfec00000, IOAPIC_MMIO_SIZE = 0x1000 };

struct ioapic {
    struct device dev;
    uint8_t id;
    uint8_t select; // IOREGSEL
    uint32_t level; // pins that are asserted
    uint64_t entry[IOAPIC_PINS];
    uint8_t storm[IOAPIC_PINS]; // interrupts in a row at whose EOI the pin was still asserted; saturates
    struct vm_timer timer;      // ends the pause of a storm
    void *ctx;
    void (*send)(void *ctx, const struct apic_message *m);
    // Set by the machine, or NULL: the level-triggered entries have changed. With the lock held.
    void (*levels_changed)(void *ctx, const struct apic_message *m, unsigned count);
    uint64_t told[IOAPIC_PINS]; // entries as levels_changed was last told of them; 0: not level-triggered
};

int ioapic_create(struct vm *vm, uint8_t id, void *ctx, void (*send)(void *ctx, const struct apic_message *m),
                  struct ioapic **out, struct error *err);
void ioapic_set(struct ioapic *io, unsigned pin, bool asserted);
void ioapic_eoi(struct ioapic *io, uint8_t vector); // a local APIC finished a level-triggered interrupt
