// Making a virtual machine and taking it apart: see vm.h. Its life in between is in life.c.
//
// Everything that is added to a VM is freed by vm_destroy: vCPUs first (the engine wants that), then devices in the
// reverse order of their creation, so that a device can rely on those that it was made from, then buses and the engine.
#include "vm/vm.h"
#include "engine/engine.h"
#include "host/bells.h"
#include "vm/alloc.h"
#include "vm/life.h"
#include "vm/timers.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

int vm_init(struct vm *vm, const struct vm_config *config, struct error *err)
{
    const struct cpu_model *model = config->model;
    memset(vm, 0, sizeof *vm);
    vm->log = config->log;
    vm->loop = config->loop;
    vm->engine_ops = config->engine;
    vm->model = model;
    vm->with_bells = config->bells;
    if (vm->loop)
        vm_clock_host(&vm->clock, model->config.tsc_khz, config->since);
    else
        vm_clock_virtual(&vm->clock, model->config.tsc_khz);
    bus_init(&vm->ports, vm, "port", 0xffff);
    bus_init(&vm->mmio, vm, "mmio", UINT64_MAX);
    vm->timers = vm_timers_create(vm);
    vm->life = vm_alloc(sizeof *vm->life);
    if (!vm->timers || !vm->life) {
        vm_destroy(vm);
        return error_set(err, ENOMEM, "virtual machine: no memory");
    }
    const struct engine_vm_config of_engine = {.host = config->host,
                                               .model = model,
                                               .up = &vcpu_upcalls,
                                               .log = vm->log,
                                               .tsc_offset = vm_clock_tsc_offset(&vm->clock)};
    int e = vm->engine_ops->vm_create(&of_engine, &vm->engine, err);
    if (e < 0) {
        vm->engine = NULL;
        vm_destroy(vm);
    }
    return e;
}

void vm_destroy(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        vcpu_destroy(vm->vcpu[i]);
    vm->cpus = 0;
    bells_destroy(vm->bells);
    vm->bells = NULL;
    device_drain_all(vm);
    struct device *reversed = NULL;
    while (vm->devices) {
        struct device *d = vm->devices;
        vm->devices = d->next;
        d->next = reversed;
        reversed = d;
    }
    while (reversed) {
        struct device *d = reversed;
        reversed = d->next;
        if (d->ops->destroy)
            d->ops->destroy(d);
    }
    bus_destroy(&vm->ports);
    bus_destroy(&vm->mmio);
    if (vm->engine)
        vm->engine_ops->vm_destroy(vm->engine);
    vm->engine = NULL;
    vm_timers_destroy(vm->timers);
    vm->timers = NULL;
    vm_free(vm->life);
    vm->life = NULL;
}

int vm_add_cpus(struct vm *vm, unsigned cpus, struct error *err)
{
    if (!cpus || cpus > CPU_MAX || vm->cpus)
        return error_set(err, EINVAL, "%u CPUs: from 1 to %d are possible", cpus, CPU_MAX);
    for (unsigned i = 0; i < cpus; i++) {
        int e = vcpu_create(vm, i, err);
        if (e < 0)
            return e; // vm_destroy frees those that are there
        vm->cpus = i + 1;
    }
    return 0;
}

struct engine_vcpu *vm_engine_vcpu(struct vm *vm, unsigned cpu)
{
    return cpu < vm->cpus ? vm->vcpu[cpu]->engine : NULL;
}

void device_add(struct vm *vm, struct device *d, const struct device_ops *ops, const char *name)
{
    d->ops = ops;
    d->vm = vm;
    d->next = NULL;
    d->lock = (struct vm_lock){0};
    snprintf(d->name, sizeof d->name, "%s", name);
    struct device **link = &vm->devices;
    while (*link)
        link = &(*link)->next;
    *link = d;
}

void device_drain_all(struct vm *vm)
{
    for (struct device *d = vm->devices; d; d = d->next)
        if (d->ops->drain)
            d->ops->drain(d);
}

void device_hold_all(struct vm *vm)
{
    if (!vm->released)
        return;
    vm->released = false;
    for (struct device *d = vm->devices; d; d = d->next)
        if (d->ops->hold)
            d->ops->hold(d);
}

void device_release_all(struct vm *vm)
{
    if (vm->released)
        return;
    vm->released = true;
    for (struct device *d = vm->devices; d; d = d->next)
        if (d->ops->release)
            d->ops->release(d);
}

void device_reset_all(struct vm *vm)
{
    for (struct device *d = vm->devices; d; d = d->next) {
        if (!d->ops->reset)
            continue;
        if (!d->ops->unlocked)
            vm_lock(&d->lock);
        d->ops->reset(d);
        if (!d->ops->unlocked)
            vm_unlock(&d->lock);
    }
}

struct device_emit {
    const struct device *device;
    void (*emit)(void *ctx, const char *name, uint64_t value);
    void *ctx;
};

static void emit_of_device(void *ctx, const char *name, uint64_t value)
{
    struct device_emit *d = ctx;
    char full[96];
    snprintf(full, sizeof full, "%s.%s", d->device->name, name);
    d->emit(d->ctx, full, value);
}

static void device_stats(struct device *d, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    struct device_emit named = {.device = d, .emit = emit, .ctx = ctx};
    if (!d->ops->stats)
        return;
    if (!d->ops->unlocked)
        vm_lock(&d->lock);
    d->ops->stats(d, emit_of_device, &named);
    if (!d->ops->unlocked)
        vm_unlock(&d->lock);
}

void vm_stats(struct vm *vm, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        vcpu_stats(vm->vcpu[i], emit, ctx);
    if (vm->engine_ops->vm_stats)
        vm->engine_ops->vm_stats(vm->engine, emit, ctx);
    bus_stats(&vm->ports, emit, ctx);
    bus_stats(&vm->mmio, emit, ctx);
    vm_timers_stats(vm->timers, emit, ctx);
    for (struct device *d = vm->devices; d; d = d->next)
        device_stats(d, emit, ctx);
}
