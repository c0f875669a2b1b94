// Saving and loading a machine's state: see save.h.
#include "vm/save.h"
#include "cpu/check.h"
#include "engine/engine.h"
#include "vm/life.h"
#include "vm/save_cpu.h"
#include "vm/timers.h"
#include <errno.h>
#include <string.h>

enum {
    CARRIED = ENGINE_INTR | ENGINE_NMI | ENGINE_INIT | ENGINE_SIPI | ENGINE_UNHALT, // of `pending`
    OURS = CARRIED | ENGINE_EXIT | ENGINE_TLB_FLUSH,                                // the other bits are the engine's
};

// --- what is not a device's

struct saved_machine {
    uint32_t cpus, tsc_khz;
    uint64_t tsc, ns; // the clock in both units: a virtual one has the second, others are exact in the first
};

static const struct state_field machine_fields[] = {
    STATE_U32(struct saved_machine, cpus, 1),
    STATE_U32(struct saved_machine, tsc_khz, 1),
    STATE_U64(struct saved_machine, tsc, 1),
    STATE_U64(struct saved_machine, ns, 1),
    STATE_END,
};
static const struct state_table machine_state = {"machine", 1, machine_fields};

struct saved_vcpu {
    uint32_t pending; // VCPU_* bits
    uint8_t sipi_vector;
    bool unhalt; // the next HLT ends at once
    uint64_t stolen;
};

static const struct state_field vcpu_fields[] = {
    STATE_U32(struct saved_vcpu, pending, 1),
    STATE_U8(struct saved_vcpu, sipi_vector, 1),
    STATE_U8(struct saved_vcpu, unhalt, 1),
    STATE_U64(struct saved_vcpu, stolen, 1),
    STATE_END,
};
static const struct state_table vcpu_state = {"vcpu", 1, vcpu_fields};

struct saved_device {
    uint8_t name[sizeof((struct device *)0)->name];
};

static const struct state_field device_fields[] = {STATE_BYTES(struct saved_device, name, 1), STATE_END};
static const struct state_table device_state = {"device", 1, device_fields};

static const struct state_field end_fields[] = {STATE_END};
static const struct state_table end_state = {"end", 1, end_fields};

static void lock(struct device *d)
{
    if (!d->ops->unlocked)
        vm_lock(&d->lock);
}

static void unlock(struct device *d)
{
    if (!d->ops->unlocked)
        vm_unlock(&d->lock);
}

// --- saving

static int save_vcpu(struct vcpu *v, struct state_buffer *b, struct error *err)
{
    struct cpu_state s;
    memset(&s, 0, sizeof s); // what an engine leaves out, too: bytes that are saved are bytes that were set
    v->vm->engine_ops->get_state(v->engine, &s, CPU_GROUP_ALL);
    const struct saved_vcpu rest = {.pending = v->engine->pending & CARRIED,
                                    .sipi_vector = v->engine->sipi_vector,
                                    .unhalt = v->unhalt,
                                    .stolen = v->stolen};
    int e = state_save(b, &cpu_state_table, &s, err);
    return e ? e : state_save(b, &vcpu_state, &rest, err);
}

static int save_device(struct device *d, struct state_buffer *b, struct error *err)
{
    struct saved_device id = {{0}};
    memcpy(id.name, d->name, sizeof id.name);
    int e = state_save(b, &device_state, &id, err);
    if (e)
        return e;
    lock(d);
    e = state_save(b, d->ops->state, d, err);
    unlock(d);
    return e;
}

// Whoever came past a look at vm->frozen before it was set holds the lock of the device that looked.
static void wait_frozen(struct vm *vm)
{
    for (struct device *d = vm->devices; d; d = d->next) {
        vm_lock(&d->lock);
        vm_unlock(&d->lock);
    }
}

int vm_save(struct vm *vm, struct state_buffer *b, struct error *err)
{
    if (!vm->life->pauses || vm->life->ended)
        return error_set(err, EBUSY, "saving the machine: it %s", vm->life->ended ? "has ended" : "is not paused");
    if (vm->life->reset_wanted)
        return error_set(err, EBUSY, "saving the machine: it is about to be reset");
    wait_frozen(vm);
    device_drain_all(vm);
    vm_timers_settle(vm->timers);
    const struct saved_machine m = {
        .cpus = vm->cpus, .tsc_khz = vm->clock.tsc_khz, .tsc = vm_clock_tsc(&vm->clock), .ns = vm_clock_ns(&vm->clock)};
    int e = state_save(b, &machine_state, &m, err);
    for (unsigned i = 0; i < vm->cpus && !e; i++)
        e = save_vcpu(vm->vcpu[i], b, err);
    for (struct device *d = vm->devices; d && !e; d = d->next)
        if (d->ops->state)
            e = save_device(d, b, err);
    return e ? e : state_save(b, &end_state, NULL, err);
}

// --- loading

static int load_machine(struct vm *vm, struct state_buffer *b, struct error *err)
{
    struct saved_machine m = {0};
    int e = state_load(b, &machine_state, &m, err);
    if (e)
        return e;
    if (m.cpus != vm->cpus)
        return error_set(err, EINVAL, "saved machine: it has %u CPUs, this one %u", m.cpus, vm->cpus);
    if (m.tsc_khz != vm->clock.tsc_khz)
        return error_set(err, EINVAL, "saved machine: its TSC runs at %u kHz, this one's at %u kHz", m.tsc_khz,
                         vm->clock.tsc_khz);
    // A hundred years of running: with more, sums of times could overflow.
    if (m.ns > 100ull * 366 * 86400 * 1000000000)
        return error_set(err, EINVAL, "saved machine: its clock is out of range");
    vm_clock_set(&vm->clock, m.tsc, m.ns);
    if (vm_clock_ns(&vm->clock) - m.ns > 1 && m.ns - vm_clock_ns(&vm->clock) > 1)
        return error_set(err, EINVAL, "saved machine: its clock and its TSC do not agree");
    return 0;
}

static int load_vcpu(struct vcpu *v, struct state_buffer *b, struct error *err)
{
    struct saved_vcpu rest = {0};
    struct cpu_state s;
    memset(&s, 0, sizeof s);
    int e = state_load(b, &cpu_state_table, &s, err);
    if (!e)
        e = cpu_state_check(&s, v->vm->model, err);
    if (!e)
        e = state_load(b, &vcpu_state, &rest, err);
    if (!e)
        e = v->vm->engine_ops->set_state(v->engine, &s, CPU_GROUP_ALL, err);
    if (e) {
        error_prefix(err, "vCPU %u", v->id);
        return e;
    }
    atomic_fetch_and(&v->engine->pending, ~(uint32_t)OURS);
    atomic_fetch_or(&v->engine->pending, rest.pending & CARRIED);
    v->engine->sipi_vector = rest.sipi_vector;
    v->unhalt = rest.unhalt;
    v->stolen = rest.stolen;
    return 0;
}

static int load_device(struct device *d, struct state_buffer *b, struct error *err)
{
    struct saved_device id = {{0}};
    int e = state_load(b, &device_state, &id, err);
    if (e)
        return e;
    if (memcmp(id.name, d->name, sizeof id.name) != 0)
        return error_set(err, EINVAL, "saved machine: it has device %.*s where this one has %s",
                         (int)sizeof id.name - 1, (const char *)id.name, d->name);
    lock(d);
    e = state_load(b, d->ops->state, d, err);
    unlock(d);
    if (e)
        error_prefix(err, "%s", d->name);
    return e;
}

// After all of them have their values: what one makes up for (a line goes up) reaches others.
static int tell_loaded(struct device *d, struct error *err)
{
    if (!d->ops->loaded)
        return 0;
    lock(d);
    int e = d->ops->loaded(d);
    unlock(d);
    return e ? error_set(err, -e, "saved machine: the state of %s makes no sense", d->name) : 0;
}

int vm_load(struct vm *vm, struct state_buffer *b, struct error *err)
{
    if (!vm->life->pauses || vm->life->ended)
        return error_set(err, EBUSY, "loading the machine: it %s", vm->life->ended ? "has ended" : "is not paused");
    if (!vm_timers_complete(vm->timers))
        return error_set(err, ENOMEM, "timers: no memory");
    wait_frozen(vm);
    device_drain_all(vm);
    device_reset_all(vm);
    int e = load_machine(vm, b, err);
    for (unsigned i = 0; i < vm->cpus && !e; i++)
        e = load_vcpu(vm->vcpu[i], b, err);
    for (struct device *d = vm->devices; d && !e; d = d->next)
        if (d->ops->state)
            e = load_device(d, b, err);
    if (!e)
        e = state_load(b, &end_state, NULL, err);
    for (struct device *d = vm->devices; d && !e; d = d->next)
        if (d->ops->state)
            e = tell_loaded(d, err);
    return e;
}
