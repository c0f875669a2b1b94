// A PCI function: its configuration space, base address registers, capabilities and interrupts.
//
// Whoever models a PCI device embeds struct pci_function first, fills it once (pci_function_init, pci_bar_add,
// pci_capability_add, pci_msix_add, pci_intx_add, then pci_function_plug) and from then on gets its BAR accesses as
// ordinary bus accesses: the region is the BAR's number, the offset counts from the BAR's start, wherever the guest has
// put it.
//
// The configuration space is data, not a switch: `value` is what is there, `writable` says which bits a guest may
// change, `fixed` holds the other bits and what the writable ones are after reset. A restored machine takes only
// writable bits from the file, so a hostile file cannot turn a function into another one.
//
// Everything here is guarded by *lock, which is the function's own device lock unless the owner gives another (a virtio
// device shares its own, because its queues raise the function's interrupts). `ops` must be `unlocked`: the functions
// that follow say who locks.
//
// Example: virtio/pci.c.
#pragma once
#include "pci/msix.h"
#include "report/error.h"
#include "vm/device.h"
#include "vm/irq.h"
#include <stdbool.h>
#include <stdint.h>

// Registers of the type 0 header (PCI Local Bus 3.0, 6.1).
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x09, // three bytes: interface, subclass, class
    PCI_CACHE_LINE = 0x0c,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM = 0x2e,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
    PCI_HEADER_END = 0x40,
    PCI_CONFIG_SIZE = 256,
    PCI_BARS = 6,
};

enum {
    PCI_COMMAND_IO = 1 << 0,
    PCI_COMMAND_MEMORY = 1 << 1,
    PCI_COMMAND_MASTER = 1 << 2,
    PCI_COMMAND_INTX_OFF = 1 << 10,
    PCI_STATUS_INTX = 1 << 3,
    PCI_STATUS_CAPABILITIES = 1 << 4,
};

enum { PCI_CAP_VENDOR = 0x09, PCI_CAP_MSIX = 0x11 };

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
    enum pci_bar_kind kind;
    unsigned max_access; // longer accesses arrive in pieces of this size
    uint64_t size;       // a power of two, at least 16 (memory) or 4 (I/O)
    // Guarded by the bus's map_lock:
    uint64_t wanted, mapped; // where the guest wants it and where it is; PCI_UNMAPPED
};

#define PCI_UNMAPPED UINT64_MAX

struct pci_identity {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; // 24 bits, e.g. 0x060000
    uint8_t revision;
};

struct pci_bus;
struct pci_function;

// Hooks of the owner, called with the lock held; all may be NULL.
struct pci_function_hooks {
    // A read of these registers is about to be answered from `value`: the owner may refresh them.
    void (*config_reading)(struct pci_function *f, unsigned reg, unsigned size);
    void (*config_written)(struct pci_function *f, unsigned reg, unsigned size);
};

struct pci_function {
    struct device dev;
    struct pci_bus *bus;
    struct vm_lock *lock;
    const struct pci_function_hooks *hooks;
    uint8_t devfn;
    uint8_t value[PCI_CONFIG_SIZE], writable[PCI_CONFIG_SIZE], fixed[PCI_CONFIG_SIZE];
    struct pci_bar bar[PCI_BARS];
    unsigned capabilities_end; // where the next capability goes
    unsigned last_capability;  // offset; 0: none yet
    bool has_intx;
    uint8_t intx_level; // what the device wants, before the command register's say
    struct irq_line intx;
    struct pci_msix msix;
};

// Making one. Not thread-safe, before vCPUs run. `lock` NULL: the function's own.
void pci_function_init(struct pci_function *f, struct pci_bus *bus, const struct pci_identity *id,
                       const struct pci_function_hooks *hooks, struct vm_lock *lock);
void pci_bar_add(struct pci_function *f, unsigned bar, enum pci_bar_kind kind, uint64_t size, unsigned max_access);
// Puts `size` bytes, of which the first two (id, next) are filled in here, into the capability list; returns the
// offset. `writable` may be NULL.
unsigned pci_capability_add(struct pci_function *f, uint8_t id, const void *bytes, const void *writable, unsigned size);
void pci_intx_add(struct pci_function *f); // pin A
// Gives the BARs addresses, enters it into the bus and the VM. -EBUSY: the slot is taken; -ENOSPC: no room in a window.
int pci_function_plug(struct pci_function *f, unsigned devfn, const struct device_ops *ops, const char *name,
                      struct error *err);

// For the owner's device_ops: what of reset and loaded is the function's own. They take the lock themselves.
void pci_function_reset(struct pci_function *f);
int pci_function_loaded(struct pci_function *f);
#define PCI_FUNCTION_STATE(type, member)                                                                               \
    STATE_BYTES(type, member.value, 1), STATE_U8(type, member.intx_level, 1), STATE_U32(type, member.msix.table, 1),   \
        STATE_U64(type, member.msix.pending, 1)

// Configuration space, as the bus reaches it; they take the lock. `size` is 1, 2 or 4.
uint32_t pci_function_config_read(struct pci_function *f, unsigned reg, unsigned size);
void pci_function_config_write(struct pci_function *f, unsigned reg, unsigned size, uint32_t val);

// For the bus: maps and unmaps BARs so that each is where its function wants it, as far as nobody else is there.
void pci_bars_update(struct pci_function *f);
uint64_t pci_bar_address(struct pci_function *f, unsigned bar); // where it is now, or PCI_UNMAPPED

// Level of the interrupt pin; with the lock held.
void pci_intx_set(struct pci_function *f, bool level);

static inline uint16_t pci_command(const struct pci_function *f)
{
    return (uint16_t)(f->value[PCI_COMMAND] | f->value[PCI_COMMAND + 1] << 8);
}
