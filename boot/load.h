// What the loaders share: finding room in guest memory, reading files safely, and the CPU states that protocols name.
//
// A loader claims the addresses that its kernel insists on and finds room for the rest; both fail rather than overlap.
//
// Example:
//     if (load_claim(l, 0x100000, size, err)) return ...;   // where the kernel must be
//     if (load_find(l, &at, initrd_size, 4096, 0, 4ull << 30, true)) return error(...);
#pragma once
#include "boot/boot.h"

enum { LOAD_CLAIMS = 96 };

struct load {
    struct vm *vm;
    const struct boot_source *source;
    const struct boot_map *map;
    struct cpu_state *cpu;
    unsigned claims;
    struct {
        uint64_t base, size;
    } claim[LOAD_CLAIMS];
};

// The loaders. `looks_like` functions are true if the file is theirs, well-formed or not.
bool linux_looks_like(const struct boot_source *s);
int linux_load(struct load *l, struct error *err);
bool multiboot_looks_like(const struct boot_source *s);
int multiboot_load(struct load *l, struct error *err);
bool elf_looks_like(const struct boot_source *s);
int pvh_load(struct load *l, struct error *err);

// Takes [base, base + size), which must be RAM that nobody has claimed: -ENOMEM otherwise, and err says what for.
int load_claim(struct load *l, uint64_t base, uint64_t size, const char *what, struct error *err);
// Finds and takes `size` bytes within [min, max), aligned to `align` (a power of two); the lowest or the highest place.
// Returns -ENOMEM if there is none.
int load_find(struct load *l, uint64_t *at, uint64_t size, uint64_t align, uint64_t min, uint64_t max, bool highest);
// As load_find, with an error text; for the small things that a protocol needs below 1 MiB.
int load_find_low(struct load *l, uint64_t *at, uint64_t size, const char *what, struct error *err);
// Copies to guest memory that was claimed or found.
int load_write(struct load *l, uint64_t gpa, const void *data, uint64_t size, struct error *err);
int load_zero(struct load *l, uint64_t gpa, uint64_t size, struct error *err);
// Places the initrd as high as it goes below `max`.
int load_initrd(struct load *l, uint64_t max, uint64_t *at, struct error *err);
unsigned load_ram_mib(const struct load *l); // MiB of RAM, rounded up: what the user asked for

// Little-endian numbers of a file, at any alignment. The caller has checked that they are within it.
uint16_t load_u16(const void *p, size_t offset);
uint32_t load_u32(const void *p, size_t offset);
uint64_t load_u64(const void *p, size_t offset);

// Protected mode without paging, flat 4 GiB segments with selectors CS = code and the others = data, interrupts off.
void load_flat32(struct cpu_state *cpu, uint16_t code, uint16_t data, uint32_t entry);
