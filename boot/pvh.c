// ELF kernels with a PVH entry point (Xen, docs/misc/pvh.pandoc; the structures are in
// xen/include/public/arch-x86/hvm).
//
// The note of owner "Xen" and type 18 holds the physical address at which the kernel is entered: 32-bit protected mode,
// no paging, EBX = the address of the start info, which points to the command line, the memory map, the modules and the
// ACPI root pointer.
//
// Example: Linux's vmlinux (CONFIG_PVH) starts here without having to unpack itself; so do Xen and others.
#include "boot/elf.h"
#include <errno.h>
#include <string.h>

enum { NOTE_PHYS32_ENTRY = 18 };
enum { START_MAGIC = 0x336ec578 };

struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, cmdline, rsdp, memory_map;
    uint32_t memory_map_entries, reserved;
};

struct module {
    uint64_t address, size, cmdline, reserved;
};

struct map_entry {
    uint64_t address, size;
    uint32_t type, reserved; // types are those of E820
};

// All of it lies together in one place below 1 MiB.
struct block {
    struct start_info info;
    struct module module;
    struct map_entry map[BOOT_RANGES];
};

static int entry_point(const struct elf *e, uint32_t *entry, struct error *err)
{
    uint32_t size = 0;
    const void *desc = elf_note(e, "Xen", NOTE_PHYS32_ENTRY, &size);
    if (!desc)
        return error_set(err, ENOEXEC, "kernel %s: an ELF file without PVH entry point or multiboot header", e->name);
    uint64_t v = size >= 8 ? load_u64(desc, 0) : size >= 4 ? load_u32(desc, 0) : ~0ull;
    if (v > 0xffffffff)
        return error_set(err, ENOEXEC, "kernel %s: broken: the PVH entry point is not below 4 GiB", e->name);
    *entry = v;
    return 0;
}

int pvh_load(struct load *l, struct error *err)
{
    const struct boot_source *s = l->source;
    const char *cmdline = s->cmdline ? s->cmdline : "";
    struct elf e;
    struct block b = {.info = {.magic = START_MAGIC, .version = 1, .rsdp = l->map->rsdp}};
    uint64_t end, at, text;
    uint32_t entry = 0;
    int r = elf_open(&e, s->kernel, s->kernel_size, s->kernel_name, err);
    if (!r)
        r = entry_point(&e, &entry, err);
    if (!r)
        r = elf_load(&e, l, &end, err);
    if (!r)
        r = load_find_low(l, &at, sizeof b, "start info", err);
    if (!r)
        r = load_find_low(l, &text, strlen(cmdline) + 1, "command line", err);
    if (!r)
        r = load_write(l, text, cmdline, strlen(cmdline) + 1, err);
    if (!r && s->initrd && s->initrd_size) {
        r = load_initrd(l, 1ull << 32, &b.module.address, err);
        b.module.size = s->initrd_size;
        b.info.modules = 1;
        b.info.module_list = at + offsetof(struct block, module);
    }
    if (r)
        return r;
    b.info.cmdline = text;
    b.info.memory_map = at + offsetof(struct block, map);
    b.info.memory_map_entries = l->map->count;
    for (unsigned i = 0; i < l->map->count; i++)
        b.map[i] = (struct map_entry){
            .address = l->map->range[i].base, .size = l->map->range[i].size, .type = l->map->range[i].type};
    r = load_write(l, at, &b, sizeof b, err);
    load_flat32(l->cpu, 0x10, 0x18, entry);
    l->cpu->gpr[CPU_RBX] = at;
    // The task register: a busy 32-bit TSS at zero.
    l->cpu->tr = (struct cpu_segment){.selector = 0, .attr = CPU_SEG_P | 0xb, .limit = 0x67};
    return r;
}
