// Debug exceptions: single step, breakpoints, guarded registers, and when they wait.
#include "bed.h"

enum { B0 = 1, B1 = 2, BD = 1 << 13, BS = 1 << 14, GD = 1 << 13 };
enum { EXEC = 0, WRITE = 1, PORT = 2, ACCESS = 3 };

GUEST(nops, 64, "nop; nop; nop; hlt");
GUEST(branches, 64, "jc 1f; jmp 1f; 1: nop; hlt");
GUEST(store, 64, "mov %eax, 0x8000; nop; hlt");
GUEST(load, 64, "mov 0x8000, %eax; nop; hlt");
GUEST(mov_ss, 64, "mov 0x8000, %ss; nop; nop; hlt");
GUEST(mov_ss_int, 64, "mov 0x8000, %ss; int $0x40; hlt");
GUEST(movs, 64, "rep movsb; hlt");
GUEST(popf, 64, "popfq; nop; nop; hlt");
GUEST(iret, 64, "iretq");
GUEST(syscall, 64, "syscall");
GUEST(sysret, 64, "sysretq");
GUEST(int40, 64, "int $0x40");
GUEST(int1, 64, ".byte 0xf1; hlt");
GUEST(mov_dr, 64, "mov %dr0, %rax; hlt");
GUEST(mov_dr4, 64, "mov %dr4, %rax; hlt");
GUEST(set_dr7, 64, "mov %rax, %dr7; hlt");
GUEST(set_dr6, 64, "mov %rax, %dr6; hlt");
GUEST(outb, 64, "out %al, $0x80; nop; hlt");

#define RUN(b, code) (bed_load(b, code, code##_end), bed_run(b))

static uint64_t arm(unsigned n, unsigned kind, unsigned len) // len 0..3 as in DR7
{
    return 0x400 | 2ull << 2 * n | (uint64_t)kind << (16 + 4 * n) | (uint64_t)len << (18 + 4 * n);
}

static void trapped(const struct bed *b, uint64_t rip, uint64_t dr6)
{
    assert_int_equal(bed_vector(b), EXC_DB);
    assert_int_equal(bed_stack(b, 0, 8), rip);
    assert_int_equal(b->s.dr6, 0xffff0ff0 | dr6);
    assert_int_equal(b->s.rflags & (RFLAGS_TF | RFLAGS_RF), 0);
}

static void single_step(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.rflags |= RFLAGS_TF;
    RUN(&b, nops);
    trapped(&b, BED_CODE + 1, BS);
    assert_int_equal(bed_stack(&b, 2, 8), RFLAGS_TF | 2);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a breakpoint on the next instruction shows as well
    b.s.rflags |= RFLAGS_TF;
    b.s.dr[1] = BED_CODE + 1;
    b.s.dr7 = arm(1, EXEC, 0);
    RUN(&b, nops);
    trapped(&b, BED_CODE + 1, BS | B1);
    bed_close(&b);

    bed_open(&b, BED_LONG); // BTF: only a taken branch traps, and once
    b.s.rflags |= RFLAGS_TF;
    b.s.msr.debugctl = 2;
    RUN(&b, branches);
    trapped(&b, BED_CODE + 4, BS);
    assert_int_equal(b.s.msr.debugctl, 0);
    bed_close(&b);

    bed_open(&b, BED_LONG); // POPF that sets TF: the instruction after it is the first to trap
    b.s.gpr[CPU_RSP] -= 8;
    bed_write(&b, b.s.gpr[CPU_RSP], RFLAGS_TF | 2, 8);
    RUN(&b, popf);
    trapped(&b, BED_CODE + 2, BS);
    bed_close(&b);

    bed_open(&b, BED_LONG); // POPF that clears it still traps
    b.s.rflags |= RFLAGS_TF;
    b.s.gpr[CPU_RSP] -= 8;
    bed_write(&b, b.s.gpr[CPU_RSP], 2, 8);
    RUN(&b, popf);
    trapped(&b, BED_CODE + 1, BS);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a string instruction traps after every iteration
    b.s.rflags |= RFLAGS_TF;
    b.s.gpr[CPU_RCX] = 3;
    b.s.gpr[CPU_RSI] = BED_DATA;
    b.s.gpr[CPU_RDI] = BED_DATA + 0x100;
    RUN(&b, movs);
    trapped(&b, BED_CODE, BS);
    assert_int_equal(b.s.gpr[CPU_RCX], 2);
    assert_int_equal(bed_stack(&b, 2, 8), RFLAGS_TF | RFLAGS_RF | 2); // it goes on
    bed_close(&b);

    bed_open(&b, BED_LONG); // INT n is not stepped: its handler runs with TF clear
    b.s.rflags |= RFLAGS_TF;
    RUN(&b, int40);
    assert_int_equal(bed_vector(&b), 0x40);
    assert_int_equal(b.s.dr6, 0xffff0ff0);
    bed_close(&b);

    bed_open(&b, BED_LONG); // SYSCALL whose mask clears TF: no trap in the kernel
    b.s.efer |= EFER_SCE;
    b.s.msr.star = (uint64_t)BED_CS << 32;
    b.s.msr.lstar = BED_HANDLERS + 16 * 0x99;
    b.s.msr.sfmask = RFLAGS_TF;
    b.s.rflags |= RFLAGS_TF;
    RUN(&b, syscall);
    assert_int_equal(bed_vector(&b), 0x99);
    bed_close(&b);

    bed_open(&b, BED_LONG); // one whose mask does not: before the kernel's first instruction
    b.s.efer |= EFER_SCE;
    b.s.msr.star = (uint64_t)BED_CS << 32;
    b.s.msr.lstar = BED_HANDLERS + 16 * 0x99;
    b.s.rflags |= RFLAGS_TF;
    RUN(&b, syscall);
    trapped(&b, BED_HANDLERS + 16 * 0x99, BS);
    bed_close(&b);

    bed_open(&b, BED_LONG); // SYSRET that sets TF: before the program's first instruction
    b.s.efer |= EFER_SCE;
    b.s.msr.star = (uint64_t)BED_DS << 48;
    b.s.gpr[CPU_RCX] = BED_CODE + 0x100;
    b.s.gpr[CPU_R11] = RFLAGS_TF;
    RUN(&b, sysret);
    trapped(&b, BED_CODE + 0x100, BS);
    bed_close(&b);
}

static void data(void **state)
{
    (void)state;
    static const struct {
        unsigned kind, len;
        uint64_t address;
        bool on_load, on_store;
    } cases[] = {
        {WRITE, 3, 0x8000, false, true},   {ACCESS, 3, 0x8000, true, true},
        {ACCESS, 0, 0x8003, true, true}, // the last byte
        {ACCESS, 0, 0x8004, false, false}, {ACCESS, 0, 0x7fff, false, false},
        {WRITE, 2, 0x8005, false, true}, // 8 bytes: the address is aligned down
        {EXEC, 0, 0x8000, false, false},
    };
    struct bed b;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (unsigned w = 0; w < 2; w++) {
            bed_open(&b, BED_LONG);
            b.s.dr[1] = cases[i].address;
            b.s.dr7 = arm(1, cases[i].kind, cases[i].len);
            if (w)
                RUN(&b, store);
            else
                RUN(&b, load);
            if (w ? cases[i].on_store : cases[i].on_load)
                trapped(&b, BED_CODE + 7, B1);
            else
                assert_int_equal(bed_vector(&b), -1);
            bed_close(&b);
        }
    bed_open(&b, BED_LONG); // the access that faults does not trap
    b.s.dr[0] = 0x8000;
    b.s.dr7 = arm(0, ACCESS, 3);
    bed_write(&b, BED_TABLES + 0x2000, 0, 8);
    b.s.idtr.limit = 0;
    bed_load(&b, load, load_end);
    bed_run(&b);
    assert_int_equal(b.how, ENGINE_EXIT_SHUTDOWN);
    assert_int_equal(b.s.ev.pending_debug, 0);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a string instruction stops at the iteration that hits
    b.s.dr[0] = BED_DATA + 0x101;
    b.s.dr7 = arm(0, WRITE, 0);
    b.s.gpr[CPU_RCX] = 5;
    b.s.gpr[CPU_RSI] = BED_DATA;
    b.s.gpr[CPU_RDI] = BED_DATA + 0x100;
    RUN(&b, movs);
    trapped(&b, BED_CODE, B0);
    assert_int_equal(b.s.gpr[CPU_RCX], 3);
    bed_close(&b);
}

static void execution(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.dr[0] = BED_CODE + 1;
    b.s.dr7 = arm(0, EXEC, 0);
    RUN(&b, nops);
    trapped(&b, BED_CODE + 1, B0);
    assert_int_equal(bed_stack(&b, 2, 8), 2); // RF is for the handler to set
    bed_close(&b);

    bed_open(&b, BED_LONG); // with RF it runs, once
    b.s.dr[0] = BED_CODE;
    b.s.dr7 = arm(0, EXEC, 0);
    b.s.rflags |= RFLAGS_RF;
    RUN(&b, nops);
    assert_int_equal(bed_vector(&b), -1);
    assert_int_equal(b.s.rflags, 2);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a string instruction with RF runs to its end, and loses it then
    b.s.dr[0] = BED_CODE;
    b.s.dr7 = arm(0, EXEC, 0);
    b.s.rflags |= RFLAGS_RF;
    b.s.gpr[CPU_RCX] = 0x1800;
    b.s.gpr[CPU_RSI] = 0x100000;
    b.s.gpr[CPU_RDI] = 0x200000;
    RUN(&b, movs);
    assert_int_equal(bed_vector(&b), -1);
    assert_int_equal(b.s.gpr[CPU_RCX], 0);
    assert_int_equal(b.s.rflags, 2);
    bed_close(&b);

    bed_open(&b, BED_LONG); // IRET loads RF and does not eat it
    b.s.dr[0] = BED_CODE + 0x100;
    b.s.dr7 = arm(0, EXEC, 0);
    static const uint64_t frame[] = {BED_CODE + 0x100, BED_CS, RFLAGS_RF | 2, BED_STACK, BED_DS};
    b.s.gpr[CPU_RSP] -= sizeof frame;
    for (unsigned i = 0; i < 5; i++)
        bed_write(&b, b.s.gpr[CPU_RSP] + 8 * i, frame[i], 8);
    bed_write(&b, BED_CODE + 0x100, 0xf490, 2);
    RUN(&b, iret);
    assert_int_equal(bed_vector(&b), -1);
    assert_int_equal(b.s.rip, BED_CODE + 0x102);
    assert_int_equal(b.s.rflags, 2);
    bed_close(&b);
}

static void held_off(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG); // MOV SS reads a watched word: the trap comes after the next instruction
    b.s.dr[0] = 0x8000;
    b.s.dr7 = arm(0, ACCESS, 0);
    bed_write(&b, BED_DATA, BED_DS, 2);
    RUN(&b, mov_ss);
    trapped(&b, BED_CODE + (mov_ss_end - mov_ss) - 2, B0);
    bed_close(&b);

    bed_open(&b, BED_LONG); // which is an INT here: inside its handler
    b.s.dr[0] = 0x8000;
    b.s.dr7 = arm(0, ACCESS, 0);
    bed_write(&b, BED_DATA, BED_DS, 2);
    RUN(&b, mov_ss_int);
    trapped(&b, BED_HANDLERS + 16 * 0x40, B0);
    bed_close(&b);
}

static void ports(void **state)
{
    (void)state;
    struct bed b;
    for (unsigned de = 0; de < 2; de++) {
        bed_open(&b, BED_LONG);
        b.s.cr4 |= de ? CR4_DE : 0;
        b.s.dr[0] = 0x80;
        b.s.dr7 = arm(0, PORT, 0);
        RUN(&b, outb);
        if (de)
            trapped(&b, BED_CODE + 2, B0);
        else
            assert_int_equal(bed_vector(&b), -1);
        bed_close(&b);
    }
}

static void registers(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG); // general detect: a fault, and it disarms itself
    b.s.dr7 = 0x400 | GD;
    RUN(&b, mov_dr);
    trapped(&b, BED_CODE, BD);
    assert_int_equal(b.s.dr7, 0x400);
    bed_close(&b);

    bed_open(&b, BED_LONG); // DR4 is DR6, or nothing with CR4.DE
    RUN(&b, mov_dr4);
    assert_int_equal(b.s.gpr[CPU_RAX], 0xffff0ff0);
    b.s.cr4 |= CR4_DE;
    RUN(&b, mov_dr4);
    assert_int_equal(bed_vector(&b), EXC_UD);
    bed_close(&b);

    bed_open(&b, BED_LONG); // fixed bits
    b.s.gpr[CPU_RAX] = 0xffffff00;
    RUN(&b, set_dr7);
    assert_int_equal(b.s.dr7, 0xffff2700);
    bed_close(&b);
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RAX] = 0;
    RUN(&b, set_dr6);
    assert_int_equal(b.s.dr6, 0xffff0ff0);
    b.s.gpr[CPU_RAX] = 0x100000000;
    RUN(&b, set_dr6);
    assert_int_equal(bed_vector(&b), EXC_GP);
    bed_close(&b);

    bed_open(&b, BED_LONG); // INT1 leaves DR6 alone, and asks no DPL
    b.s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, 0xafb, 0xffffffff, 0};
    b.s.seg[CPU_SS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
    RUN(&b, int1);
    trapped(&b, BED_CODE + 1, 0);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_step), cmocka_unit_test(data),  cmocka_unit_test(execution),
        cmocka_unit_test(held_off),    cmocka_unit_test(ports), cmocka_unit_test(registers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
