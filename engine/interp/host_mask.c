// Vector instructions that touch only a part of their memory operand: masked moves and gathers.
//
// What the mask leaves out is not accessed: it causes no fault and is not written. Masked stores are all or nothing.
// Gathers go from the lowest element up; one that faults leaves the elements before it loaded and their masks clear, so
// that the instruction goes on where it stopped (Intel SDM vol. 2, VGATHERDPS).
//
// Example: vmaskmovps [rdi], ymm1, ymm2 with mask bits 7..0 = 00000110 writes bytes 4..11 at rdi.
#include "engine/interp/host.h"
#include <string.h>

// op[FIELD_*].reg are register numbers; then, in fields that have no other use here:
static inline unsigned vector_size(const struct interp_insn *i)
{
    return i->op[0].size;
}

static inline unsigned element_size(const struct interp_insn *i)
{
    return i->op[1].size;
}

static void get_vector(struct interp_vcpu *v, unsigned reg, uint8_t buf[32])
{
    memcpy(buf, host_xmm(v, reg), 16);
    memcpy(buf + 16, host_ymm_high(v, reg), 16);
}

static void put_vector(struct interp_vcpu *v, unsigned reg, const uint8_t buf[32])
{
    memcpy(host_xmm(v, reg), buf, 16);
    memcpy(host_ymm_high(v, reg), buf + 16, 16);
}

// Bit n: element n is selected, that is, its highest bit is set.
static uint32_t selected(const uint8_t *mask, unsigned size, unsigned element)
{
    uint32_t bits = 0;
    for (unsigned n = 0; n < size / element; n++)
        bits |= (uint32_t)(mask[n * element + element - 1] >> 7) << n;
    return bits;
}

static uint64_t address_mask(const struct interp_insn *i)
{
    return i->addrsize == 8 ? ~0ull : i->addrsize == 4 ? 0xffffffff : 0xffff;
}

// The byte moves check the alignment of the whole (AMD's processors do; of the other masked moves of none).
static bool aligned(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t la = v->s.seg[i->seg].base + (v->s.gpr[CPU_RDI] & address_mask(i));
    return interp_aligned(v, la, 8);
}

// Writes the selected elements at seg:offset, or none.
static bool write_selected(struct interp_vcpu *v, unsigned seg, uint64_t offset, uint64_t offset_mask,
                           const uint8_t *data, unsigned size, unsigned element, uint32_t bits)
{
    // Neighbours go in one piece. First all pieces are probed.
    for (unsigned writing = 0; writing < 2; writing++) {
        for (unsigned n = 0; n < size / element;) {
            unsigned first = n++;
            if (!(bits >> first & 1))
                continue;
            while (n < size / element && bits >> n & 1)
                n++;
            unsigned at = first * element, len = (n - first) * element;
            uint64_t la;
            if (!interp_linear(v, seg, (offset + at) & offset_mask, len, CPU_WRITE, &la))
                return false;
            if (writing ? !host_write(v, la, data + at, len) : !interp_probe(v, la, len, CPU_WRITE, false))
                return false;
        }
    }
    return true;
}

static enum interp_result masked_load(struct interp_vcpu *v, const struct interp_insn *i)
{
    unsigned size = vector_size(i), element = element_size(i);
    uint8_t mask[32], result[32] = {0};
    if (!host_check_avx(v))
        return INTERP_FAULT;
    host_use(v, XSTATE_SSE | XSTATE_AVX);
    get_vector(v, i->op[FIELD_VVVV].reg, mask);
    uint32_t bits = selected(mask, size, element);
    uint64_t offset = interp_ea(v, i);
    for (unsigned n = 0; n < size / element; n++) {
        uint64_t la;
        if (!(bits >> n & 1))
            continue;
        if (!interp_linear(v, i->seg, (offset + n * element) & address_mask(i), element, CPU_READ, &la) ||
            !host_read(v, la, result + n * element, element))
            return INTERP_FAULT;
    }
    put_vector(v, i->op[FIELD_REG].reg, result);
    return INTERP_NEXT;
}

static enum interp_result masked_store(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint8_t mask[32], data[32];
    if (!host_check_avx(v))
        return INTERP_FAULT;
    host_use(v, XSTATE_SSE | XSTATE_AVX);
    get_vector(v, i->op[FIELD_VVVV].reg, mask);
    get_vector(v, i->op[FIELD_REG].reg, data);
    uint32_t bits = selected(mask, vector_size(i), element_size(i));
    return write_selected(v, i->seg, interp_ea(v, i), address_mask(i), data, vector_size(i), element_size(i), bits)
               ? INTERP_NEXT
               : INTERP_FAULT;
}

// MASKMOVDQU and VMASKMOVDQU: bytes, to seg:[rdi].
static enum interp_result masked_bytes(struct interp_vcpu *v, const struct interp_insn *i)
{
    if (i->op[1].high ? !host_check_avx(v) : !host_check_sse(v))
        return INTERP_FAULT;
    host_use(v, i->op[1].high ? XSTATE_SSE | XSTATE_AVX : XSTATE_SSE);
    uint32_t bits = selected(host_xmm(v, i->op[FIELD_RM].reg), 16, 1);
    uint64_t mask = address_mask(i);
    return aligned(v, i) && write_selected(v, i->seg, v->s.gpr[CPU_RDI] & mask, mask, host_xmm(v, i->op[FIELD_REG].reg),
                                           16, 1, bits)
               ? INTERP_NEXT
               : INTERP_FAULT;
}

static enum interp_result masked_mmx_bytes(struct interp_vcpu *v, const struct interp_insn *i)
{
    if (!host_check_mmx(v))
        return INTERP_FAULT;
    host_use(v, XSTATE_X87);
    uint32_t bits = selected(host_mmx(v, i->op[FIELD_RM].reg), 8, 1);
    uint64_t mask = address_mask(i);
    host_enter_mmx(v); // even if it then faults
    return aligned(v, i) && write_selected(v, i->seg, v->s.gpr[CPU_RDI] & mask, mask, host_mmx(v, i->op[FIELD_REG].reg),
                                           8, 1, bits)
               ? INTERP_NEXT
               : INTERP_FAULT;
}

// VGATHERDPS and the seven others. op[FIELD_RM].reg is the index register.
static enum interp_result gather(struct interp_vcpu *v, const struct interp_insn *i)
{
    unsigned element = element_size(i), index_size = i->op[2].size, scale = i->op[3].size;
    unsigned count = vector_size(i) / (element > index_size ? element : index_size);
    uint8_t mask[32], result[32], index[32];
    if (!host_check_avx(v))
        return INTERP_FAULT;
    host_use(v, XSTATE_SSE | XSTATE_AVX);
    get_vector(v, i->op[FIELD_VVVV].reg, mask);
    get_vector(v, i->op[FIELD_REG].reg, result);
    get_vector(v, i->op[FIELD_RM].reg, index);
    uint32_t bits = selected(mask, count * element, element);
    uint64_t base = interp_ea(v, i);
    bool ok = true;
    for (unsigned n = 0; n < count && ok; n++) {
        if (bits >> n & 1) {
            int64_t at = index_size == 4 ? (int32_t)host_get32(index + 4 * n) : (int64_t)host_get64(index + 8 * n);
            uint64_t la;
            ok = interp_linear(v, i->seg, (base + (uint64_t)at * scale) & address_mask(i), element, CPU_READ, &la) &&
                 host_read(v, la, result + n * element, element);
        }
        if (ok)
            memset(mask + n * element, 0, element);
    }
    if (ok) {
        memset(mask, 0, sizeof mask);
        memset(result + count * element, 0, sizeof result - count * element);
    }
    put_vector(v, i->op[FIELD_REG].reg, result);
    put_vector(v, i->op[FIELD_VVVV].reg, mask);
    return ok ? INTERP_NEXT : INTERP_FAULT;
}

static uint8_t register_in(const ZydisDecodedOperand *o, ZydisOperandEncoding encoding)
{
    for (unsigned n = 0; n < 4; n++)
        if (o[n].type == ZYDIS_OPERAND_TYPE_REGISTER && o[n].encoding == encoding)
            return (uint8_t)ZydisRegisterGetId(o[n].reg.value);
    return 0;
}

interp_fn host_mask_handler(struct interp_insn *i, const ZydisDecodedInstruction *d, const ZydisDecodedOperand *o)
{
    unsigned element = 0, index = 0;
    interp_fn fn = gather;
    if (d->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && d->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return NULL;
    switch (d->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
        fn = masked_mmx_bytes;
        break;
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        fn = masked_bytes;
        break;
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
        element = 4;
        fn = masked_load;
        break;
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        element = 8;
        fn = masked_load;
        break;
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VPGATHERDD:
        element = index = 4;
        break;
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
        element = 8;
        index = 4;
        break;
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERQD:
        element = 4;
        index = 8;
        break;
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
        element = index = 8;
        break;
    default:
        return NULL;
    }
    bool vex = d->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    if (fn == masked_load && o[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
        fn = masked_store;
    uint8_t scale = 1;
    for (unsigned n = 0; n < d->operand_count; n++) {
        if (o[n].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        i->seg = (uint8_t)ZydisRegisterGetId(o[n].mem.segment);
        scale = o[n].mem.scale;
    }
    memset(i->op, 0, sizeof i->op);
    i->op[FIELD_REG].reg = register_in(o, ZYDIS_OPERAND_ENCODING_MODRM_REG);
    i->op[FIELD_RM].reg = register_in(o, ZYDIS_OPERAND_ENCODING_MODRM_RM);
    i->op[FIELD_VVVV].reg = register_in(o, ZYDIS_OPERAND_ENCODING_NDSNDD);
    if (fn == gather) {
        i->op[FIELD_RM].reg = (uint8_t)ZydisRegisterGetId(o[1].mem.index);
        i->index = 0xff; // the vector index is ours
    }
    i->op[0].size = vex && d->raw.vex.L ? 32 : 16;
    i->op[1].size = (uint8_t)element;
    i->op[1].high = vex;
    i->op[2].size = (uint8_t)index;
    i->op[3].size = scale;
    return fn;
}
