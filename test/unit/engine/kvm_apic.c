// The KVM engine with local APICs in the kernel: their state goes in and out, messages and timers interrupt, and what
// ends a level-triggered vector is told.
#include "bed.h"
#include <unistd.h>

enum { SVR_ON = 0x1ff, MASKED = 0x10000, LEVEL = 0xc000, MESSAGE = 0xfee00000 };
enum { MSR_EOI = 0x4b564d04 };

#define APIC(b) ((b)->vm->ops->apic)

static struct cpu_apic quiet(void)
{
    struct cpu_apic a = {.base = CPU_APIC_BASE_ADDRESS | CPU_APIC_BASE_ENABLE | CPU_APIC_BASE_BSP};
    a.reg[CPU_APIC_DFR] = 0xffffffff;
    a.reg[CPU_APIC_SVR] = SVR_ON;
    for (unsigned n = 0; n < 6; n++)
        a.reg[CPU_APIC_LVT + n] = MASKED;
    return a;
}

static void set(struct bed *b, const struct cpu_apic *a)
{
    struct error err = {""};
    if (APIC(b)->set(b->cpu, a, &err))
        fail_msg("%s", err.text);
}

static void open_quiet(struct bed *b, enum bed_mode mode)
{
    struct cpu_apic a = quiet();
    bed_open_own_apic(b, mode, &engine_kvm);
    set(b, &a);
}

static void state_goes_in_and_out(void **state)
{
    (void)state;
    struct bed b;
    struct cpu_apic a = quiet(), got;
    bed_open_own_apic(&b, BED_LONG, &engine_kvm);
    for (unsigned x2apic = 0; x2apic < 2; x2apic++) {
        if (x2apic)
            a.base |= CPU_APIC_BASE_X2APIC;
        a.reg[CPU_APIC_TPR] = 0x20;
        a.reg[CPU_APIC_LDR] = x2apic ? 1 : 0x02000000;
        a.reg[CPU_APIC_ICR] = 0x000c4041;
        a.reg[CPU_APIC_ICR + 1] = 0x01000000;
        a.reg[CPU_APIC_LVT] = MASKED | 0xec;
        a.reg[CPU_APIC_LVT + 3] = 0x700;
        a.reg[CPU_APIC_IRR + 2] = 2;
        a.reg[CPU_APIC_ISR + 3] = 4;
        a.reg[CPU_APIC_TMR + 3] = 4;
        a.reg[CPU_APIC_TIMER_DIVIDE] = 0xb;
        set(&b, &a);
        memset(&got, 0xa5, sizeof got);
        APIC(&b)->get(b.cpu, &got);
        got.reg[CPU_APIC_VERSION] = got.reg[0x0a] = got.reg[0x2f] = 0; // follow from others, or are not known here
        a.reg[CPU_APIC_ID] = 0;
        assert_int_equal(got.base, a.base);
        for (unsigned n = 0; n < CPU_APIC_REGISTERS; n++)
            if (got.reg[n] != a.reg[n] && !(x2apic && (n == CPU_APIC_DFR || n == CPU_APIC_LDR)))
                fail_msg("register %02x: %x, not %x", n, got.reg[n], a.reg[n]);
        assert_int_equal(got.tsc_deadline, 0);
    }
    // One of the two modes cannot be gone back from but by switching it off; as a state it can be anything.
    a.base = CPU_APIC_BASE_ADDRESS | CPU_APIC_BASE_X2APIC;
    struct error err = {""};
    assert_true(APIC(&b)->set(b.cpu, &a, &err) < 0);
    assert_non_null(strstr(err.text, "local APIC"));
    bed_close(&b);
}

static void a_timer_goes_on_from_where_it_was(void **state)
{
    (void)state;
    struct bed b;
    struct cpu_apic a = quiet(), got;
    bed_open_own_apic(&b, BED_LONG, &engine_kvm);
    a.reg[CPU_APIC_LVT] = 0x20000 | 0x61; // periodic
    a.reg[CPU_APIC_TIMER_DIVIDE] = 0xb;   // by 1: a nanosecond
    a.reg[CPU_APIC_TIMER_INITIAL] = 4000000000;
    a.reg[CPU_APIC_TIMER_CURRENT] = 2000000000;
    set(&b, &a);
    usleep(1000);
    APIC(&b)->get(b.cpu, &got);
    assert_int_equal(got.reg[CPU_APIC_TIMER_INITIAL], 4000000000);
    assert_in_range(got.reg[CPU_APIC_TIMER_CURRENT], 1000000000, 1999000000);
    bed_close(&b);
}

// The handlers of the bed halt; here they end the run.
static void handlers_end(struct bed *b)
{
    for (unsigned n = 0; n < 256; n++) {
        bed_write(b, BED_HANDLERS + 16 * n, 0xe6 | BED_END << 8, 2); // out %al, $BED_END
        bed_write(b, BED_HANDLERS + 16 * n + 2, 0xfeeb, 2);          // jmp .
    }
}

// A KVM that only emulates may lose what is in service.
static void only_where_KVM_virtualizes(void)
{
    struct error err;
    if (engine_kvm.recommend(&err)) {
        print_message("%s\n", err.text);
        skip();
    }
}

GUEST(wait, 64, "sti; 1: jmp 1b");

static void a_message_interrupts(void **state)
{
    (void)state;
    only_where_KVM_virtualizes();
    struct bed b;
    struct cpu_apic got;
    open_quiet(&b, BED_LONG);
    handlers_end(&b);
    bed_load(&b, wait, wait_end);
    APIC(&b)->send(b.vm, &(struct cpu_msi){MESSAGE, 0x4041});
    APIC(&b)->send(b.vm, &(struct cpu_msi){MESSAGE | 5 << 12, 0x4051}); // to a CPU that is not there
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0x41);
    APIC(&b)->get(b.cpu, &got);
    assert_int_equal(got.reg[CPU_APIC_ISR + 2], 2);
    assert_int_equal(got.reg[CPU_APIC_IRR + 2], 0);
    bed_close(&b);
}

static void the_timer_interrupts(void **state)
{
    (void)state;
    struct bed b;
    struct cpu_apic a = quiet();
    bed_open_own_apic(&b, BED_LONG, &engine_kvm);
    handlers_end(&b);
    bed_load(&b, wait, wait_end);
    a.reg[CPU_APIC_LVT] = 0x61;
    a.reg[CPU_APIC_TIMER_DIVIDE] = 0xb;
    a.reg[CPU_APIC_TIMER_INITIAL] = a.reg[CPU_APIC_TIMER_CURRENT] = 1000000;
    set(&b, &a);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0x61);
    bed_close(&b);
}

// The PIC is a chip, and its vectors come in as they do without local APICs, if LINT0 is open for them.
static void the_PIC_comes_in_through_LINT0(void **state)
{
    (void)state;
    struct bed b;
    struct cpu_apic a = quiet();
    bed_open_own_apic(&b, BED_LONG, &engine_kvm);
    handlers_end(&b);
    bed_load(&b, wait, wait_end);
    a.reg[CPU_APIC_LVT + 3] = 0x700; // ExtINT
    set(&b, &a);
    b.vector = 0x28;
    engine_notify(b.cpu, ENGINE_INTR);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), 0x28);
    bed_close(&b);
}

GUEST(finish, 32, "sti; 1: jmp 1b; handler: movl $0, (0xfee000b0); out %al, $0xee; 2: jmp 2b");

static void the_end_of_a_level_is_told(void **state)
{
    (void)state;
    only_where_KVM_virtualizes();
    for (unsigned routed = 0; routed < 2; routed++) {
        struct bed b;
        open_quiet(&b, BED_PROT32);
        bed_load(&b, finish, finish_end);
        bed_gate(&b, 0x43, BED_CS, BED_CODE + 3, 0x8e, 0);
        const struct cpu_msi level = {MESSAGE, LEVEL | 0x43};
        assert_int_equal(APIC(&b)->routes(b.vm, &level, routed), 0);
        APIC(&b)->send(b.vm, &level);
        bed_run(&b);
        assert_int_equal(b.events, routed);
        if (routed) {
            assert_int_equal(b.log[0].what, 'e');
            assert_int_equal(b.log[0].address, 0x43);
        }
        bed_close(&b);
    }
}

GUEST(base, 64,
      "mov $0x1b, %ecx; rdmsr; mov %eax, %ebx; or $0x400, %eax; wrmsr; rdmsr; mov %eax, %esi;" // to x2APIC
      "mov $0xfed00900, %eax; xor %edx, %edx; wrmsr");                                         // it does not move

static void the_base_is_written_by_our_rules(void **state)
{
    (void)state;
    struct bed b;
    open_quiet(&b, BED_LONG);
    handlers_end(&b);
    bed_load(&b, base, base_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(b.s.gpr[CPU_RBX], 0xfee00900);
    assert_int_equal(b.s.gpr[CPU_RSI], 0xfee00d00);
    bed_close(&b);
}

static void a_paravirtual_register_is_kept(void **state)
{
    (void)state;
    struct bed b;
    open_quiet(&b, BED_LONG);
    assert_int_equal(APIC(&b)->get_msr(b.cpu, MSR_EOI), 0);
    assert_int_equal(APIC(&b)->set_msr(b.cpu, MSR_EOI, 0x9001), 0);
    assert_int_equal(APIC(&b)->get_msr(b.cpu, MSR_EOI), 0x9001);
    assert_true(APIC(&b)->set_msr(b.cpu, MSR_EOI, 0x9003) < 0); // a reserved bit
    bed_close(&b);
}

static void a_CPU_waits_and_halts_in_the_kernel(void **state)
{
    (void)state;
    struct bed b;
    struct error err = {""};
    open_quiet(&b, BED_LONG);
    static const uint8_t activities[] = {CPU_RUNNING, CPU_HALTED, CPU_WAIT_SIPI, CPU_RUNNING};
    for (unsigned n = 0; n < sizeof activities; n++) {
        b.s.ev.activity = activities[n];
        assert_int_equal(b.vm->ops->set_state(b.cpu, &b.s, CPU_GROUP_ALL, &err), 0);
        b.vm->ops->get_state(b.cpu, &b.s, CPU_GROUP_EVENTS);
        assert_int_equal(b.s.ev.activity, activities[n]);
    }
    bed_close(&b);
}

int main(void)
{
    struct error err;
    struct engine_host *host;
    if (engine_kvm.probe(&err) || engine_kvm.open(ENGINE_APICS_OWN, &host, &err)) {
        print_message("%s\n", err.text);
        return 77;
    }
    engine_kvm.close(host);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(state_goes_in_and_out),
        cmocka_unit_test(a_timer_goes_on_from_where_it_was),
        cmocka_unit_test(a_message_interrupts),
        cmocka_unit_test(the_timer_interrupts),
        cmocka_unit_test(the_PIC_comes_in_through_LINT0),
        cmocka_unit_test(the_end_of_a_level_is_told),
        cmocka_unit_test(the_base_is_written_by_our_rules),
        cmocka_unit_test(a_paravirtual_register_is_kept),
        cmocka_unit_test(a_CPU_waits_and_halts_in_the_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
