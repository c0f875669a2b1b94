// The virtio network card (Virtio 1.2, 5.1).
#pragma once
#include "report/error.h"
#include "virtio/device.h"
#include "vm/net.h"

// Makes one with the MAC address (6 bytes) before a backend and starts the backend. The VM owns the card, and stops the
// backend before it frees it; the backend stays the caller's and must outlive the VM. -ENOMEM, or what start() says.
int virtio_net_create(struct vm *vm, const char *name, struct net *net, const uint8_t mac[6],
                      struct virtio_device **out, struct error *err);

// Tells the network where the card is now, by a RARP request: after the machine has moved there. Any thread.
void virtio_net_announce(struct virtio_device *d);
