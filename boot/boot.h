// What a guest starts with: the one door through which a kernel gets into a machine's memory.
//
// boot_load() looks at the file's first bytes and knows what it is: a Linux bzImage (linux.c), a kernel with a
// multiboot header (multiboot.c), or an ELF file with the PVH note (pvh.c). It copies everything to where that protocol
// wants it and sets the registers of the boot CPU as the protocol says. It is called again after every reset, for the
// guest has long since overwritten what was there; so the source must live as long as the VM.
//
// The files come from whoever runs the VM and may be broken or hostile: every offset and length in them is checked.
//
// Example: boot_load(vm, &(struct boot_source){.kernel = p, .kernel_size = n, .kernel_name = "vmlinuz"}, &map, &cpu,
// err)
#pragma once
#include "cpu/state.h"
#include "report/error.h"
#include "vm/vm.h"

struct boot_source {
    const void *kernel; // the whole file
    size_t kernel_size;
    const char *kernel_name; // for errors, and (without directories) a multiboot kernel's first argument
    const void *initrd;      // NULL: none
    size_t initrd_size;
    const char *initrd_name;
    const char *cmdline; // NULL: empty
};

// Types of memory, numbered as in E820.
enum boot_memory { BOOT_RAM = 1, BOOT_RESERVED = 2, BOOT_ACPI = 3, BOOT_NVS = 4 };

struct boot_range {
    uint64_t base, size;
    uint32_t type; // enum boot_memory
};

enum { BOOT_RANGES = 16 };

// The machine, as kernels are told of it: sorted, not overlapping.
struct boot_map {
    unsigned count;
    struct boot_range range[BOOT_RANGES];
    uint64_t rsdp; // guest-physical address of the ACPI root pointer, 0: there is none
};

// Fills guest memory and *cpu, which holds the state after reset. Returns 0 or a negative errno: -ENOEXEC (not a
// kernel, or broken), -ENOTSUP (one that wants what we don't have), -ENOMEM (the memory is too small), -E2BIG (command
// line too long).
int boot_load(struct vm *vm, const struct boot_source *source, const struct boot_map *map, struct cpu_state *cpu,
              struct error *err);
