// The stack and near transfers of control.
#include "engine/interp/access.h"

uint64_t interp_stack_mask(const struct interp_vcpu *v)
{
    if (v->mode == MODE_LONG64)
        return ~0ull;
    return v->s.seg[CPU_SS].attr & CPU_SEG_DB ? 0xffffffff : 0xffff;
}

static void set_rsp(struct interp_vcpu *v, uint64_t rsp, uint64_t mask)
{
    // A 16-bit stack leaves the upper half of ESP alone; a 32-bit one clears that of RSP, as 32-bit writes do.
    v->s.gpr[CPU_RSP] = mask == 0xffff ? (v->s.gpr[CPU_RSP] & ~mask) | (rsp & mask) : rsp & mask;
}

bool interp_push(struct interp_vcpu *v, unsigned size, uint64_t val)
{
    return interp_push_part(v, size, size, val);
}

bool interp_push_part(struct interp_vcpu *v, unsigned size, unsigned written, uint64_t val)
{
    uint64_t mask = interp_stack_mask(v), rsp = (v->s.gpr[CPU_RSP] - size) & mask;
    if (!interp_write(v, CPU_SS, rsp, written, val))
        return false;
    set_rsp(v, rsp, mask);
    return true;
}

bool interp_pop(struct interp_vcpu *v, unsigned size, uint64_t *val)
{
    uint64_t mask = interp_stack_mask(v), rsp = v->s.gpr[CPU_RSP] & mask;
    if (!interp_read(v, CPU_SS, rsp, size, val))
        return false;
    set_rsp(v, rsp + size, mask);
    return true;
}

enum interp_result interp_jump_near(struct interp_vcpu *v, uint64_t target, unsigned opsize)
{
    if (opsize == 2)
        target &= 0xffff;
    else if (opsize == 4)
        target &= 0xffffffff;
    if (v->mode == MODE_LONG64 ? !cpu_is_canonical(&v->s, target) : target > v->s.seg[CPU_CS].limit)
        return interp_gp(v, 0);
    v->s.rip = target;
    return INTERP_JUMP;
}
