// ACPI tables of the PC: what is written, where, and the description that it is made from.
//
// Example: acpi_write(memory, ACPI_BASE, ACPI_SIZE, &description) returns the address of the RSDP, ACPI_BASE.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Guest-physical area of the tables: within 0xe0000..0xfffff, where the RSDP is looked for (ACPI 6.4, 5.2.5.1).
enum { ACPI_BASE = 0xe0000, ACPI_SIZE = 0x20000 };

struct acpi_window {
    uint64_t base, size; // size 0: there is none
};

struct acpi_serial {
    uint16_t port;
    uint8_t irq;
    uint8_t number; // 1 is COM1
};

struct acpi_mmio_device {
    uint32_t base, size, gsi;
};

// The machine, as far as tables tell of it.
struct acpi_description {
    unsigned cpus; // APIC ids 0..cpus-1
    uint32_t local_apic, ioapic;
    uint8_t ioapic_id;
    unsigned sci; // GSI and ISA interrupt
    uint16_t pm_base;
    uint8_t s5; // SLP_TYP
    uint16_t reset_port;
    uint8_t reset_value;
    uint64_t ecam;
    struct acpi_window pci_io_low, pci_io_high, pci_mmio32, pci_mmio64;
    unsigned (*pci_gsi)(unsigned slot, unsigned pin); // of interrupt pins 0..3 with an IOAPIC
    unsigned (*pci_irq)(unsigned slot, unsigned pin); // and with the PIC
    unsigned serials;
    struct acpi_serial serial[4];
    uint64_t generation; // where its bytes lie (chip/generation.h); 0: there are none
    unsigned generation_gsi;
    unsigned virtio_mmios;
    struct acpi_mmio_device virtio_mmio[32];
};

// Writes all tables to `memory`, which the guest sees at `address`. Returns the address of the RSDP, or 0 if they do
// not fit.
uint64_t acpi_write(void *memory, uint64_t address, size_t size, const struct acpi_description *d);

struct aml;
void acpi_dsdt(struct aml *a, const struct acpi_description *d); // dsdt.c: what follows the header
