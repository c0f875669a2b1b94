// The port and MMIO buses: which device answers at which address.
//
// Ranges never overlap on one bus. Reading where nobody answers gives all ones; writing there does nothing. An access
// that straddles a range's end is split into bytes. Look-ups take no lock: they read an immutable table that is
// replaced as a whole when a range is added, moved or removed (PCI BARs do that while vCPUs run).
//
// Example: bus_add(&vm->ports, &(struct bus_range){.base = 0x70, .size = 2, .dev = &rtc->dev});
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

struct bus_table;

struct bus {
    struct vm *vm;
    const char *name;                  // "port" or "mmio"
    uint64_t limit;                    // highest address
    _Atomic(struct bus_table *) table; // sorted by base
    struct vm_lock lock;               // guards replacing the table
    struct bus_table *retired;         // old tables; freed when no vCPU can be reading them (at the latest with the VM)
};

int bus_init(struct bus *b, struct vm *vm, const char *name, uint64_t limit);
void bus_destroy(struct bus *b);
int bus_add(struct bus *b, const struct bus_range *r,
            struct error *err); // -EEXIST if it overlaps, -ERANGE if it leaves the bus
void bus_remove(struct bus *b, struct device *dev, unsigned region);
uint64_t bus_read(struct bus *b, unsigned cpu, uint64_t addr, unsigned size);
void bus_write(struct bus *b, unsigned cpu, uint64_t addr, unsigned size, uint64_t val);
