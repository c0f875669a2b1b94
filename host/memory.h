// Memory for guests.
//
// Example:
//     struct host_ram ram;
//     if (host_ram_create(&ram, "trapeze-ram", 1024 << 20, true, err) < 0) return -1;
//     vm_memory_add(vm, 0, ram.size, ram.base, false, err); ... host_ram_destroy(&ram);
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stdint.h>

struct host_ram {
    uint8_t *base;  // zeroed, aligned to 2 MiB; inaccessible pages before and behind
    uint64_t size;  // bytes, whole pages
    int fd;         // shared: a memfd that other processes can map; its size is sealed. Else -1
    void *reserved; // the address range around it
    uint64_t reserved_size;
};

// `shared`: the memory is a memfd called `name`, so that another process (vhost-user, a successor of this one) can map
// it too. Otherwise it is private to this process, which lets the kernel use huge pages where it does not for memfds
// (the default of most kernels): a guest that jumps around in its memory is then about a quarter faster.
// -ENOMEM if the host has not that much to give: what is available now, page cache and swap included.
int host_ram_create(struct host_ram *m, const char *name, uint64_t size, bool shared, struct error *err);
// The memory begins as the contents of a file, read as pages are touched; what is written stays private. All who map
// the same file share what they have not written. The file, of exactly `size` bytes, must not change while it is
// mapped; fd stays the caller's. Nothing is reserved: many such memories may together be larger than the host's.
int host_ram_map(struct host_ram *m, int fd, uint64_t size, struct error *err);
uint64_t host_ram_resident(const struct host_ram *m); // bytes of it that the host holds now (of a memfd: in swap, too)
void host_ram_destroy(struct host_ram *m);            // gives it back to the host; idempotent

// Before [at, at + size) is written: the whole pages in it are had from the kernel at once, which is much cheaper than
// a page fault for each. No matter if it fails, or if it is not worth it.
void host_memory_populate(void *at, uint64_t size);

// Gives the memory behind [at, at + size), whole pages, back to the host. Shared memory (a memfd mapped MAP_SHARED)
// goes in every process that maps it, and reads as zero from then on. A private mapping shows again what was behind it
// before it was written: with `zero` it is left as it is instead. 0 or negative errno.
int host_memory_discard(void *at, uint64_t size, bool zero);

uint64_t host_memory_available(void); // bytes that could be used now without killing anybody; UINT64_MAX if unknown
