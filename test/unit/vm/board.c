// The least of a machine: see board.h.
#include "board.h"
#include "unit.h"
#include <stdio.h>

void board_interrupt(struct board *b, unsigned cpu, uint8_t vector)
{
    b->vector[cpu] = vector;
    vcpu_signal(b->dev.vm, cpu, VCPU_INTR);
}

static void write_port(struct device *d, struct bus_access a, uint64_t val)
{
    struct board *b = (struct board *)d;
    struct vm *vm = d->vm;
    if (a.offset == 4) {
        b->due[a.cpu] = vm_clock_ns(&vm->clock) + val * 1000;
        vm_timer_set(&b->timer[a.cpu], b->due[a.cpu]);
    } else if (a.offset == 1) {
        board_interrupt(b, (unsigned)val, 0x40);
    } else if (val == BOARD_POWEROFF) {
        vm_request_poweroff(vm);
    } else if (val == BOARD_RESET) {
        vm_request_reset(vm);
    } else if (val == BOARD_DEBUG_EXIT) {
        vm_debug_exit(vm, 7);
    } else if (val == BOARD_BUTTON) {
        vm_press_power_button(vm);
    }
}

static void on_timer(struct device *d, struct vm_timer *t)
{
    struct board *b = (struct board *)d;
    unsigned cpu = (unsigned)(t - b->timer);
    uint64_t now = vm_clock_ns(&d->vm->clock);
    if (now < b->due[cpu])
        b->early++;
    else if (now - b->due[cpu] > b->latest)
        b->latest = now - b->due[cpu];
    b->fired++;
    board_interrupt(b, cpu, 0x20);
}

static void reset(struct device *d)
{
    struct board *b = (struct board *)d;
    b->resets++;
    for (unsigned i = 0; i < CPU_MAX; i++) {
        vm_timer_cancel(&b->timer[i]);
        b->vector[i] = 0;
    }
}

static const struct device_ops board_ops = {.name = "board", .write = write_port, .reset = reset};

static int ack(void *ctx, unsigned cpu)
{
    struct board *b = ctx;
    uint8_t vector = atomic_exchange(&b->vector[cpu], 0);
    return vector ? vector : -1;
}

static void init(void *ctx, unsigned cpu)
{
    (void)cpu;
    ((struct board *)ctx)->inits++;
}

static int boot(struct vm *vm, void *ctx, struct cpu_state *s, struct error *err)
{
    struct bed *bed = ctx;
    (void)vm;
    bed->boots++;
    s->rip = 0x1234;
    return bed->boot_result ? error_set(err, -bed->boot_result, "kernel gone") : 0;
}

static void button(void *ctx)
{
    struct bed *bed = ctx;
    bed->board.buttons++;
    vm_request_poweroff(&bed->vm);
}

static void swallow(void *ctx, const char *line)
{
    (void)ctx, (void)line;
}

void bed_init(struct bed *bed, unsigned cpus, enum script (*step)(struct script_vcpu *v))
{
    memset(bed, 0, sizeof *bed);
    bed->log = (struct log){.level = LOG_DEBUG, .trace = TRACE_INTERRUPTS | TRACE_PIO, .sink = swallow};
    bed->guest.step = step;
    bed->guest.ctx = bed;
    bed->guest.model.config.cpus = cpus;
    struct error err;
    struct vm *vm = &bed->vm;
    if (loop_create(&bed->loop, &err) < 0 ||
        vm_init(vm,
                &(struct vm_config){
                    .log = &bed->log, .loop = bed->loop, .engine = &script_engine, .model = &bed->guest.model},
                &err) < 0 ||
        vm_add_cpus(vm, cpus, &err) < 0)
        fail_msg("%s", err.text);
    struct board *b = &bed->board;
    device_add(vm, &b->dev, &board_ops, "board");
    for (unsigned i = 0; i < CPU_MAX; i++) {
        vm_timer_init(&b->timer[i], &b->dev, on_timer);
        vm_timer_bind(&b->timer[i], i);
    }
    if (bus_add(&vm->ports, &(struct bus_range){.base = 0x600, .size = 8, .dev = &b->dev}, &err) < 0)
        fail_msg("%s", err.text);
    vm->local_apic = (struct local_apic_ops){.ack = ack, .init = init};
    vm->local_apic_ctx = b;
    vm->boot = boot;
    vm->boot_ctx = bed;
    vm->power_button = button;
    vm->power_button_ctx = bed;
}

enum vm_end bed_run(struct bed *bed)
{
    struct error err;
    if (vm_reset(&bed->vm, &err) < 0)
        fail_msg("%s", err.text);
    enum vm_end end = vm_run(&bed->vm, &err);
    if (end == VM_END_NONE)
        fail_msg("%s", err.text);
    return end;
}

void bed_destroy(struct bed *bed)
{
    vm_destroy(&bed->vm);
    loop_destroy(bed->loop);
    assert_int_equal(bed->guest.live, 0);
}
