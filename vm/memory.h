// The guest-physical memory map: which addresses are RAM, and where that RAM is in our address space.
//
// Devices reach guest memory only through here. Everything that a guest names (addresses, lengths) is checked here: a
// range that is not wholly RAM gives NULL or false, never a fault. Whoever writes through a pointer from vm_ram() says
// so afterwards with vm_ram_written(), so that engines drop translations and dirty logs stay right. Guest memory
// changes under our hands (other vCPUs write it): read a value once, then use the copy.
//
// Example: struct virtq_desc d; if (!vm_read(vm, gpa, &d, sizeof d)) needs_reset();
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;

enum { VM_REGIONS = 16 };

struct vm_region {
    uint64_t gpa, size; // multiples of 4096
    uint8_t *host;
    bool readonly; // for the guest (ROM)
};

struct vm_memory {
    unsigned count;
    struct vm_region region[VM_REGIONS]; // sorted; fixed once vCPUs run
};

// Maps host memory (the caller's, outlives the VM) at gpa; tells the engine.
int vm_memory_add(struct vm *vm, uint64_t gpa, uint64_t size, void *host, bool readonly, struct error *err);

// Host address of [gpa, gpa+size), which must lie in one region; NULL otherwise. `write`: the region must be writable.
void *vm_ram(const struct vm *vm, uint64_t gpa, uint64_t size, bool write);
// Longest piece of RAM from gpa on, at most size bytes; *len is how much. NULL if gpa is no RAM.
void *vm_ram_span(const struct vm *vm, uint64_t gpa, uint64_t size, bool write, uint64_t *len);
void vm_ram_written(struct vm *vm, uint64_t gpa, uint64_t size);
// The guest does without the contents of [gpa, gpa+size): the whole pages of writable RAM in there go back to the host.
// They read as zero then, or, in a machine that was restored from a snapshot and if not `zero`, as what they were in
// there. Returns how many bytes those were.
uint64_t vm_ram_discard(struct vm *vm, uint64_t gpa, uint64_t size, bool zero);
uint64_t vm_ram_size(const struct vm *vm); // all that is writable, in bytes

bool vm_read(const struct vm *vm, uint64_t gpa, void *buf, size_t size);
bool vm_write(struct vm *vm, uint64_t gpa, const void *buf, size_t size);
