// A VM with RAM and a memory map for tests of loaders: 64 MiB at 0 but for the hole, as a PC has it.
#pragma once
#include "boot/boot.h"
#include "fake_vm.h"
#include "unit.h"
#include <errno.h>
#include <stdlib.h>

struct bench {
    struct fake_vm f;
    struct boot_source source;
    struct boot_map map;
    struct cpu_state cpu;
    struct error err;
    uint8_t *ram;
};

static inline void bench_init(struct bench *b, uint64_t ram_size)
{
    memset(b, 0, sizeof *b);
    fake_vm_init_bare(&b->f, 1);
    b->ram = aligned_alloc(4096, ram_size);
    memset(b->ram, 0xcc, ram_size); // what was there before matters to nobody
    if (vm_memory_add(&b->f.vm, 0, 0xa0000, b->ram, false, &b->err) ||
        vm_memory_add(&b->f.vm, 0xc0000, ram_size - 0xc0000, b->ram + 0xc0000, false, &b->err))
        fail_msg("%s", b->err.text);
    b->map = (struct boot_map){.count = 4,
                               .range = {{0, 0x9fc00, BOOT_RAM},
                                         {0x9fc00, 0x400, BOOT_RESERVED},
                                         {0xe0000, 0x20000, BOOT_RESERVED},
                                         {0x100000, ram_size - 0x100000, BOOT_RAM}},
                               .rsdp = 0xe0000};
    b->source.kernel_name = "dir/kernel";
    b->source.initrd_name = "dir/initrd";
}

static inline void bench_destroy(struct bench *b)
{
    fake_vm_destroy(&b->f);
    free(b->ram);
}

static inline int load(struct bench *b, const void *kernel, size_t size)
{
    b->source.kernel = kernel;
    b->source.kernel_size = size;
    b->err.text[0] = 0;
    cpu_reset(&b->cpu, true);
    return boot_load(&b->f.vm, &b->source, &b->map, &b->cpu, &b->err);
}

// Loading fails with this errno and a text in which these words are.
static inline void assert_refused(struct bench *b, const void *kernel, size_t size, int error, const char *words)
{
    // In a block of exactly its size, so that reading beyond it is seen by a sanitizer.
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, kernel, size);
    int r = load(b, copy, size);
    free(copy);
    if (r != -error || !strstr(b->err.text, words))
        fail_msg("%d, \"%s\" instead of %d, \"...%s...\"", r, b->err.text, -error, words);
}

static inline uint32_t ram32(const struct bench *b, uint64_t at)
{
    uint32_t v;
    memcpy(&v, b->ram + at, 4);
    return v;
}

static inline uint64_t ram64(const struct bench *b, uint64_t at)
{
    uint64_t v;
    memcpy(&v, b->ram + at, 8);
    return v;
}

static inline void put16(uint8_t *p, size_t at, uint16_t v)
{
    memcpy(p + at, &v, 2);
}

static inline void put32(uint8_t *p, size_t at, uint32_t v)
{
    memcpy(p + at, &v, 4);
}

static inline void put64(uint8_t *p, size_t at, uint64_t v)
{
    memcpy(p + at, &v, 8);
}

// Flat 32-bit protected mode, as multiboot and PVH want it.
static inline void assert_flat32(const struct bench *b, uint32_t entry)
{
    assert_int_equal(b->cpu.rip, entry);
    assert_int_equal(b->cpu.cr0, CR0_PE | CR0_ET);
    assert_int_equal(b->cpu.cr4 | b->cpu.efer, 0);
    assert_int_equal(b->cpu.rflags, RFLAGS_FIXED);
    for (unsigned i = 0; i < CPU_SEG_COUNT; i++) {
        assert_int_equal(b->cpu.seg[i].base, 0);
        assert_int_equal(b->cpu.seg[i].limit, 0xffffffff);
        assert_int_equal(b->cpu.seg[i].attr, i == CPU_CS ? 0xc9b : 0xc93);
    }
}
