// The interpreter as an engine: struct engine_ops.
#include "engine/interp/cache.h"
#include "engine/interp/decode.h"
#include "engine/interp/run.h"
#include "engine/interp/tlb.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VM(e) ((struct interp_vm *)(e))
#define VCPU(e) ((struct interp_vcpu *)(e))

static int probe(struct error *err)
{
    struct interp_world w = {0};
    int e = world_init(&w, err);
    if (!e)
        world_destroy(&w);
    return e;
}

static void vm_destroy(struct engine_vm *e)
{
    ram_destroy(&VM(e)->ram);
    world_destroy(&VM(e)->world);
    free(e);
}

static int vm_create(const struct engine_vm_config *config, struct engine_vm **out, struct error *err)
{
    struct interp_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(err, ENOMEM, "engine interp: no memory");
    vm->base = (struct engine_vm){.ops = &engine_interp, .config = *config};
    int e = world_init(&vm->world, err);
    if (!e) {
        e = ram_init(&vm->ram, err);
        if (e)
            world_destroy(&vm->world);
    }
    if (e) {
        free(vm);
        return e;
    }
    *out = &vm->base;
    return 0;
}

static void tune(struct engine_vm *e, const struct engine_tuning *tuning)
{
    VM(e)->tuning = *tuning;
}

static int map(struct engine_vm *e, uint64_t gpa, uint64_t size, void *host, unsigned flags, struct error *err)
{
    return ram_map(VM(e), gpa, size, host, flags & ENGINE_MAP_READONLY, err);
}

static int unmap(struct engine_vm *e, uint64_t gpa, uint64_t size, struct error *err)
{
    return ram_unmap(VM(e), gpa, size, err);
}

static void invalidate(struct engine_vm *e, uint64_t gpa, uint64_t size)
{
    ram_invalidate(VM(e), gpa, size);
}

static void discarded(struct engine_vm *e, uint64_t gpa, uint64_t size)
{
    ram_discarded(VM(e), gpa, size);
}

static int log_start(struct engine_vm *e, struct error *err)
{
    return ram_log_start(VM(e), err);
}

static void log_stop(struct engine_vm *e)
{
    ram_log_stop(VM(e));
}

static int log_fetch(struct engine_vm *e, uint64_t gpa, uint64_t size, uint64_t *bitmap)
{
    return ram_log_fetch(VM(e), gpa, size, bitmap);
}

// --- vCPUs

static void vcpu_free(struct interp_vcpu *v)
{
    interp_host_destroy(v);
    cache_destroy(v);
    tlb_destroy(v);
    decoder_destroy(v->decoder);
    free(v);
}

static void vcpu_destroy(struct engine_vcpu *e)
{
    struct interp_vm *vm = VM(e->vm);
    world_stop(vm);
    for (unsigned n = 0; n < vm->vcpus; n++)
        if (vm->vcpu[n] == VCPU(e)) {
            vm->vcpu[n] = vm->vcpu[vm->vcpus - 1];
            vm->vcpus--;
            break;
        }
    world_start(vm);
    vcpu_free(VCPU(e));
}

int interp_vcpu_create(struct engine_vm *e, size_t size, unsigned id, void *owner, struct interp_vcpu **out,
                       struct error *err)
{
    struct interp_vm *vm = VM(e);
    size = (size + 63) & ~(size_t)63;
    struct interp_vcpu *v = aligned_alloc(64, size);
    if (!v)
        return error_set(err, ENOMEM, "vCPU %u: no memory", id);
    memset(v, 0, size);
    v->base.vm = e;
    v->base.owner = owner;
    v->base.id = id;
    v->vm = vm;
    v->model = e->config.model;
    cpu_reset(&v->s, id == 0);
    int r = decoder_create(v->model, &v->decoder, err);
    if (!r)
        r = tlb_create(v, err);
    if (!r)
        r = cache_create(v, err);
    if (!r)
        r = interp_host_create(v, err);
    if (r) {
        vcpu_free(v);
        return r;
    }
    interp_mode_changed(v);
    world_stop(vm);
    if (vm->vcpus == CPU_MAX)
        r = error_set(err, ENOSPC, "vCPU %u: more than %d", id, CPU_MAX);
    else
        vm->vcpu[vm->vcpus++] = v;
    world_start(vm);
    if (r) {
        vcpu_free(v);
        return r;
    }
    *out = v;
    return 0;
}

static int vcpu_create(struct engine_vm *e, unsigned id, void *owner, struct engine_vcpu **out, struct error *err)
{
    struct interp_vcpu *v;
    int r = interp_vcpu_create(e, sizeof *v, id, owner, &v, err);
    if (!r)
        *out = &v->base;
    return r;
}

static enum engine_exit run(struct engine_vcpu *e, struct error *err)
{
    (void)err;
    return interp_run(VCPU(e), UINT64_MAX);
}

static enum engine_exit step(struct engine_vcpu *e, uint64_t count, struct error *err)
{
    (void)err;
    return interp_run(VCPU(e), count);
}

// --- state

// Moves the groups from one state to another.
static void state_move(struct cpu_state *to, const struct cpu_state *from, unsigned groups)
{
    if (groups & CPU_GROUP_GPR) {
        memcpy(to->gpr, from->gpr, sizeof to->gpr);
        to->rip = from->rip;
        to->rflags = from->rflags;
    }
    if (groups & CPU_GROUP_SEG) {
        memcpy(to->seg, from->seg, sizeof to->seg);
        to->ldtr = from->ldtr;
        to->tr = from->tr;
        to->gdtr = from->gdtr;
        to->idtr = from->idtr;
    }
    if (groups & CPU_GROUP_CR) {
        to->cr0 = from->cr0;
        to->cr2 = from->cr2;
        to->cr3 = from->cr3;
        to->cr4 = from->cr4;
        to->efer = from->efer;
        memcpy(to->pdpte, from->pdpte, sizeof to->pdpte);
    }
    if (groups & CPU_GROUP_DR) {
        memcpy(to->dr, from->dr, sizeof to->dr);
        to->dr6 = from->dr6;
        to->dr7 = from->dr7;
    }
    if (groups & CPU_GROUP_XSAVE) {
        to->xcr0 = from->xcr0;
        memcpy(to->xsave, from->xsave, sizeof to->xsave);
    }
    if (groups & CPU_GROUP_MSR)
        to->msr = from->msr;
    if (groups & CPU_GROUP_EVENTS)
        to->ev = from->ev;
}

static void get_state(struct engine_vcpu *e, struct cpu_state *s, unsigned groups)
{
    state_move(s, &VCPU(e)->s, groups);
}

static int set_state(struct engine_vcpu *e, const struct cpu_state *s, unsigned groups, struct error *err)
{
    struct interp_vcpu *v = VCPU(e);
    (void)err;
    state_move(&v->s, s, groups);
    // The rest of the interpreter relies on these bits.
    v->s.rflags = (v->s.rflags & 0x3f7fd5) | RFLAGS_FIXED;
    if (groups & (CPU_GROUP_CR | CPU_GROUP_SEG | CPU_GROUP_GPR)) {
        v->amid = false;
        interp_mode_changed(v);
        interp_tlb_flush_all(v);
    }
    return 0;
}

// --- counters

static void vcpu_stats(struct engine_vcpu *e, engine_stat_fn emit, void *ctx)
{
    const struct interp_counters *c = &VCPU(e)->count;
    static const struct {
        const char *name;
        size_t offset;
    } plain[] = {
#define COUNTER(name) {#name, offsetof(struct interp_counters, name)}
        // What comes up to the machine (ports, MMIO, interrupts, HLT) it counts itself.
        COUNTER(instructions), COUNTER(blocks_decoded), COUNTER(code_invalidated), COUNTER(nmis),
        COUNTER(msr_reads),    COUNTER(msr_writes),     COUNTER(cpuids),           COUNTER(tlb_fills),
        COUNTER(tlb_flushes),  COUNTER(host_executed),
#undef COUNTER
    };
    static const char *const exceptions[32] = {
        [EXC_DE] = "exception_de", [EXC_DB] = "exception_db", [EXC_BP] = "exception_bp", [EXC_OF] = "exception_of",
        [EXC_BR] = "exception_br", [EXC_UD] = "exception_ud", [EXC_NM] = "exception_nm", [EXC_DF] = "exception_df",
        [EXC_TS] = "exception_ts", [EXC_NP] = "exception_np", [EXC_SS] = "exception_ss", [EXC_GP] = "exception_gp",
        [EXC_PF] = "exception_pf", [EXC_MF] = "exception_mf", [EXC_AC] = "exception_ac", [EXC_XM] = "exception_xm",
    };
    for (unsigned n = 0; n < sizeof plain / sizeof plain[0]; n++)
        emit(ctx, plain[n].name, *(const uint64_t *)((const char *)c + plain[n].offset));
    for (unsigned n = 0; n < 32; n++)
        if (exceptions[n])
            emit(ctx, exceptions[n], c->exceptions[n]);
}

static void vm_stats(struct engine_vm *e, engine_stat_fn emit, void *ctx)
{
    emit(ctx, "memory_regions", VM(e)->ram.count);
}

const struct engine_ops engine_interp = {
    .name = "interp",
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
    .get_state = get_state,
    .set_state = set_state,
    .vcpu_stats = vcpu_stats,
    .vm_stats = vm_stats,
};
