// The scripted engine: see script_engine.h.
#include "script_engine.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct script_guest *guest_of(const struct engine_vm *vm)
{
    return (struct script_guest *)((char *)vm->config.model - offsetof(struct script_guest, model));
}

static int create_vm(const struct engine_vm_config *config, struct engine_vm **out, struct error *err)
{
    struct engine_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(err, ENOMEM, "no memory");
    vm->ops = &script_engine;
    vm->config = *config;
    guest_of(vm)->live++;
    *out = vm;
    return 0;
}

static void destroy_vm(struct engine_vm *vm)
{
    guest_of(vm)->live--;
    free(vm);
}

static int map(struct engine_vm *vm, uint64_t gpa, uint64_t size, void *host, unsigned flags, struct error *err)
{
    (void)vm, (void)gpa, (void)size, (void)host, (void)flags, (void)err;
    return 0;
}

static int create_vcpu(struct engine_vm *vm, unsigned id, void *owner, struct engine_vcpu **out, struct error *err)
{
    struct script_vcpu *v = aligned_alloc(_Alignof(struct script_vcpu), sizeof *v);
    if (!v)
        return error_set(err, ENOMEM, "no memory");
    *v = (struct script_vcpu){.base = {.vm = vm, .owner = owner, .id = id}, .guest = guest_of(vm)};
    v->guest->live++;
    *out = &v->base;
    return 0;
}

static void destroy_vcpu(struct engine_vcpu *base)
{
    ((struct script_vcpu *)base)->guest->live--;
    free(base);
}

static bool take(struct engine_vcpu *v, uint32_t bit)
{
    return atomic_fetch_and(&v->pending, ~bit) & bit;
}

static enum engine_exit run(struct engine_vcpu *base, struct error *err)
{
    struct script_vcpu *v = (struct script_vcpu *)base;
    const struct engine_upcalls *up = base->vm->config.up;
    uint8_t *activity = &v->state.ev.activity;
    for (;;) {
        if (base->pending) {
            if (take(base, ENGINE_EXIT))
                return ENGINE_EXIT_REQUESTED;
            if (take(base, ENGINE_INIT)) {
                up->init(base->owner);
                *activity = base->id ? CPU_WAIT_SIPI : CPU_RUNNING;
            }
            if (take(base, ENGINE_SIPI) && *activity == CPU_WAIT_SIPI) {
                v->state.rip = (uint64_t)base->sipi_vector << 12;
                *activity = CPU_RUNNING;
            }
            if (*activity != CPU_WAIT_SIPI && take(base, ENGINE_INTR)) {
                int vector = up->interrupt_ack(base->owner);
                if (vector >= 0) {
                    v->last_vector = (uint8_t)vector;
                    v->interrupts++;
                    *activity = CPU_RUNNING;
                }
            }
        }
        if (*activity != CPU_RUNNING) {
            up->halt(base->owner, ENGINE_INIT | ENGINE_EXIT | (*activity == CPU_WAIT_SIPI ? ENGINE_SIPI : ENGINE_INTR));
            continue;
        }
        v->steps++;
        switch (v->guest->step(v)) {
        case SCRIPT_GO:
            break;
        case SCRIPT_HALT:
            *activity = CPU_HALTED;
            break;
        case SCRIPT_TRIPLE_FAULT:
            *activity = CPU_SHUTDOWN;
            return ENGINE_EXIT_SHUTDOWN;
        case SCRIPT_BROKEN:
            error_set(err, EIO, "out of order");
            return ENGINE_EXIT_ERROR;
        }
    }
}

static void get_state(struct engine_vcpu *base, struct cpu_state *s, unsigned groups)
{
    (void)groups;
    *s = ((struct script_vcpu *)base)->state;
}

static int set_state(struct engine_vcpu *base, const struct cpu_state *s, unsigned groups, struct error *err)
{
    (void)groups, (void)err;
    struct script_vcpu *v = (struct script_vcpu *)base;
    v->state = *s;
    memset(v->user, 0, sizeof v->user);
    v->guest->sets++;
    return 0;
}

static void stats(struct engine_vcpu *base, engine_stat_fn emit, void *ctx)
{
    emit(ctx, "steps", ((struct script_vcpu *)base)->steps);
}

const struct engine_ops script_engine = {
    .name = "script",
    .vm_create = create_vm,
    .vm_destroy = destroy_vm,
    .map = map,
    .vcpu_create = create_vcpu,
    .vcpu_destroy = destroy_vcpu,
    .run = run,
    .get_state = get_state,
    .set_state = set_state,
    .vcpu_stats = stats,
};

struct script_vcpu *script_vcpu(struct vm *vm, unsigned cpu)
{
    return (struct script_vcpu *)vm_engine_vcpu(vm, cpu);
}
