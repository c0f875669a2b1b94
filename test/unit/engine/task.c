// Hardware task switches, and virtual-8086 mode.
#include "bed.h"

enum {
    TSS_AVAILABLE = 0x89,
    TSS16_AVAILABLE = 0x81,
    TSS2 = BED_FREE,     // descriptor of the second task
    GATE = BED_FREE + 8, // task gate to it
    CODE2 = 0x7000,      // where the second task runs
    STACK2 = 0x9000,
    TASK_GATE = 0x85,
    HLT = 0xf4,
};

GUEST(jmp_tss, 32, "ljmp $0x58, $0");
GUEST(call_tss, 32, "lcall $0x58, $0; hlt");
GUEST(call_gate, 32, "lcall $0x60, $0; hlt");
GUEST(int40, 32, "int $0x40; hlt");
GUEST(gp, 32, "mov $0x2000, %eax; mov %eax, %ds");
GUEST(iret_back, 32, "inc %eax; iret; hlt");

static void put32(struct bed *b, unsigned offset, uint32_t val)
{
    bed_write(b, BED_TSS2 + offset, val, 4);
}

// A 32-bit task at CODE2 with recognizable registers.
static void second_task(struct bed *b)
{
    bed_gdt(b, TSS2, bed_descriptor(BED_TSS2, 103, TSS_AVAILABLE));
    bed_gdt(b, GATE, (uint64_t)TSS2 << 16 | (uint64_t)TASK_GATE << 40);
    put32(b, 28, 0);
    put32(b, 32, CODE2);
    put32(b, 36, RFLAGS_FIXED | RFLAGS_CF);
    for (unsigned i = 0; i < 8; i++)
        put32(b, 40 + 4 * i, i == CPU_RSP ? STACK2 : 0x1000 + i);
    static const uint16_t sel[] = {BED_DS, BED_CS, BED_DS, BED_DS, 0, BED_DS3};
    for (unsigned i = 0; i < 6; i++)
        put32(b, 72 + 4 * i, sel[i]);
    put32(b, 96, BED_LDTR);
    bed_write(b, CODE2, HLT, 1);
}

static unsigned type_of(const struct bed *b, unsigned sel)
{
    return bed_read(b, BED_GDT + sel + 5, 1);
}

static void jump(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32);
    second_task(&b);
    bed_load(&b, jmp_tss, jmp_tss_end);
    b.s.gpr[CPU_RBX] = 0xabcd;
    b.s.dr7 = 0x755;
    bed_run(&b);
    assert_int_equal(b.s.rip, CODE2 + 1);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x1000);
    assert_int_equal(b.s.gpr[CPU_RDI], 0x1007);
    assert_int_equal(b.s.gpr[CPU_RSP], STACK2);
    assert_int_equal(b.s.rflags, RFLAGS_FIXED | RFLAGS_CF);
    assert_int_equal(b.s.tr.selector, TSS2);
    assert_int_equal(b.s.tr.base, BED_TSS2);
    assert_int_equal(b.s.ldtr.selector, BED_LDTR);
    assert_int_equal(b.s.seg[CPU_FS].attr & CPU_SEG_P, 0);
    assert_int_equal(b.s.seg[CPU_GS].selector, BED_DS3);
    assert_true(b.s.cr0 & CR0_TS);
    assert_int_equal(b.s.dr7, 0x600); // local breakpoints are off
    assert_int_equal(type_of(&b, TSS2), 0x8b);
    assert_int_equal(type_of(&b, BED_TR), 0x89);
    // the old task, as it was
    assert_int_equal(bed_read(&b, BED_TSS + 32, 4), BED_CODE + (jmp_tss_end - jmp_tss));
    assert_int_equal(bed_read(&b, BED_TSS + 40 + 4 * CPU_RBX, 4), 0xabcd);
    assert_int_equal(bed_read(&b, BED_TSS + 76, 4), BED_CS);
    bed_close(&b);
}

static void nested(void **state)
{
    (void)state;
    static const struct {
        const uint8_t *code, *end;
    } ways[] = {{call_tss, call_tss_end}, {call_gate, call_gate_end}, {int40, int40_end}};
    struct bed b;
    for (unsigned i = 0; i < 3; i++) {
        bed_open(&b, BED_PROT32);
        second_task(&b);
        bed_gate(&b, 0x40, TSS2, 0, TASK_GATE, 0);
        bed_load(&b, ways[i].code, ways[i].end);
        for (unsigned n = 0; n < 8; n++)
            bed_write(&b, CODE2 + n, iret_back[n % (iret_back_end - iret_back)], 1);
        b.s.gpr[CPU_RBP] = 0x77;
        bed_step(&b, 1); // in the second task
        assert_int_equal(b.s.rip, CODE2);
        assert_true(b.s.rflags & RFLAGS_NT);
        assert_int_equal(bed_read(&b, BED_TSS2, 2), BED_TR); // back link
        assert_int_equal(type_of(&b, BED_TR), 0x8b);         // both are busy
        assert_int_equal(type_of(&b, TSS2), 0x8b);
        bed_run(&b); // INC EAX, IRET, HLT in the first one
        assert_int_equal(b.s.rip, BED_CODE + (ways[i].end - ways[i].code));
        assert_int_equal(b.s.gpr[CPU_RBP], 0x77);
        assert_int_equal(b.s.tr.selector, BED_TR);
        assert_false(b.s.rflags & RFLAGS_NT);
        assert_int_equal(type_of(&b, TSS2), 0x89);
        assert_int_equal(bed_read(&b, BED_TSS2 + 40, 4), 0x1001); // EAX of the second task was saved
        assert_int_equal(bed_read(&b, BED_TSS2 + 36, 4) & RFLAGS_NT, 0);
        bed_close(&b);
    }
}

static void exception_task(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32); // a fault: its error code goes onto the new stack, RF into the old image
    second_task(&b);
    bed_gate(&b, EXC_GP, TSS2, 0, TASK_GATE, 0);
    bed_load(&b, gp, gp_end);
    bed_run(&b);
    assert_int_equal(b.s.rip, CODE2 + 1);
    assert_int_equal(b.s.gpr[CPU_RSP], STACK2 - 4);
    assert_int_equal(bed_read(&b, STACK2 - 4, 4), 0x2000);
    assert_int_equal(bed_read(&b, BED_TSS + 32, 4), BED_CODE + 5);
    assert_true(bed_read(&b, BED_TSS + 36, 4) & RFLAGS_RF);
    bed_close(&b);

    bed_open(&b, BED_PROT32); // T: a trap before the first instruction
    second_task(&b);
    put32(&b, 100, 1);
    bed_load(&b, jmp_tss, jmp_tss_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_DB);
    assert_int_equal(bed_stack(&b, 0, 4), CODE2);
    assert_int_equal(b.s.dr6, 0xffff8ff0);
    bed_close(&b);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        uint16_t attr;
        uint32_t limit;
        int vector;
        uint32_t error;
    } before[] = {
        {0x8b, 103, EXC_GP, TSS2},          // busy
        {0x09, 103, EXC_NP, TSS2},          // not present
        {TSS_AVAILABLE, 102, EXC_TS, TSS2}, // too small
        {0x82, 103, EXC_GP, TSS2},          // an LDT
    };
    struct bed b;
    for (unsigned i = 0; i < 4; i++) {
        bed_open(&b, BED_PROT32);
        second_task(&b);
        bed_gdt(&b, TSS2, bed_descriptor(BED_TSS2, before[i].limit, before[i].attr));
        bed_load(&b, jmp_tss, jmp_tss_end);
        bed_run(&b);
        assert_int_equal(bed_vector(&b), before[i].vector);
        assert_int_equal(bed_stack(&b, 0, 4), before[i].error);
        assert_int_equal(bed_stack(&b, 1, 4), BED_CODE);
        assert_int_equal(b.s.tr.selector, BED_TR);
        assert_int_equal(type_of(&b, BED_TR), 0x8b);
        bed_close(&b);
    }
    // After the switch: raised in the new task, at its first instruction.
    static const struct {
        unsigned offset;
        uint32_t val;
        int vector;
        uint32_t error;
    } after[] = {
        {96, 0x2000, EXC_TS, 0x2000}, // LDT
        {96, 4, EXC_TS, 4},           // in an LDT
        {76, 0, EXC_TS, 0},           // CS
        {76, BED_DS, EXC_TS, BED_DS},
        {76, BED_CS | 3, EXC_TS, BED_CS},
        {80, 0, EXC_TS, 0}, // SS
        {80, BED_DS3, EXC_TS, BED_DS3 & ~3},
        {84, 0x2000, EXC_TS, 0x2000},               // DS
        {88, BED_FREE + 32, EXC_NP, BED_FREE + 32}, // FS
    };
    for (unsigned i = 0; i < sizeof after / sizeof after[0]; i++) {
        bed_open(&b, BED_PROT32);
        second_task(&b);
        put32(&b, after[i].offset, after[i].val);
        bed_gdt(&b, BED_FREE + 32, bed_descriptor(0, 0xfffff, 0xc13));
        // Third task: handles what went wrong in the second one, on a stack that works.
        bed_gdt(&b, BED_FREE + 24, bed_descriptor(BED_TSS2 + 0x100, 103, TSS_AVAILABLE));
        for (unsigned n = 0; n < 104; n++)
            bed_write(&b, BED_TSS2 + 0x100 + n, bed_read(&b, BED_TSS2 + n, 1), 1);
        bed_write(&b, BED_TSS2 + 0x100 + 96, 0, 4);
        bed_write(&b, BED_TSS2 + 0x100 + 76, BED_CS, 4);
        for (unsigned n = 80; n < 96; n += 4)
            bed_write(&b, BED_TSS2 + 0x100 + n, BED_DS, 4);
        bed_gate(&b, after[i].vector, BED_FREE + 24, 0, TASK_GATE, 0);
        bed_load(&b, jmp_tss, jmp_tss_end);
        bed_run(&b);
        assert_int_equal(b.s.tr.selector, BED_FREE + 24);
        assert_int_equal(b.s.rip, CODE2 + 1);
        assert_int_equal(bed_read(&b, STACK2 - 4, 4), after[i].error | 0);
        assert_int_equal(bed_read(&b, BED_TSS2 + 0x100, 2), TSS2); // came from the second task
        assert_int_equal(bed_read(&b, BED_TSS2 + 32, 4), CODE2);   // which has done nothing
        bed_close(&b);
    }
}

static void sixteen_bit(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32);
    bed_gdt(&b, TSS2, bed_descriptor(BED_TSS2, 43, TSS16_AVAILABLE));
    bed_write(&b, BED_TSS2 + 14, CODE2, 2);
    bed_write(&b, BED_TSS2 + 16, RFLAGS_FIXED, 2);
    for (unsigned i = 0; i < 8; i++)
        bed_write(&b, BED_TSS2 + 18 + 2 * i, i == CPU_RSP ? STACK2 : 0x2000 + i, 2);
    static const uint16_t sel[] = {BED_DS, BED_CS, BED_DS, BED_DS};
    for (unsigned i = 0; i < 4; i++)
        bed_write(&b, BED_TSS2 + 34 + 2 * i, sel[i], 2);
    bed_write(&b, CODE2, HLT, 1);
    bed_load(&b, call_tss, call_tss_end);
    bed_run(&b);
    assert_int_equal(b.s.rip, CODE2 + 1);
    assert_int_equal(b.s.gpr[CPU_RAX] & 0xffff, 0x2000);
    assert_int_equal(b.s.tr.attr, 0x83);
    assert_int_equal(bed_read(&b, BED_TSS2, 2), BED_TR);
    assert_int_equal(b.s.seg[CPU_FS].attr & CPU_SEG_P, 0);
    bed_close(&b);
}

// --- virtual-8086 mode

GUEST(to_v86, 32, "iret");
GUEST(v86_int, 16, "int $0x21");
GUEST(v86_cli, 16, "cli; hlt");
GUEST(v86_pushf, 16, "pushfw; hlt");
GUEST(v86_popf, 16, "popfw; hlt");
GUEST(v86_sti_hlt, 16, "sti; hlt");
GUEST(v86_iret, 16, "iretw");
GUEST(v86_mov, 16, "mov $0x700, %ax; mov %ax, %ds; mov 0x10, %al; hlt");

enum { V86 = 0x600 }; // segment of its code: BED_CODE >> 4

static void enter_v86(struct bed *b, const uint8_t *code, const uint8_t *end, unsigned iopl, uint64_t cr4)
{
    bed_open(b, BED_PROT32);
    bed_load(b, code, end);
    for (unsigned i = 0; i < CPU_SEG_COUNT; i++)
        b->s.seg[i] = (struct cpu_segment){V86, 0xf3, 0xffff, V86 << 4};
    b->s.rip = 0;
    b->s.gpr[CPU_RSP] = 0x800;
    b->s.rflags |= RFLAGS_VM | iopl << RFLAGS_IOPL_SHIFT;
    b->s.cr4 |= cr4;
}

static void v86_enter(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32);
    static const uint32_t frame[] = {0x10,  V86,  RFLAGS_VM | RFLAGS_IOPL | RFLAGS_IF | 2, 0x700, 0x900, 0x101, 0x102,
                                     0x103, 0x104};
    b.s.gpr[CPU_RSP] -= sizeof frame;
    for (unsigned i = 0; i < 9; i++)
        bed_write(&b, b.s.gpr[CPU_RSP] + 4 * i, frame[i], 4);
    bed_load(&b, to_v86, to_v86_end);
    bed_step(&b, 1);
    assert_int_equal(b.s.rip, 0x10);
    assert_int_equal(b.s.rflags, frame[2]);
    assert_int_equal(b.s.seg[CPU_CS].base, V86 << 4);
    assert_int_equal(b.s.seg[CPU_SS].selector, 0x900);
    assert_int_equal(b.s.gpr[CPU_RSP], 0x700);
    assert_int_equal(b.s.seg[CPU_ES].base, 0x1010);
    assert_int_equal(b.s.seg[CPU_GS].base, 0x1040);
    assert_int_equal(b.s.seg[CPU_DS].limit, 0xffff);
    assert_int_equal(cpu_cpl(&b.s), 3);
    bed_close(&b);
}

static void v86_leave(void **state)
{
    (void)state;
    struct bed b;
    enter_v86(&b, v86_int, v86_int_end, 3, 0);
    bed_gate(&b, 0x21, BED_CS, BED_HANDLERS + 16 * 0x21, 0xee, 0);
    b.s.rflags |= RFLAGS_IF;
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0x21);
    assert_int_equal(b.s.rflags & RFLAGS_VM, 0);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK0 - 36);
    assert_int_equal(bed_stack(&b, 0, 4), 2);
    assert_int_equal(bed_stack(&b, 1, 4), V86);
    assert_int_equal(bed_stack(&b, 2, 4), RFLAGS_VM | RFLAGS_IOPL | RFLAGS_IF | 2);
    for (unsigned i = 4; i < 9; i++)
        assert_int_equal(bed_stack(&b, i, 4), V86);
    assert_int_equal(b.s.seg[CPU_DS].selector | b.s.seg[CPU_GS].selector, 0);
    bed_close(&b);

    // What needs IOPL 3.
    static const struct {
        const uint8_t *code, *end;
    } sensitive[] = {{v86_int, v86_int_end},   {v86_cli, v86_cli_end},         {v86_pushf, v86_pushf_end},
                     {v86_popf, v86_popf_end}, {v86_sti_hlt, v86_sti_hlt_end}, {v86_iret, v86_iret_end}};
    for (unsigned i = 0; i < 6; i++) {
        enter_v86(&b, sensitive[i].code, sensitive[i].end, 0, 0);
        bed_run(&b);
        assert_int_equal(bed_vector(&b), EXC_GP);
        assert_int_equal(bed_stack(&b, 0, 4), 0);
        assert_int_equal(bed_stack(&b, 1, 4), 0);
        bed_close(&b);
    }
    enter_v86(&b, v86_int, v86_int_end, 3, 0); // a handler that is not at level 0
    bed_gate(&b, 0x21, BED_CS3, BED_HANDLERS, 0xee, 0);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(bed_stack(&b, 0, 4), BED_CS3 & ~3);
    bed_close(&b);

    enter_v86(&b, v86_mov, v86_mov_end, 0, 0); // segments are as in real mode; HLT is not its own
    bed_write(&b, 0x7010, 0x5a, 1);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(b.s.gpr[CPU_RAX] & 0xff, 0x5a);
    bed_close(&b);
}

static void v86_extensions(void **state)
{
    (void)state;
    struct bed b;
    enter_v86(&b, v86_cli, v86_cli_end, 0, CR4_VME);
    b.s.rflags |= RFLAGS_IF | RFLAGS_VIF;
    bed_step(&b, 1);
    assert_int_equal(b.s.rflags & (RFLAGS_IF | RFLAGS_VIF), RFLAGS_IF);
    bed_close(&b);

    enter_v86(&b, v86_sti_hlt, v86_sti_hlt_end, 0, CR4_VME);
    bed_step(&b, 1);
    assert_int_equal(b.s.rflags & (RFLAGS_IF | RFLAGS_VIF), RFLAGS_VIF);
    bed_close(&b);

    enter_v86(&b, v86_sti_hlt, v86_sti_hlt_end, 0, CR4_VME); // an interrupt waits for it
    b.s.rflags |= RFLAGS_VIP;
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);

    enter_v86(&b, v86_pushf, v86_pushf_end, 0, CR4_VME); // it sees VIF as IF, and IOPL 3
    b.s.rflags |= RFLAGS_VIF;
    bed_step(&b, 1);
    assert_int_equal(bed_read(&b, (V86 << 4) + 0x7fe, 2), 0x3202);
    bed_close(&b);

    enter_v86(&b, v86_popf, v86_popf_end, 0, CR4_VME);
    bed_write(&b, (V86 << 4) + 0x800, 0x3203, 2);
    bed_step(&b, 1);
    assert_int_equal(b.s.rflags, RFLAGS_VM | RFLAGS_VIF | RFLAGS_CF | 2); // neither IF nor IOPL
    bed_close(&b);

    // INT 0x21 through the program's own table: bit clear in the map below the I/O bitmap.
    enter_v86(&b, v86_int, v86_int_end, 0, CR4_VME);
    bed_write(&b, BED_TSS + 102, 104 + 32, 2);
    bed_write(&b, 4 * 0x21, 0x06000100, 4);
    b.s.rflags |= RFLAGS_VIF;
    bed_step(&b, 1);
    assert_int_equal(b.s.rip, 0x100);
    assert_true(b.s.rflags & RFLAGS_VM);
    assert_false(b.s.rflags & RFLAGS_VIF);
    assert_int_equal(b.s.gpr[CPU_RSP], 0x7fa);
    assert_int_equal(bed_stack(&b, 2, 2), 0x3202);
    bed_close(&b);

    // Bit set, IOPL 0: the monitor's business.
    enter_v86(&b, v86_int, v86_int_end, 0, CR4_VME);
    bed_write(&b, BED_TSS + 102, 104 + 32, 2);
    bed_write(&b, BED_TSS + 104 + 4, 2, 1);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jump),      cmocka_unit_test(nested),         cmocka_unit_test(exception_task),
        cmocka_unit_test(refused),   cmocka_unit_test(sixteen_bit),    cmocka_unit_test(v86_enter),
        cmocka_unit_test(v86_leave), cmocka_unit_test(v86_extensions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
