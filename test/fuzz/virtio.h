// A virtio device in front of a guest made of bytes. The first byte chooses the transport and whether a driver has
// already brought the device into operation, because few inputs would come that far by themselves.
//
// The own action of these guests puts a chain of descriptors into a queue and notifies, with every field from the
// bytes.
#pragma once
#include "guest.h"
#include "pci/bus.h"
#include "virtio/device.h"

struct fuzz_desc { // as it lies in the descriptor table
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct fuzz_virtio {
    struct fuzz_guest g;
    struct virtio_device *dev;
    struct pci_bus *bus;
    bool is_pci;
    uint64_t bar; // PCI: the BAR after reset; MMIO: the registers
    // What the target adds to the own action: the device's other side. May be NULL.
    void (*backend)(struct fuzz_virtio *v);
};

void fuzz_virtio_begin(struct fuzz_virtio *v, const uint8_t *data, size_t size); // then make v->dev
void fuzz_virtio_run(struct fuzz_virtio *v);
void fuzz_virtio_end(struct fuzz_virtio *v); // every chain must have come back

// Writes descriptors into the table from `first` on (around its end), makes `first` available and notifies.
void fuzz_virtio_offer(struct fuzz_virtio *v, unsigned queue, unsigned first, const struct fuzz_desc *desc,
                       unsigned count);
