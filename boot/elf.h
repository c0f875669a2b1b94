// ELF files, as far as kernels need them: segments to load, notes, the entry point. 32-bit and 64-bit, x86 only.
//
// Example:
//     struct elf e;
//     if (elf_open(&e, data, size, name, err)) return ...;
//     elf_load(&e, load, err);   // claims and fills what PT_LOAD says, at physical addresses
#pragma once
#include "boot/load.h"

struct elf {
    const uint8_t *file;
    size_t size;
    const char *name;
    bool is_64bit;
    uint64_t entry; // virtual
    uint64_t table; // offset of the program headers
    unsigned count, entry_size;
};

struct elf_segment {
    uint32_t type;
    uint64_t offset, virtual, physical, file_size, memory_size;
};

enum { ELF_LOAD = 1, ELF_NOTE = 4 };

// -ENOEXEC, with an error text, if the file is no x86 executable or is broken.
int elf_open(struct elf *e, const void *file, size_t size, const char *name, struct error *err);
// The i-th segment, whose file part has been checked to lie within the file.
int elf_segment(const struct elf *e, unsigned i, struct elf_segment *s, struct error *err);
// Puts all PT_LOAD segments into guest memory, zeroes what the file does not fill. *end: first address after them all.
int elf_load(const struct elf *e, struct load *l, uint64_t *end, struct error *err);
// The entry point as a physical address.
uint64_t elf_physical_entry(const struct elf *e);
// Finds a note; returns its descriptor (within the file) or NULL.
const void *elf_note(const struct elf *e, const char *owner, uint32_t type, uint32_t *size);
