// The binary translator as an engine: struct engine_ops. Memory map, dirty log and state are the interpreter's; this
// adds translated code on top.
#include "engine/dbt/cache.h"
#include "engine/dbt/cell/cell.h"
#include "engine/dbt/fault.h"
#include "engine/dbt/mmu.h"
#include "engine/dbt/run.h"
#include "engine/dbt/show.h"
#include "engine/dbt/written.h"
#include "engine/interp/run.h"
#include "engine/interp/shared.h"
#include <cpuid.h>
#include <errno.h>

#define VM(e) ((struct interp_vm *)(e))
#define VCPU(e) ((struct dbt_vcpu *)(e))

// Not by __builtin_cpu_supports, which asks CPUID for everything at each start of the program: in a virtual machine
// that is an exit each time.
static bool has_avx2_and_bmi2(void)
{
    enum { OSXSAVE = 1 << 27, AVX2 = 1 << 5, BMI2 = 1 << 8, SSE_AND_AVX = 6 };
    uint32_t a, b, c, d, xcr0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE))
        return false;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(d) : "c"(0));
    return (xcr0 & SSE_AND_AVX) == SSE_AND_AVX && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (b & (AVX2 | BMI2)) == (AVX2 | BMI2);
}

static int probe(struct error *err)
{
    if (!has_avx2_and_bmi2())
        return error_set(err, ENOTSUP, "engine dbt: the host's CPU lacks BMI2 or AVX2");
    return engine_interp.probe(err);
}

static void code_marked(struct interp_vcpu *i, page_word *page)
{
    struct interp_vm *vm = i->vm;
    const uint8_t *host = NULL;
    for (unsigned n = 0; n < vm->ram.count; n++) {
        const struct ram_region *g = &vm->ram.region[n];
        if (page >= g->page && page < g->page + g->size / PAGE_SIZE)
            host = g->host + (uint64_t)(page - g->page) * PAGE_SIZE;
    }
    if (vm->vcpus == 1) {
        dbt_tlb_protect((struct dbt_vcpu *)i, host);
        return;
    }
    interp_bus_lock(i); // nobody else is in translated code
    for (unsigned n = 0; n < vm->vcpus; n++)
        dbt_tlb_protect((struct dbt_vcpu *)vm->vcpu[n], host);
    if (!i->flush_wanted) // else the page may have gone while the world was being stopped
        atomic_fetch_and(page, ~PAGE_INLINE);
    interp_bus_unlock(i);
}

static void map_changed(struct interp_vcpu *i)
{
    dbt_cache_flush((struct dbt_vcpu *)i);
    cells_forget((struct dbt_vcpu *)i);
}

static void prod(struct interp_vcpu *i)
{
    __atomic_store_n(&((struct dbt_vcpu *)i)->poll, 1, __ATOMIC_SEQ_CST);
    cells_kick((struct dbt_vcpu *)i);
}

static void park(struct interp_vcpu *i)
{
    dbt_park((struct dbt_vcpu *)i);
}

static const struct interp_mirror mirror = {
    .tlb_flush = dbt_tlb_flush,
    .tlb_flush_page = dbt_tlb_flush_page,
    .code_marked = code_marked,
    .code_written = dbt_code_written,
    .map_changed = map_changed,
    .prod = prod,
    .park = park,
};

static int vm_create(const struct engine_vm_config *config, struct engine_vm **out, struct error *err)
{
    int e = dbt_signals_install(err);
    if (!e)
        e = engine_interp.vm_create(config, out, err);
    if (e)
        return e;
    (*out)->ops = &engine_dbt;
    VM(*out)->mirror = &mirror;
    return 0;
}

static void vm_destroy(struct engine_vm *e)
{
    engine_interp.vm_destroy(e);
}

static int map(struct engine_vm *e, uint64_t gpa, uint64_t size, void *host, unsigned flags, struct error *err)
{
    return engine_interp.map(e, gpa, size, host, flags, err);
}

static int unmap(struct engine_vm *e, uint64_t gpa, uint64_t size, struct error *err)
{
    return engine_interp.unmap(e, gpa, size, err);
}

static void tune(struct engine_vm *e, const struct engine_tuning *tuning)
{
    VM(e)->tuning = *tuning;
}

static void invalidate(struct engine_vm *e, uint64_t gpa, uint64_t size)
{
    engine_interp.invalidate(e, gpa, size);
}

static void discarded(struct engine_vm *e, uint64_t gpa, uint64_t size)
{
    engine_interp.discarded(e, gpa, size);
}

// --- the dirty log: translated code must not write unseen pages that are to be logged (again)

static void protect_all(struct interp_vm *vm)
{
    world_stop(vm);
    for (unsigned n = 0; n < vm->vcpus; n++)
        dbt_tlb_protect((struct dbt_vcpu *)vm->vcpu[n], NULL);
    world_start(vm);
}

static int log_start(struct engine_vm *e, struct error *err)
{
    int r = engine_interp.log_start(e, err);
    if (!r)
        protect_all(VM(e));
    return r;
}

static void log_stop(struct engine_vm *e)
{
    engine_interp.log_stop(e);
}

static int log_fetch(struct engine_vm *e, uint64_t gpa, uint64_t size, uint64_t *bitmap)
{
    int r = engine_interp.log_fetch(e, gpa, size, bitmap);
    protect_all(VM(e));
    return r;
}

// --- vCPUs

static void vcpu_destroy(struct engine_vcpu *e)
{
    cells_destroy(VCPU(e));
    dbt_cache_destroy(VCPU(e));
    engine_interp.vcpu_destroy(e);
}

static int vcpu_create(struct engine_vm *e, unsigned id, void *owner, struct engine_vcpu **out, struct error *err)
{
    struct interp_vcpu *i;
    const struct engine_tuning *tuning = &VM(e)->tuning;
    int r = interp_vcpu_create(e, sizeof(struct dbt_vcpu), id, owner, &i, err);
    if (r)
        return r;
    struct dbt_vcpu *v = (struct dbt_vcpu *)i;
    v->eager = tuning->translate_always;
    v->counting = tuning->count;
    dbt_tlb_create(v);
    uint64_t room = tuning->code_cache ? tuning->code_cache : DBT_CACHE_DEFAULT;
    if (room < ENGINE_CODE_CACHE_MIN)
        room = ENGINE_CODE_CACHE_MIN;
    if (room > ENGINE_CODE_CACHE_MAX)
        room = ENGINE_CODE_CACHE_MAX;
    r = tuning->memory_size && tuning->cells != ENGINE_CELLS_OFF ? cells_create(v, &room, err) : 0;
    if (!r)
        r = dbt_cache_create(v, room, err);
    if (r) {
        cells_destroy(v);
        engine_interp.vcpu_destroy(&i->base);
        return r;
    }
    *out = &i->base;
    return 0;
}

static enum engine_exit run(struct engine_vcpu *e, struct error *err)
{
    return dbt_run(VCPU(e), UINT64_MAX, err);
}

static enum engine_exit step(struct engine_vcpu *e, uint64_t count, struct error *err)
{
    return dbt_run(VCPU(e), count, err);
}

static void kick(struct engine_vcpu *e)
{
    prod(&VCPU(e)->i);
}

static void get_state(struct engine_vcpu *e, struct cpu_state *s, unsigned groups)
{
    engine_interp.get_state(e, s, groups);
}

static int set_state(struct engine_vcpu *e, const struct cpu_state *s, unsigned groups, struct error *err)
{
    return engine_interp.set_state(e, s, groups, err);
}

static void vcpu_stats(struct engine_vcpu *e, engine_stat_fn emit, void *ctx)
{
    engine_interp.vcpu_stats(e, emit, ctx);
    dbt_stats(VCPU(e), emit, ctx);
}

static void vm_stats(struct engine_vm *e, engine_stat_fn emit, void *ctx)
{
    engine_interp.vm_stats(e, emit, ctx);
}

const struct engine_ops engine_dbt = {
    .name = "dbt",
    .probe = probe,
    .vm_create = vm_create,
    .vm_destroy = vm_destroy,
    .tune = tune,
    .map = map,
    .unmap = unmap,
    .invalidate = invalidate,
    .discarded = discarded,
    .log_start = log_start,
    .log_stop = log_stop,
    .log_fetch = log_fetch,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .run = run,
    .step = step,
    .kick = kick,
    .get_state = get_state,
    .set_state = set_state,
    .vcpu_stats = vcpu_stats,
    .vm_stats = vm_stats,
};
