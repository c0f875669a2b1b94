// ELF kernels, by the PVH note and by the multiboot header: both classes, what they are told, and broken files.
#include "bench.h"

enum { SIZE = 0x1200, TEXT = 0x1000 };

struct shape {
    bool wide; // ELF64
    uint64_t virtual, physical, memory;
    uint64_t entry;
    uint64_t note; // PVH entry, 0: no note
    bool multiboot;
};

// An ELF file with one segment of 0x100 bytes at file offset 0x1000 and maybe a note at 0x800.
static void make(uint8_t *k, const struct shape *s)
{
    memset(k, 0, SIZE);
    memcpy(k, "\177ELF", 4);
    k[4] = s->wide ? 2 : 1;
    k[5] = k[6] = 1;
    put16(k, 16, 2);
    put16(k, 18, s->wide ? 62 : 3);
    if (s->wide) {
        put64(k, 24, s->entry);
        put64(k, 32, 64);
        put16(k, 54, 56);
        put16(k, 56, 2);
        put32(k, 64, 1);
        put64(k, 64 + 8, TEXT);
        put64(k, 64 + 16, s->virtual);
        put64(k, 64 + 24, s->physical);
        put64(k, 64 + 32, 0x100);
        put64(k, 64 + 40, s->memory);
        put32(k, 120, 4);
        put64(k, 120 + 8, 0x800);
        put64(k, 120 + 32, 48);
    } else {
        put32(k, 24, s->entry);
        put32(k, 28, 52);
        put16(k, 42, 32);
        put16(k, 44, 2);
        put32(k, 52, 1);
        put32(k, 52 + 4, TEXT);
        put32(k, 52 + 8, s->virtual);
        put32(k, 52 + 12, s->physical);
        put32(k, 52 + 16, 0x100);
        put32(k, 52 + 20, s->memory);
        put32(k, 84, 4);
        put32(k, 84 + 4, 0x800);
        put32(k, 84 + 16, 48);
    }
    // A note of somebody else first.
    put32(k, 0x800, 5);
    put32(k, 0x804, 3);
    put32(k, 0x808, 18);
    memcpy(k + 0x80c, "Else", 5);
    if (s->note) {
        put32(k, 0x818, 4);
        put32(k, 0x81c, 8);
        put32(k, 0x820, 18);
        memcpy(k + 0x824, "Xen", 4);
        put64(k, 0x828, s->note);
    }
    if (s->multiboot) {
        put32(k, 0x900, 0x1badb002);
        put32(k, 0x904, 3);
        put32(k, 0x908, -(0x1badb002 + 3));
    }
    memset(k + TEXT, 0x90, 0x100);
}

static void pvh(void **state)
{
    (void)state;
    struct bench b;
    uint8_t k[SIZE];
    for (unsigned wide = 0; wide < 2; wide++) {
        const struct shape s = {.wide = wide,
                                .virtual = wide ? 0xffffffff81000000 : 0xc1000000,
                                .physical = 0x1000000,
                                .memory = 0x3000,
                                .note = 0x1000040};
        make(k, &s);
        bench_init(&b, 64 << 20);
        b.source.cmdline = "root=/dev/vda";
        b.source.initrd = "INITRD";
        b.source.initrd_size = 6;
        if (load(&b, k, SIZE))
            fail_msg("%s", b.err.text);
        assert_flat32(&b, 0x1000040);
        assert_memory_equal(b.ram + 0x1000000, k + TEXT, 0x100);
        for (unsigned i = 0x100; i < 0x3000; i++)
            assert_int_equal(b.ram[0x1000000 + i], 0); // .bss
        assert_int_equal(b.ram[0x1003000], 0xcc);
        uint64_t info = b.cpu.gpr[CPU_RBX];
        assert_int_equal(ram32(&b, info), 0x336ec578);
        assert_int_equal(ram32(&b, info + 4), 1);
        assert_int_equal(ram32(&b, info + 12), 1);
        uint64_t module = ram64(&b, info + 16);
        assert_int_equal(ram64(&b, module + 8), 6);
        assert_memory_equal(b.ram + ram64(&b, module), "INITRD", 6);
        assert_string_equal(b.ram + ram64(&b, info + 24), "root=/dev/vda");
        assert_int_equal(ram64(&b, info + 32), 0xe0000);
        uint64_t map = ram64(&b, info + 40);
        assert_int_equal(ram32(&b, info + 48), 4);
        assert_int_equal(ram64(&b, map + 3 * 24), 0x100000);
        assert_int_equal(ram64(&b, map + 3 * 24 + 8), 63 << 20);
        assert_int_equal(ram32(&b, map + 3 * 24 + 16), 1);
        assert_int_equal(b.cpu.tr.limit, 0x67);
        assert_int_equal(b.cpu.tr.attr, 0x8b);
        bench_destroy(&b);
    }
}

static void multiboot(void **state)
{
    (void)state;
    struct bench b;
    uint8_t k[SIZE];
    for (unsigned wide = 0; wide < 2; wide++) {
        const struct shape s = {.wide = wide,
                                .virtual = 0xc0100000,
                                .physical = 0x100000,
                                .memory = 0x2345,
                                .entry = 0xc0100010,
                                .note = 0x100040, // multiboot goes first
                                .multiboot = true};
        make(k, &s);
        bench_init(&b, 64 << 20);
        b.source.cmdline = "a b=c";
        b.source.initrd = "MODULE!";
        b.source.initrd_size = 7;
        if (load(&b, k, SIZE))
            fail_msg("%s", b.err.text);
        assert_flat32(&b, 0x100010);
        assert_int_equal(b.cpu.gpr[CPU_RAX], 0x2badb002);
        uint32_t info = b.cpu.gpr[CPU_RBX];
        assert_true(info >= 0x102345);
        assert_int_equal(ram32(&b, info), 1 | 4 | 8 | 0x40 | 0x200);
        assert_int_equal(ram32(&b, info + 4), 639);
        assert_int_equal(ram32(&b, info + 8), 63 * 1024);
        assert_string_equal(b.ram + ram32(&b, info + 16), "kernel a b=c");
        assert_int_equal(ram32(&b, info + 20), 1);
        uint32_t module = ram32(&b, info + 24), start = ram32(&b, module);
        assert_int_equal(start & 4095, 0);
        assert_true(start > info);
        assert_int_equal(ram32(&b, module + 4), start + 7);
        assert_memory_equal(b.ram + start, "MODULE!", 7);
        assert_string_equal(b.ram + ram32(&b, module + 8), "initrd");
        assert_int_equal(ram32(&b, info + 44), 4 * 24);
        uint32_t map = ram32(&b, info + 48);
        assert_int_equal(ram32(&b, map), 20);
        assert_int_equal(ram64(&b, map + 3 * 24 + 4), 0x100000);
        assert_int_equal(ram64(&b, map + 3 * 24 + 12), 63 << 20);
        assert_int_equal(ram32(&b, map + 3 * 24 + 20), 1);
        assert_string_equal(b.ram + ram32(&b, info + 64), "Trapeze");
        bench_destroy(&b);
    }
}

static void multiboot_without_elf(void **state)
{
    (void)state;
    struct bench b;
    uint8_t k[0x400];
    memset(k, 0x11, sizeof k);
    // The header at 0x40 is at 0x200040; loaded are 0x300 bytes from file offset 0x20 on, then zeroes up to 0x201000.
    const uint32_t header[] = {0x1badb002, 0x10003, -(0x1badb002 + 0x10003), 0x200040, 0x200020, 0x200320,
                               0x201000,   0x200080};
    memcpy(k + 0x40, header, sizeof header);
    bench_init(&b, 64 << 20);
    if (load(&b, k, sizeof k))
        fail_msg("%s", b.err.text);
    assert_flat32(&b, 0x200080);
    assert_memory_equal(b.ram + 0x200020, k + 0x20, 0x300);
    assert_int_equal(b.ram[0x20001f], 0xcc);
    assert_int_equal(b.ram[0x200320], 0);
    assert_int_equal(b.ram[0x200fff], 0);
    assert_int_equal(ram32(&b, b.cpu.gpr[CPU_RBX]) & 8, 0); // no module
    assert_string_equal(b.ram + ram32(&b, b.cpu.gpr[CPU_RBX] + 16), "kernel");

    static const struct {
        unsigned field;
        uint32_t val;
        int error;
        const char *words;
    } bad[] = {
        {3, 0x20001f, ENOEXEC, "load address"}, {3, 0x200061, ENOEXEC, "load address"},
        {5, 0x200500, ENOEXEC, "load end"},     {5, 0x200010, ENOEXEC, "load end"},
        {6, 0x200100, ENOEXEC, "bss end"},      {6, 0xfffffff0, ENOMEM, "the image at 0x200020"},
        {4, 0x9fc00, ENOEXEC, "load address"},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memcpy(k + 0x40, header, sizeof header);
        put32(k, 0x40 + bad[i].field * 4, bad[i].val);
        assert_refused(&b, k, sizeof k, bad[i].error, bad[i].words);
    }
    memcpy(k + 0x40, header, sizeof header);
    assert_refused(&b, k, 0x50, ENOEXEC, "truncated: the multiboot header");
    put32(k, 0x44, 0x10008);
    put32(k, 0x48, -(0x1badb002 + 0x10008));
    assert_refused(&b, k, sizeof k, ENOTSUP, "unknown features (flags 0x8)");
    bench_destroy(&b);
}

static void refuses(void **state)
{
    (void)state;
    struct bench b;
    uint8_t k[SIZE];
    const struct shape good = {.wide = true, .physical = 0x1000000, .memory = 0x3000, .note = 0x1000040};
    struct shape s = good;
    bench_init(&b, 64 << 20);
    make(k, &s);
    for (size_t size = 4; size < TEXT + 0x100; size += size < 0x100 ? 1 : 61)
        if (load(&b, k, size) != -ENOEXEC)
            fail_msg("%zu bytes were taken: %s", size, b.err.text);
    assert_refused(&b, k, TEXT + 0xff, ENOEXEC, "truncated: segment 0");
    s.note = 0;
    make(k, &s);
    assert_refused(&b, k, SIZE, ENOEXEC, "without PVH entry point or multiboot header");
    s.note = 1ull << 32;
    make(k, &s);
    assert_refused(&b, k, SIZE, ENOEXEC, "not below 4 GiB");
    s = good;
    s.physical = 63 << 20;
    s.memory = 1 << 21;
    make(k, &s);
    assert_refused(&b, k, SIZE, ENOMEM, "lies outside of the 64 MiB of memory");
    s.physical = 0xfffffffffffff000; // wraps around
    s.memory = 0x2000;
    make(k, &s);
    assert_refused(&b, k, SIZE, ENOMEM, "lies outside");
    s = good;
    s.memory = 0xff;
    make(k, &s);
    assert_refused(&b, k, SIZE, ENOEXEC, "larger in the file than in memory");
    s = good;
    s.physical = 0x9f000; // into the reserved KiB
    make(k, &s);
    assert_refused(&b, k, SIZE, ENOMEM, "lies outside");
    make(k, &good);
    put32(k, 120, 1); // the note's segment as a second one to load, over the first
    put64(k, 120 + 24, 0x1000010);
    put64(k, 120 + 40, 48);
    assert_refused(&b, k, SIZE, ENOEXEC, "without PVH");
    make(k, &good);
    put16(k, 18, 183);
    assert_refused(&b, k, SIZE, ENOEXEC, "not for x86 (machine 183)");
    make(k, &good);
    put16(k, 16, 1);
    assert_refused(&b, k, SIZE, ENOEXEC, "not an executable");
    make(k, &good);
    put16(k, 56, 65000);
    assert_refused(&b, k, SIZE, ENOEXEC, "65000 program headers");
    make(k, &good);
    put64(k, 32, SIZE - 50);
    assert_refused(&b, k, SIZE, ENOEXEC, "lie outside of the file");
    make(k, &good);
    put32(k, 64, 0); // nothing to load
    assert_refused(&b, k, SIZE, ENOEXEC, "nothing to load");
    make(k, &good);
    put32(k, 0x804, 0xffffffff); // a note that never ends
    assert_refused(&b, k, SIZE, ENOEXEC, "without PVH");
    static uint8_t initrd[64 << 20];
    make(k, &good);
    b.source.initrd = initrd;
    b.source.initrd_size = sizeof initrd;
    assert_refused(&b, k, SIZE, ENOMEM, "initrd dir/initrd: 65536 KiB do not fit");
    bench_destroy(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pvh),
        cmocka_unit_test(multiboot),
        cmocka_unit_test(multiboot_without_elf),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
