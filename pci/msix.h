// MSI-X: a table of messages that a function sends instead of raising a pin (PCI Local Bus 3.0, 6.8.2).
//
// The table and the pending bits live in one BAR, four 32-bit words an entry: address low, address high, data, vector
// control (bit 0: masked). A vector that fires while it or the whole function is masked, or while the function may not
// master the bus, becomes pending and is sent when the last of these ends. Everything is guarded by the function's
// lock, which the callers hold.
//
// Example: pci_msix_add(&f, 0, 0x4000, 0x5000, 3); ... pci_msix_fire(&f, 2);
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct pci_function;

enum { PCI_MSIX_VECTORS = 64 }; // most that a function here may have

struct pci_msix {
    unsigned count; // 0: the function has none
    unsigned capability;
    unsigned bar;
    uint32_t table_offset, pba_offset;
    uint32_t table[4 * PCI_MSIX_VECTORS];
    uint64_t pending; // bit per vector
};

// Adds the capability. The table (16 * count bytes) and the pending bits (8 bytes) must fit in the BAR.
void pci_msix_add(struct pci_function *f, unsigned bar, uint32_t table_offset, uint32_t pba_offset, unsigned count);

// True if the guest has switched from the pin to MSI-X.
bool pci_msix_enabled(const struct pci_function *f);
// Sends the vector's message, or remembers it while masked. Nothing if MSI-X is off or there is no such vector.
void pci_msix_fire(struct pci_function *f, unsigned vector);

// Accesses to the BAR: true if the offset belongs to MSI-X. Sizes 1..8; only aligned 4 and 8 do anything.
bool pci_msix_read(const struct pci_function *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val);
bool pci_msix_write(struct pci_function *f, unsigned bar, uint64_t offset, unsigned size, uint64_t val);

// Masks, enable or bus mastering may have changed: sends what waits and may go.
void pci_msix_update(struct pci_function *f);
void pci_msix_reset(struct pci_function *f);
void pci_msix_loaded(struct pci_function *f); // clears what no guest could have set
