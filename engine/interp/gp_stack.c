// PUSH, POP, PUSHA, POPA, ENTER, LEAVE.
//
// Memory may be written before a fault, registers may not be changed: RSP moves last.
#include "engine/interp/gp.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

// --- PUSH and POP: 64-bit mode's common forms, and all others

GP_INLINE enum interp_result push8(struct interp_vcpu *v, uint64_t val)
{
    uint64_t rsp = v->s.gpr[CPU_RSP] - 8;
    if (!access_store8(v, CPU_SS, rsp, val))
        return INTERP_FAULT;
    v->s.gpr[CPU_RSP] = rsp;
    return INTERP_NEXT;
}

HANDLER(push8_r)
{
    return push8(v, v->s.gpr[i->op[0].reg]);
}

HANDLER(push8_i)
{
    return push8(v, i->imm);
}

HANDLER(pop8_r)
{
    uint64_t rsp = v->s.gpr[CPU_RSP], val;
    if (!access_load8(v, CPU_SS, rsp, &val))
        return INTERP_FAULT;
    v->s.gpr[CPU_RSP] = rsp + 8;
    v->s.gpr[i->op[0].reg] = val; // POP RSP: what was popped stays
    return INTERP_NEXT;
}

HANDLER(push)
{
    uint64_t val;
    if (!operand_get(v, i, 0, &val))
        return INTERP_FAULT;
    return interp_push(v, i->opsize, val) ? INTERP_NEXT : INTERP_FAULT;
}

HANDLER(pop)
{
    uint64_t val, rsp = v->s.gpr[CPU_RSP];
    if (!interp_pop(v, i->opsize, &val))
        return INTERP_FAULT;
    // A memory operand based on rSP is addressed with the new rSP (Intel SDM vol. 2, POP).
    if (operand_set(v, i, 0, val))
        return INTERP_NEXT;
    v->s.gpr[CPU_RSP] = rsp;
    return INTERP_FAULT;
}

// --- all registers

HANDLER(pusha)
{
    uint64_t rsp = v->s.gpr[CPU_RSP];
    for (unsigned n = 0; n < 8; n++)
        if (!interp_push(v, i->opsize, n == CPU_RSP ? rsp : v->s.gpr[n])) {
            v->s.gpr[CPU_RSP] = rsp;
            return INTERP_FAULT;
        }
    return INTERP_NEXT;
}

HANDLER(popa)
{
    uint64_t rsp = v->s.gpr[CPU_RSP], val[8];
    for (unsigned n = 8; n-- > 0;)
        if (!interp_pop(v, i->opsize, &val[n])) {
            v->s.gpr[CPU_RSP] = rsp;
            return INTERP_FAULT;
        }
    for (unsigned n = 0; n < 8; n++) {
        struct interp_operand r = {.kind = OPERAND_REG, .size = i->opsize, .reg = n};
        if (n != CPU_RSP)
            interp_set_reg(v, &r, val[n]);
    }
    return INTERP_NEXT;
}

// --- frames

static void set_by_mask(uint64_t *r, uint64_t val, uint64_t mask)
{
    *r = mask == 0xffff ? (*r & ~mask) | (val & mask) : val & mask;
}

// Intel SDM vol. 2, ENTER: pushes the frame pointer, copies `level - 1` pointers of outer frames, pushes its own, and
// makes room. At the end it checks that the new top of stack can be written.
HANDLER(enter)
{
    unsigned size = i->opsize, level = i->disp & 31;
    uint64_t mask = interp_stack_mask(v), rsp = v->s.gpr[CPU_RSP], rbp = v->s.gpr[CPU_RBP], val;
    uint64_t frame = (rsp - size) & mask, top;
    if (!interp_push(v, size, rbp))
        return INTERP_FAULT;
    for (unsigned n = 1; n < level; n++)
        if (!interp_read(v, CPU_SS, (rbp - n * size) & mask, size, &val) || !interp_push(v, size, val))
            goto fault;
    if (level && !interp_push(v, size, frame))
        goto fault;
    top = v->s.gpr[CPU_RSP] - (uint16_t)i->imm;
    if (!access_read_for_write(v, CPU_SS, top & mask, size, &val))
        goto fault;
    set_by_mask(&v->s.gpr[CPU_RSP], top, mask);
    struct interp_operand r = {.kind = OPERAND_REG, .size = size, .reg = CPU_RBP};
    interp_set_reg(v, &r, frame);
    return INTERP_NEXT;
fault:
    v->s.gpr[CPU_RSP] = rsp;
    return INTERP_FAULT;
}

HANDLER(leave)
{
    uint64_t mask = interp_stack_mask(v), rsp = v->s.gpr[CPU_RSP], val;
    set_by_mask(&v->s.gpr[CPU_RSP], v->s.gpr[CPU_RBP], mask);
    if (!interp_pop(v, i->opsize, &val)) {
        v->s.gpr[CPU_RSP] = rsp;
        return INTERP_FAULT;
    }
    struct interp_operand r = {.kind = OPERAND_REG, .size = i->opsize, .reg = CPU_RBP};
    interp_set_reg(v, &r, val);
    return INTERP_NEXT;
}

HANDLER(leave8)
{
    uint64_t rbp = v->s.gpr[CPU_RBP], val;
    (void)i;
    if (!access_load8(v, CPU_SS, rbp, &val))
        return INTERP_FAULT;
    v->s.gpr[CPU_RSP] = rbp + 8;
    v->s.gpr[CPU_RBP] = val;
    return INTERP_NEXT;
}

// An operand size of 8 means 64-bit mode.
interp_fn gp_stack(const struct interp_insn *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        if (i->opsize == 8 && i->op[0].kind != OPERAND_MEM)
            return i->op[0].kind == OPERAND_REG ? push8_r : push8_i;
        return push;
    case ZYDIS_MNEMONIC_POP:
        return i->opsize == 8 && i->op[0].kind == OPERAND_REG ? pop8_r : pop;
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
        return pusha;
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
        return popa;
    case ZYDIS_MNEMONIC_ENTER:
        return enter;
    case ZYDIS_MNEMONIC_LEAVE:
        return i->opsize == 8 ? leave8 : leave;
    default:
        return NULL;
    }
}
