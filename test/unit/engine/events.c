// Between instructions: the shadow after STI, HLT, NMI, exact counts of steps, repeated strings that are interrupted or
// fault in their middle, and being told to stop.
#include "bed.h"
#include "window.h"
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define RUN(b, code) (bed_load(b, code, code##_end), bed_go(b))

GUEST(sti, 64, "sti; inc %eax; inc %eax; hlt");

static void shadow(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.vector = 0x41;
    engine_notify(b.cpu, ENGINE_INTR);
    RUN(&b, sti);
    assert_int_equal(bed_vector(&b), 0x41);
    assert_int_equal(b.s.gpr[CPU_RAX], 1); // one instruction, not two
    assert_int_equal(bed_stack(&b, 0, 8), BED_CODE + 3);
    bed_close(&b);
}

// Closed interrupts leave the bit where it is.
GUEST(cli, 64, "cli; inc %eax; hlt");

static void closed(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.vector = 0x41;
    engine_notify(b.cpu, ENGINE_INTR);
    RUN(&b, cli);
    assert_int_equal(bed_vector(&b), -1);
    assert_int_equal(b.s.gpr[CPU_RAX], 1);
    assert_int_equal(b.vector, 0x41);
    assert_true(b.cpu->pending & ENGINE_INTR);
    bed_close(&b);
}

// Nobody has a vector after all.
static void spurious_signal(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    engine_notify(b.cpu, ENGINE_INTR);
    RUN(&b, sti);
    assert_int_equal(b.s.gpr[CPU_RAX], 2);
    assert_int_equal(b.s.ev.activity, CPU_HALTED);
    assert_false(b.cpu->pending & ENGINE_INTR);
    bed_close(&b);
}

static void nmi(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    engine_notify(b.cpu, ENGINE_NMI);
    RUN(&b, cli);
    assert_int_equal(bed_vector(&b), EXC_NMI);
    assert_true(b.s.ev.nmi_masked);
    engine_notify(b.cpu, ENGINE_NMI); // until IRET
    RUN(&b, cli);
    assert_int_equal(bed_vector(&b), -1);
    assert_int_equal(b.s.gpr[CPU_RAX], 1);
    assert_true(b.s.ev.nmi_pending);
    bed_close(&b);
}

static void counts(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_load(&b, sti, sti_end);
    bed_step(&b, 1);
    assert_int_equal(b.s.rip, BED_CODE + 1);
    assert_int_equal(b.s.gpr[CPU_RAX], 0);
    assert_int_equal(b.s.ev.shadow, CPU_SHADOW_STI);
    bed_step(&b, 2);
    assert_int_equal(b.s.rip, BED_CODE + 5);
    assert_int_equal(b.s.gpr[CPU_RAX], 2);
    bed_close(&b);
}

// INIT and the startup IPI: a CPU that is not the first waits, then begins in real mode.
static void init_and_sipi(void **state)
{
    (void)state;
    struct bed b;
    struct error e;
    bed_open(&b, BED_LONG);
    b.vm->ops->vcpu_destroy(b.cpu);
    assert_int_equal(b.vm->ops->vcpu_create(b.vm, 1, &b, &b.cpu, &e), 0);
    bed_write(&b, 0x9000, 0xf440, 2); // in 16-bit code: INC AX; HLT
    b.cpu->sipi_vector = 9;
    engine_notify(b.cpu, ENGINE_INIT | ENGINE_SIPI);
    b.s.gpr[CPU_RAX] = 77;
    bed_go(&b);
    assert_int_equal(b.s.gpr[CPU_RAX], 1); // INIT has cleared it
    assert_int_equal(b.s.seg[CPU_CS].base, 0x9000);
    assert_int_equal(b.s.rip, 2);
    assert_int_equal(b.s.ev.activity, CPU_HALTED);
    bed_close(&b);
}

// --- repeated strings

GUEST(movsb, 64, "rep movsb; hlt");
GUEST(stosq, 64, "sti; nop; rep stosq; hlt");
GUEST(repne, 64, "repne scasb; hlt");

static void fault_in_the_middle(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_window(&b);
    for (unsigned n = 0; n < 4; n++)
        bed_map(&b, n, (0x30000 + 0x1000 * n) | 3);
    bed_map(&b, 8, 0x38000 | 3);
    bed_map(&b, 9, 0x39000 | 3);
    for (unsigned n = 0; n < 4096 * 4; n++)
        b.ram[0x30000 + n] = n * 7;
    // Source: 4 pages from 0x10 on; target: 2 pages from 0x20 on, the third is not there.
    b.s.gpr[CPU_RSI] = WINDOW + 0x10;
    b.s.gpr[CPU_RDI] = WINDOW + 0x8020;
    b.s.gpr[CPU_RCX] = 10000;
    RUN(&b, movsb);
    assert_int_equal(bed_vector(&b), EXC_PF);
    assert_int_equal(b.s.cr2, WINDOW + 0xa000);
    assert_int_equal(bed_stack(&b, 0, 8), PF_W);
    assert_int_equal(bed_stack(&b, 1, 8), BED_CODE);
    unsigned done = 8192 - 0x20;
    assert_int_equal(b.s.gpr[CPU_RCX], 10000 - done);
    assert_int_equal(b.s.gpr[CPU_RSI], WINDOW + 0x10 + done);
    assert_int_equal(b.s.gpr[CPU_RDI], WINDOW + 0xa000);
    assert_memory_equal(b.ram + 0x38020, b.ram + 0x30010, done);
    bed_close(&b);
}

// Each byte is read after the one before it was written: a distance of 3 repeats three bytes.
static void overlapping(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_write(&b, BED_DATA, 0x030201, 3);
    b.s.gpr[CPU_RSI] = BED_DATA;
    b.s.gpr[CPU_RDI] = BED_DATA + 3;
    b.s.gpr[CPU_RCX] = 3000;
    RUN(&b, movsb);
    for (unsigned n = 0; n < 3003; n++)
        assert_int_equal(b.ram[BED_DATA + n], n % 3 + 1);
    assert_int_equal(b.s.gpr[CPU_RCX], 0);
    bed_close(&b);
    bed_open(&b, BED_LONG); // and backwards
    for (unsigned n = 0; n < 64; n++)
        b.ram[BED_DATA + n] = n;
    b.s.rflags |= RFLAGS_DF;
    b.s.gpr[CPU_RSI] = BED_DATA + 39;
    b.s.gpr[CPU_RDI] = BED_DATA + 49;
    b.s.gpr[CPU_RCX] = 40;
    RUN(&b, movsb);
    for (unsigned n = 0; n < 40; n++)
        assert_int_equal(b.ram[BED_DATA + 10 + n], n);
    bed_close(&b);
}

// A long one lets an interrupt in, with its registers at an element's boundary.
static void until_it_runs(struct bed *b) // and has made its first upcall
{
    while (!__atomic_load_n(&b->events, __ATOMIC_ACQUIRE))
        usleep(100);
}

static void *told_to_interrupt(void *arg)
{
    struct bed *b = arg;
    until_it_runs(b);
    b->vector = 0x41;
    engine_notify(b->cpu, ENGINE_INTR);
    return NULL;
}

static void interrupted(void **state)
{
    (void)state;
    struct bed b;
    pthread_t t;
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RDI] = 16 << 20; // no memory: each element is an upcall
    b.s.gpr[CPU_RCX] = 1ull << 40;
    pthread_create(&t, NULL, told_to_interrupt, &b);
    RUN(&b, stosq);
    pthread_join(t, NULL);
    assert_int_equal(bed_vector(&b), 0x41);
    assert_int_equal(bed_stack(&b, 0, 8), BED_CODE + 2);
    assert_true(bed_stack(&b, 2, 8) & RFLAGS_RF);
    uint64_t done = (1ull << 40) - b.s.gpr[CPU_RCX];
    assert_int_equal(b.s.gpr[CPU_RDI], (16 << 20) + 8 * done);
    bed_close(&b);
}

static void conditional(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    memset(b.ram + BED_DATA, 'a', 6000);
    bed_write(&b, BED_DATA + 5000, 'b', 1);
    b.s.gpr[CPU_RAX] = 'b';
    b.s.gpr[CPU_RDI] = BED_DATA;
    b.s.gpr[CPU_RCX] = 100000;
    RUN(&b, repne);
    assert_int_equal(b.s.gpr[CPU_RDI], BED_DATA + 5001);
    assert_int_equal(b.s.gpr[CPU_RCX], 100000 - 5001);
    assert_true(b.s.rflags & RFLAGS_ZF);
    bed_close(&b);
}

// --- being told to stop

GUEST(forever, 64, "out %al, $0x80; 1: inc %rax; jmp 1b");
GUEST(halted, 64, "cli; hlt");

static void *told_to_exit(void *arg)
{
    struct bed *b = arg;
    until_it_runs(b);
    usleep(1000);
    engine_notify(b->cpu, ENGINE_EXIT);
    return NULL;
}

static void exit_requested(void **state)
{
    (void)state;
    struct bed b;
    pthread_t t;
    bed_open(&b, BED_LONG);
    pthread_create(&t, NULL, told_to_exit, &b);
    RUN(&b, forever);
    pthread_join(t, NULL);
    assert_int_equal(b.how, ENGINE_EXIT_REQUESTED);
    assert_true(b.s.gpr[CPU_RAX] > 0);
    assert_int_equal(b.cpu->pending & ENGINE_EXIT, 0);
    uint64_t before = b.s.gpr[CPU_RAX]; // and it goes on
    bed_step(&b, 4);
    assert_in_range(b.s.gpr[CPU_RAX], before + 1, before + 3);
    RUN(&b, halted);
    assert_int_equal(b.halts, 1);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shadow),
        cmocka_unit_test(closed),
        cmocka_unit_test(nmi),
        cmocka_unit_test(spurious_signal),
        cmocka_unit_test(counts),
        cmocka_unit_test(init_and_sipi),
        cmocka_unit_test(overlapping),
        cmocka_unit_test(fault_in_the_middle),
        cmocka_unit_test(interrupted),
        cmocka_unit_test(conditional),
        cmocka_unit_test(exit_requested),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
