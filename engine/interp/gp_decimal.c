// Decimal arithmetic (AAA AAS AAM AAD DAA DAS) and BOUND: what 64-bit mode has no more.
//
// Flags that the manuals leave undefined are given the value that the operation on AL suggests, as AMD's processors do.
#include "engine/interp/gp.h"

#define HANDLER(name) static enum interp_result name(struct interp_vcpu *v, const struct interp_insn *i)

static void set_ax(struct interp_vcpu *v, uint8_t ah, uint8_t al)
{
    v->s.gpr[CPU_RAX] = (v->s.gpr[CPU_RAX] & ~0xffffull) | (uint64_t)ah << 8 | al;
}

// SF, ZF and PF of a byte; CF and AF as given; OF clear.
static void byte_flags(struct interp_vcpu *v, uint8_t al, bool cf, bool af)
{
    uint64_t f = v->s.rflags & ~(uint64_t)RFLAGS_STATUS;
    f |= (al ? 0 : RFLAGS_ZF) | (al & 0x80 ? RFLAGS_SF : 0) | (__builtin_parity(al) ? 0 : RFLAGS_PF);
    v->s.rflags = f | (cf ? RFLAGS_CF : 0) | (af ? RFLAGS_AF : 0);
}

// AAA and AAS: sign is +1 or -1.
static enum interp_result ascii_adjust(struct interp_vcpu *v, int sign)
{
    uint16_t ax = v->s.gpr[CPU_RAX];
    bool adjust = (ax & 15) > 9 || (v->s.rflags & RFLAGS_AF);
    if (adjust)
        ax += sign * 0x106;
    set_ax(v, ax >> 8, ax & 15);
    byte_flags(v, ax & 15, adjust, adjust);
    return INTERP_NEXT;
}

HANDLER(aaa)
{
    (void)i;
    return ascii_adjust(v, 1);
}

HANDLER(aas)
{
    (void)i;
    return ascii_adjust(v, -1);
}

// DAA and DAS (Intel SDM vol. 2).
static enum interp_result decimal_adjust(struct interp_vcpu *v, int sign)
{
    uint8_t al = v->s.gpr[CPU_RAX], old = al;
    bool old_cf = v->s.rflags & RFLAGS_CF, cf = false, af = false;
    if ((al & 15) > 9 || (v->s.rflags & RFLAGS_AF)) {
        cf = old_cf || (sign > 0 ? al > 0xf9 : al < 6);
        al += sign * 6;
        af = true;
    }
    if (old > 0x99 || old_cf) {
        al += sign * 0x60;
        cf = true;
    }
    v->s.gpr[CPU_RAX] = (v->s.gpr[CPU_RAX] & ~0xffull) | al;
    byte_flags(v, al, cf, af);
    return INTERP_NEXT;
}

HANDLER(daa)
{
    (void)i;
    return decimal_adjust(v, 1);
}

HANDLER(das)
{
    (void)i;
    return decimal_adjust(v, -1);
}

HANDLER(aam)
{
    uint8_t base = i->imm, al = v->s.gpr[CPU_RAX];
    if (!base)
        return interp_fault(v, EXC_DE);
    set_ax(v, al / base, al % base);
    byte_flags(v, al % base, false, false);
    return INTERP_NEXT;
}

HANDLER(aad)
{
    uint16_t ax = v->s.gpr[CPU_RAX];
    uint8_t al = (ax & 0xff) + (ax >> 8) * (uint8_t)i->imm;
    set_ax(v, 0, al);
    byte_flags(v, al, false, false);
    return INTERP_NEXT;
}

HANDLER(bound)
{
    unsigned size = i->opsize;
    uint64_t ea = insn_ea(v, i), low, high, mask = i->addrsize == 4 ? 0xffffffff : 0xffff;
    if (!interp_read(v, i->seg, ea, size, &low) || !interp_read(v, i->seg, (ea + size) & mask, size, &high))
        return INTERP_FAULT;
    uint64_t index = interp_reg(v, &i->op[0]);
    bool inside = size == 2 ? (int16_t)index >= (int16_t)low && (int16_t)index <= (int16_t)high
                            : (int32_t)index >= (int32_t)low && (int32_t)index <= (int32_t)high;
    return inside ? INTERP_NEXT : interp_fault(v, EXC_BR);
}

interp_fn gp_decimal(const struct interp_insn *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_AAA:
        return aaa;
    case ZYDIS_MNEMONIC_AAS:
        return aas;
    case ZYDIS_MNEMONIC_AAM:
        return aam;
    case ZYDIS_MNEMONIC_AAD:
        return aad;
    case ZYDIS_MNEMONIC_DAA:
        return daa;
    case ZYDIS_MNEMONIC_DAS:
        return das;
    case ZYDIS_MNEMONIC_BOUND:
        return bound;
    default:
        return NULL;
    }
}
