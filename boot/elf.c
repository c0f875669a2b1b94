// ELF files (Tool Interface Standard, ELF 1.2; System V ABI, AMD64 supplement).
//
// Nothing in the file is believed: the program header table and each segment's part of the file must lie within it, and
// the number of headers is limited so that no look-up takes long.
//
// Example: Linux's vmlinux has five program headers: four PT_LOAD and one PT_NOTE, which holds the PVH entry point.
#include "boot/elf.h"
#include <errno.h>
#include <string.h>

enum { MAX_SEGMENTS = 64 };
enum { MACHINE_386 = 3, MACHINE_X86_64 = 62, TYPE_EXEC = 2, TYPE_DYN = 3 };

bool elf_looks_like(const struct boot_source *s)
{
    return s->kernel_size >= 4 && !memcmp(s->kernel, "\177ELF", 4);
}

int elf_open(struct elf *e, const void *file, size_t size, const char *name, struct error *err)
{
    *e = (struct elf){.file = file, .size = size, .name = name};
    if (size < 52 || memcmp(file, "\177ELF", 4))
        return error_set(err, ENOEXEC, "kernel %s: truncated: %llu bytes of an ELF header", name,
                         (unsigned long long)size);
    e->is_64bit = e->file[4] == 2;
    uint16_t machine = load_u16(file, 18), type = load_u16(file, 16);
    if (e->file[4] < 1 || e->file[4] > 2 || e->file[5] != 1 || (machine != MACHINE_386 && machine != MACHINE_X86_64))
        return error_set(err, ENOEXEC, "kernel %s: an ELF file, but not for x86 (machine %u)", name, machine);
    if (type != TYPE_EXEC && type != TYPE_DYN)
        return error_set(err, ENOEXEC, "kernel %s: an ELF file, but not an executable (type %u)", name, type);
    if (e->is_64bit && size < 64)
        return error_set(err, ENOEXEC, "kernel %s: truncated: %llu bytes of an ELF header", name,
                         (unsigned long long)size);
    e->entry = e->is_64bit ? load_u64(file, 24) : load_u32(file, 24);
    e->table = e->is_64bit ? load_u64(file, 32) : load_u32(file, 28);
    e->entry_size = load_u16(file, e->is_64bit ? 54 : 42);
    e->count = load_u16(file, e->is_64bit ? 56 : 44);
    if (e->count > MAX_SEGMENTS)
        return error_set(err, ENOEXEC, "kernel %s: %u program headers, more than %d", name, e->count, MAX_SEGMENTS);
    if (e->count && (e->entry_size < (e->is_64bit ? 56u : 32u) || e->table > size ||
                     (uint64_t)e->count * e->entry_size > size - e->table))
        return error_set(err, ENOEXEC, "kernel %s: broken: the program headers lie outside of the file", name);
    return 0;
}

int elf_segment(const struct elf *e, unsigned i, struct elf_segment *s, struct error *err)
{
    const uint8_t *h = e->file + e->table + (size_t)i * e->entry_size;
    if (e->is_64bit)
        *s = (struct elf_segment){.type = load_u32(h, 0),
                                  .offset = load_u64(h, 8),
                                  .virtual = load_u64(h, 16),
                                  .physical = load_u64(h, 24),
                                  .file_size = load_u64(h, 32),
                                  .memory_size = load_u64(h, 40)};
    else
        *s = (struct elf_segment){.type = load_u32(h, 0),
                                  .offset = load_u32(h, 4),
                                  .virtual = load_u32(h, 8),
                                  .physical = load_u32(h, 12),
                                  .file_size = load_u32(h, 16),
                                  .memory_size = load_u32(h, 20)};
    if (s->type != ELF_LOAD && s->type != ELF_NOTE)
        return 0;
    if (s->offset > e->size || s->file_size > e->size - s->offset)
        return error_set(err, ENOEXEC, "kernel %s: truncated: segment %u ends at byte %llu of %llu", e->name, i,
                         (unsigned long long)s->offset + (unsigned long long)s->file_size, (unsigned long long)e->size);
    if (s->type == ELF_LOAD && s->file_size > s->memory_size)
        return error_set(err, ENOEXEC, "kernel %s: broken: segment %u is larger in the file than in memory", e->name,
                         i);
    return 0;
}

int elf_load(const struct elf *e, struct load *l, uint64_t *end, struct error *err)
{
    struct elf_segment s;
    *end = 0;
    for (unsigned i = 0; i < e->count; i++) {
        int r = elf_segment(e, i, &s, err);
        if (r < 0)
            return r;
        if (s.type != ELF_LOAD || !s.memory_size)
            continue;
        r = load_claim(l, s.physical, s.memory_size, "a segment", err);
        if (!r)
            r = load_write(l, s.physical, e->file + s.offset, s.file_size, err);
        if (!r)
            r = load_zero(l, s.physical + s.file_size, s.memory_size - s.file_size, err);
        if (r)
            return r;
        if (s.physical + s.memory_size > *end)
            *end = s.physical + s.memory_size;
    }
    if (!*end)
        return error_set(err, ENOEXEC, "kernel %s: an ELF file with nothing to load", e->name);
    return 0;
}

uint64_t elf_physical_entry(const struct elf *e)
{
    struct elf_segment s;
    for (unsigned i = 0; i < e->count; i++)
        if (!elf_segment(e, i, &s, NULL) && s.type == ELF_LOAD && e->entry - s.virtual < s.memory_size)
            return s.physical + (e->entry - s.virtual);
    return e->entry;
}

static uint32_t padded(uint32_t size)
{
    return (size + 3) & ~3u;
}

const void *elf_note(const struct elf *e, const char *owner, uint32_t type, uint32_t *size)
{
    struct elf_segment s;
    uint32_t owner_size = strlen(owner) + 1;
    for (unsigned i = 0; i < e->count; i++) {
        if (elf_segment(e, i, &s, NULL) || s.type != ELF_NOTE)
            continue;
        const uint8_t *p = e->file + s.offset;
        uint64_t left = s.file_size;
        while (left >= 12) {
            uint32_t name_size = load_u32(p, 0), desc_size = load_u32(p, 4);
            uint64_t whole = 12 + (uint64_t)padded(name_size) + padded(desc_size);
            if (name_size > left || desc_size > left || 12 + (uint64_t)padded(name_size) + desc_size > left)
                break;
            if (load_u32(p, 8) == type && name_size == owner_size && !memcmp(p + 12, owner, owner_size)) {
                *size = desc_size;
                return p + 12 + padded(name_size);
            }
            if (whole > left)
                break;
            p += whole;
            left -= whole;
        }
    }
    return NULL;
}
