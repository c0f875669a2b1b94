// Port I/O: who may, how wide, and the string forms.
#include "bed.h"

GUEST(outb, 64, "out %al, $0xe9; hlt");
GUEST(outl, 64, "out %eax, %dx; hlt");
GUEST(inw, 64, "in %dx, %ax; hlt");
GUEST(inl, 64, "in %dx, %eax; hlt");
GUEST(insb, 64, "rep insb; hlt");
GUEST(insl, 64, "rep insl; hlt");
GUEST(outsw, 64, "rep outsw; hlt");
GUEST(outsl, 64, "rep outsl; hlt");
GUEST(outsb_fs, 64, "fs outsb; hlt");
GUEST(insb_nop, 64, "insb; hlt");

#define RUN(b, code) (bed_load(b, code, code##_end), bed_run(b))

static void sizes(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RAX] = 0x1122334455667788;
    b.s.gpr[CPU_RDX] = 0xffff1234;
    RUN(&b, outb);
    RUN(&b, outl);
    assert_int_equal(b.log[0].address, 0xe9);
    assert_int_equal(b.log[0].value, 0x88);
    assert_int_equal(b.log[0].size, 1);
    assert_int_equal(b.log[1].address, 0x1234);
    assert_int_equal(b.log[1].value, 0x55667788);
    assert_int_equal(b.log[1].size, 4);
    b.port_value = 0xfedcba9876543210; // more than was asked for
    RUN(&b, inw);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x1122334455663210);
    RUN(&b, inl);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x76543210);
    bed_close(&b);
}

static void permission(void **state)
{
    (void)state;
    static const struct {
        unsigned iopl;
        uint16_t port;
        uint8_t map[2]; // at port 0x400
        uint32_t limit;
        bool fine;
    } cases[] = {
        {3, 0x400, {0xff, 0xff}, BED_TSS_LIMIT, true},
        {0, 0x400, {0xf0, 0xff}, BED_TSS_LIMIT, true},
        {0, 0x400, {0xf1, 0xff}, BED_TSS_LIMIT, false},
        {0, 0x400, {0xf8, 0xff}, BED_TSS_LIMIT, false},
        {0, 0x406, {0x3f, 0xfc}, BED_TSS_LIMIT, true}, // crosses a byte
        {0, 0x406, {0x3f, 0xfe}, BED_TSS_LIMIT, false},
        {0, 0x400, {0, 0}, 104 + 0x80 + 1, true},
        {0, 0x400, {0, 0}, 104 + 0x80, false}, // two bytes are read
        {0, 0x400, {0, 0}, 102, false},        // no bitmap
    };
    struct bed b;
    for (unsigned n = 0; n < 2 * sizeof cases / sizeof cases[0]; n++) {
        unsigned i = n / 2;
        bool string = n & 1;
        bed_open(&b, BED_LONG);
        b.s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, 0xafb, 0xffffffff, 0};
        b.s.seg[CPU_SS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
        b.s.rflags |= cases[i].iopl << RFLAGS_IOPL_SHIFT;
        b.s.tr.limit = cases[i].limit;
        b.s.gpr[CPU_RDX] = cases[i].port;
        bed_write(&b, BED_TSS + 104 + 0x80, cases[i].map[0], 1);
        bed_write(&b, BED_TSS + 104 + 0x81, cases[i].map[1], 1);
        if (string) // which is refused even if it would move nothing
            bed_load(&b, outsl, outsl_end);
        else
            bed_load(&b, outl, outl_end);
        bed_step(&b, 1);
        if (string && cases[i].fine) {
            bed_close(&b);
            continue;
        }
        assert_int_equal(b.events, cases[i].fine);
        if (!cases[i].fine) {
            assert_int_equal(bed_vector(&b), EXC_GP);
            assert_int_equal(bed_stack(&b, 0, 8), 0);
        }
        bed_close(&b);
    }
}

static void strings(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RDX] = 0x1f0;
    b.s.gpr[CPU_RDI] = BED_DATA;
    b.s.gpr[CPU_RCX] = 1000; // more than one burst
    b.port_value = 0x5a;
    RUN(&b, insb);
    assert_int_equal(b.s.gpr[CPU_RDI], BED_DATA + 1000);
    assert_int_equal(b.s.gpr[CPU_RCX], 0);
    assert_int_equal(b.events, 1000);
    assert_int_equal(bed_read(&b, BED_DATA + 999, 2), 0x5a);
    RUN(&b, insb); // none
    assert_int_equal(b.events, 1000);
    bed_close(&b);

    bed_open(&b, BED_LONG); // downward
    b.s.rflags |= RFLAGS_DF;
    b.s.gpr[CPU_RSI] = BED_DATA + 2;
    b.s.gpr[CPU_RCX] = 2;
    bed_write(&b, BED_DATA, 0x22221111, 4);
    RUN(&b, outsw);
    assert_int_equal(b.log[0].value, 0x2222);
    assert_int_equal(b.log[1].value, 0x1111);
    assert_int_equal(b.s.gpr[CPU_RSI], BED_DATA - 2);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a segment prefix counts for OUTS
    b.s.seg[CPU_FS].base = 0x100;
    b.s.gpr[CPU_RSI] = BED_DATA;
    bed_write(&b, BED_DATA + 0x100, 0x77, 1);
    RUN(&b, outsb_fs);
    assert_int_equal(b.log[0].value, 0x77);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a fault in the middle: what was done is done, the port is not read for nothing
    b.s.gpr[CPU_RDI] = 0x40000000 - 8;
    b.s.gpr[CPU_RCX] = 4;
    RUN(&b, insl);
    assert_int_equal(bed_vector(&b), EXC_PF);
    assert_int_equal(b.s.cr2, 0x40000000);
    assert_int_equal(b.s.gpr[CPU_RCX], 2);
    unsigned reads = 0;
    for (unsigned i = 0; i < b.events; i++)
        reads += b.log[i].what == 'i';
    assert_int_equal(reads, 2);
    bed_close(&b);

    bed_open(&b, BED_LONG); // an interrupt between two bursts finds a restartable state
    b.s.gpr[CPU_RDI] = BED_DATA;
    b.s.gpr[CPU_RCX] = 1000;
    b.s.rflags |= RFLAGS_IF;
    bed_load(&b, insb, insb_end);
    bed_step(&b, 1);
    uint64_t left = b.s.gpr[CPU_RCX];
    assert_true(left < 1000);
    assert_int_equal(b.s.gpr[CPU_RDI], BED_DATA + 1000 - left);
    if (left)
        assert_int_equal(b.s.rip, BED_CODE);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sizes), cmocka_unit_test(permission),
                                       cmocka_unit_test(strings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
