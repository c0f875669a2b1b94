// Near transfers of control: JMP, Jcc, JrCXZ, LOOP, CALL, RET.
//
// Targets are cut to the operand size and checked (canonical, or within CS's limit) before anything is pushed or
// popped, so a transfer that faults has done nothing.
#include "engine/interp/gp.h"
#include "engine/interp/gp_cond.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

GP_INLINE uint64_t next_rip(const struct interp_vcpu *v, const struct interp_insn *i)
{
    return v->s.rip + i->len;
}

// In 64-bit mode with 64-bit operands nearly every target is canonical: look at that first.
GP_INLINE enum interp_result jump_to(struct interp_vcpu *v, uint64_t target, unsigned opsize)
{
    if (likely(opsize == 8 && (uint64_t)((int64_t)target >> 47) + 1 <= 1)) {
        v->s.rip = target;
        return INTERP_JUMP;
    }
    return interp_jump_near(v, target, opsize);
}

GP_INLINE enum interp_result jump_relative(struct interp_vcpu *v, const struct interp_insn *i)
{
    return jump_to(v, next_rip(v, i) + i->imm, i->opsize);
}

HANDLER(jmp_rel)
{
    return jump_relative(v, i);
}

HANDLER(jmp_rm)
{
    uint64_t target;
    if (!operand_get(v, i, 0, &target))
        return INTERP_FAULT;
    return jump_to(v, target, i->opsize);
}

#define JCC(cc)                                                                                                        \
    HANDLER(jcc_##cc)                                                                                                  \
    {                                                                                                                  \
        return cond_holds(v->s.rflags, cc) ? jump_relative(v, i) : INTERP_NEXT;                                        \
    }
GP_CONDITIONS(JCC)

static interp_fn jcc(const struct interp_insn *i)
{
#define ONE(cc) jcc_##cc,
    static const interp_fn fn[16] = {GP_CONDITIONS(ONE)};
#undef ONE
    return fn[i->cond];
}

// --- counting in rCX, whose width is the address size

static uint64_t count_mask(const struct interp_insn *i)
{
    return i->addrsize == 8 ? ~0ull : i->addrsize == 4 ? 0xffffffff : 0xffff;
}

HANDLER(jcxz)
{
    return v->s.gpr[CPU_RCX] & count_mask(i) ? INTERP_NEXT : jump_relative(v, i);
}

GP_INLINE enum interp_result loop_if(struct interp_vcpu *v, const struct interp_insn *i, bool wanted)
{
    uint64_t mask = count_mask(i), old = v->s.gpr[CPU_RCX], left = (old - 1) & mask;
    if (left && wanted && jump_relative(v, i) == INTERP_FAULT)
        return INTERP_FAULT;
    v->s.gpr[CPU_RCX] = mask == 0xffff ? (old & ~mask) | left : left;
    return left && wanted ? INTERP_JUMP : INTERP_NEXT;
}

HANDLER(loop)
{
    return loop_if(v, i, true);
}

HANDLER(loope)
{
    return loop_if(v, i, v->s.rflags & RFLAGS_ZF);
}

HANDLER(loopne)
{
    return loop_if(v, i, !(v->s.rflags & RFLAGS_ZF));
}

// --- CALL and RET

// The fast path is 64-bit mode's; other modes go through the stack functions.
GP_INLINE enum interp_result call_to(struct interp_vcpu *v, const struct interp_insn *i, uint64_t target)
{
    uint64_t from = v->s.rip, rsp = v->s.gpr[CPU_RSP];
    if (jump_to(v, target, i->opsize) == INTERP_FAULT)
        return INTERP_FAULT;
    bool pushed;
    if (likely(v->mode == MODE_LONG64 && i->opsize == 8)) {
        pushed = access_store8(v, CPU_SS, rsp - 8, from + i->len);
        if (likely(pushed))
            v->s.gpr[CPU_RSP] = rsp - 8;
    } else {
        pushed = interp_push(v, i->opsize, from + i->len);
    }
    if (likely(pushed))
        return INTERP_JUMP;
    v->s.rip = from;
    return INTERP_FAULT;
}

HANDLER(call_rel)
{
    return call_to(v, i, next_rip(v, i) + i->imm);
}

HANDLER(call_rm)
{
    uint64_t target;
    if (!operand_get(v, i, 0, &target))
        return INTERP_FAULT;
    return call_to(v, i, target);
}

HANDLER(ret8)
{
    uint64_t target, rsp = v->s.gpr[CPU_RSP];
    if (!access_load8(v, CPU_SS, rsp, &target))
        return INTERP_FAULT;
    if (jump_to(v, target, 8) == INTERP_FAULT)
        return INTERP_FAULT;
    v->s.gpr[CPU_RSP] = rsp + 8 + (uint16_t)i->imm;
    return INTERP_JUMP;
}

HANDLER(ret)
{
    uint64_t target, rsp = v->s.gpr[CPU_RSP], mask = interp_stack_mask(v);
    if (!interp_pop(v, i->opsize, &target))
        return INTERP_FAULT;
    if (jump_to(v, target, i->opsize) == INTERP_FAULT) {
        v->s.gpr[CPU_RSP] = rsp;
        return INTERP_FAULT;
    }
    uint64_t after = v->s.gpr[CPU_RSP] + (uint16_t)i->imm;
    v->s.gpr[CPU_RSP] = mask == 0xffff ? (v->s.gpr[CPU_RSP] & ~mask) | (after & mask) : after & mask;
    return INTERP_JUMP;
}

interp_fn gp_flow(const struct interp_insn *i)
{
    bool relative = i->op[0].kind == OPERAND_IMM;
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return relative ? jmp_rel : jmp_rm;
    case ZYDIS_MNEMONIC_CALL:
        return relative ? call_rel : call_rm;
    case ZYDIS_MNEMONIC_RET:
        return i->opsize == 8 ? ret8 : ret;
    case ZYDIS_MNEMONIC_JO:
    case ZYDIS_MNEMONIC_JNO:
    case ZYDIS_MNEMONIC_JB:
    case ZYDIS_MNEMONIC_JNB:
    case ZYDIS_MNEMONIC_JZ:
    case ZYDIS_MNEMONIC_JNZ:
    case ZYDIS_MNEMONIC_JBE:
    case ZYDIS_MNEMONIC_JNBE:
    case ZYDIS_MNEMONIC_JS:
    case ZYDIS_MNEMONIC_JNS:
    case ZYDIS_MNEMONIC_JP:
    case ZYDIS_MNEMONIC_JNP:
    case ZYDIS_MNEMONIC_JL:
    case ZYDIS_MNEMONIC_JNL:
    case ZYDIS_MNEMONIC_JLE:
    case ZYDIS_MNEMONIC_JNLE:
        return jcc(i);
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
        return jcxz;
    case ZYDIS_MNEMONIC_LOOP:
        return loop;
    case ZYDIS_MNEMONIC_LOOPE:
        return loope;
    case ZYDIS_MNEMONIC_LOOPNE:
        return loopne;
    default:
        return NULL;
    }
}
