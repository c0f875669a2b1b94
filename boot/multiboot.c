// Multiboot, version 1 (GNU Multiboot Specification 0.6.96).
//
// A header, 4-byte aligned within the first 8192 bytes of the file, begins with 0x1badb002 and says by its flags what
// the kernel wants. Where to load it says the ELF file around it, or the header itself (flag 16), which is for any
// other format. The kernel is entered in 32-bit protected mode with EAX = 0x2badb002 and EBX = the address of the
// multiboot information.
//
// The information, strings and the module are placed after the kernel, as GRUB and QEMU do it.
//
// Example: test/guest's images are ELF32 with this header: .long 0x1badb002, 0, -0x1badb002
#include "boot/elf.h"
#include <errno.h>
#include <string.h>

enum { HEADER_MAGIC = 0x1badb002, ENTRY_MAGIC = 0x2badb002, SEARCH = 8192 };
enum { WANT_PAGE_ALIGNED = 1, WANT_MEMORY = 2, WANT_VIDEO = 4, REQUIRED = 0xffff, WANT_ADDRESSES = 1 << 16 };
enum { INFO_MEMORY = 1, INFO_CMDLINE = 4, INFO_MODULES = 8, INFO_MAP = 0x40, INFO_LOADER = 0x200 };

struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    uint32_t symbols[4];
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, loader_name, apm_table;
    uint32_t vbe[4];
};

struct module {
    uint32_t start, end, string, reserved;
};

struct __attribute__((packed)) map_entry {
    uint32_t size; // of what follows
    uint64_t base, length;
    uint32_t type; // 1 is RAM
};

struct block {
    struct info info;
    struct module module;
    struct map_entry map[BOOT_RANGES];
    char loader[8];
    // then the command line and the module's
};

// Offset of the header in the file; -1 if there is none.
static long find_header(const struct boot_source *s)
{
    size_t limit = s->kernel_size < SEARCH ? s->kernel_size : SEARCH;
    for (size_t i = 0; i + 12 <= limit; i += 4)
        if (load_u32(s->kernel, i) == HEADER_MAGIC &&
            !(uint32_t)(HEADER_MAGIC + load_u32(s->kernel, i + 4) + load_u32(s->kernel, i + 8)))
            return (long)i;
    return -1;
}

bool multiboot_looks_like(const struct boot_source *s)
{
    return find_header(s) >= 0;
}

// Loads what flag 16's addresses describe.
static int load_flat(struct load *l, size_t header, uint64_t *end, uint32_t *entry, struct error *err)
{
    const struct boot_source *s = l->source;
    const uint8_t *h = (const uint8_t *)s->kernel + header;
    if (s->kernel_size - header < 32)
        return error_set(err, ENOEXEC, "kernel %s: truncated: the multiboot header is cut off", s->kernel_name);
    uint32_t header_addr = load_u32(h, 12), load_addr = load_u32(h, 16), load_end = load_u32(h, 20),
             bss_end = load_u32(h, 24);
    *entry = load_u32(h, 28);
    if (header_addr < load_addr || header_addr - load_addr > header)
        return error_set(err, ENOEXEC,
                         "kernel %s: broken: multiboot load address 0x%x does not fit header address 0x%x",
                         s->kernel_name, load_addr, header_addr);
    uint64_t offset = header - (header_addr - load_addr), size = s->kernel_size - offset;
    if (load_end) {
        if (load_end < load_addr || load_end - load_addr > size)
            return error_set(err, ENOEXEC, "kernel %s: truncated: %llu bytes; multiboot load end 0x%x is beyond",
                             s->kernel_name, (unsigned long long)s->kernel_size, load_end);
        size = load_end - load_addr;
    }
    uint64_t memory = size;
    if (bss_end) {
        if (bss_end < load_addr || bss_end - load_addr < size)
            return error_set(err, ENOEXEC, "kernel %s: broken: multiboot bss end 0x%x is before the load end",
                             s->kernel_name, bss_end);
        memory = bss_end - load_addr;
    }
    int r = load_claim(l, load_addr, memory, "the image", err);
    if (!r)
        r = load_write(l, load_addr, (const uint8_t *)s->kernel + offset, size, err);
    if (!r)
        r = load_zero(l, load_addr + size, memory - size, err);
    *end = load_addr + memory;
    return r;
}

static int load_elf(struct load *l, uint64_t *end, uint32_t *entry, struct error *err)
{
    const struct boot_source *s = l->source;
    struct elf e;
    int r = elf_open(&e, s->kernel, s->kernel_size, s->kernel_name, err);
    if (!r)
        r = elf_load(&e, l, end, err);
    if (r)
        return r;
    uint64_t at = elf_physical_entry(&e);
    if (at > 0xffffffff)
        return error_set(err, ENOEXEC, "kernel %s: entry point 0x%llx is not below 4 GiB", s->kernel_name,
                         (unsigned long long)at);
    *entry = at;
    return 0;
}

// KiB of RAM that begins at `base`.
static uint32_t kib_from(const struct boot_map *map, uint64_t base)
{
    for (unsigned i = 0; i < map->count; i++)
        if (map->range[i].type == BOOT_RAM && map->range[i].base == base)
            return map->range[i].size / 1024;
    return 0;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// Writes "name rest" (or "name" if there is no rest) and returns its size with the final 0.
static int write_string(struct load *l, uint64_t at, const char *name, const char *rest, uint64_t *size,
                        struct error *err)
{
    uint64_t n = strlen(name);
    int r = load_write(l, at, name, n, err);
    if (!r && rest && *rest) {
        r = load_write(l, at + n, " ", 1, err);
        n++;
        if (!r)
            r = load_write(l, at + n, rest, strlen(rest), err);
        n += strlen(rest);
    }
    *size = n + 1;
    return r ? r : load_write(l, at + n, "", 1, err);
}

static void fill(struct block *b, const struct load *l, uint64_t at)
{
    const struct boot_map *map = l->map;
    b->info.flags |= INFO_MEMORY | INFO_CMDLINE | INFO_MAP | INFO_LOADER;
    b->info.mem_lower = kib_from(map, 0);
    b->info.mem_upper = kib_from(map, 0x100000);
    b->info.cmdline = at + sizeof *b;
    b->info.mmap_addr = at + offsetof(struct block, map);
    b->info.mmap_length = map->count * sizeof b->map[0];
    for (unsigned i = 0; i < map->count; i++)
        b->map[i] = (struct map_entry){.size = sizeof b->map[0] - 4,
                                       .base = map->range[i].base,
                                       .length = map->range[i].size,
                                       .type = map->range[i].type};
    memcpy(b->loader, "Trapeze", 8);
    b->info.loader_name = at + offsetof(struct block, loader);
}

static int add_info(struct load *l, uint64_t end, uint32_t *info_at, struct error *err)
{
    const struct boot_source *s = l->source;
    bool module = s->initrd && s->initrd_size;
    const char *name = base_name(s->kernel_name), *module_name = module ? base_name(s->initrd_name) : "";
    uint64_t size = sizeof(struct block) + strlen(name) + strlen(module_name) + 3, at, used = 0, string = 0;
    if (s->cmdline)
        size += strlen(s->cmdline);
    if (load_find(l, &at, size, 4096, end, 1ull << 32, false) < 0)
        return error_set(err, ENOMEM, "kernel %s: no room for its boot information above it in %u MiB of memory",
                         s->kernel_name, load_ram_mib(l));
    struct block b = {0};
    fill(&b, l, at);
    int r = write_string(l, b.info.cmdline, name, s->cmdline, &used, err);
    if (!r && module) {
        uint64_t module_at, name_at = b.info.cmdline + used;
        if (load_find(l, &module_at, s->initrd_size, 4096, at, 1ull << 32, false) < 0)
            return error_set(err, ENOMEM, "initrd %s: %llu KiB do not fit beside the kernel into %u MiB of memory",
                             s->initrd_name, (unsigned long long)(s->initrd_size + 1023) / 1024, load_ram_mib(l));
        b.info.flags |= INFO_MODULES;
        b.info.mods_count = 1;
        b.info.mods_addr = at + offsetof(struct block, module);
        b.module = (struct module){.start = module_at, .end = module_at + s->initrd_size, .string = name_at};
        r = load_write(l, module_at, s->initrd, s->initrd_size, err);
        if (!r)
            r = write_string(l, name_at, module_name, NULL, &string, err);
    }
    *info_at = at;
    return r ? r : load_write(l, at, &b, sizeof b, err);
}

int multiboot_load(struct load *l, struct error *err)
{
    const struct boot_source *s = l->source;
    long header = find_header(s);
    uint32_t flags = load_u32(s->kernel, header + 4), entry = 0, info_at = 0;
    // Video modes (flag 2) are asked for by many that do without; the information then says that there are none.
    uint32_t unknown = flags & REQUIRED & ~(WANT_PAGE_ALIGNED | WANT_MEMORY | WANT_VIDEO);
    if (unknown)
        return error_set(err, ENOTSUP, "kernel %s: multiboot header requires unknown features (flags 0x%x)",
                         s->kernel_name, unknown);
    uint64_t end = 0;
    int r = flags & WANT_ADDRESSES ? load_flat(l, header, &end, &entry, err) : load_elf(l, &end, &entry, err);
    if (!r)
        r = add_info(l, end, &info_at, err);
    if (r)
        return r;
    load_flat32(l->cpu, 0x10, 0x18, entry);
    l->cpu->gpr[CPU_RAX] = ENTRY_MAGIC;
    l->cpu->gpr[CPU_RBX] = info_at;
    return 0;
}
