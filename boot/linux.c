// Linux bzImage (Documentation/x86/boot.rst in the kernel's tree, "the Linux/x86 boot protocol").
//
// The file is a real-mode part (header at 0x1f1, setup_sects sectors), which is not run, and a protected-mode part,
// which is copied to memory and entered: at its 64-bit entry point, 0x200 bytes in, where the kernel has one
// (xloadflags), else at its first byte in 32-bit protected mode. Either way the kernel gets the zero page: a copy of
// the header, filled in, with the memory map and the address of the ACPI root pointer.
//
// The kernel is put where it would rather be (pref_address) if there is room for init_size bytes, else, if it can be
// moved, to the lowest place that will do.
//
// Example: Debian 12's kernel is protocol 2.15, wants 16 MiB and 55 MiB from there on, and is entered at 0x1000200.
#include "boot/load.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

// Offsets in the file and in the zero page.
enum {
    E820_COUNT = 0x1e8,
    HDR = 0x1f1,
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP = 0x201, // its second byte: the header ends this many bytes after 0x202
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236, // 2.12
    HDR_CMDLINE_SIZE = 0x238,
    HDR_SETUP_DATA = 0x250,   // 2.09
    HDR_PREF_ADDRESS = 0x258, // 2.10
    HDR_INIT_SIZE = 0x260,    // 2.10
    HDR_LIMIT = 0x290,
    ACPI_RSDP = 0x70, // 2.14
    E820_TABLE = 0x2d0,
};

enum { LOADED_HIGH = 1, XLF_KERNEL_64 = 1, LOADER_UNKNOWN = 0xff, SETUP_RNG_SEED = 9, SEED_SIZE = 32 };
enum { OLDEST = 0x206 };
enum { BOOT_CS = 0x10, BOOT_DS = 0x18 };

struct kernel {
    const char *name;
    const uint8_t *file;
    size_t setup_size; // of the real-mode part
    uint64_t size;     // of the protected-mode part
    unsigned version;
    bool is_64bit;
    uint64_t at, memory; // where it goes, and how much it needs there
};

bool linux_looks_like(const struct boot_source *s)
{
    return s->kernel_size >= HDR_VERSION + 2 && load_u16(s->kernel, HDR_BOOT_FLAG) == 0xaa55 &&
           load_u32(s->kernel, HDR_MAGIC) == 0x53726448; // "HdrS"
}

static int inspect(struct kernel *k, const struct boot_source *s, struct error *err)
{
    *k = (struct kernel){.name = s->kernel_name, .file = s->kernel, .version = load_u16(s->kernel, HDR_VERSION)};
    if (k->version < OLDEST)
        return error_set(err, ENOTSUP, "kernel %s: boot protocol %u.%02u is too old (2.06 or later is needed)", k->name,
                         k->version >> 8, k->version & 0xff);
    unsigned sects = k->file[HDR_SETUP_SECTS] ? k->file[HDR_SETUP_SECTS] : 4;
    k->setup_size = (sects + 1) * 512;
    uint64_t wanted = (uint64_t)load_u32(k->file, HDR_SYSSIZE) * 16;
    if (s->kernel_size < HDR_LIMIT || s->kernel_size <= k->setup_size || s->kernel_size - k->setup_size + 15 < wanted)
        return error_set(err, ENOEXEC, "kernel %s: truncated: %llu bytes of %llu", k->name,
                         (unsigned long long)s->kernel_size, (unsigned long long)(k->setup_size + wanted));
    k->size = s->kernel_size - k->setup_size;
    if (wanted && wanted < k->size)
        k->size = wanted; // what follows is a signature
    if (!(k->file[HDR_LOADFLAGS] & LOADED_HIGH))
        return error_set(err, ENOTSUP, "kernel %s: a zImage, which runs below 1 MiB", k->name);
    k->is_64bit = k->version >= 0x20c && (load_u16(k->file, HDR_XLOADFLAGS) & XLF_KERNEL_64);
    if (k->is_64bit && k->size <= 0x200)
        return error_set(err, ENOEXEC, "kernel %s: truncated: no 64-bit entry point", k->name);
    return 0;
}

static int place_kernel(struct kernel *k, struct load *l, struct error *err)
{
    uint64_t preferred = k->version >= 0x20a ? load_u64(k->file, HDR_PREF_ADDRESS) : 0x100000;
    uint64_t init_size = k->version >= 0x20a ? load_u32(k->file, HDR_INIT_SIZE) : 0;
    k->memory = init_size > k->size ? init_size : k->size;
    k->at = preferred;
    if (preferred >= 0x100000 && preferred <= 0xffffffff && load_claim(l, preferred, k->memory, "it", err) == 0)
        return 0;
    uint64_t align = load_u32(k->file, HDR_ALIGNMENT);
    bool movable = k->file[HDR_RELOCATABLE] && align && !(align & (align - 1));
    if (movable && load_find(l, &k->at, k->memory, align, 0x100000, 1ull << 32, false) == 0)
        return 0;
    return error_set(err, ENOMEM, "kernel %s: needs %llu MiB of memory from 0x%llx on; the machine has %u MiB", k->name,
                     (unsigned long long)(k->memory + 0xfffff) >> 20, (unsigned long long)preferred, load_ram_mib(l));
}

static void put32(uint8_t *page, unsigned offset, uint32_t val)
{
    memcpy(page + offset, &val, sizeof val);
}

static void put64(uint8_t *page, unsigned offset, uint64_t val)
{
    memcpy(page + offset, &val, sizeof val);
}

static int add_cmdline(const struct kernel *k, struct load *l, uint8_t *page, struct error *err)
{
    const char *text = l->source->cmdline ? l->source->cmdline : "";
    size_t size = strlen(text);
    uint32_t limit = load_u32(k->file, HDR_CMDLINE_SIZE);
    if (size > limit)
        return error_set(err, E2BIG, "command line: %llu bytes; kernel %s takes at most %u", (unsigned long long)size,
                         k->name, limit);
    uint64_t at;
    int e = load_find_low(l, &at, size + 1, "command line", err);
    if (e < 0)
        return e;
    put32(page, HDR_CMD_LINE_PTR, at);
    return load_write(l, at, text, size + 1, err);
}

static int add_initrd(const struct kernel *k, struct load *l, uint8_t *page, struct error *err)
{
    if (!l->source->initrd || !l->source->initrd_size)
        return 0;
    uint64_t max = (uint64_t)load_u32(k->file, HDR_INITRD_ADDR_MAX) + 1, at;
    int e = load_initrd(l, max, &at, err);
    if (e < 0)
        return e;
    put32(page, HDR_RAMDISK_IMAGE, at);
    put32(page, HDR_RAMDISK_SIZE, l->source->initrd_size);
    return 0;
}

static void add_memory_map(const struct load *l, uint8_t *page)
{
    for (unsigned i = 0; i < l->map->count; i++) {
        const struct boot_range *r = &l->map->range[i];
        put64(page, E820_TABLE + i * 20, r->base);
        put64(page, E820_TABLE + i * 20 + 8, r->size);
        put32(page, E820_TABLE + i * 20 + 16, r->type);
    }
    page[E820_COUNT] = l->map->count;
}

// Random bytes for the kernel's generator, which would otherwise have to wait for some; kernels that do not know this
// type of setup_data skip it.
static int add_seed(const struct kernel *k, struct load *l, uint8_t *page, struct error *err)
{
    if (k->version < 0x209)
        return 0;
    uint8_t data[16 + SEED_SIZE] = {0}; // next, type, length, the bytes
    put32(data, 8, SETUP_RNG_SEED);
    put32(data, 12, SEED_SIZE);
    vm_random(data + 16, SEED_SIZE);
    uint64_t at;
    int e = load_find_low(l, &at, sizeof data, "random seed", err);
    if (e < 0)
        return e;
    put64(page, HDR_SETUP_DATA, at);
    return load_write(l, at, data, sizeof data, err);
}

// Identity-maps the first 4 GiB in 2 MiB pages and enters long mode.
static int enter_long_mode(struct load *l, struct error *err)
{
    enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80 };
    uint64_t at, page[512] = {0};
    int e = load_find_low(l, &at, 6 * 4096, "page tables", err);
    if (e < 0)
        return e;
    page[0] = (at + 4096) | PRESENT | WRITABLE;
    e = load_write(l, at, page, sizeof page, err);
    for (unsigned i = 0; i < 4; i++)
        page[i] = (at + (2 + i) * 4096) | PRESENT | WRITABLE;
    if (!e)
        e = load_write(l, at + 4096, page, sizeof page, err);
    for (unsigned t = 0; t < 4 && !e; t++) {
        for (unsigned i = 0; i < 512; i++)
            page[i] = ((uint64_t)(t * 512 + i) << 21) | PRESENT | WRITABLE | LARGE;
        e = load_write(l, at + (2 + t) * 4096, page, sizeof page, err);
    }
    l->cpu->cr3 = at;
    l->cpu->cr4 = CR4_PAE;
    l->cpu->efer = EFER_LME | EFER_LMA;
    l->cpu->cr0 |= CR0_PG;
    struct cpu_segment *cs = &l->cpu->seg[CPU_CS];
    cs->attr = (cs->attr & ~CPU_SEG_DB) | CPU_SEG_L;
    return e;
}

// The protocol wants a GDT with these two descriptors loaded.
static int add_gdt(const struct kernel *k, struct load *l, struct error *err)
{
    const uint64_t gdt[4] = {0, 0, k->is_64bit ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff};
    uint64_t at;
    int e = load_find_low(l, &at, sizeof gdt, "descriptor table", err);
    if (e < 0)
        return e;
    l->cpu->gdtr = (struct cpu_table){.base = at, .limit = sizeof gdt - 1};
    return load_write(l, at, gdt, sizeof gdt, err);
}

int linux_load(struct load *l, struct error *err)
{
    struct kernel k;
    uint8_t page[4096] = {0};
    uint64_t page_at;
    int e = inspect(&k, l->source, err);
    if (!e)
        e = place_kernel(&k, l, err);
    if (!e)
        e = load_write(l, k.at, k.file + k.setup_size, k.size, err);
    if (!e)
        e = load_find_low(l, &page_at, sizeof page, "zero page", err);
    if (e)
        return e;

    unsigned end = HDR_MAGIC + k.file[HDR_JUMP];
    memcpy(page + HDR, k.file + HDR, (end < HDR_LIMIT ? end : HDR_LIMIT) - HDR);
    page[HDR_LOADER] = LOADER_UNKNOWN;
    put32(page, HDR_CODE32_START, k.at);
    put32(page, HDR_RAMDISK_IMAGE, 0);
    put32(page, HDR_RAMDISK_SIZE, 0);
    put64(page, ACPI_RSDP, l->map->rsdp);
    add_memory_map(l, page);
    e = add_cmdline(&k, l, page, err);
    if (!e)
        e = add_initrd(&k, l, page, err);
    if (!e)
        e = add_seed(&k, l, page, err);
    if (!e)
        e = load_write(l, page_at, page, sizeof page, err);
    if (!e)
        e = add_gdt(&k, l, err);
    if (e)
        return e;
    load_flat32(l->cpu, BOOT_CS, BOOT_DS, k.at);
    l->cpu->gpr[CPU_RSI] = page_at;
    if (k.is_64bit) {
        l->cpu->rip = k.at + 0x200;
        e = enter_long_mode(l, err);
    }
    return e;
}
