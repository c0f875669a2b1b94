// Telling kernels apart, and what their loaders share.
//
// Example: a file that begins with 1f 8b is gzip: nobody boots that, and saying so helps more than "not a kernel".
#include "boot/boot.h"
#include "boot/load.h"
#include <errno.h>
#include <string.h>

static int unknown(const struct boot_source *s, struct error *err)
{
    const uint8_t *b = s->kernel;
    if (!s->kernel_size)
        return error_set(err, ENOEXEC, "kernel %s: the file is empty", s->kernel_name);
    if (s->kernel_size > 2 && b[0] == 0x1f && b[1] == 0x8b)
        return error_set(err, ENOEXEC, "kernel %s: compressed with gzip; unpack it first", s->kernel_name);
    return error_set(err, ENOEXEC, "kernel %s: not a kernel (neither bzImage, multiboot nor ELF with a PVH note)",
                     s->kernel_name);
}

int boot_load(struct vm *vm, const struct boot_source *source, const struct boot_map *map, struct cpu_state *cpu,
              struct error *err)
{
    struct load l = {.vm = vm, .source = source, .map = map, .cpu = cpu};
    if (linux_looks_like(source))
        return linux_load(&l, err);
    if (multiboot_looks_like(source))
        return multiboot_load(&l, err);
    if (elf_looks_like(source))
        return pvh_load(&l, err);
    return unknown(source, err);
}

uint16_t load_u16(const void *p, size_t offset)
{
    uint16_t v;
    memcpy(&v, (const uint8_t *)p + offset, sizeof v);
    return v;
}

uint32_t load_u32(const void *p, size_t offset)
{
    uint32_t v;
    memcpy(&v, (const uint8_t *)p + offset, sizeof v);
    return v;
}

uint64_t load_u64(const void *p, size_t offset)
{
    uint64_t v;
    memcpy(&v, (const uint8_t *)p + offset, sizeof v);
    return v;
}

// ---- room

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

static bool take(struct load *l, uint64_t base, uint64_t size)
{
    if (l->claims == LOAD_CLAIMS)
        return false;
    l->claim[l->claims].base = base;
    l->claim[l->claims++].size = size;
    return true;
}

unsigned load_ram_mib(const struct load *l)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < l->map->count; i++)
        if (l->map->range[i].type == BOOT_RAM)
            total += l->map->range[i].size;
    return (total + 0xfffff) >> 20;
}

int load_claim(struct load *l, uint64_t base, uint64_t size, const char *what, struct error *err)
{
    if (!size)
        return 0;
    bool ram = false;
    for (unsigned i = 0; i < l->map->count && !ram; i++) {
        const struct boot_range *r = &l->map->range[i];
        ram = r->type == BOOT_RAM && base >= r->base && size <= r->size && base - r->base <= r->size - size;
    }
    if (!ram)
        return error_set(err, ENOMEM, "kernel %s: %s at 0x%llx, %llu KiB, lies outside of the %u MiB of memory",
                         l->source->kernel_name, what, (unsigned long long)base,
                         (unsigned long long)(size + 1023) / 1024, load_ram_mib(l));
    for (unsigned i = 0; i < l->claims; i++)
        if (overlaps(base, size, l->claim[i].base, l->claim[i].size))
            return error_set(err, ENOEXEC, "kernel %s: %s at 0x%llx overlaps another part", l->source->kernel_name,
                             what, (unsigned long long)base);
    if (!take(l, base, size))
        return error_set(err, ENOEXEC, "kernel %s: more than %d parts", l->source->kernel_name, LOAD_CLAIMS);
    return 0;
}

// The lowest (or highest) free place within one range of RAM. Every claim in the way moves the candidate past it, and
// no claim can be in the way twice, so this ends.
static bool find_in(const struct load *l, uint64_t *at, uint64_t size, uint64_t align, uint64_t low, uint64_t high,
                    bool highest)
{
    if (high < low || high - low < size)
        return false;
    uint64_t a = highest ? (high - size) & ~(align - 1) : (low + align - 1) & ~(align - 1);
    for (unsigned i = 0; i < l->claims;) {
        if (a < low || a > high - size)
            return false;
        if (!overlaps(a, size, l->claim[i].base, l->claim[i].size)) {
            i++;
            continue;
        }
        if (highest) {
            if (l->claim[i].base < size)
                return false;
            a = (l->claim[i].base - size) & ~(align - 1);
        } else {
            a = (l->claim[i].base + l->claim[i].size + align - 1) & ~(align - 1);
        }
        i = 0;
    }
    *at = a;
    return a >= low && a <= high - size;
}

int load_find(struct load *l, uint64_t *at, uint64_t size, uint64_t align, uint64_t min, uint64_t max, bool highest)
{
    for (unsigned i = 0; i < l->map->count; i++) {
        const struct boot_range *r = &l->map->range[highest ? l->map->count - 1 - i : i];
        uint64_t low = r->base > min ? r->base : min, end = r->base + r->size, high = end < max ? end : max;
        if (r->type == BOOT_RAM && find_in(l, at, size, align, low, high, highest))
            return take(l, *at, size) ? 0 : -ENOMEM;
    }
    return -ENOMEM;
}

int load_find_low(struct load *l, uint64_t *at, uint64_t size, const char *what, struct error *err)
{
    // Page 0 stays free: a null pointer is a null pointer.
    if (load_find(l, at, size, 4096, 0x1000, 0x100000, false) < 0)
        return error_set(err, ENOMEM, "kernel %s: no room for the %s (%llu bytes) in the first MiB",
                         l->source->kernel_name, what, (unsigned long long)size);
    return 0;
}

int load_initrd(struct load *l, uint64_t max, uint64_t *at, struct error *err)
{
    const struct boot_source *s = l->source;
    if (load_find(l, at, s->initrd_size, 4096, 0x100000, max, true) < 0)
        return error_set(err, ENOMEM,
                         "initrd %s: %llu KiB do not fit beside the kernel into %u MiB of memory (below 0x%llx)",
                         s->initrd_name, (unsigned long long)(s->initrd_size + 1023) / 1024, load_ram_mib(l),
                         (unsigned long long)max);
    return load_write(l, *at, s->initrd, s->initrd_size, err);
}

int load_write(struct load *l, uint64_t gpa, const void *data, uint64_t size, struct error *err)
{
    if (!vm_write(l->vm, gpa, data, size))
        return error_set(err, EFAULT, "kernel %s: no RAM at 0x%llx", l->source->kernel_name, (unsigned long long)gpa);
    return 0;
}

int load_zero(struct load *l, uint64_t gpa, uint64_t size, struct error *err)
{
    void *p = vm_ram(l->vm, gpa, size, true);
    if (!p && size)
        return error_set(err, EFAULT, "kernel %s: no RAM at 0x%llx", l->source->kernel_name, (unsigned long long)gpa);
    if (size) {
        memset(p, 0, size);
        vm_ram_written(l->vm, gpa, size);
    }
    return 0;
}

// ---- CPU states

void load_flat32(struct cpu_state *cpu, uint16_t code, uint16_t data, uint32_t entry)
{
    const uint16_t attr = CPU_SEG_P | CPU_SEG_S | CPU_SEG_WRITE | CPU_SEG_ACCESSED | CPU_SEG_DB | CPU_SEG_G;
    for (unsigned i = 0; i < CPU_SEG_COUNT; i++)
        cpu->seg[i] = (struct cpu_segment){.selector = data, .attr = attr, .limit = 0xffffffff};
    cpu->seg[CPU_CS] = (struct cpu_segment){.selector = code, .attr = attr | CPU_SEG_CODE, .limit = 0xffffffff};
    cpu->cr0 = CR0_PE | CR0_ET;
    cpu->cr3 = cpu->cr4 = cpu->efer = 0;
    cpu->rflags = RFLAGS_FIXED;
    cpu->rip = entry;
}
