// Loading broken and hostile kernels: whatever the file says, nothing outside of guest RAM is written, and a kernel
// that is accepted starts in RAM.
//
// The input is a program: its first byte picks a well-formed kernel (or none), the next eight set the file's length,
// the initrd's and the machine's memory; then come patches to the file: offset (2 bytes), width code and value. So the
// fuzzer is past the magic numbers from the start.
#include "boot/boot.h"
#include "fake_vm.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILE_SIZE = 0x3000, LOW = 0xa0000, RAM = 8 << 20, GUARD = 4096 };

static uint8_t file[FILE_SIZE];
static uint8_t *ram; // with a guard area at each end of each piece
static struct fake_vm f;

static void put(size_t at, uint64_t v, unsigned size)
{
    memcpy(file + at, &v, size);
}

static void bzimage(void)
{
    file[0x1f1] = 4;
    put(0x1f4, (FILE_SIZE - 5 * 512) / 16, 4);
    put(0x1fe, 0xaa55, 2);
    put(0x200, 0x6aeb, 2);
    memcpy(file + 0x202, "HdrS", 4);
    put(0x206, 0x20f, 2);
    file[0x211] = 1;
    put(0x22c, 0x7fffffff, 4);
    put(0x230, 0x200000, 4);
    file[0x234] = 1;
    put(0x236, 1, 2);
    put(0x238, 2047, 4);
    put(0x258, 0x200000, 8);
    put(0x260, 0x100000, 4);
}

static void elf(bool wide)
{
    memcpy(file, "\177ELF", 4);
    file[4] = wide ? 2 : 1;
    file[5] = file[6] = 1;
    put(16, 2, 2);
    put(18, wide ? 62 : 3, 2);
    put(24, 0x100010, wide ? 8 : 4);
    put(wide ? 32 : 28, wide ? 64 : 52, 4);
    put(wide ? 54 : 42, wide ? 56 : 32, 2);
    put(wide ? 56 : 44, 3, 2);
    for (unsigned i = 0; i < 3; i++) { // two to load, one of notes
        const uint64_t fields[] = {i == 2 ? 4 : 1,         i == 2 ? 0x800 : 0x1000 + i * 0x800,
                                   0x100000 + i * 0x10000, 0x100000 + i * 0x10000,
                                   i == 2 ? 20 : 0x800,    i == 2 ? 20 : 0x2000};
        size_t at = wide ? 64 + i * 56 : 52 + i * 32;
        put(at, fields[0], 4);
        for (unsigned k = 1; k < 6; k++)
            put(wide ? at + k * 8 : at + k * 4, fields[k], wide ? 8 : 4);
    }
    const uint32_t note[] = {4, 4, 18, 0x006e6558, 0x100020};
    memcpy(file + 0x800, note, sizeof note);
}

static void multiboot(uint32_t flags)
{
    const uint32_t header[] = {0x1badb002, flags, -(0x1badb002 + flags), 0x100400, 0x100000, 0, 0x104000, 0x100020};
    memcpy(file + 0x400, header, sizeof header);
}

static void check(bool ok)
{
    if (!ok)
        __builtin_trap();
}

static void prepare(void)
{
    fake_vm_init_bare(&f, 1);
    ram = malloc(RAM + 4 * GUARD);
    memset(ram, 0, RAM + 4 * GUARD);
    struct error err;
    uint8_t *aligned = (uint8_t *)(((uintptr_t)ram + GUARD + 4095) & ~(uintptr_t)4095);
    check(!vm_memory_add(&f.vm, 0, LOW, aligned, false, &err));
    check(!vm_memory_add(&f.vm, 0xc0000, RAM - 0xc0000, aligned + 0xc0000, false, &err));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t initrd[1 << 20];
    char cmdline[300];
    if (!ram)
        prepare();
    if (size < 9)
        return 0;
    memset(file, 0, sizeof file);
    switch (data[0] & 7) {
    case 1:
        bzimage();
        break;
    case 2:
    case 3:
        elf(data[0] & 1);
        break;
    case 4:
    case 5:
        elf(data[0] & 1);
        multiboot(3);
        break;
    case 6:
        multiboot(0x10003);
        break;
    }
    uint16_t file_size, memory;
    uint32_t initrd_size;
    memcpy(&file_size, data + 1, 2);
    memcpy(&initrd_size, data + 3, 4);
    memcpy(&memory, data + 7, 2);
    for (data += 9, size -= 9; size >= 3;) {
        uint16_t at;
        memcpy(&at, data, 2);
        size_t width = (size_t)1 << (data[2] & 3);
        data += 3;
        size -= 3;
        if (width > size)
            width = size;
        if (at <= FILE_SIZE - width)
            memcpy(file + at, data, width);
        data += width;
        size -= width;
    }
    // The memory that the map tells of may be less than there is.
    uint64_t top = 0x100000 + (uint64_t)memory * 4096 % (RAM - 0x100000 + 4096);
    struct boot_map map = {
        .count = 3, .range = {{0, 0x9fc00, BOOT_RAM}, {0xe0000, 0x20000, BOOT_RESERVED}}, .rsdp = 0xe0000};
    map.range[2] = (struct boot_range){0x100000, top - 0x100000, BOOT_RAM};
    size_t kernel_size = file_size % (FILE_SIZE + 1);
    uint8_t *kernel = malloc(kernel_size ? kernel_size : 1);
    memcpy(kernel, file, kernel_size);
    memset(cmdline, 'x', sizeof cmdline);
    cmdline[initrd_size % sizeof cmdline] = 0;
    const struct boot_source source = {.kernel = kernel,
                                       .kernel_size = kernel_size,
                                       .kernel_name = "k",
                                       .initrd = initrd_size & 1 ? initrd : NULL,
                                       .initrd_size = initrd_size % sizeof initrd,
                                       .initrd_name = "i",
                                       .cmdline = cmdline};
    struct cpu_state cpu;
    struct error err = {.text = ""};
    cpu_reset(&cpu, true);
    int r = boot_load(&f.vm, &source, &map, &cpu, &err);
    check(r <= 0);
    check(r == 0 || err.text[0]);
    check(!cpu.gpr[CPU_RBX] || r || vm_ram(&f.vm, cpu.gpr[CPU_RBX], 52, false));
    free(kernel);
    return 0;
}
