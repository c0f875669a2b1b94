// Plain moves of whole vectors: nothing is computed, so nothing needs the host's vector unit, and they are the most
// frequent of all vector instructions.
//
// Non-temporal stores are ordinary stores here: what they promise is less than what a store gives.
#include "engine/interp/host.h"
#include <string.h>

static inline bool check(struct interp_vcpu *v, bool vex)
{
    return vex ? host_check_avx(v) : host_check_sse(v);
}

// op[0] and op[1].reg are destination and source, op[2].size the operand's size, op[2].high whether it is VEX,
// op[3].size the alignment that the memory operand must have.
static enum interp_result load(struct interp_vcpu *v, const struct interp_insn *i)
{
    unsigned size = i->op[2].size, align = i->op[3].size, to = i->op[0].reg;
    bool vex = i->op[2].high;
    uint64_t la;
    uint8_t buf[32];
    if (!check(v, vex) || !host_address(v, i, size, align, false, &la) || (!align && !host_aligned(v, la, size)) ||
        !host_read(v, la, buf, size))
        return INTERP_FAULT;
    host_use(v, vex ? XSTATE_SSE | XSTATE_AVX : XSTATE_SSE);
    memcpy(host_xmm(v, to), buf, 16);
    if (size == 32)
        memcpy(host_ymm_high(v, to), buf + 16, 16);
    else if (vex)
        memset(host_ymm_high(v, to), 0, 16);
    return INTERP_NEXT;
}

static enum interp_result save(struct interp_vcpu *v, const struct interp_insn *i)
{
    unsigned size = i->op[2].size, align = i->op[3].size, from = i->op[1].reg;
    bool vex = i->op[2].high;
    uint64_t la;
    uint8_t buf[32];
    if (!check(v, vex) || !host_address(v, i, size, align, true, &la) || (!align && !host_aligned(v, la, size)))
        return INTERP_FAULT;
    host_use(v, vex ? XSTATE_SSE | XSTATE_AVX : XSTATE_SSE);
    memcpy(buf, host_xmm(v, from), 16);
    if (size == 32)
        memcpy(buf + 16, host_ymm_high(v, from), 16);
    return host_write(v, la, buf, size) ? INTERP_NEXT : INTERP_FAULT;
}

static enum interp_result copy(struct interp_vcpu *v, const struct interp_insn *i)
{
    unsigned size = i->op[2].size, to = i->op[0].reg, from = i->op[1].reg;
    bool vex = i->op[2].high;
    if (!check(v, vex))
        return INTERP_FAULT;
    host_use(v, vex ? XSTATE_SSE | XSTATE_AVX : XSTATE_SSE);
    memmove(host_xmm(v, to), host_xmm(v, from), 16);
    if (size == 32)
        memmove(host_ymm_high(v, to), host_ymm_high(v, from), 16);
    else if (vex)
        memset(host_ymm_high(v, to), 0, 16);
    return INTERP_NEXT;
}

interp_fn host_move_handler(struct interp_insn *i, const ZydisDecodedInstruction *d, const ZydisDecodedOperand *o)
{
    switch (d->mnemonic) {
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_MOVNTPS:
    case ZYDIS_MNEMONIC_MOVNTPD:
    case ZYDIS_MNEMONIC_MOVNTDQ:
    case ZYDIS_MNEMONIC_MOVNTDQA:
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVUPS:
    case ZYDIS_MNEMONIC_VMOVUPD:
    case ZYDIS_MNEMONIC_VMOVDQU:
    case ZYDIS_MNEMONIC_VLDDQU:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        break;
    default:
        return NULL;
    }
    if (d->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && d->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return NULL;
    uint8_t size = (uint8_t)(o[0].size / 8);
    bool aligned =
        d->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE1 || d->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1;
    for (unsigned n = 0; n < 2; n++)
        if (o[n].type == ZYDIS_OPERAND_TYPE_REGISTER)
            i->op[n].reg = (uint8_t)ZydisRegisterGetId(o[n].reg.value);
    i->op[2].size = size;
    i->op[2].high = d->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    i->op[3].size = aligned ? size : 0;
    if (o[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
        return save;
    return o[1].type == ZYDIS_OPERAND_TYPE_MEMORY ? load : copy;
}
