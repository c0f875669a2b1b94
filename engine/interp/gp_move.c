// MOV, MOVZX, MOVSX, MOVSXD, MOVBE, LEA, CMOVcc, SETcc, BSWAP, XLAT, SALC, the sign extensions of the accumulator, and
// the instructions that move or change single flags.
#include "engine/interp/gp.h"
#include "engine/interp/gp_cond.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

// --- MOV

#define MOV(B, bits, sfx)                                                                                              \
    HANDLER(mov##B##_rr)                                                                                               \
    {                                                                                                                  \
        reg_set##B(v, &i->op[0], reg_get##B(v, &i->op[1]));                                                            \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(mov##B##_ri)                                                                                               \
    {                                                                                                                  \
        reg_set##B(v, &i->op[0], i->imm);                                                                              \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(mov##B##_rm)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t val;                                                                                            \
        if (!access_load##B(v, i->seg, insn_ea(v, i), &val))                                                           \
            return INTERP_FAULT;                                                                                       \
        reg_set##B(v, &i->op[0], val);                                                                                 \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(mov##B##_mr)                                                                                               \
    {                                                                                                                  \
        return access_store##B(v, i->seg, insn_ea(v, i), reg_get##B(v, &i->op[1])) ? INTERP_NEXT : INTERP_FAULT;       \
    }                                                                                                                  \
    HANDLER(mov##B##_mi)                                                                                               \
    {                                                                                                                  \
        return access_store##B(v, i->seg, insn_ea(v, i), i->imm) ? INTERP_NEXT : INTERP_FAULT;                         \
    }
GP_SIZES(MOV)

enum { RR, RI, RM, MR, MI };

static unsigned form(const struct interp_insn *i)
{
    if (i->op[0].kind == OPERAND_MEM)
        return i->op[1].kind == OPERAND_IMM ? MI : MR;
    return i->op[1].kind == OPERAND_IMM ? RI : i->op[1].kind == OPERAND_MEM ? RM : RR;
}

static interp_fn mov(const struct interp_insn *i)
{
#define ROW(B, bits, sfx) {mov##B##_rr, mov##B##_ri, mov##B##_rm, mov##B##_mr, mov##B##_mi},
    static const interp_fn fn[4][5] = {GP_SIZES(ROW)};
#undef ROW
    return fn[size_index(i->op[0].size)][form(i)];
}

// --- extension

// From `from` bits to operand 0's size; `type` makes the extension.
#define EXTEND(name, B, bits, type)                                                                                    \
    HANDLER(name##B##_r)                                                                                               \
    {                                                                                                                  \
        interp_set_reg(v, &i->op[0], (uint64_t)(int64_t)(type)reg_get##B(v, &i->op[1]));                               \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name##B##_m)                                                                                               \
    {                                                                                                                  \
        uint##bits##_t val;                                                                                            \
        if (!access_load##B(v, i->seg, insn_ea(v, i), &val))                                                           \
            return INTERP_FAULT;                                                                                       \
        interp_set_reg(v, &i->op[0], (uint64_t)(int64_t)(type)val);                                                    \
        return INTERP_NEXT;                                                                                            \
    }
EXTEND(movzx, 1, 8, uint8_t)
EXTEND(movzx, 2, 16, uint16_t)
EXTEND(movsx, 1, 8, int8_t)
EXTEND(movsx, 2, 16, int16_t)
EXTEND(movsx, 4, 32, int32_t)

static interp_fn extend(const struct interp_insn *i, bool sign)
{
    bool m = i->op[1].kind == OPERAND_MEM;
    switch (i->op[1].size) {
    case 1:
        return sign ? m ? movsx1_m : movsx1_r : m ? movzx1_m : movzx1_r;
    case 2:
        return sign ? m ? movsx2_m : movsx2_r : m ? movzx2_m : movzx2_r;
    default:
        return m ? movsx4_m : movsx4_r;
    }
}

// CBW CWDE CDQE: the accumulator's lower half into the whole; CWD CDQ CQO: its sign into rDX.
#define ACCUMULATOR(half, whole, narrow, wide, name_low, name_high)                                                    \
    HANDLER(name_low)                                                                                                  \
    {                                                                                                                  \
        (void)i;                                                                                                       \
        static const struct interp_operand rax = {.kind = OPERAND_REG, .size = whole, .reg = CPU_RAX};                 \
        interp_set_reg(v, &rax, (uint64_t)(int64_t)(narrow)v->s.gpr[CPU_RAX]);                                         \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(name_high)                                                                                                 \
    {                                                                                                                  \
        (void)i;                                                                                                       \
        static const struct interp_operand rdx = {.kind = OPERAND_REG, .size = whole, .reg = CPU_RDX};                 \
        interp_set_reg(v, &rdx, (wide)v->s.gpr[CPU_RAX] < 0 ? ~0ull : 0);                                              \
        return INTERP_NEXT;                                                                                            \
    }
ACCUMULATOR(1, 2, int8_t, int16_t, cbw, cwd)
ACCUMULATOR(2, 4, int16_t, int32_t, cwde, cdq)
ACCUMULATOR(4, 8, int32_t, int64_t, cdqe, cqo)

// --- LEA

HANDLER(lea8)
{
    v->s.gpr[i->op[0].reg] = insn_ea(v, i);
    return INTERP_NEXT;
}

HANDLER(lea4)
{
    v->s.gpr[i->op[0].reg] = (uint32_t)insn_ea(v, i);
    return INTERP_NEXT;
}

HANDLER(lea2)
{
    reg_set2(v, &i->op[0], insn_ea(v, i));
    return INTERP_NEXT;
}

// --- conditions

// CMOVcc reads its operand, and a 32-bit one clears the upper half of the register, whether or not the condition holds.
#define CONDITIONAL(cc)                                                                                                \
    HANDLER(set_r_##cc)                                                                                                \
    {                                                                                                                  \
        reg_set1(v, &i->op[0], cond_holds(v->s.rflags, cc));                                                           \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(set_m_##cc)                                                                                                \
    {                                                                                                                  \
        return access_store1(v, i->seg, insn_ea(v, i), cond_holds(v->s.rflags, cc)) ? INTERP_NEXT : INTERP_FAULT;      \
    }                                                                                                                  \
    HANDLER(cmov4_r_##cc)                                                                                              \
    {                                                                                                                  \
        const struct interp_operand *from = &i->op[cond_holds(v->s.rflags, cc)];                                       \
        reg_set4(v, &i->op[0], reg_get4(v, from));                                                                     \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(cmov8_r_##cc)                                                                                              \
    {                                                                                                                  \
        const struct interp_operand *from = &i->op[cond_holds(v->s.rflags, cc)];                                       \
        reg_set8(v, &i->op[0], reg_get8(v, from));                                                                     \
        return INTERP_NEXT;                                                                                            \
    }                                                                                                                  \
    HANDLER(cmov_##cc)                                                                                                 \
    {                                                                                                                  \
        uint64_t val;                                                                                                  \
        if (!operand_get(v, i, 1, &val))                                                                               \
            return INTERP_FAULT;                                                                                       \
        interp_set_reg(v, &i->op[0], cond_holds(v->s.rflags, cc) ? val : interp_reg(v, &i->op[0]));                    \
        return INTERP_NEXT;                                                                                            \
    }
GP_CONDITIONS(CONDITIONAL)

static interp_fn setcc(const struct interp_insn *i)
{
#define PAIR(cc) {set_r_##cc, set_m_##cc},
    static const interp_fn fn[16][2] = {GP_CONDITIONS(PAIR)};
#undef PAIR
    return fn[i->cond][i->op[0].kind == OPERAND_MEM];
}

static interp_fn cmovcc(const struct interp_insn *i)
{
#define TRIPLE(cc) {cmov4_r_##cc, cmov8_r_##cc, cmov_##cc},
    static const interp_fn fn[16][3] = {GP_CONDITIONS(TRIPLE)};
#undef TRIPLE
    if (i->op[1].kind == OPERAND_REG && i->op[0].size >= 4)
        return fn[i->cond][i->op[0].size == 8];
    return fn[i->cond][2];
}

// --- bytes in other orders

HANDLER(bswap)
{
    uint64_t val = v->s.gpr[i->op[0].reg];
    // With 16 bits the result is undefined; processors clear the register's low word.
    if (i->op[0].size == 2)
        reg_set2(v, &i->op[0], 0);
    else
        interp_set_reg(v, &i->op[0], i->op[0].size == 4 ? __builtin_bswap32(val) : __builtin_bswap64(val));
    return INTERP_NEXT;
}

HANDLER(movbe)
{
    uint64_t val;
    if (!operand_get(v, i, 1, &val))
        return INTERP_FAULT;
    val = __builtin_bswap64(val) >> (64 - 8 * i->op[0].size);
    return operand_set(v, i, 0, val) ? INTERP_NEXT : INTERP_FAULT;
}

HANDLER(xlat)
{
    uint64_t ea = v->s.gpr[CPU_RBX] + (v->s.gpr[CPU_RAX] & 0xff), val;
    ea = i->addrsize == 8 ? ea : i->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
    if (!interp_read(v, i->seg, ea, 1, &val))
        return INTERP_FAULT;
    v->s.gpr[CPU_RAX] = (v->s.gpr[CPU_RAX] & ~0xffull) | val;
    return INTERP_NEXT;
}

// --- flags

HANDLER(lahf)
{
    (void)i;
    v->s.gpr[CPU_RAX] = (v->s.gpr[CPU_RAX] & ~0xff00ull) | ((v->s.rflags & FLAGS_LOW) | RFLAGS_FIXED) << 8;
    return INTERP_NEXT;
}

HANDLER(sahf)
{
    (void)i;
    v->s.rflags = (v->s.rflags & ~(uint64_t)FLAGS_LOW) | (v->s.gpr[CPU_RAX] >> 8 & FLAGS_LOW);
    return INTERP_NEXT;
}

HANDLER(clc)
{
    (void)i;
    v->s.rflags &= ~(uint64_t)RFLAGS_CF;
    return INTERP_NEXT;
}

HANDLER(stc)
{
    (void)i;
    v->s.rflags |= RFLAGS_CF;
    return INTERP_NEXT;
}

HANDLER(cmc)
{
    (void)i;
    v->s.rflags ^= RFLAGS_CF;
    return INTERP_NEXT;
}

HANDLER(cld)
{
    (void)i;
    v->s.rflags &= ~(uint64_t)RFLAGS_DF;
    return INTERP_NEXT;
}

HANDLER(std)
{
    (void)i;
    v->s.rflags |= RFLAGS_DF;
    return INTERP_NEXT;
}

HANDLER(salc)
{
    (void)i;
    v->s.gpr[CPU_RAX] = (v->s.gpr[CPU_RAX] & ~0xffull) | (v->s.rflags & RFLAGS_CF ? 0xff : 0);
    return INTERP_NEXT;
}

// --- selection

interp_fn gp_move(const struct interp_insn *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return mov(i);
    case ZYDIS_MNEMONIC_MOVZX:
        return extend(i, false);
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return extend(i, true);
    case ZYDIS_MNEMONIC_CBW:
        return cbw;
    case ZYDIS_MNEMONIC_CWDE:
        return cwde;
    case ZYDIS_MNEMONIC_CDQE:
        return cdqe;
    case ZYDIS_MNEMONIC_CWD:
        return cwd;
    case ZYDIS_MNEMONIC_CDQ:
        return cdq;
    case ZYDIS_MNEMONIC_CQO:
        return cqo;
    case ZYDIS_MNEMONIC_LEA:
        return i->op[0].size == 8 ? lea8 : i->op[0].size == 4 ? lea4 : lea2;
    case ZYDIS_MNEMONIC_SETO:
    case ZYDIS_MNEMONIC_SETNO:
    case ZYDIS_MNEMONIC_SETB:
    case ZYDIS_MNEMONIC_SETNB:
    case ZYDIS_MNEMONIC_SETZ:
    case ZYDIS_MNEMONIC_SETNZ:
    case ZYDIS_MNEMONIC_SETBE:
    case ZYDIS_MNEMONIC_SETNBE:
    case ZYDIS_MNEMONIC_SETS:
    case ZYDIS_MNEMONIC_SETNS:
    case ZYDIS_MNEMONIC_SETP:
    case ZYDIS_MNEMONIC_SETNP:
    case ZYDIS_MNEMONIC_SETL:
    case ZYDIS_MNEMONIC_SETNL:
    case ZYDIS_MNEMONIC_SETLE:
    case ZYDIS_MNEMONIC_SETNLE:
        return setcc(i);
    case ZYDIS_MNEMONIC_CMOVO:
    case ZYDIS_MNEMONIC_CMOVNO:
    case ZYDIS_MNEMONIC_CMOVB:
    case ZYDIS_MNEMONIC_CMOVNB:
    case ZYDIS_MNEMONIC_CMOVZ:
    case ZYDIS_MNEMONIC_CMOVNZ:
    case ZYDIS_MNEMONIC_CMOVBE:
    case ZYDIS_MNEMONIC_CMOVNBE:
    case ZYDIS_MNEMONIC_CMOVS:
    case ZYDIS_MNEMONIC_CMOVNS:
    case ZYDIS_MNEMONIC_CMOVP:
    case ZYDIS_MNEMONIC_CMOVNP:
    case ZYDIS_MNEMONIC_CMOVL:
    case ZYDIS_MNEMONIC_CMOVNL:
    case ZYDIS_MNEMONIC_CMOVLE:
    case ZYDIS_MNEMONIC_CMOVNLE:
        return cmovcc(i);
    case ZYDIS_MNEMONIC_BSWAP:
        return bswap;
    case ZYDIS_MNEMONIC_MOVBE:
        return movbe;
    case ZYDIS_MNEMONIC_XLAT:
        return xlat;
    case ZYDIS_MNEMONIC_LAHF:
        return lahf;
    case ZYDIS_MNEMONIC_SAHF:
        return sahf;
    case ZYDIS_MNEMONIC_CLC:
        return clc;
    case ZYDIS_MNEMONIC_STC:
        return stc;
    case ZYDIS_MNEMONIC_CMC:
        return cmc;
    case ZYDIS_MNEMONIC_CLD:
        return cld;
    case ZYDIS_MNEMONIC_STD:
        return std;
    case ZYDIS_MNEMONIC_SALC:
        return salc;
    default:
        return NULL;
    }
}
