// The PCI transport of virtio devices, modern interface only (Virtio 1.2, 4.1).
#pragma once
#include "pci/bus.h"
#include "report/error.h"
#include "virtio/device.h"

// Plugs the device into slot 1..31, function 0. The VM owns the transport.
int virtio_pci_attach(struct virtio_device *d, struct pci_bus *bus, unsigned slot, struct error *err);
