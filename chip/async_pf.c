// Asynchronous page faults: see async_pf.h.
//
// The one token that is ever given out here is the one that stands for all (KVM's kvm_async_pf_wakeup_all). It is put
// into the page only where the last one was read, which the guest says by writing zero there and 1 to the MSR.
#include "chip/async_pf.h"
#include "chip/apic_message.h"
#include "vm/alloc.h"
#include "vm/engine_apic.h"
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

enum { MSR_ENABLE = 0x4b564d02, MSR_VECTOR = 0x4b564d06, MSR_READ = 0x4b564d07 };
enum { ENABLE = 1, BY_INTERRUPT = 8, RESERVED = 0x34, FLAGS = 0x3f };

struct async_pf_page {
    _Atomic uint32_t fault; // 1: the #PF just taken is of the special kind
    _Atomic uint32_t token; // what is there now; all ones: everything
    uint8_t pad[56];
};

static uint64_t address(uint64_t enable)
{
    return enable & ~(uint64_t)FLAGS;
}

static void look_again(struct async_pf *a, unsigned cpu)
{
    struct vm *vm = a->dev.vm;
    uint64_t enable = a->enable[cpu];
    struct async_pf_page *p = enable & ENABLE && enable & BY_INTERRUPT && vm->local_apic.multicast
                                  ? vm_ram(vm, address(enable), sizeof *p, true)
                                  : NULL;
    a->waits[cpu] = p && atomic_load(&p->token);
    if (!p || a->waits[cpu])
        return;
    atomic_store(&p->token, ~0u);
    vm_ram_written(vm, address(enable), sizeof *p);
    vm->local_apic.multicast(vm->local_apic_ctx, 1ull << cpu, APIC_FIXED, (uint8_t)a->vector[cpu]);
}

// ---- MSRs

static int msr_read(struct device *d, unsigned cpu, uint32_t msr, uint64_t *val)
{
    const struct async_pf *a = (const struct async_pf *)d;
    *val = msr == MSR_ENABLE ? a->enable[cpu] : msr == MSR_VECTOR ? a->vector[cpu] : 0;
    return a->engines ? -1 : 0; // which asks only about what it has refused
}

static int msr_write(struct device *d, unsigned cpu, uint32_t msr, uint64_t val)
{
    struct async_pf *a = (struct async_pf *)d;
    if (a->engines)
        return -1;
    switch (msr) {
    case MSR_ENABLE:
        if (val & RESERVED)
            return -1;
        a->enable[cpu] = val;
        a->waits[cpu] = false;
        return 0;
    case MSR_VECTOR:
        if (val >> 8)
            return -1;
        a->vector[cpu] = val;
        return 0;
    default:
        if (val & 1 && a->waits[cpu])
            look_again(a, cpu);
        return 0;
    }
}

// ---- device

static void took_init(struct device *d, unsigned cpu)
{
    struct async_pf *a = (struct async_pf *)d;
    a->enable[cpu] = a->vector[cpu] = 0;
    a->waits[cpu] = false;
}

static void reset(struct device *d)
{
    for (unsigned i = 0; i < CPU_MAX; i++)
        took_init(d, i);
}

static void hold(struct device *d)
{
    struct async_pf *a = (struct async_pf *)d;
    for (unsigned i = 0; a->engines && i < d->vm->cpus; i++) {
        a->enable[i] = vm_apic_get_msr(d->vm, i, MSR_ENABLE);
        a->vector[i] = vm_apic_get_msr(d->vm, i, MSR_VECTOR);
    }
}

static void release(struct device *d)
{
    struct async_pf *a = (struct async_pf *)d;
    for (unsigned i = 0; i < d->vm->cpus; i++) {
        if (!a->engines) {
            if (a->fresh)
                look_again(a, i);
        } else if (vm_apic_set_msr(d->vm, i, MSR_VECTOR, a->vector[i]) ||
                   vm_apic_set_msr(d->vm, i, MSR_ENABLE, a->enable[i])) {
            log_error(d->vm->log, "vCPU %u: the engine refuses its asynchronous page faults", i);
        }
    }
    a->fresh = false;
}

static int loaded(struct device *d)
{
    struct async_pf *a = (struct async_pf *)d;
    for (unsigned i = 0; i < CPU_MAX; i++)
        if (a->enable[i] & RESERVED || a->vector[i] >> 8)
            return -EINVAL;
    a->fresh = true;
    return 0;
}

static void stats(struct device *d, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct async_pf *a = (const struct async_pf *)d;
    unsigned count = 0;
    for (unsigned i = 0; i < d->vm->cpus; i++)
        count += (a->engines ? vm_apic_get_msr(d->vm, i, MSR_ENABLE) : a->enable[i]) & ENABLE;
    emit(ctx, "cpus", count); // that have it switched on
}

static void destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field fields[] = {
    STATE_U64(struct async_pf, enable, 1),
    STATE_U64(struct async_pf, vector, 1),
    STATE_END,
};

static const struct state_table state = {"async-pf", 1, fields};

// Unlocked: each CPU's part is its own.
static const struct device_ops ops = {
    .name = "async-pf",
    .unlocked = true,
    .reset = reset,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .took_init = took_init,
    .hold = hold,
    .release = release,
    .state = &state,
    .loaded = loaded,
    .stats = stats,
    .destroy = destroy,
};

int async_pf_create(struct vm *vm, struct async_pf **out, struct error *err)
{
    struct async_pf *a = vm_alloc(sizeof *a);
    if (!a)
        return error_set(err, ENOMEM, "asynchronous page faults: out of memory");
    device_add(vm, &a->dev, &ops, "async-pf");
    a->engines = vm_apic_is_engines(vm);
    *out = a;
    if (vm_msr_add(vm, MSR_ENABLE, MSR_ENABLE, &a->dev) || vm_msr_add(vm, MSR_VECTOR, MSR_READ, &a->dev))
        return error_set(err, ENOSPC, "asynchronous page faults: their MSRs are taken or there are too many");
    return 0;
}
