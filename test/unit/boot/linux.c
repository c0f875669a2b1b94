// bzImage: where everything goes, what the zero page says, both entries, and every way in which a file can be wrong.
#include "bench.h"

enum { SETUP = 5 * 512, BODY = 8192, SIZE = SETUP + BODY };

// A kernel of protocol 2.15 that wants to be at 16 MiB with 2 MiB to work in.
static void make(uint8_t *k)
{
    memset(k, 0, SIZE);
    k[0x1f1] = 4;
    put32(k, 0x1f4, BODY / 16);
    put16(k, 0x1fe, 0xaa55);
    k[0x200] = 0xeb;
    k[0x201] = 0x6a;
    memcpy(k + 0x202, "HdrS", 4);
    put16(k, 0x206, 0x20f);
    k[0x211] = 1;
    put32(k, 0x22c, 0x7fffffff);
    put32(k, 0x230, 0x200000);
    k[0x234] = 1;
    put16(k, 0x236, 1);
    put32(k, 0x238, 2047);
    put64(k, 0x258, 0x1000000);
    put32(k, 0x260, 0x200000);
    for (unsigned i = 0; i < BODY; i++)
        k[SETUP + i] = i * 7 + i / 256;
}

static void loads(void **state)
{
    (void)state;
    struct bench b;
    uint8_t k[SIZE];
    static uint8_t initrd[5000];
    make(k);
    memset(initrd, 0x77, sizeof initrd);
    bench_init(&b, 64 << 20);
    b.source.cmdline = "console=ttyS0 quiet";
    b.source.initrd = initrd;
    b.source.initrd_size = sizeof initrd;
    if (load(&b, k, SIZE))
        fail_msg("%s", b.err.text);
    assert_memory_equal(b.ram + 0x1000000, k + SETUP, BODY);
    uint64_t page = b.cpu.gpr[CPU_RSI];
    assert_int_equal(b.ram[page + 0x210], 0xff);
    assert_int_equal(ram32(&b, page + 0x202), 0x53726448);
    assert_int_equal(ram32(&b, page + 0x214), 0x1000000);
    assert_string_equal(b.ram + ram32(&b, page + 0x228), "console=ttyS0 quiet");
    uint32_t at = ram32(&b, page + 0x218);
    assert_int_equal(ram32(&b, page + 0x21c), sizeof initrd);
    assert_int_equal(at, (64 << 20) - 8192); // at the very top, page-aligned
    assert_memory_equal(b.ram + at, initrd, sizeof initrd);
    assert_int_equal(b.ram[page + 0x1e8], 4);
    assert_int_equal(ram64(&b, page + 0x2d0 + 60), 0x100000);
    assert_int_equal(ram64(&b, page + 0x2d0 + 68), 63 << 20);
    assert_int_equal(ram32(&b, page + 0x2d0 + 76), 1);
    assert_int_equal(ram32(&b, page + 0x2d0 + 36), 2);
    assert_int_equal(ram64(&b, page + 0x70), 0xe0000);
    assert_int_equal(b.ram[page + 0x1ef], 0); // the sentinel
    uint64_t seed = ram64(&b, page + 0x250);
    assert_int_equal(ram64(&b, seed), 0);
    assert_int_equal(ram32(&b, seed + 8), 9);
    assert_int_equal(ram32(&b, seed + 12), 32);

    // 64-bit entry: long mode, the first 4 GiB mapped as they are.
    assert_int_equal(b.cpu.rip, 0x1000200);
    assert_int_equal(b.cpu.efer, EFER_LME | EFER_LMA);
    assert_int_equal(b.cpu.cr0, CR0_PE | CR0_PG | CR0_ET);
    assert_int_equal(b.cpu.cr4, CR4_PAE);
    assert_int_equal(b.cpu.seg[CPU_CS].selector, 0x10);
    assert_int_equal(b.cpu.seg[CPU_CS].attr, 0xa9b);
    assert_int_equal(b.cpu.seg[CPU_DS].selector, 0x18);
    assert_true(b.cpu.gdtr.limit >= 0x1f);
    assert_true(ram64(&b, b.cpu.gdtr.base + 0x10) == 0x00af9b000000ffff);
    for (uint64_t va = 0; va < 1ull << 32; va += 0x200000 * 37 + 0x1234) {
        uint64_t e = ram64(&b, b.cpu.cr3 + (va >> 39) * 8);
        e = ram64(&b, (e & ~0xfffull) + (va >> 30 & 511) * 8);
        e = ram64(&b, (e & ~0xfffull) + (va >> 21 & 511) * 8);
        assert_true((e & ~0x1fffffull) == (va & ~0x1fffffull) && (e & 0xff) == 0x83);
    }
    bench_destroy(&b);
}

static void enters_in_32_bits(void **state)
{
    (void)state;
    struct bench b;
    uint8_t k[SIZE];
    make(k);
    put16(k, 0x236, 0);
    bench_init(&b, 64 << 20);
    assert_int_equal(load(&b, k, SIZE), 0);
    assert_flat32(&b, 0x1000000);
    assert_int_equal(b.cpu.seg[CPU_CS].selector, 0x10);
    assert_int_equal(b.cpu.seg[CPU_SS].selector, 0x18);
    assert_true(ram64(&b, b.cpu.gdtr.base + 0x10) == 0x00cf9b000000ffff);
    assert_int_equal(b.cpu.gpr[CPU_RBX] | b.cpu.gpr[CPU_RBP] | b.cpu.gpr[CPU_RDI], 0);
    // An old one, which goes to 1 MiB.
    put16(k, 0x206, 0x206);
    assert_int_equal(load(&b, k, SIZE), 0);
    assert_flat32(&b, 0x100000);
    bench_destroy(&b);
}

static void finds_room(void **state)
{
    (void)state;
    struct bench b;
    uint8_t k[SIZE];
    static uint8_t initrd[9 << 20];
    make(k);
    bench_init(&b, 12 << 20); // too small for where it would rather be
    assert_int_equal(load(&b, k, SIZE), 0);
    assert_int_equal(b.cpu.rip, 0x200200);
    b.source.initrd = initrd;
    b.source.initrd_size = 8 << 20;
    assert_int_equal(load(&b, k, SIZE), 0);
    assert_int_equal(ram32(&b, b.cpu.gpr[CPU_RSI] + 0x218), 4 << 20);
    b.source.initrd_size = (8 << 20) + 1;
    assert_refused(&b, k, SIZE, ENOMEM, "initrd dir/initrd: 8193 KiB do not fit");
    b.source.initrd_size = 4096;
    put32(k, 0x22c, 0x5fffff); // the initrd's end must be below 6 MiB
    assert_int_equal(load(&b, k, SIZE), 0);
    assert_int_equal(ram32(&b, b.cpu.gpr[CPU_RSI] + 0x218), 0x5ff000);
    put32(k, 0x22c, 0x3fffff);
    assert_int_equal(load(&b, k, SIZE), 0); // below the kernel is room, too
    assert_int_equal(ram32(&b, b.cpu.gpr[CPU_RSI] + 0x218), 0x1ff000);
    put32(k, 0x260, 16 << 20);
    assert_refused(&b, k, SIZE, ENOMEM, "needs 16 MiB of memory from 0x1000000 on; the machine has 12 MiB");
    put32(k, 0x260, 0x200000);
    k[0x234] = 0; // not relocatable
    assert_refused(&b, k, SIZE, ENOMEM, "needs 2 MiB of memory from 0x1000000 on");
    bench_destroy(&b);
}

static void refuses(void **state)
{
    (void)state;
    struct bench b;
    uint8_t k[SIZE];
    char longer[3000];
    make(k);
    bench_init(&b, 64 << 20);
    assert_refused(&b, k, 0, ENOEXEC, "kernel dir/kernel: the file is empty");
    assert_refused(&b, "\x1f\x8b\x08", 3, ENOEXEC, "gzip");
    assert_refused(&b, "#!/bin/sh\n", 10, ENOEXEC, "not a kernel");
    for (size_t size = 1; size < SIZE - 15; size += size < 0x300 ? 1 : 97)
        assert_refused(&b, k, size, ENOEXEC, size < 0x208 ? "not a kernel" : "truncated");
    put16(k, 0x206, 0x205);
    assert_refused(&b, k, SIZE, ENOTSUP, "boot protocol 2.05 is too old");
    make(k);
    k[0x211] = 0;
    assert_refused(&b, k, SIZE, ENOTSUP, "zImage");
    make(k);
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    b.source.cmdline = longer;
    assert_refused(&b, k, SIZE, E2BIG, "command line: 2999 bytes; kernel dir/kernel takes at most 2047");
    b.source.cmdline = NULL;
    put32(k, 0x1f4, 0xffffffff);
    assert_refused(&b, k, SIZE, ENOEXEC, "truncated");
    make(k);
    put64(k, 0x258, 0xfffffffffffff000);
    put32(k, 0x230, 0x80000000);
    assert_refused(&b, k, SIZE, ENOMEM, "needs 2 MiB of memory from 0xfffffffffffff000 on");
    put32(k, 0x230, 3); // no power of two
    assert_refused(&b, k, SIZE, ENOMEM, "needs");
    make(k);
    k[0x1f1] = 255; // a setup part longer than the file
    assert_refused(&b, k, SIZE, ENOEXEC, "truncated");
    bench_destroy(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads),
        cmocka_unit_test(enters_in_32_bits),
        cmocka_unit_test(finds_room),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
