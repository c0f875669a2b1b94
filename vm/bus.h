// The port and MMIO buses: which device answers at which address.
//
// Ranges never overlap on one bus. Reading where nobody answers gives all ones; writing there does nothing. An access
// that straddles a range's end is split into bytes; one that is larger than the device takes is split into accesses of
// the device's size, lowest address first. Look-ups take no lock and write nothing, so vCPUs don't disturb each other;
// ranges may be added, moved and removed while vCPUs run (PCI BARs do that), and memory does not grow from that. A vCPU
// that found its device just before the range was removed may still finish its access after bus_remove has returned.
//
// Example: bus_add(&vm->ports, &(struct bus_range){.base = 0x70, .size = 2, .dev = &rtc->dev}, err);
#pragma once
#include "report/error.h"
#include "vm/device.h"

struct bus_range {
    uint64_t base, size;
    struct device *dev;
    unsigned region;             // handed to the device
    unsigned min_size, max_size; // accesses the device takes (0: 1..8); larger ones are split, smaller ones are widened
                                 // by nobody: they read all ones
};

struct bus_table; // see bus.c
struct bus_slot;

struct bus {
    struct vm *vm;
    const char *name;                  // "port" or "mmio"
    uint64_t limit;                    // highest address
    struct vm_lock lock;               // guards changing the table, and slots
    _Atomic uint32_t sequence;         // odd while the table is being changed
    _Atomic(struct bus_table *) table; // sorted by base
    struct bus_slot *slots;            // one for each range that ever was; freed with the bus
};

int bus_init(struct bus *b, struct vm *vm, const char *name, uint64_t limit);
void bus_destroy(struct bus *b);
// -EEXIST if it overlaps, -ERANGE if it leaves the bus, -ENOMEM.
int bus_add(struct bus *b, const struct bus_range *r, struct error *err);
void bus_remove(struct bus *b, struct device *dev, unsigned region);
uint64_t bus_read(struct bus *b, unsigned cpu, uint64_t addr, unsigned size);
void bus_write(struct bus *b, unsigned cpu, uint64_t addr, unsigned size, uint64_t val);
void bus_stats(struct bus *b, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
