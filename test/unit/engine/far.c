// Far transfers: JMP, CALL, RET and IRET between segments, levels and modes; call gates.
#include "bed.h"

enum {
    CALL_GATE16 = 0x84,
    CALL_GATE = 0x8c,
    DPL3 = 0x60,
    GATE = BED_FREE,         // 16 bytes
    TARGET = BED_FREE + 16,  // code that a test makes
    TARGET2 = BED_FREE + 24, // data, or another one
};

static uint64_t call_gate(uint16_t sel, uint32_t offset, uint8_t type, unsigned params)
{
    return (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 | (uint64_t)type << 40 |
           (uint64_t)(offset >> 16) << 48;
}

static void user(struct bed *b)
{
    bool wide = b->s.efer & EFER_LMA;
    b->s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, wide ? 0xafb : 0xcfb, 0xffffffff, 0};
    for (unsigned i = 0; i < CPU_SEG_COUNT; i++)
        if (i != CPU_CS)
            b->s.seg[i] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
}

// Jumps or calls through a far pointer in memory at BED_DATA.
GUEST(jmp32, 32, "ljmp *0x8000");
GUEST(call32, 32, "lcall *0x8000");
GUEST(jmp64, 64, "ljmp *0x8000");
GUEST(call64, 64, "lcall *0x8000");
GUEST(call16, 16, "lcall $0x700, $0x1234");
GUEST(ret32, 32, "lret");
GUEST(ret32_8, 32, "lret $8");
GUEST(ret64, 64, "lretq");
GUEST(iret32, 32, "iret");
GUEST(iret64, 64, "iretq");
GUEST(iret16, 16, "iretw");

static void pointer(struct bed *b, uint16_t sel, uint32_t offset)
{
    bed_write(b, BED_DATA, offset, 4);
    bed_write(b, BED_DATA + 4, sel, 2);
}

static void push(struct bed *b, uint64_t val, unsigned size)
{
    b->s.gpr[CPU_RSP] -= size;
    bed_write(b, b->s.gpr[CPU_RSP], val, size);
}

static void real_mode(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_REAL);
    bed_load(&b, call16, call16_end);
    bed_write(&b, 0x7000 + 0x1234, 0xf4, 1);
    bed_run(&b);
    assert_int_equal(b.s.rip, 0x1235);
    assert_int_equal(b.s.seg[CPU_CS].selector, 0x700);
    assert_int_equal(b.s.seg[CPU_CS].base, 0x7000);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 4);
    assert_int_equal(bed_stack(&b, 0, 2), 5);
    assert_int_equal(bed_stack(&b, 1, 2), BED_CODE >> 4);
    bed_close(&b);

    bed_open(&b, BED_REAL); // IRET loads every flag there is
    push(&b, 0xffff, 2);
    push(&b, 0x700, 2);
    push(&b, 0x1234, 2);
    bed_load(&b, iret16, iret16_end);
    bed_step(&b, 1);
    assert_int_equal(b.s.rip, 0x1234);
    assert_int_equal(b.s.rflags, 0x7fd7);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK);
    bed_close(&b);
}

static void direct(void **state)
{
    (void)state;
    static const struct {
        uint16_t sel;
        uint16_t target; // attributes of TARGET
        bool user, wide;
        int vector; // -1: goes
        uint32_t error;
    } cases[] = {
        {BED_CS, 0, false, false, -1, 0},
        {0, 0, false, false, EXC_GP, 0},
        {3, 0, false, false, EXC_GP, 0},
        {0x2000, 0, false, false, EXC_GP, 0x2000},
        {BED_DS, 0, false, false, EXC_GP, BED_DS},
        {BED_CS | 1, 0, false, false, EXC_GP, BED_CS},    // RPL above CPL
        {BED_CS3, 0, false, false, EXC_GP, BED_CS3 & ~3}, // DPL is not CPL
        {BED_CS, 0, true, false, EXC_GP, BED_CS},         // inward
        {TARGET, 0xc1a, false, false, EXC_NP, TARGET},    // not present
        {TARGET, 0xc9e, true, false, -1, 0},              // conforming, inward
        {TARGET | 3, 0xc9e, true, false, -1, 0},          // its RPL does not count
        {TARGET, 0xcfe, false, false, EXC_GP, TARGET},    // conforming, outward
        {BED_CS32, 0, false, true, -1, 0},                // to compatibility mode
        {TARGET, 0xe9a, false, true, EXC_GP, TARGET},     // L and D
        {BED_TR, 0, false, true, EXC_GP, BED_TR},         // no tasks in long mode
    };
    struct bed b;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (unsigned call = 0; call < 2; call++) {
            bed_open(&b, cases[i].wide ? BED_LONG : BED_PROT32);
            if (cases[i].user)
                user(&b);
            bed_gdt(&b, TARGET, bed_descriptor(0, 0xfffff, cases[i].target));
            pointer(&b, cases[i].sel, BED_HANDLERS + 16 * 0xff);
            bed_write(&b, BED_HANDLERS + 16 * 0xff, 0xfeeb, 2);
            if (cases[i].wide)
                bed_load(&b, call ? call64 : jmp64, call ? call64_end : jmp64_end);
            else
                bed_load(&b, call ? call32 : jmp32, call ? call32_end : jmp32_end);
            uint64_t next = BED_CODE + (call ? call64_end - call64 : jmp64_end - jmp64);
            next = cases[i].wide ? next : (uint64_t)(BED_CODE + (call32_end - call32));
            uint16_t from = b.s.seg[CPU_CS].selector, cpl = cpu_cpl(&b.s);
            bed_step(&b, cases[i].vector < 0 ? 2 : 1);
            if (cases[i].vector < 0) {
                assert_int_equal(bed_vector(&b), 0xff);
                assert_int_equal(b.s.seg[CPU_CS].selector, (cases[i].sel & ~3) | cpl);
                assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 8 * call);
                if (call) {
                    assert_int_equal(bed_stack(&b, 0, 4), next);
                    assert_int_equal(bed_stack(&b, 1, 4), from);
                }
                if (cases[i].target)
                    assert_int_equal(bed_read(&b, BED_GDT + TARGET + 5, 1) & 1, 1);
            } else {
                assert_int_equal(bed_vector(&b), cases[i].vector);
                assert_int_equal(bed_stack(&b, 0, cases[i].wide ? 8 : 4), cases[i].error);
                assert_int_equal(bed_stack(&b, 1, cases[i].wide ? 8 : 4), BED_CODE);
            }
            bed_close(&b);
        }
    bed_open(&b, BED_PROT32); // beyond the limit
    bed_gdt(&b, TARGET, bed_descriptor(0, 0xff, 0x49b));
    pointer(&b, TARGET, 0x100);
    bed_load(&b, jmp32, jmp32_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(bed_stack(&b, 0, 4), 0);
    bed_close(&b);
}

static void gate_inward(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32); // CPL 3 to 0, three parameters
    user(&b);
    bed_gdt(&b, GATE, call_gate(BED_CS, BED_HANDLERS, CALL_GATE | DPL3, 3));
    push(&b, 0x33, 4);
    push(&b, 0x22, 4);
    push(&b, 0x11, 4);
    pointer(&b, GATE | 3, 0xdeadbeef); // the offset is the gate's
    bed_load(&b, call32, call32_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0);
    assert_int_equal(cpu_cpl(&b.s), 0);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK0 - 4 * 7);
    assert_int_equal(bed_stack(&b, 0, 4), BED_CODE + (call32_end - call32));
    assert_int_equal(bed_stack(&b, 1, 4), BED_CS3);
    assert_int_equal(bed_stack(&b, 2, 4), 0x11);
    assert_int_equal(bed_stack(&b, 4, 4), 0x33);
    assert_int_equal(bed_stack(&b, 5, 4), BED_STACK - 12);
    assert_int_equal(bed_stack(&b, 6, 4), BED_DS3);
    bed_close(&b);

    bed_open(&b, BED_PROT32); // a 16-bit gate
    user(&b);
    bed_gdt(&b, GATE, call_gate(BED_CS, 0xffff0000 | BED_HANDLERS, CALL_GATE16 | DPL3, 1));
    push(&b, 0x4321, 2);
    pointer(&b, GATE | 3, 0);
    bed_load(&b, call32, call32_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK0 - 2 * 5);
    assert_int_equal(bed_stack(&b, 2, 2), 0x4321);
    bed_close(&b);

    bed_open(&b, BED_LONG); // 64-bit: no parameters, null SS
    user(&b);
    bed_gdt(&b, GATE, call_gate(BED_CS, BED_HANDLERS, CALL_GATE | DPL3, 0));
    pointer(&b, GATE | 3, 0);
    bed_load(&b, call64, call64_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK0 - 32);
    assert_int_equal(bed_stack(&b, 0, 8), BED_CODE + (call64_end - call64));
    assert_int_equal(bed_stack(&b, 3, 8), BED_DS3);
    assert_int_equal(b.s.seg[CPU_SS].selector, 0);
    bed_close(&b);
}

static void gate_checks(void **state)
{
    (void)state;
    static const struct {
        uint16_t sel; // of the gate, with RPL
        uint8_t type;
        uint16_t code;
        bool user, wide, jump;
        int vector;
        uint32_t error;
    } cases[] = {
        {GATE | 3, CALL_GATE, BED_CS, true, false, false, EXC_GP, GATE},  // DPL 0
        {GATE | 3, CALL_GATE, BED_CS, false, false, false, EXC_GP, GATE}, // RPL 3
        {GATE | 3, (CALL_GATE | DPL3) & 0x7f, BED_CS, true, false, false, EXC_NP, GATE},
        {GATE, CALL_GATE, 0, false, false, false, EXC_GP, 0},
        {GATE, CALL_GATE, 0x2000, false, false, false, EXC_GP, 0x2000},
        {GATE, CALL_GATE, BED_DS, false, false, false, EXC_GP, BED_DS},
        {GATE, CALL_GATE, BED_CS3, false, false, false, EXC_GP, BED_CS3 & ~3},   // outward
        {GATE | 3, CALL_GATE | DPL3, BED_CS, true, false, true, EXC_GP, BED_CS}, // JMP goes to the same level only
        {GATE, CALL_GATE, TARGET, false, false, false, EXC_NP, TARGET},
        {GATE, CALL_GATE, BED_CS32, false, true, false, EXC_GP, BED_CS32}, // not 64-bit code
        {GATE, CALL_GATE16, BED_CS, false, true, false, EXC_GP, GATE},
    };
    struct bed b;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bed_open(&b, cases[i].wide ? BED_LONG : BED_PROT32);
        if (cases[i].user)
            user(&b);
        bed_gdt(&b, TARGET, bed_descriptor(0, 0xfffff, 0xc1a));
        bed_gdt(&b, GATE, call_gate(cases[i].code, BED_HANDLERS, cases[i].type, 0));
        pointer(&b, cases[i].sel, 0);
        if (cases[i].wide)
            bed_load(&b, call64, call64_end);
        else
            bed_load(&b, cases[i].jump ? jmp32 : call32, cases[i].jump ? jmp32_end : call32_end);
        bed_run(&b);
        assert_int_equal(bed_vector(&b), cases[i].vector);
        assert_int_equal(bed_stack(&b, 0, cases[i].wide ? 8 : 4), cases[i].error);
        bed_close(&b);
    }
    bed_open(&b, BED_LONG); // reserved type bits in the gate's second half
    bed_gdt(&b, GATE, call_gate(BED_CS, BED_HANDLERS, CALL_GATE, 0));
    bed_gdt(&b, GATE + 8, 0x1f0000000000);
    pointer(&b, GATE, 0);
    bed_load(&b, call64, call64_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(bed_stack(&b, 0, 8), GATE);
    bed_close(&b);

    // A stack of the caller's that has no parameters to give: nothing has changed.
    bed_open(&b, BED_PROT32);
    user(&b);
    bed_gdt(&b, GATE, call_gate(BED_CS, BED_HANDLERS, CALL_GATE | DPL3, 3));
    b.s.seg[CPU_SS].limit = BED_STACK - 1;
    pointer(&b, GATE | 3, 0);
    bed_load(&b, call32, call32_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_SS);
    assert_int_equal(bed_stack(&b, 0, 4), 0);
    assert_int_equal(bed_stack(&b, 4, 4), BED_STACK);
    bed_close(&b);
}

static void ret_outward(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32); // with parameters released on both stacks; data segments of level 0 become null
    push(&b, BED_DS3, 4);
    push(&b, 0x9000, 4);
    push(&b, 0xaaaa, 4);
    push(&b, 0xbbbb, 4);
    push(&b, BED_CS3, 4);
    push(&b, BED_HANDLERS, 4);
    bed_gdt(&b, TARGET2, bed_descriptor(0, 0xfffff, 0xc9e));
    b.s.seg[CPU_FS] = (struct cpu_segment){TARGET2, 0xc9f, 0xffffffff, 0}; // conforming code stays
    b.s.seg[CPU_GS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
    bed_load(&b, ret32_8, ret32_8_end);
    bed_step(&b, 1);
    assert_int_equal(b.s.rip, BED_HANDLERS);
    assert_int_equal(cpu_cpl(&b.s), 3);
    assert_int_equal(b.s.gpr[CPU_RSP], 0x9008);
    assert_int_equal(b.s.seg[CPU_SS].selector, BED_DS3);
    assert_int_equal(b.s.seg[CPU_DS].selector | b.s.seg[CPU_DS].attr, 0);
    assert_int_equal(b.s.seg[CPU_FS].selector, TARGET2);
    assert_int_equal(b.s.seg[CPU_GS].selector, BED_DS3);
    bed_close(&b);

    static const struct {
        uint16_t cs, ss, attr; // attr: of TARGET
        int vector;
        uint32_t error;
    } cases[] = {
        {0, BED_DS3, 0, EXC_GP, 0},
        {BED_DS3, BED_DS3, 0, EXC_GP, BED_DS3 & ~3},
        {BED_CS | 3, BED_DS3, 0, EXC_GP, BED_CS}, // DPL is not RPL
        {TARGET | 3, BED_DS3, 0xc7a, EXC_NP, TARGET},
        {BED_CS3, 0, 0, EXC_GP, 0},
        {BED_CS3, BED_DS, 0, EXC_GP, BED_DS},        // RPL
        {BED_CS3, BED_DS | 3, 0, EXC_GP, BED_DS},    // DPL
        {BED_CS3, BED_CS3, 0, EXC_GP, BED_CS3 & ~3}, // code
        {BED_CS3, TARGET | 3, 0xc72, EXC_SS, TARGET},
        {BED_CS3, TARGET | 3, 0xcf0, EXC_GP, TARGET}, // read-only
        {BED_CS3, 0x2003, 0, EXC_GP, 0x2000},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bed_open(&b, BED_PROT32);
        bed_gdt(&b, TARGET, bed_descriptor(0, 0xfffff, cases[i].attr));
        push(&b, cases[i].ss, 4);
        push(&b, 0x9000, 4);
        push(&b, cases[i].cs, 4);
        push(&b, BED_HANDLERS, 4);
        bed_load(&b, ret32, ret32_end);
        bed_run(&b);
        assert_int_equal(bed_vector(&b), cases[i].vector);
        assert_int_equal(bed_stack(&b, 0, 4), cases[i].error);
        assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 16 - 16); // RSP was not moved
        bed_close(&b);
    }

    bed_open(&b, BED_LONG); // from 64-bit mode to compatibility mode at level 3
    push(&b, BED_DS3, 8);
    push(&b, 0x9000, 8);
    push(&b, BED_CS32_3, 8);
    push(&b, BED_HANDLERS, 8);
    bed_load(&b, ret64, ret64_end);
    bed_step(&b, 1);
    assert_int_equal(b.s.seg[CPU_CS].selector, BED_CS32_3);
    assert_int_equal(b.s.rip, BED_HANDLERS);
    assert_int_equal(b.s.gpr[CPU_RSP], 0x9000);
    bed_close(&b);
}

static void iret_flags(void **state)
{
    (void)state;
    static const struct {
        unsigned cpl, iopl;
        uint64_t image, flags;
    } cases[] = {
        {0, 0, 0xffffffff & ~RFLAGS_VM & ~RFLAGS_NT, 0x3d3fd7},
        {3, 0, 0xffffffff & ~RFLAGS_NT, 0x250dd7}, // neither IF nor IOPL nor VIF, VIP; VM is not for it
        {3, 3, 0xffffffff & ~RFLAGS_NT, 0x253fd7},
        {3, 3, 0, 0x3002},
    };
    struct bed b;
    for (unsigned i = 0; i < 4; i++) {
        bed_open(&b, BED_PROT32);
        if (cases[i].cpl)
            user(&b);
        b.s.rflags |= cases[i].iopl << RFLAGS_IOPL_SHIFT;
        push(&b, cases[i].image & ~(uint64_t)RFLAGS_TF, 4);
        push(&b, cases[i].cpl ? BED_CS3 : BED_CS, 4);
        push(&b, BED_HANDLERS, 4);
        bed_load(&b, iret32, iret32_end);
        bed_step(&b, 1);
        assert_int_equal(b.s.rip, BED_HANDLERS);
        assert_int_equal(b.s.rflags, cases[i].flags & ~(uint64_t)RFLAGS_TF);
        bed_close(&b);
    }
}

static void iret_long(void **state)
{
    (void)state;
    struct bed b;
    static const struct {
        uint64_t rip, cs, ss;
        int vector;
        uint32_t error;
    } cases[] = {
        {BED_HANDLERS, BED_CS, BED_DS, -1, 0},
        {BED_HANDLERS, BED_CS, 0, -1, 0}, // a null SS is fine for a 64-bit kernel
        {BED_HANDLERS, BED_CS3, BED_DS3, -1, 0},
        {BED_HANDLERS, BED_CS3, 3, EXC_GP, 0},  // but not for a user
        {BED_HANDLERS, BED_CS32, 0, EXC_GP, 0}, // nor for compatibility mode
        {0x800000000000, BED_CS3, BED_DS3, EXC_GP, 0},
        {0x100000000, BED_CS32_3, BED_DS3, EXC_GP, 0}, // beyond the limit
        {BED_HANDLERS, BED_CS3, BED_DS, EXC_GP, BED_DS},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bed_open(&b, BED_LONG);
        b.s.ev.nmi_masked = true;
        push(&b, cases[i].ss, 8);
        push(&b, 0x7ffffffff000, 8);
        push(&b, 2, 8);
        push(&b, cases[i].cs, 8);
        push(&b, cases[i].rip, 8);
        bed_load(&b, iret64, iret64_end);
        if (cases[i].vector < 0) {
            bed_step(&b, 1);
            assert_int_equal(b.s.rip, cases[i].rip);
            assert_int_equal(b.s.seg[CPU_CS].selector, cases[i].cs);
            assert_int_equal(b.s.seg[CPU_SS].selector, cases[i].ss);
            assert_int_equal(cpu_cpl(&b.s), cases[i].cs & 3);
            assert_int_equal(b.s.gpr[CPU_RSP], 0x7ffffffff000);
        } else {
            bed_run(&b);
            assert_int_equal(bed_vector(&b), cases[i].vector);
            assert_int_equal(bed_stack(&b, 0, 8), cases[i].error);
            assert_int_equal(bed_stack(&b, 4, 8), BED_STACK - 40);
        }
        assert_false(b.s.ev.nmi_masked); // even if it faults
        bed_close(&b);
    }
    bed_open(&b, BED_LONG); // no nested tasks
    b.s.rflags |= RFLAGS_NT;
    bed_load(&b, iret64, iret64_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_mode),   cmocka_unit_test(direct),      cmocka_unit_test(gate_inward),
        cmocka_unit_test(gate_checks), cmocka_unit_test(ret_outward), cmocka_unit_test(iret_flags),
        cmocka_unit_test(iret_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
