// Steal time pages.
//
// The page is written by the thread of its CPU alone: when the guest switches it on, when the CPU goes to sleep and
// comes back, and while it runs at most once in a millisecond. Its time is added to, for another process may have told
// the guest of some before. Only the byte that says "away" is anybody's: it changes by atomic exchange, and what was in
// it when the CPU comes back is the order that it finds.
//
// Why that is safe for who relies on it. The byte says "away" only between two instructions of the guest, after the
// last access that could use a translation. If another CPU manages to set the order while the byte says "away", then
// the exchange that clears the byte comes later, and sees it; the TLB is flushed before the next instruction.
//
// Example: a guest with two CPUs on a host with one: each CPU's page shows about 500 ms more after a second.
#include "chip/steal_time.h"
#include "vm/alloc.h"
#include "vm/engine_apic.h"
#include <errno.h>
#include <stdatomic.h>

enum { MSR_STEAL_TIME = 0x4b564d03 };
enum { ENABLE = 1, RESERVED = 0x3e, PERIOD_NS = 1000000 };
enum { AWAY = 1, FLUSH = 2 }; // in `away`

struct steal_page {
    _Atomic uint64_t ns;
    _Atomic uint32_t version; // odd while ns changes
    uint32_t flags;
    _Atomic uint8_t away;
    uint8_t pad[47];
};

_Static_assert(sizeof(struct steal_page) == 64 && offsetof(struct steal_page, away) == 16,
               "layout of the guest's page");

static uint64_t address(uint64_t msr)
{
    return msr & ~(uint64_t)(ENABLE | RESERVED);
}

// The CPU's page, or NULL if it is switched off or no RAM.
static struct steal_page *page_of(const struct steal_time *s, unsigned cpu)
{
    uint64_t msr = s->msr[cpu];
    return msr & ENABLE ? vm_ram(s->dev.vm, address(msr), sizeof(struct steal_page), true) : NULL;
}

static void written(struct steal_time *s, unsigned cpu)
{
    vm_ram_written(s->dev.vm, address(s->msr[cpu]), sizeof(struct steal_page));
}

static void tell(struct steal_time *s, unsigned cpu, struct steal_page *p)
{
    uint32_t version = atomic_load_explicit(&p->version, memory_order_relaxed) & ~1u;
    uint64_t stolen = vcpu_stolen(s->dev.vm, cpu);
    atomic_store_explicit(&p->version, version | 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&p->ns, p->ns + (stolen - s->stolen[cpu]), memory_order_relaxed);
    atomic_store_explicit(&p->version, version + 2, memory_order_release);
    s->stolen[cpu] = stolen;
    s->told[cpu] = vm_clock_ns(&s->dev.vm->clock);
}

// ---- what the vCPUs tell

static void sleeps(void *ctx, unsigned cpu)
{
    struct steal_time *s = ctx;
    struct steal_page *p = page_of(s, cpu);
    if (!p)
        return;
    atomic_store_explicit(&p->away, AWAY, memory_order_release);
    written(s, cpu);
}

static bool wakes(void *ctx, unsigned cpu)
{
    struct steal_time *s = ctx;
    struct steal_page *p = page_of(s, cpu);
    if (!p)
        return false;
    bool flush = atomic_exchange(&p->away, 0) & FLUSH;
    written(s, cpu);
    return flush && s->flushes;
}

static void runs(void *ctx, unsigned cpu)
{
    struct steal_time *s = ctx;
    if (!(s->msr[cpu] & ENABLE) || vm_clock_ns(&s->dev.vm->clock) - s->told[cpu] < PERIOD_NS)
        return;
    struct steal_page *p = page_of(s, cpu);
    if (!p)
        return;
    tell(s, cpu, p);
    written(s, cpu);
}

// Whoever starts the CPU again may use the memory for something else.
static void init(void *ctx, unsigned cpu)
{
    ((struct steal_time *)ctx)->msr[cpu] = 0;
}

// ---- the MSR

static int msr_read(struct device *d, unsigned cpu, uint32_t msr, uint64_t *val)
{
    const struct steal_time *s = (const struct steal_time *)d;
    (void)msr;
    *val = s->msr[cpu];
    return s->engines ? -1 : 0; // which asks only about what it has refused
}

static int msr_write(struct device *d, unsigned cpu, uint32_t msr, uint64_t val)
{
    struct steal_time *s = (struct steal_time *)d;
    (void)msr;
    if (val & RESERVED || s->engines)
        return -1;
    s->msr[cpu] = val;
    struct steal_page *p = page_of(s, cpu);
    if (p) {
        atomic_store_explicit(&p->away, 0, memory_order_relaxed);
        tell(s, cpu, p);
        written(s, cpu);
    }
    return 0;
}

// ---- device

static void reset(struct device *d)
{
    struct steal_time *s = (struct steal_time *)d;
    for (unsigned i = 0; i < CPU_MAX; i++)
        s->msr[i] = s->told[i] = 0;
}

static void hold(struct device *d)
{
    struct steal_time *s = (struct steal_time *)d;
    for (unsigned i = 0; s->engines && i < d->vm->cpus; i++)
        s->msr[i] = vm_apic_get_msr(d->vm, i, MSR_STEAL_TIME);
}

// A machine that was saved may have left its CPUs marked as away: none is, and their TLBs are empty.
static void release(struct device *d)
{
    struct steal_time *s = (struct steal_time *)d;
    for (unsigned i = 0; i < d->vm->cpus; i++) {
        struct steal_page *p = s->fresh ? page_of(s, i) : NULL;
        if (p) {
            atomic_store(&p->away, 0);
            written(s, i);
        }
        if (s->fresh)
            s->stolen[i] = vcpu_stolen(d->vm, i);
        if (s->engines && vm_apic_set_msr(d->vm, i, MSR_STEAL_TIME, s->msr[i]))
            log_error(d->vm->log, "vCPU %u: the engine refuses its steal time", i);
    }
    s->fresh = false;
}

static int loaded(struct device *d)
{
    struct steal_time *s = (struct steal_time *)d;
    for (unsigned i = 0; i < CPU_MAX; i++) {
        if (s->msr[i] & RESERVED)
            return -EINVAL;
        s->told[i] = 0;
    }
    s->fresh = true;
    return 0;
}

static void destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field fields[] = {
    STATE_U64(struct steal_time, msr, 1),
    STATE_END,
};

static const struct state_table state = {"steal-time", 1, fields};

// Unlocked: each CPU's part is its own (steal_time.h).
static const struct device_ops ops = {
    .name = "steal-time",
    .unlocked = true,
    .reset = reset,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .hold = hold,
    .release = release,
    .state = &state,
    .loaded = loaded,
    .destroy = destroy,
};

int steal_time_create(struct vm *vm, struct steal_time **out, struct error *err)
{
    struct steal_time *s = vm_alloc(sizeof *s);
    if (!s)
        return error_set(err, ENOMEM, "steal time: out of memory");
    device_add(vm, &s->dev, &ops, "steal-time");
    *out = s;
    if (vm_msr_add(vm, MSR_STEAL_TIME, MSR_STEAL_TIME, &s->dev))
        return error_set(err, ENOSPC, "steal time: its MSR is taken or there are too many");
    s->flushes = cpu_model_has_paravirt(vm->model, CPU_PV_TLB_FLUSH);
    s->engines = vm_apic_is_engines(vm);
    if (!s->engines)
        vm->watch = (struct vcpu_watch){s, sleeps, wakes, runs, init};
    return 0;
}
