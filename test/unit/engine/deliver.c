// Exceptions and interrupts: which handler, which frame, which error code, and what happens when delivery fails.
#include "bed.h"

enum { TSS_AVAILABLE = 0x89, GATE16 = 0x86, TRAP32 = 0x8f, GATE32 = 0x8e, GATE32_3 = 0xee, TASK_GATE = 0x85 };

GUEST(ud2, 64, "ud2");
GUEST(int40, 64, "int $0x40");
GUEST(int3, 64, "int3");
GUEST(nops, 64, "nop; nop; nop; hlt");
GUEST(int13, 64, "int $13");
GUEST(div0, 64, "xor %ecx, %ecx; div %ecx");

static void real_mode(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_REAL);
    bed_load(&b, int40, int40_end);
    b.s.rflags |= RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_CF;
    b.s.rflags &= ~RFLAGS_TF;
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0x40);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 6);
    assert_int_equal(bed_stack(&b, 0, 2), 2);
    assert_int_equal(bed_stack(&b, 1, 2), BED_CODE >> 4);
    assert_int_equal(bed_stack(&b, 2, 2), RFLAGS_IF | RFLAGS_CF | 2);
    assert_int_equal(b.s.rflags, RFLAGS_CF | 2);
    bed_close(&b);

    bed_open(&b, BED_REAL); // no error code is pushed for a #GP: vector beyond the table
    bed_load(&b, int40, int40_end);
    b.s.idtr.limit = 0xff;
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(bed_stack(&b, 0, 2), 0);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 6);
    bed_close(&b);

    bed_open(&b, BED_REAL); // the stack pointer wraps between two pushes
    bed_load(&b, int40, int40_end);
    b.s.gpr[CPU_RSP] = 0x12340004;
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0x40);
    assert_int_equal(b.s.gpr[CPU_RSP], 0x1234fffe);
    assert_int_equal(bed_read(&b, 2, 2), 2);
    assert_int_equal(bed_read(&b, 0, 2), BED_CODE >> 4);
    assert_int_equal(bed_read(&b, 0xfffe, 2), 2);
    bed_close(&b);

    bed_open(&b, BED_REAL); // and an odd one cannot: #SS, again on the same stack, double fault, shutdown
    bed_load(&b, int40, int40_end);
    b.s.gpr[CPU_RSP] = 1;
    bed_run(&b);
    assert_int_equal(b.how, ENGINE_EXIT_SHUTDOWN);
    assert_int_equal(b.s.rip, 0);
    assert_int_equal(b.s.gpr[CPU_RSP], 1);
    bed_close(&b);
}

static void protected_same_level(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32);
    bed_load(&b, int40, int40_end);
    b.s.rflags |= RFLAGS_IF | RFLAGS_NT | RFLAGS_AC;
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0x40);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 12);
    assert_int_equal(bed_stack(&b, 0, 4), BED_CODE + 2);
    assert_int_equal(bed_stack(&b, 1, 4), BED_CS);
    assert_int_equal(bed_stack(&b, 2, 4), RFLAGS_IF | RFLAGS_NT | RFLAGS_AC | 2);
    assert_int_equal(b.s.rflags, RFLAGS_AC | 2); // interrupt gate: IF and NT are clear
    bed_close(&b);

    bed_open(&b, BED_PROT32); // a trap gate leaves IF
    bed_load(&b, int40, int40_end);
    bed_gate(&b, 0x40, BED_CS, BED_HANDLERS, TRAP32, 0);
    b.s.rflags |= RFLAGS_IF;
    bed_run(&b);
    assert_int_equal(b.s.rflags, RFLAGS_IF | 2);
    bed_close(&b);

    bed_open(&b, BED_PROT32); // a 16-bit gate pushes words and cuts the offset
    bed_load(&b, int40, int40_end);
    bed_gate(&b, 0x40, BED_CS, 0xffff0000 | BED_HANDLERS, GATE16, 0);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 6);
    assert_int_equal(bed_stack(&b, 0, 2), BED_CODE + 2);
    bed_close(&b);

    bed_open(&b, BED_PROT32); // a fault: RF in the image, RIP of the instruction, #UD without error code
    bed_load(&b, ud2, ud2_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_UD);
    assert_int_equal(bed_stack(&b, 0, 4), BED_CODE);
    assert_int_equal(bed_stack(&b, 2, 4), RFLAGS_RF | 2);
    bed_close(&b);
}

static void user(struct bed *b)
{
    bool wide = b->s.efer & EFER_LMA;
    b->s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, wide ? 0xafb : 0xcfb, 0xffffffff, 0};
    b->s.seg[CPU_SS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
}

static void protected_inner(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32);
    user(&b);
    bed_load(&b, div0, div0_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_DE);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK0 - 20);
    assert_int_equal(bed_stack(&b, 0, 4), BED_CODE + 2);
    assert_int_equal(bed_stack(&b, 1, 4), BED_CS3);
    assert_int_equal(bed_stack(&b, 3, 4), BED_STACK);
    assert_int_equal(bed_stack(&b, 4, 4), BED_DS3);
    assert_int_equal(cpu_cpl(&b.s), 0);
    assert_int_equal(b.s.seg[CPU_SS].selector, BED_DS);
    bed_close(&b);

    struct {
        uint64_t esp, ss;
        uint32_t limit;
        int vector;
        uint32_t error;
    } cases[] = {
        {BED_STACK0, BED_DS3, BED_TSS_LIMIT, EXC_TS, BED_DS3 & ~3},  // RPL and DPL 3
        {BED_STACK0, 0, BED_TSS_LIMIT, EXC_TS, 0},                   // null
        {BED_STACK0, 0x1000, BED_TSS_LIMIT, EXC_TS, 0x1000},         // beyond the table
        {BED_STACK0, BED_CS, BED_TSS_LIMIT, EXC_TS, BED_CS},         // not data
        {BED_STACK0, BED_FREE, BED_TSS_LIMIT, EXC_SS, BED_FREE},     // not present
        {0x1010, BED_FREE + 8, BED_TSS_LIMIT, EXC_SS, BED_FREE + 8}, // no room
        {BED_STACK0, BED_DS, 8, EXC_TS, BED_TR},                     // TSS too small
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bed_open(&b, BED_PROT32);
        user(&b);
        // #TS and #SS go to a conforming segment, which needs no stack of its own.
        bed_gdt(&b, BED_FREE, bed_descriptor(0, 0xfffff, 0xc13));
        bed_gdt(&b, BED_FREE + 8, bed_descriptor(0, 0x1000, 0x497)); // expand-down above 0x1000
        bed_gdt(&b, BED_FREE + 16, bed_descriptor(0, 0xfffff, 0xc9e));
        bed_gate(&b, EXC_TS, BED_FREE + 16, BED_HANDLERS + 16 * EXC_TS, GATE32, 0);
        bed_gate(&b, EXC_SS, BED_FREE + 16, BED_HANDLERS + 16 * EXC_SS, GATE32, 0);
        bed_write(&b, BED_TSS + 4, cases[i].esp, 4);
        bed_write(&b, BED_TSS + 8, cases[i].ss, 4);
        b.s.tr.limit = cases[i].limit;
        bed_load(&b, ud2, ud2_end);                                    // benign: what fails is not a double fault
        bed_write(&b, BED_HANDLERS + 16 * cases[i].vector, 0xfeeb, 2); // JMP to itself: at CPL 3 no HLT
        bed_step(&b, 1);
        assert_int_equal(bed_vector(&b), cases[i].vector);
        assert_int_equal(bed_stack(&b, 0, 4), cases[i].error | 1); // EXT: the #UD was not the program's INT
        assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 16);
        assert_int_equal(bed_read(&b, BED_GDT + BED_FREE + 16 + 5, 1) & 1, 1); // accessed
        bed_close(&b);
    }
}

static void gate_checks(void **state)
{
    (void)state;
    static const enum bed_mode modes[] = {BED_PROT32, BED_LONG};
    struct bed b;
    for (unsigned m = 0; m < 2; m++) {
        unsigned word = m ? 8 : 4;
        struct {
            uint16_t sel;
            uint8_t type;
            bool user;
            int vector;
            uint32_t error;
        } cases[] = {
            {BED_CS, GATE32 & 0x7f, false, EXC_NP, 0x40 * 8 + 2},
            {BED_CS, 0x80, false, EXC_GP, 0x40 * 8 + 2},  // no gate
            {BED_CS, 0x8c, false, EXC_GP, 0x40 * 8 + 2},  // a call gate
            {BED_CS, GATE32, true, EXC_GP, 0x40 * 8 + 2}, // DPL 0
            {0, GATE32_3, false, EXC_GP, 0},
            {BED_DS, GATE32_3, false, EXC_GP, BED_DS},
            {0x2000, GATE32_3, false, EXC_GP, 0x2000},
            {BED_CS3, GATE32_3, false, EXC_GP, BED_CS3 & ~3}, // outer level
            {BED_FREE, GATE32_3, false, EXC_NP, BED_FREE},    // code, not present
        };
        for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            bed_open(&b, modes[m]);
            if (cases[i].user)
                user(&b);
            bed_gdt(&b, BED_FREE, bed_descriptor(0, 0xfffff, m ? 0xa1b : 0xc1b));
            bed_gate(&b, 0x40, cases[i].sel, BED_HANDLERS, cases[i].type, 0);
            bed_load(&b, int40, int40_end);
            bed_run(&b);
            assert_int_equal(bed_vector(&b), cases[i].vector);
            assert_int_equal(bed_stack(&b, 0, word), cases[i].error);
            assert_int_equal(bed_stack(&b, 1, word), BED_CODE);
            bed_close(&b);
        }
        bed_open(&b, modes[m]); // outside of the table
        b.s.idtr.limit = m ? 0x40 * 16 + 14 : 0x40 * 8 + 6;
        bed_load(&b, int40, int40_end);
        bed_run(&b);
        assert_int_equal(bed_vector(&b), EXC_GP);
        assert_int_equal(bed_stack(&b, 0, word), 0x40 * 8 + 2);
        bed_close(&b);
    }
    bed_open(&b, BED_LONG); // in long mode handlers are 64-bit code
    bed_gate(&b, 0x40, BED_CS32, BED_HANDLERS, GATE32, 0);
    bed_load(&b, int40, int40_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(bed_stack(&b, 0, 8), BED_CS32);
    bed_close(&b);
}

static void long_mode(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG); // same level: aligned down to 16, five values always, SS unchanged
    b.s.gpr[CPU_RSP] = BED_STACK - 3;
    bed_load(&b, int40, int40_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0x40);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 16 - 40);
    assert_int_equal(bed_stack(&b, 3, 8), BED_STACK - 3);
    assert_int_equal(bed_stack(&b, 4, 8), BED_DS);
    assert_int_equal(b.s.seg[CPU_SS].selector, BED_DS);
    bed_close(&b);

    bed_open(&b, BED_LONG); // from user mode: RSP0, null SS
    user(&b);
    bed_load(&b, ud2, ud2_end);
    bed_run(&b);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK0 - 40);
    assert_int_equal(b.s.seg[CPU_SS].selector, 0);
    assert_int_equal(b.s.seg[CPU_SS].attr & CPU_SEG_P, 0);
    assert_int_equal(cpu_cpl(&b.s), 0);
    bed_close(&b);

    bed_open(&b, BED_LONG); // IST 3 without a change of level
    bed_gate(&b, EXC_UD, BED_CS, BED_HANDLERS + 16 * EXC_UD, GATE32, 3);
    bed_write(&b, BED_TSS + 36 + 16, BED_IST + 5, 8);
    bed_load(&b, ud2, ud2_end);
    bed_run(&b);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_IST - 40);
    assert_int_equal(b.s.seg[CPU_SS].selector, BED_DS);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a stack that is not canonical: #SS(EXT), again, #DF on its IST stack
    bed_gate(&b, EXC_DF, BED_CS, BED_HANDLERS + 16 * EXC_DF, GATE32, 1);
    b.s.gpr[CPU_RSP] = 0x8000000000000000;
    bed_load(&b, ud2, ud2_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_DF);
    assert_int_equal(bed_stack(&b, 0, 8), 0);
    assert_int_equal(bed_stack(&b, 1, 8), BED_CODE);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a handler that is not canonical
    bed_gate(&b, 0x40, BED_CS, 0x800000000000, GATE32, 0);
    bed_load(&b, int40, int40_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(bed_stack(&b, 0, 8), 0);
    bed_close(&b);
}

static void external(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_load(&b, nops, nops_end);
    b.s.rflags |= RFLAGS_IF;
    b.vector = 0x71;
    engine_notify(b.cpu, ENGINE_INTR);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0x71);
    assert_int_equal(bed_stack(&b, 0, 8), BED_CODE);
    assert_int_equal(bed_stack(&b, 2, 8), RFLAGS_IF | 2);
    assert_int_equal(b.s.rflags & RFLAGS_IF, 0);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a failing delivery of an interrupt: EXT is set
    bed_load(&b, nops, nops_end);
    bed_gate(&b, 0x71, BED_CS, BED_HANDLERS, 0, 0);
    b.s.rflags |= RFLAGS_IF;
    b.vector = 0x71;
    engine_notify(b.cpu, ENGINE_INTR);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(bed_stack(&b, 0, 8), 0x71 * 8 + 3);
    bed_close(&b);

    bed_open(&b, BED_LONG); // NMI: masked until IRET, whatever its gate's DPL
    bed_load(&b, nops, nops_end);
    engine_notify(b.cpu, ENGINE_NMI);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_NMI);
    assert_true(b.s.ev.nmi_masked);
    bed_close(&b);
}

static void double_and_triple(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32); // #GP while delivering #GP
    bed_gate(&b, EXC_GP, BED_CS, 0, 0, 0);
    bed_gate(&b, 0x40, BED_CS, 0, 0, 0);
    bed_load(&b, int40, int40_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_DF);
    assert_int_equal(bed_stack(&b, 0, 4), 0);
    bed_close(&b);

    bed_open(&b, BED_PROT32); // a benign one first is not a double fault
    bed_gate(&b, EXC_UD, BED_CS, 0, 0, 0);
    bed_load(&b, ud2, ud2_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(bed_stack(&b, 0, 4), EXC_UD * 8 + 3);
    bed_close(&b);

    bed_open(&b, BED_LONG); // no table at all; the state tells where it was
    b.s.idtr.limit = 0;
    bed_load(&b, ud2, ud2_end);
    bed_run(&b);
    assert_int_equal(b.how, ENGINE_EXIT_SHUTDOWN);
    assert_int_equal(b.s.rip, BED_CODE);
    assert_int_equal(b.s.ev.activity, CPU_SHUTDOWN);
    bed_close(&b);

    bed_open(&b, BED_LONG); // #PF while delivering #GP is serial: CR2 and its own error code
    bed_gate(&b, EXC_GP, BED_CS, BED_HANDLERS, GATE32, 1);
    bed_write(&b, BED_TSS + 36, 0x50000000, 8);
    bed_load(&b, int13, int13_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_PF);
    assert_int_equal(b.s.cr2, 0x50000000 - 8); // the highest value is the first to be written
    assert_int_equal(bed_stack(&b, 0, 8), PF_W);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_mode),         cmocka_unit_test(protected_same_level),
        cmocka_unit_test(protected_inner),   cmocka_unit_test(gate_checks),
        cmocka_unit_test(long_mode),         cmocka_unit_test(external),
        cmocka_unit_test(double_and_triple),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
