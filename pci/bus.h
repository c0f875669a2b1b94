// PCI bus 0: the host bridge, and how a guest reaches the configuration space of what is plugged in.
//
// Two doors lead to the same registers: ports 0xcf8/0xcfc (mechanism #1, PCI Local Bus 3.0, 3.2.2.3.2) and, if the
// machine gives an address for it, memory-mapped ECAM (PCI Express 5.0, 7.2.2). There is one bus without bridges: an
// absent function, another bus number, or a register beyond the space reads all ones; writing there does nothing.
//
// No firmware runs before the guest, so the bus does that work: every BAR has an address in the machine's windows from
// the start (and again after each reset), memory and I/O decoding are on, and the interrupt line register is filled in.
// A guest may move everything.
//
// Port 0xcf9, the reset control register, lies inside of the address register's four bytes and so is served here too.
//
// Locks. The functions' own locks guard their registers (pci/device.h); `map_lock` guards which BAR sits where on the
// VM's buses. Order: function lock > map_lock > the VM's bus locks.
//
// Example: pci_bus_create(vm, &(struct pci_bus_config){.mmio32 = {0xc0000000, 0x10000000}, ...}, &bus, err);
#pragma once
#include "pci/device.h"
#include "report/error.h"
#include "vm/vm.h"

enum { PCI_SLOTS = 32, PCI_FUNCTIONS = 256, PCI_ECAM_SIZE = 1 << 20 };

struct pci_window {
    uint64_t base, size; // size 0: there is none
};

struct pci_bus_config {
    uint64_t ecam; // where bus 0's configuration space is mapped: 1 MiB, aligned to it; 0: not at all
    struct pci_window io, mmio32, mmio64; // where BARs may be put
    // The GSI of a slot's interrupt pin (0 is INTA); what the machine's _PRT says.
    unsigned (*intx_gsi)(unsigned slot, unsigned pin);
    // What the interrupt line register says: the interrupt of a PC without IOAPIC, for those who read no ACPI tables.
    unsigned (*intx_irq)(unsigned slot, unsigned pin);
};

struct pci_bus {
    struct device dev;
    struct pci_bus_config config;
    struct pci_function *function[PCI_FUNCTIONS]; // by devfn = slot * 8 + function; fixed once vCPUs run
    uint64_t io_next, mmio32_next, mmio64_next;   // first free address of each window
    struct pci_function *bridge;                  // 00:00.0
    struct vm_lock map_lock;
    uint32_t address; // port 0xcf8; guarded by dev.lock
    uint8_t reset;    // port 0xcf9; guarded by dev.lock
};

// The VM owns the bus and everything on it.
int pci_bus_create(struct vm *vm, const struct pci_bus_config *config, struct pci_bus **out, struct error *err);

// What the two doors do; `size` is 1, 2 or 4.
uint32_t pci_bus_config_read(struct pci_bus *bus, unsigned devfn, unsigned reg, unsigned size);
void pci_bus_config_write(struct pci_bus *bus, unsigned devfn, unsigned reg, unsigned size, uint32_t val);
