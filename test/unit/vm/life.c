// The life of a VM on real threads: every way to end, resets, pauses, sleeping and waking, and all of it at once.
#include "board.h"
#include "host/clock.h"
#include "host/thread.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>

static void sleep_us(long us)
{
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static struct bed *bed_of(struct script_vcpu *v)
{
    return v->guest->ctx;
}

// Runs fn(bed) on a thread beside vm_run.
static enum vm_end run_beside(struct bed *bed, void (*fn)(void *ctx))
{
    struct thread *t;
    assert_int_equal(thread_create(&t, "beside", fn, bed, NULL), 0);
    enum vm_end end = bed_run(bed);
    thread_join(t);
    return end;
}

// --- ways to end

static enum script end_step(struct script_vcpu *v)
{
    if (v->base.id)
        return SCRIPT_HALT; // never: they wait for a SIPI
    if (v->user[0]++ == 10)
        script_out(v, 0x600, 1, (uint64_t)v->guest->model.phys_bits); // the test's choice
    return SCRIPT_GO;
}

static void ends_by_the_guest(void **state)
{
    (void)state;
    static const struct {
        unsigned command;
        enum vm_end end;
        int status;
        const char *text;
    } cases[] = {
        {BOARD_POWEROFF, VM_END_POWEROFF, 0, "the guest powered off"},
        {BOARD_DEBUG_EXIT, VM_END_DEBUG, 7, "the guest ended with status 7"},
        {BOARD_RESET, VM_END_RESET, 0, "the guest asked for a reset"},
        {BOARD_BUTTON, VM_END_POWEROFF, 0, "the guest powered off"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bed bed;
        bed_init(&bed, 2, end_step);
        bed.guest.model.phys_bits = cases[i].command;
        bed.vm.no_reboot = true;
        assert_int_equal(bed_run(&bed), cases[i].end);
        assert_int_equal(bed.vm.end_status, cases[i].status);
        assert_string_equal(bed.vm.end_text, cases[i].text);
        assert_int_equal(bed.board.buttons, cases[i].command == BOARD_BUTTON);
        // Nothing was executed after the instruction that asked (the button is pressed on the loop's thread).
        if (cases[i].command != BOARD_BUTTON)
            assert_int_equal(script_vcpu(&bed.vm, 0)->steps, 11);
        assert_int_equal(script_vcpu(&bed.vm, 1)->steps, 0);
        bed_destroy(&bed);
    }
}

static enum script triple_fault_step(struct script_vcpu *v)
{
    (void)v;
    return SCRIPT_TRIPLE_FAULT;
}

static enum script broken_step(struct script_vcpu *v)
{
    (void)v;
    return SCRIPT_BROKEN;
}

static void ends_by_a_crash(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 1, triple_fault_step);
    assert_int_equal(bed_run(&bed), VM_END_CRASH);
    assert_memory_equal(bed.vm.end_text, "vCPU 0: triple fault at f000:1234 (", 35);
    bed_destroy(&bed);
    bed_init(&bed, 1, broken_step);
    assert_int_equal(bed_run(&bed), VM_END_CRASH);
    assert_string_equal(bed.vm.end_text, "vCPU 0: out of order");
    bed_destroy(&bed);
}

static enum script spin_step(struct script_vcpu *v)
{
    (void)v;
    return SCRIPT_GO;
}

static enum script halt_step(struct script_vcpu *v)
{
    (void)v;
    return SCRIPT_HALT;
}

static void kill_soon(void *ctx)
{
    sleep_us(3000);
    vm_kill(&((struct bed *)ctx)->vm);
    vm_crash(&((struct bed *)ctx)->vm, "too late to say anything");
}

static void stop_loop_soon(void *ctx)
{
    sleep_us(3000);
    loop_stop(((struct bed *)ctx)->loop);
}

static void ends_from_outside(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct bed bed;
        bed_init(&bed, 3, i & 1 ? spin_step : halt_step);
        assert_int_equal(run_beside(&bed, i & 2 ? kill_soon : stop_loop_soon), VM_END_KILLED);
        assert_string_equal(bed.vm.end_text, "killed");
        bed_destroy(&bed);
    }
    // Killed before it runs: no instruction is executed.
    struct bed bed;
    bed_init(&bed, 1, spin_step);
    vm_kill(&bed.vm);
    assert_int_equal(bed_run(&bed), VM_END_KILLED);
    assert_int_equal(script_vcpu(&bed.vm, 0)->steps, 0);
    bed_destroy(&bed);
}

static void cannot_run_without(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 1, spin_step);
    struct error err;
    struct vm vm;
    assert_int_equal(
        vm_init(&vm, &(struct vm_config){.loop = bed.loop, .engine = &script_engine, .model = &bed.guest.model}, &err),
        0);
    assert_int_equal(vm_run(&vm, &err), VM_END_NONE);
    assert_string_equal(err.text, "virtual machine: it has no CPUs");
    assert_int_equal(vm_add_cpus(&vm, 0, &err), -EINVAL);
    assert_int_equal(vm_add_cpus(&vm, CPU_MAX + 1, &err), -EINVAL);
    vm_destroy(&vm);
    bed_destroy(&bed);
}

// --- reset

static enum script reset_step(struct script_vcpu *v)
{
    struct bed *bed = bed_of(v);
    if (bed->board.resets > 200)
        script_out(v, 0x600, 1, BOARD_POWEROFF);
    if (v->base.id == 0 && v->user[0]++ == 0)
        for (unsigned i = 1; i < bed->vm.cpus; i++) { // start the others
            vcpu_signal(&bed->vm, i, VCPU_INIT);
            vcpu_startup(&bed->vm, i, 0x9a);
        }
    if (v->base.id && v->state.rip != 0x9a000)
        return SCRIPT_BROKEN;
    if (v->user[1]++ == 20)
        script_out(v, 0x600, 1, BOARD_RESET); // all of them, about at the same time
    return SCRIPT_GO;
}

static void resets_again_and_again(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 4, reset_step);
    assert_int_equal(bed_run(&bed), VM_END_POWEROFF);
    assert_true(bed.board.resets > 200);
    assert_int_equal(bed.boots, bed.board.resets);
    assert_int_equal(bed.guest.sets, 4 * bed.board.resets);
    bed_destroy(&bed);
}

static enum script reset_once_step(struct script_vcpu *v)
{
    bed_of(v)->boot_result = -ENOENT;
    script_out(v, 0x600, 1, BOARD_RESET);
    return SCRIPT_GO;
}

static void a_reset_that_fails_is_a_crash(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 1, reset_once_step);
    assert_int_equal(bed_run(&bed), VM_END_CRASH);
    assert_string_equal(bed.vm.end_text, "reset: kernel gone");
    assert_int_equal(script_vcpu(&bed.vm, 0)->steps, 1);
    bed_destroy(&bed);
}

static void a_reset_forgets_signals(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 2, spin_step);
    vcpu_signal(&bed.vm, 1, VCPU_INIT | VCPU_NMI | VCPU_INTR);
    vm_engine_vcpu(&bed.vm, 1)->pending |= 1u << 31; // the engine's own
    struct error err;
    assert_int_equal(vm_reset(&bed.vm, &err), 0);
    assert_int_equal(vm_engine_vcpu(&bed.vm, 1)->pending, 1u << 31);
    assert_int_equal(script_vcpu(&bed.vm, 0)->state.ev.activity, CPU_RUNNING);
    assert_int_equal(script_vcpu(&bed.vm, 1)->state.ev.activity, CPU_WAIT_SIPI);
    vm_kill(&bed.vm);
    bed_destroy(&bed);
}

// --- traces of exits

static char traced[1024];

static void take_line(void *ctx, const char *line)
{
    (void)ctx;
    size_t n = strlen(traced);
    snprintf(traced + n, sizeof traced - n, "%s\n", line);
}

static enum script traced_step(struct script_vcpu *v)
{
    const struct engine_upcalls *up = v->base.vm->config.up;
    uint64_t val;
    assert_int_equal(up->msr_read(v->base.owner, 0x123, &val), -1);
    assert_int_equal(up->msr_write(v->base.owner, 0x123, 5), -1);
    assert_true(up->hypercall(v->base.owner, 9, (uint64_t[4]){0}, true) == (uint64_t)-1000);
    assert_int_equal(up->tpr_read(v->base.owner), 0); // this machine has none
    up->tpr_write(v->base.owner, 1);
    assert_true(up->mmio_read(v->base.owner, 0x1000, 8) == UINT64_MAX);
    up->mmio_write(v->base.owner, 0x1000, 2, 7);
    assert_int_equal(script_in(v, 0x600, 1), 0xff);
    vcpu_signal(&bed_of(v)->vm, 0, VCPU_INTR);
    up->halt(v->base.owner, ENGINE_INTR);
    script_out(v, 0x600, 1, BOARD_POWEROFF);
    return SCRIPT_GO;
}

static void tells_of_exits(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 1, traced_step);
    bed.log = (struct log){.level = LOG_ERROR, .trace = TRACE_EXITS, .sink = take_line};
    traced[0] = 0;
    assert_int_equal(bed_run(&bed), VM_END_POWEROFF);
    assert_string_equal(traced, "trace: cpu0 rdmsr 0x123 = 0x0 #GP\n"
                                "trace: cpu0 wrmsr 0x123 = 0x5 #GP\n"
                                "trace: cpu0 hypercall 9 = -1000\n"
                                "trace: cpu0 mmio read 0x1000 size 8 = 0xffffffffffffffff nobody\n"
                                "trace: cpu0 mmio write 0x1000 size 2 = 0x7 nobody\n"
                                "trace: cpu0 port read 0x600 size 1 = 0xff board\n"
                                "trace: cpu0 halts\n"
                                "trace: cpu0 port write 0x600 size 1 = 0x1 board\n"
                                "trace: cpu0 leaves the engine\n");
    bed_destroy(&bed);
}

// --- INIT and SIPI

static enum script smp_step(struct script_vcpu *v)
{
    struct bed *bed = bed_of(v);
    if (v->base.id == 0) {
        vcpu_signal(&bed->vm, 1, VCPU_INIT);
        while (!bed->board.inits)
            sleep_us(100);
        vcpu_startup(&bed->vm, 1, 0x42);
        return SCRIPT_HALT;
    }
    v->user[0] = v->state.rip;
    script_out(v, 0x600, 1, BOARD_POWEROFF);
    return SCRIPT_GO;
}

static void starts_another_processor(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 2, smp_step);
    assert_int_equal(bed_run(&bed), VM_END_POWEROFF);
    assert_int_equal(bed.board.inits, 1);
    assert_int_equal(script_vcpu(&bed.vm, 1)->user[0], 0x42000);
    bed_destroy(&bed);
}

// --- pause

static uint64_t steps(struct bed *bed)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < bed->vm.cpus; i++)
        n += script_vcpu(&bed->vm, i)->steps;
    return n;
}

static enum script tick_step(struct script_vcpu *v) // halts between ticks of its own timer
{
    script_out(v, 0x604, 4, 50);
    return SCRIPT_HALT;
}

static void pause_often(void *ctx)
{
    struct bed *bed = ctx;
    for (int i = 0; i < 100; i++) {
        vm_pause(&bed->vm);
        uint64_t before = steps(bed), ns = vm_clock_ns(&bed->vm.clock), fired = bed->board.fired;
        if (i % 10 == 0)
            vm_pause(&bed->vm); // nested
        sleep_us(200);
        if (i % 10 == 0)
            vm_resume(&bed->vm);
        assert_int_equal(steps(bed), before);
        assert_int_equal(vm_clock_ns(&bed->vm.clock), ns);
        assert_true(bed->board.fired <= fired + bed->vm.cpus); // those under way on the loop's thread
        vm_resume(&bed->vm);
        sleep_us(100);
        assert_true(vm_clock_ns(&bed->vm.clock) > ns);
    }
    uint64_t before = steps(bed);
    for (int i = 0; i < 1000 && steps(bed) == before; i++)
        sleep_us(1000);
    assert_true(steps(bed) > before); // it goes on, with its timers
    vm_kill(&bed->vm);
}

static void pauses_stop_cpus_and_time(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct bed bed;
        bed_init(&bed, 2, i ? tick_step : spin_step);
        assert_int_equal(run_beside(&bed, pause_often), VM_END_KILLED);
        assert_int_equal(bed.board.early, 0);
        bed_destroy(&bed);
    }
}

static void killed_while_paused(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 2, spin_step);
    vm_pause(&bed.vm);
    assert_int_equal(run_beside(&bed, kill_soon), VM_END_KILLED);
    assert_int_equal(steps(&bed), 0);
    bed_destroy(&bed);
}

// --- sleeping and waking

enum { ROUNDS = 20000 };

// CPU 0 and 1 interrupt each other in turns, each halting in between.
static enum script pingpong_step(struct script_vcpu *v)
{
    struct bed *bed = bed_of(v);
    if (v->base.id == 0 && v->user[0]++ == 0) {
        vcpu_startup(&bed->vm, 1, 1);
        return SCRIPT_HALT;
    }
    if (v->interrupts >= ROUNDS)
        script_out(v, 0x600, 1, BOARD_POWEROFF);
    script_out(v, 0x601, 1, !v->base.id);
    return SCRIPT_HALT;
}

static void no_wake_up_is_lost(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 2, pingpong_step);
    uint64_t start = host_monotonic_ns();
    assert_int_equal(bed_run(&bed), VM_END_POWEROFF);
    print_message("%llu ns a turn\n", (unsigned long long)(host_monotonic_ns() - start) / (2 * ROUNDS));
    bed_destroy(&bed);
}

enum { TICKS = 2000 };

static enum script idle_ticks_step(struct script_vcpu *v)
{
    if (v->interrupts >= TICKS)
        script_out(v, 0x600, 1, BOARD_POWEROFF);
    else
        script_out(v, 0x604, 4, 100);
    return SCRIPT_HALT;
}

static enum script busy_ticks_step(struct script_vcpu *v)
{
    if (v->user[0] == v->interrupts) {
        v->user[0]++;
        if (v->interrupts >= TICKS)
            script_out(v, 0x600, 1, BOARD_POWEROFF);
        else
            script_out(v, 0x604, 4, 100);
    }
    return SCRIPT_GO;
}

static uint64_t arms;

static void take_arms(void *ctx, const char *name, uint64_t value)
{
    (void)ctx;
    if (!strcmp(name, "timer.armed"))
        arms = value;
}

static void timers_wake_and_interrupt(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct bed bed;
        bed_init(&bed, 1, i ? busy_ticks_step : idle_ticks_step);
        uint64_t start = host_monotonic_ns();
        assert_int_equal(bed_run(&bed), VM_END_POWEROFF);
        uint64_t took = host_monotonic_ns() - start;
        assert_int_equal(bed.board.fired, TICKS);
        assert_int_equal(bed.board.early, 0);
        assert_true(took >= TICKS * 100000ull);
        vm_stats(&bed.vm, take_arms, NULL);
        print_message("%s: %llu ns a tick of 100 us, latest %llu ns, %llu settings\n", i ? "busy" : "idle",
                      (unsigned long long)took / TICKS, (unsigned long long)bed.board.latest, (unsigned long long)arms);
        bed_destroy(&bed);
    }
}

// A timer that another thread sets to an earlier time while its vCPU already sleeps for a later one.
static enum script sleep_long_step(struct script_vcpu *v)
{
    if (v->interrupts)
        script_out(v, 0x600, 1, BOARD_POWEROFF);
    script_out(v, 0x604, 4, 3000000000u); // 50 minutes
    return SCRIPT_HALT;
}

static void set_earlier(void *ctx)
{
    struct bed *bed = ctx;
    sleep_us(20000);
    vm_lock(&bed->board.dev.lock);
    bed->board.due[0] = vm_clock_ns(&bed->vm.clock) + 1000000;
    vm_timer_set(&bed->board.timer[0], bed->board.due[0]);
    vm_unlock(&bed->board.dev.lock);
}

static void a_sleeper_s_timer_can_be_set_earlier(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 1, sleep_long_step);
    assert_int_equal(run_beside(&bed, set_earlier), VM_END_POWEROFF);
    assert_int_equal(bed.board.early, 0);
    bed_destroy(&bed);
}

// --- all at once

static enum script storm_step(struct script_vcpu *v)
{
    struct bed *bed = bed_of(v);
    uint64_t n = v->user[1]++ * 0x9e3779b97f4a7c15 >> 40;
    if (v->base.id == 0 && !v->user[0]++)
        for (unsigned i = 1; i < bed->vm.cpus; i++)
            vcpu_startup(&bed->vm, i, 1);
    if (n % 5 == 0)
        script_out(v, 0x601, 1, n / 5 % bed->vm.cpus);
    if (n % 7 == 0)
        script_out(v, 0x604, 4, n % 100);
    if (n % 20011 == 0)
        script_out(v, 0x600, 1, BOARD_RESET);
    if (n % 3 == 0) {
        script_out(v, 0x604, 4, n % 100);
        return SCRIPT_HALT;
    }
    return SCRIPT_GO;
}

static void storm_interrupts(void *ctx)
{
    struct bed *bed = ctx;
    for (int round = 0; round < 2000; round++) {
        for (unsigned i = 0; i < bed->vm.cpus; i++)
            board_interrupt(&bed->board, i, 0x55);
        sleep_us(50);
    }
}

static void storm_pauses(void *ctx)
{
    struct bed *bed = ctx;
    for (int i = 0; i < 150; i++) {
        vm_pause(&bed->vm);
        uint64_t before = steps(bed);
        if (i % 4 == 0)
            vm_request_reset(&bed->vm);
        sleep_us(50);
        assert_true(steps(bed) == before);
        vm_resume(&bed->vm);
        sleep_us(300);
    }
}

static void storm(void *ctx)
{
    struct thread *t[3];
    void (*fn[3])(void *) = {storm_interrupts, storm_pauses, storm_pauses};
    for (int i = 0; i < 3; i++)
        assert_int_equal(thread_create(&t[i], "storm", fn[i], ctx, NULL), 0);
    for (int i = 0; i < 3; i++)
        thread_join(t[i]);
    vm_kill(&((struct bed *)ctx)->vm);
}

static void survives_a_storm(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 4, storm_step);
    assert_int_equal(run_beside(&bed, storm), VM_END_KILLED);
    assert_true(bed.board.resets > 1);
    bed_destroy(&bed);
}

// --- two machines

static void run_one(void *ctx)
{
    assert_int_equal(bed_run(ctx), VM_END_POWEROFF);
}

static void two_live_side_by_side(void **state)
{
    (void)state;
    struct bed bed[2];
    struct thread *t[2];
    bed_init(&bed[0], 1, idle_ticks_step);
    bed_init(&bed[1], 4, reset_step);
    for (int i = 0; i < 2; i++)
        assert_int_equal(thread_create(&t[i], "vm", run_one, &bed[i], NULL), 0);
    for (int i = 0; i < 2; i++)
        thread_join(t[i]);
    assert_int_equal(bed[0].board.resets, 1);
    assert_true(bed[1].board.resets > 200);
    assert_int_equal(bed[0].board.fired, TICKS);
    for (int i = 0; i < 2; i++)
        bed_destroy(&bed[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_by_the_guest),         cmocka_unit_test(ends_by_a_crash),
        cmocka_unit_test(ends_from_outside),         cmocka_unit_test(cannot_run_without),
        cmocka_unit_test(resets_again_and_again),    cmocka_unit_test(a_reset_that_fails_is_a_crash),
        cmocka_unit_test(a_reset_forgets_signals),   cmocka_unit_test(tells_of_exits),
        cmocka_unit_test(starts_another_processor),  cmocka_unit_test(pauses_stop_cpus_and_time),
        cmocka_unit_test(killed_while_paused),       cmocka_unit_test(no_wake_up_is_lost),
        cmocka_unit_test(timers_wake_and_interrupt), cmocka_unit_test(a_sleeper_s_timer_can_be_set_earlier),
        cmocka_unit_test(survives_a_storm),          cmocka_unit_test(two_live_side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
