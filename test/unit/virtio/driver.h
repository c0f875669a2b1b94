// A small virtio driver for tests: it finds a device, negotiates, lays out rings in guest RAM and exchanges buffers,
// over either transport, in the way a real driver would; and it lets a test break any rule it likes.
//
// Example: bed_init(&b); virtio_rng_create(&b.f.vm, "rng", &dev, NULL); bed_attach(&b, dev, true);
//          driver_start(&b.d, features, 1); driver_desc(&b.d, 0, 0, (struct driver_desc){...});
//          driver_make_available(&b.d, 0, 0); driver_notify(&b.d, 0); assert_true(driver_used(&b.d, 0, &id, &len));
#pragma once
#include "fake_vm.h"
#include "pci/bus.h"
#include "virtio/device.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"

enum { DRIVER_QUEUE_SIZE = 16, DRIVER_QUEUES = 16 };
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

struct driver_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct driver_queue {
    uint16_t size;
    uint64_t desc, avail, used;    // guest-physical
    uint16_t avail_idx, used_seen; // running indices
};

struct driver {
    struct vm *vm;
    bool is_pci;
    unsigned devfn;                             // PCI
    struct pci_bus *bus;                        // PCI
    uint64_t common, notify, isr, config, msix; // PCI: addresses; MMIO: common is the base
    uint32_t notify_multiplier;                 // PCI
    unsigned window;                            // PCI: offset of the access capability
    uint64_t heap;                              // first free byte of guest RAM for rings and buffers
    struct driver_queue queue[DRIVER_QUEUES];
};

void driver_find_pci(struct driver *d, struct vm *vm, struct pci_bus *bus, unsigned slot, uint64_t heap);
void driver_find_mmio(struct driver *d, struct vm *vm, uint64_t base, uint64_t heap);

// Registers, by what they mean; the transport is looked up here.
uint64_t driver_offered(struct driver *d);
void driver_accept(struct driver *d, uint64_t features);
uint8_t driver_status(struct driver *d);
void driver_set_status(struct driver *d, uint8_t status);
uint32_t driver_config(struct driver *d, unsigned offset, unsigned size);
void driver_set_config(struct driver *d, unsigned offset, unsigned size, uint32_t val);
uint32_t driver_generation(struct driver *d);
uint16_t driver_queue_max(struct driver *d, unsigned q);
// Writes the queue's size and addresses, then enables it.
void driver_enable_queue(struct driver *d, unsigned q);
void driver_notify(struct driver *d, unsigned q);
unsigned driver_isr(struct driver *d); // reads it and acknowledges what is set

// Allocates rings of `size` for queue q and writes zeroes there.
void driver_make_queue(struct driver *d, unsigned q, uint16_t size);
// Reset, acknowledge, negotiate `features` (VERSION_1 is added), make and enable `queues` queues, go.
void driver_start(struct driver *d, uint64_t features, unsigned queues);

uint64_t driver_alloc(struct driver *d, uint64_t size); // 16-byte aligned guest RAM
void driver_desc(struct driver *d, unsigned q, unsigned index, struct driver_desc desc);
void driver_make_available(struct driver *d, unsigned q,
                           uint16_t head); // next slot of the available ring, and the index
// The next used element, if there is one that was not seen yet.
bool driver_used(struct driver *d, unsigned q, uint32_t *id, uint32_t *len);
void driver_poke16(struct driver *d, uint64_t gpa, uint16_t val);
uint16_t driver_peek16(struct driver *d, uint64_t gpa);

// A machine to plug a device into: a fake VM with a PCI bus. After bed_attach, `d` has found the device.
enum { BED_MMIO = 0xd0000000, BED_MMIO_GSI = 9, BED_SLOT = 2, BED_HEAP = 0x10000 };

struct bed {
    struct fake_vm f;
    struct pci_bus *bus;
    struct driver d;
};

void bed_init(struct bed *b);
void bed_attach(struct bed *b, struct virtio_device *dev, bool pci);
void bed_destroy(struct bed *b);
bool bed_interrupt(struct bed *b); // level of the device's line

// Runs a test function once for each transport: its *state is NULL for MMIO. Each makes its own bed.
#define ON_BOTH(test)                                                                                                  \
    {"pci_" #test, test, NULL, NULL, (void *)1},                                                                       \
    {                                                                                                                  \
        "mmio_" #test, test, NULL, NULL, NULL                                                                          \
    }
