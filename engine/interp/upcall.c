// Upcalls: out of the guest, ask the owner, in again; and counted.
//
// Being out is what lets another thread unmap memory, or another vCPU stop the world, while a device model takes its
// time. So whatever a handler has learnt about host addresses before is void afterwards.
#include "engine/interp/shared.h"

#define UP(v) ((v)->base.vm->config.up)

uint64_t interp_up_port_read(struct interp_vcpu *v, uint16_t port, unsigned size)
{
    v->count.port_reads++;
    interp_vectors_used(v);
    world_leave(v);
    uint64_t val = UP(v)->port_read(v->base.owner, port, size);
    world_enter(v);
    return val;
}

void interp_up_port_write(struct interp_vcpu *v, uint16_t port, unsigned size, uint64_t val)
{
    v->count.port_writes++;
    interp_vectors_used(v);
    world_leave(v);
    UP(v)->port_write(v->base.owner, port, size, val);
    world_enter(v);
}

uint64_t interp_up_mmio_read(struct interp_vcpu *v, uint64_t gpa, unsigned size)
{
    v->count.mmio_reads++;
    interp_vectors_used(v);
    world_leave(v);
    uint64_t val = UP(v)->mmio_read(v->base.owner, gpa, size);
    world_enter(v);
    return val;
}

void interp_up_mmio_write(struct interp_vcpu *v, uint64_t gpa, unsigned size, uint64_t val)
{
    v->count.mmio_writes++;
    interp_vectors_used(v);
    world_leave(v);
    UP(v)->mmio_write(v->base.owner, gpa, size, val);
    world_enter(v);
}

int interp_up_msr_read(struct interp_vcpu *v, uint32_t msr, uint64_t *val)
{
    interp_vectors_used(v);
    world_leave(v);
    int r = UP(v)->msr_read(v->base.owner, msr, val);
    world_enter(v);
    return r;
}

int interp_up_msr_write(struct interp_vcpu *v, uint32_t msr, uint64_t val)
{
    interp_vectors_used(v);
    world_leave(v);
    int r = UP(v)->msr_write(v->base.owner, msr, val);
    world_enter(v);
    return r;
}

uint64_t interp_up_tpr_read(struct interp_vcpu *v)
{
    interp_vectors_used(v);
    world_leave(v);
    uint64_t tpr = UP(v)->tpr_read(v->base.owner);
    world_enter(v);
    return tpr;
}

void interp_up_tpr_write(struct interp_vcpu *v, uint64_t tpr)
{
    interp_vectors_used(v);
    world_leave(v);
    UP(v)->tpr_write(v->base.owner, tpr);
    world_enter(v);
}

uint64_t interp_up_hypercall(struct interp_vcpu *v, uint64_t nr, const uint64_t arg[4], bool wide)
{
    v->count.hypercalls++;
    interp_vectors_used(v);
    world_leave(v);
    uint64_t rax = UP(v)->hypercall(v->base.owner, nr, arg, wide);
    world_enter(v);
    return rax;
}

// Reads a clock, in general registers (engine.h), and waits for nobody: no need to go out.
uint64_t interp_up_tsc(struct interp_vcpu *v)
{
    return UP(v)->tsc(v->base.owner);
}
