// The life of a VM: running, pausing, resetting, ending. See vm.h for what callers see and life.h for the words that
// the vCPU threads obey.
//
// Stopping the vCPUs. A stop is counted; while there is at least one, `command` is PARK. Whoever stops sets the
// command, sends every vCPU out of the engine with VCPU_EXIT, and sleeps until `running` is zero. A vCPU's thread
// counts itself into `running` before it looks at the command, so that either it sees PARK or the stopper sees it
// running.
//
// A reset that the guest asks for is carried out on the event loop's thread: at once the vCPUs are told to park (so
// that the guest executes nothing after it but, on other vCPUs, what is under way), then the loop waits for them,
// resets devices and CPUs, and lets go. A pause by a user in the meantime is one more stop and keeps them parked.
//
// The end is written once, by whoever comes first; from then on the command is STOP whatever is asked for.
#include "vm/life.h"
#include "host/clock.h"
#include "host/loop.h"
#include "host/thread.h"
#include "vm/alloc.h"
#include "vm/timers.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// Tells the vCPU threads what to do. stop_lock is held.
static void command(struct vm *vm)
{
    struct vm_life *life = vm->life;
    uint32_t c = life->ended ? LIFE_STOP : life->stops ? LIFE_PARK : LIFE_RUN;
    if (life->command == c)
        return;
    if (c == LIFE_RUN)
        device_release_all(vm);
    life->command = c;
    futex_wake(&life->command, INT_MAX);
    if (c != LIFE_RUN)
        for (unsigned i = 0; i < vm->cpus; i++)
            vcpu_signal(vm, i, VCPU_EXIT);
}

static void stop(struct vm *vm)
{
    vm_lock(&vm->life->stop_lock);
    vm->life->stops++;
    command(vm);
    vm_unlock(&vm->life->stop_lock);
}

static void go_on(struct vm *vm)
{
    vm_lock(&vm->life->stop_lock);
    vm->life->stops--;
    command(vm);
    vm_unlock(&vm->life->stop_lock);
}

static void wait_parked(struct vm *vm)
{
    uint32_t n;
    while ((n = vm->life->running))
        futex_wait(&vm->life->running, n, HOST_NEVER);
}

// --- the end

static void end(struct vm *vm, enum vm_end how, int status, const char *fmt, va_list ap)
{
    vm_lock(&vm->life_lock);
    bool first = vm->end == VM_END_NONE;
    if (first) {
        vm->end = how;
        vm->end_status = status;
        vsnprintf(vm->end_text, sizeof vm->end_text, fmt, ap);
    }
    vm_unlock(&vm->life_lock);
    if (!first)
        return;
    vm_lock(&vm->life->stop_lock);
    vm->life->ended = true;
    command(vm);
    vm_unlock(&vm->life->stop_lock);
    if (vm->loop)
        loop_stop(vm->loop);
}

__attribute__((format(printf, 4, 5))) static void end_with(struct vm *vm, enum vm_end how, int status, const char *fmt,
                                                           ...)
{
    va_list ap;
    va_start(ap, fmt);
    end(vm, how, status, fmt, ap);
    va_end(ap);
}

void vm_request_poweroff(struct vm *vm)
{
    end_with(vm, VM_END_POWEROFF, 0, "the guest powered off");
}

void vm_debug_exit(struct vm *vm, int status)
{
    end_with(vm, VM_END_DEBUG, status, "the guest ended with status %d", status);
}

void vm_kill(struct vm *vm)
{
    end_with(vm, VM_END_KILLED, 0, "killed");
}

void vm_crash(struct vm *vm, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    end(vm, VM_END_CRASH, 0, fmt, ap);
    va_end(ap);
}

// --- reset

static void on_reset(void *ctx)
{
    struct vm *vm = ctx;
    wait_parked(vm);
    vm_lock(&vm->life->stop_lock);
    device_hold_all(vm);
    vm_unlock(&vm->life->stop_lock);
    vm->life->reset_wanted = false;
    struct error err;
    if (!vm->life->ended && vm_reset(vm, &err) < 0)
        vm_crash(vm, "reset: %s", err.text);
    go_on(vm);
}

void vm_request_reset(struct vm *vm)
{
    if (vm->no_reboot) {
        end_with(vm, VM_END_RESET, 0, "the guest asked for a reset");
        return;
    }
    if (!vm->loop || atomic_exchange(&vm->life->reset_wanted, true))
        return;
    log_info(vm->log, "the guest asked for a reset");
    stop(vm);
    if (loop_post(vm->loop, on_reset, vm) < 0)
        vm_crash(vm, "reset: no memory");
}

// --- the power button

static void on_power_button(void *ctx)
{
    struct vm *vm = ctx;
    if (vm->power_button)
        vm->power_button(vm->power_button_ctx);
    else
        log_warn(vm->log, "this machine has no power button");
}

void vm_press_power_button(struct vm *vm)
{
    if (!vm->loop || loop_post(vm->loop, on_power_button, vm) < 0)
        on_power_button(vm);
}

// --- pausing

void vm_pause(struct vm *vm)
{
    stop(vm);
    wait_parked(vm);
    vm_lock(&vm->life->stop_lock);
    if (!vm->life->pauses++) {
        vm->frozen = true;
        vm_clock_pause(&vm->clock);
    }
    device_hold_all(vm);
    vm_unlock(&vm->life->stop_lock);
}

void vm_resume(struct vm *vm)
{
    vm_lock(&vm->life->stop_lock);
    if (!--vm->life->pauses) {
        vm->frozen = false;
        vm_clock_resume(&vm->clock);
        vm_timers_resume(vm->timers);
    }
    vm_unlock(&vm->life->stop_lock);
    go_on(vm);
}

void vm_hold_cpus(struct vm *vm)
{
    stop(vm);
    wait_parked(vm);
}

void vm_free_cpus(struct vm *vm)
{
    go_on(vm);
}

// --- running

static void crashed_at(struct vcpu *v)
{
    struct cpu_state s;
    v->vm->engine_ops->get_state(v->engine, &s, CPU_GROUP_GPR | CPU_GROUP_SEG | CPU_GROUP_CR);
    vm_crash(v->vm, "vCPU %u: triple fault at %04x:%" PRIx64 " (cr0 %" PRIx64 " cr2 %" PRIx64 " cr3 %" PRIx64 ")",
             v->id, s.seg[CPU_CS].selector, s.rip, s.cr0, s.cr2, s.cr3);
}

static void run_engine(struct vcpu *v)
{
    struct vm *vm = v->vm;
    while (vm->life->command == LIFE_RUN) {
        struct error err = {.text = ""};
        switch (vm->engine_ops->run(v->engine, &err)) {
        case ENGINE_EXIT_REQUESTED:
            break;
        case ENGINE_EXIT_SHUTDOWN:
            crashed_at(v);
            break;
        case ENGINE_EXIT_ERROR:
            vm_crash(vm, "vCPU %u: %s", v->id, err.text);
            break;
        }
        atomic_fetch_add_explicit(&v->count.exits, 1, memory_order_relaxed);
        if (log_tracing(vm->log, TRACE_EXITS))
            log_trace(vm->log, TRACE_EXITS, "cpu%u leaves the engine", v->id);
    }
}

void vcpu_main(void *vcpu)
{
    struct vcpu *v = vcpu;
    struct vm_life *life = v->vm->life;
    for (;;) {
        life->running++;
        vcpu_run_begin(v);
        run_engine(v);
        vcpu_run_end(v);
        if (!--life->running)
            futex_wake(&life->running, INT_MAX);
        uint32_t c = life->command;
        if (c == LIFE_STOP)
            return;
        if (c == LIFE_PARK)
            futex_wait(&life->command, LIFE_PARK, HOST_NEVER);
    }
}

enum vm_end vm_run(struct vm *vm, struct error *err)
{
    struct vm_life *life = vm->life;
    if (!vm->loop || !vm->cpus) {
        error_set(err, EINVAL, "virtual machine: it has no %s", vm->loop ? "CPUs" : "event loop");
        return VM_END_NONE;
    }
    vm_lock(&life->stop_lock);
    command(vm);
    vm_unlock(&life->stop_lock);
    unsigned started = 0;
    for (; started < vm->cpus; started++) {
        struct vcpu *v = vm->vcpu[started];
        char name[16];
        snprintf(name, sizeof name, "vcpu%u", v->id);
        if (thread_create(&v->thread, name, vcpu_main, v, err) < 0)
            break;
    }
    if (started == vm->cpus)
        loop_run(vm->loop);
    vm_kill(vm); // unless it has ended in another way
    for (unsigned i = 0; i < started; i++)
        thread_join(vm->vcpu[i]->thread);
    return started < vm->cpus ? VM_END_NONE : vm->end;
}
