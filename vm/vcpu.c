// A vCPU: its thread, the engine's upcalls, sleeping in HLT and being woken.
//
// Sleeping. The word that the thread sleeps on is the engine's `pending`. The sleeper says that it is asleep, then
// looks at pending, then sleeps if nothing of interest is there; a waker sets its bits, then looks whether somebody is
// asleep. All four are sequentially consistent, so at least one of the two sees the other; and the futex does not sleep
// if the word has changed since it was looked at. No wake-up is lost and waking a vCPU that runs costs no system call.
//
// While it sleeps, the thread waits for its own timers' deadlines too (timer.h, vm_timer_bind).
//
// It does not poll before it sleeps. Measured with two vCPUs that wake each other in turns, polling for 20 us made a
// turn ten times faster as long as the kernel kept the threads on two CPUs, and slower by all of the 20 us when it put
// both on one, which it likes to do with threads that wake each other.
#include "vm/vcpu.h"
#include "host/clock.h"
#include "host/thread.h"
#include "vm/alloc.h"
#include "vm/hypercall.h"
#include "vm/life.h"
#include "vm/timers.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

_Static_assert((int)VCPU_INTR == (int)ENGINE_INTR && (int)VCPU_NMI == (int)ENGINE_NMI &&
                   (int)VCPU_INIT == (int)ENGINE_INIT && (int)VCPU_SIPI == (int)ENGINE_SIPI &&
                   (int)VCPU_EXIT == (int)ENGINE_EXIT && (int)VCPU_UNHALT == (int)ENGINE_UNHALT &&
                   (int)VCPU_TLB_FLUSH == (int)ENGINE_TLB_FLUSH,
               "bits of vcpu.h and engine.h");

// Only the vCPU's own thread counts, so this needs no locked instruction.
static void count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

// --- signals

void vcpu_signal(struct vm *vm, unsigned cpu, unsigned bits)
{
    if (cpu >= vm->cpus)
        return;
    struct vcpu *v = vm->vcpu[cpu];
    engine_notify(v->engine, bits);
    if (atomic_load_explicit(&v->asleep, memory_order_seq_cst))
        futex_wake(&v->engine->pending, 1);
}

void vcpu_startup(struct vm *vm, unsigned cpu, uint8_t vector)
{
    if (cpu >= vm->cpus)
        return;
    vm->vcpu[cpu]->engine->sipi_vector = vector;
    vcpu_signal(vm, cpu, VCPU_SIPI);
}

// The flag stays until an HLT takes it, so that a kick is not lost which comes between the waiter's last look and its
// HLT. The bit is for one that is in HLT already.
void vcpu_unhalt(struct vm *vm, unsigned cpu)
{
    if (cpu >= vm->cpus)
        return;
    struct vcpu *v = vm->vcpu[cpu];
    atomic_store_explicit(&v->unhalt, true, memory_order_seq_cst);
    if (atomic_load_explicit(&v->asleep, memory_order_seq_cst) && atomic_exchange(&v->unhalt, false))
        vcpu_signal(vm, cpu, VCPU_UNHALT);
}

// --- time

// What the thread neither ran nor slept: it was waiting for a CPU of the host.
static uint64_t stolen_now(const struct vcpu *v)
{
    if (!v->run_since) // it is no thread of ours that runs it, and time may be virtual
        return v->stolen;
    int64_t ns = (int64_t)(host_monotonic_ns() - v->run_since - v->slept - (thread_cpu_ns() - v->run_cpu));
    return v->stolen + (ns > 0 ? (uint64_t)ns : 0);
}

uint64_t vcpu_stolen(struct vm *vm, unsigned cpu)
{
    return stolen_now(vm->vcpu[cpu]);
}

void vcpu_run_begin(struct vcpu *v)
{
    v->run_since = host_monotonic_ns();
    v->run_cpu = thread_cpu_ns();
    v->slept = 0;
}

void vcpu_run_end(struct vcpu *v)
{
    v->stolen = stolen_now(v);
    v->run_since = 0;
}

// --- upcalls; owner is the struct vcpu

static uint64_t port_read(void *owner, uint16_t port, unsigned size)
{
    struct vcpu *v = owner;
    count(&v->count.port_reads);
    return bus_read(&v->vm->ports, v->id, port, size);
}

static void port_write(void *owner, uint16_t port, unsigned size, uint64_t val)
{
    struct vcpu *v = owner;
    count(&v->count.port_writes);
    bus_write(&v->vm->ports, v->id, port, size, val);
}

static uint64_t mmio_read(void *owner, uint64_t gpa, unsigned size)
{
    struct vcpu *v = owner;
    count(&v->count.mmio_reads);
    return bus_read(&v->vm->mmio, v->id, gpa, size);
}

static void mmio_write(void *owner, uint64_t gpa, unsigned size, uint64_t val)
{
    struct vcpu *v = owner;
    count(&v->count.mmio_writes);
    bus_write(&v->vm->mmio, v->id, gpa, size, val);
}

// Exits are traced where they are handled: accesses on the bus (bus.c), the others here.
static bool tracing(const struct vcpu *v)
{
    return log_tracing(v->vm->log, TRACE_EXITS);
}

static int msr_read(void *owner, uint32_t msr, uint64_t *val)
{
    struct vcpu *v = owner;
    count(&v->count.msr_reads);
    int e = vm_msr_read(v->vm, v->id, msr, val);
    if (tracing(v))
        log_trace(v->vm->log, TRACE_EXITS, "cpu%u rdmsr 0x%" PRIx32 " = 0x%" PRIx64 "%s", v->id, msr, e ? 0 : *val,
                  e ? " #GP" : "");
    return e;
}

static int msr_write(void *owner, uint32_t msr, uint64_t val)
{
    struct vcpu *v = owner;
    count(&v->count.msr_writes);
    int e = vm_msr_write(v->vm, v->id, msr, val);
    if (tracing(v))
        log_trace(v->vm->log, TRACE_EXITS, "cpu%u wrmsr 0x%" PRIx32 " = 0x%" PRIx64 "%s", v->id, msr, val,
                  e ? " #GP" : "");
    return e;
}

static uint64_t tpr_read(void *owner)
{
    struct vcpu *v = owner;
    const struct local_apic_ops *apic = &v->vm->local_apic;
    return apic->tpr_read ? apic->tpr_read(v->vm->local_apic_ctx, v->id) : 0;
}

static void tpr_write(void *owner, uint64_t tpr)
{
    struct vcpu *v = owner;
    const struct local_apic_ops *apic = &v->vm->local_apic;
    if (apic->tpr_write)
        apic->tpr_write(v->vm->local_apic_ctx, v->id, tpr);
}

static int interrupt_ack(void *owner)
{
    struct vcpu *v = owner;
    const struct local_apic_ops *apic = &v->vm->local_apic;
    if (v->vm->watch.runs)
        v->vm->watch.runs(v->vm->watch.ctx, v->id);
    int vector = apic->ack ? apic->ack(v->vm->local_apic_ctx, v->id) : -1;
    if (vector >= 0) {
        count(&v->count.interrupts);
        if (log_tracing(v->vm->log, TRACE_INTERRUPTS))
            log_trace(v->vm->log, TRACE_INTERRUPTS, "cpu%u takes vector 0x%02x", v->id, (unsigned)vector);
    }
    return vector;
}

static void eoi(void *owner, uint8_t vector)
{
    struct vcpu *v = owner;
    const struct local_apic_ops *apic = &v->vm->local_apic;
    if (tracing(v))
        log_trace(v->vm->log, TRACE_EXITS, "cpu%u eoi 0x%02x", v->id, vector);
    if (apic->eoi)
        apic->eoi(v->vm->local_apic_ctx, vector);
}

static void init(void *owner)
{
    struct vcpu *v = owner;
    const struct local_apic_ops *apic = &v->vm->local_apic;
    if (apic->init)
        apic->init(v->vm->local_apic_ctx, v->id);
    if (v->vm->watch.init)
        v->vm->watch.init(v->vm->watch.ctx, v->id);
    for (struct device *d = v->vm->devices; d; d = d->next)
        if (d->ops->took_init)
            d->ops->took_init(d, v->id);
}

static uint64_t hypercall(void *owner, uint64_t nr, const uint64_t arg[4], bool wide)
{
    struct vcpu *v = owner;
    count(&v->count.hypercalls);
    uint64_t rax = vm_hypercall(v->vm, v->id, nr, arg, wide);
    if (tracing(v))
        log_trace(v->vm->log, TRACE_EXITS, "cpu%u hypercall %" PRIu64 " = %" PRId64, v->id, nr, (int64_t)rax);
    return rax;
}

// Sleeps until a bit of `mask` is set in pending.
static void sleep_for(struct vcpu *v, unsigned mask)
{
    _Atomic uint32_t *pending = &v->engine->pending;
    const struct vcpu_watch *watch = &v->vm->watch;
    bool told = false;
    atomic_store_explicit(&v->asleep, true, memory_order_seq_cst);
    if (atomic_exchange(&v->unhalt, false))
        atomic_fetch_or(pending, ENGINE_UNHALT);
    for (;;) {
        uint64_t until = vm_timers_sleep_begin(v->vm->timers, v->id);
        uint32_t now = atomic_load_explicit(pending, memory_order_seq_cst);
        if (now & mask)
            break;
        if (!until)
            continue; // timers ran: maybe one more is due by now
        count(&v->count.sleeps);
        if (!told && watch->sleeps)
            watch->sleeps(watch->ctx, v->id);
        told = true;
        uint64_t begin = host_monotonic_ns();
        futex_wait(pending, now, until);
        v->slept += host_monotonic_ns() - begin;
    }
    atomic_store_explicit(&v->asleep, false, memory_order_relaxed);
    vm_timers_sleep_end(v->vm->timers, v->id);
    if (told && watch->wakes && watch->wakes(watch->ctx, v->id))
        atomic_fetch_or(pending, ENGINE_TLB_FLUSH);
}

static void halt(void *owner, unsigned mask)
{
    struct vcpu *v = owner;
    mask |= ENGINE_EXIT;
    count(&v->count.halts);
    if (tracing(v))
        log_trace(v->vm->log, TRACE_EXITS, "cpu%u halts", v->id);
    if (!(atomic_load(&v->engine->pending) & mask))
        sleep_for(v, mask);
}

static uint64_t tsc(void *owner)
{
    struct vcpu *v = owner;
    return vm_clock_tsc(&v->vm->clock);
}

const struct engine_upcalls vcpu_upcalls = {
    .port_read = port_read,
    .port_write = port_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .tpr_read = tpr_read,
    .tpr_write = tpr_write,
    .interrupt_ack = interrupt_ack,
    .eoi = eoi,
    .init = init,
    .hypercall = hypercall,
    .halt = halt,
    .tsc = tsc,
};

// --- making and breaking

int vcpu_create(struct vm *vm, unsigned id, struct error *err)
{
    struct vcpu *v = vm_alloc(sizeof *v);
    if (!v)
        return error_set(err, ENOMEM, "vCPU %u: no memory", id);
    v->vm = vm;
    v->id = id;
    int e = vm->engine_ops->vcpu_create(vm->engine, id, v, &v->engine, err);
    if (e < 0) {
        vm_free(v);
        return e;
    }
    vm->vcpu[id] = v;
    return 0;
}

void vcpu_destroy(struct vcpu *v)
{
    v->vm->engine_ops->vcpu_destroy(v->engine);
    vm_free(v);
}

struct named_emit {
    unsigned cpu;
    void (*emit)(void *ctx, const char *name, uint64_t value);
    void *ctx;
};

static void emit_named(void *ctx, const char *name, uint64_t value)
{
    struct named_emit *n = ctx;
    char full[96];
    snprintf(full, sizeof full, "cpu%u.%s", n->cpu, name);
    n->emit(n->ctx, full, value);
}

void vcpu_stats(struct vcpu *v, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    struct named_emit n = {.cpu = v->id, .emit = emit, .ctx = ctx};
    const struct {
        const char *name;
        const _Atomic uint64_t *value;
    } counters[] = {
        {"port_reads", &v->count.port_reads},
        {"port_writes", &v->count.port_writes},
        {"mmio_reads", &v->count.mmio_reads},
        {"mmio_writes", &v->count.mmio_writes},
        {"device_msr_reads", &v->count.msr_reads},
        {"device_msr_writes", &v->count.msr_writes},
        {"hypercalls", &v->count.hypercalls},
        {"interrupts", &v->count.interrupts},
        {"halts", &v->count.halts},
        {"sleeps", &v->count.sleeps},
        {"exits", &v->count.exits},
    };
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++)
        emit_named(&n, counters[i].name, *counters[i].value);
    if (v->vm->engine_ops->vcpu_stats)
        v->vm->engine_ops->vcpu_stats(v->engine, emit_named, &n);
}
