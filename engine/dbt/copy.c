// Writing a guest instruction again, with another memory operand or with another register in place of RSP.
//
// No encoder is needed: prefixes, opcode and immediates are copied byte by byte, and only REX or VEX, ModRM, SIB and
// the displacement are made anew (Intel SDM vol. 2, chapter 2).
//
// Example: `vpaddd ymm1, ymm2, [rdi+rcx*4]` with the place [r14] becomes `vpaddd ymm1, ymm2, [r14]`.
#include "engine/dbt/translate.h"

// Where a register operand is encoded that is RSP.
enum { AT_NOWHERE, AT_REG, AT_RM, AT_VVVV, AT_OPCODE };

static unsigned rsp_at(const struct dbt_insn *i)
{
    unsigned where = AT_NOWHERE;
    for (unsigned k = 0; k < i->z.operand_count; k++) {
        const ZydisDecodedOperand *o = &i->op[k];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        ZydisRegister r = o->reg.value;
        if (r != ZYDIS_REGISTER_RSP && r != ZYDIS_REGISTER_ESP && r != ZYDIS_REGISTER_SP && r != ZYDIS_REGISTER_SPL)
            continue;
        unsigned here = o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG  ? AT_REG
                        : o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ? AT_RM
                        : o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD   ? AT_VVVV
                        : o->encoding == ZYDIS_OPERAND_ENCODING_OPCODE   ? AT_OPCODE
                                                                         : 99;
        if (where != AT_NOWHERE && where != here)
            return 99; // twice, as in XADD RSP, RSP: not worth the trouble
        where = here;
    }
    return where;
}

static bool names_high_byte(const struct dbt_insn *i)
{
    for (unsigned k = 0; k < i->z.operand_count; k++) {
        ZydisRegister r = i->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER ? i->op[k].reg.value : ZYDIS_REGISTER_NONE;
        if (i->op[k].encoding != ZYDIS_OPERAND_ENCODING_NONE && r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
            return true;
    }
    return false;
}

bool dbt_copy_can(const struct dbt_insn *i)
{
    unsigned at = i->rsp_operand ? rsp_at(i) : AT_NOWHERE;
    if (at == 99 || at == AT_OPCODE)
        return false;
    return !((i->mem.present || at != AT_NOWHERE) && names_high_byte(i));
}

static bool is_segment_or_address_prefix(uint8_t b)
{
    return b == 0x26 || b == 0x2e || b == 0x36 || b == 0x3e || b == 0x64 || b == 0x65 || b == 0x67;
}

void dbt_copy(struct emit *e, const struct dbt_insn *i, const struct dbt_place *p, unsigned rsp_as)
{
    const ZydisDecodedInstruction *z = &i->z;
    unsigned at = rsp_as != NO_REG ? rsp_at(i) : AT_NOWHERE;
    if (!p && at == AT_NOWHERE) {
        e_bytes(e, i->bytes, i->len);
        return;
    }
    bool vex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    bool rex = z->attributes & ZYDIS_ATTRIB_HAS_REX;
    unsigned opcode_at = 0;
    for (; opcode_at < z->raw.prefix_count; opcode_at++) {
        uint8_t b = i->bytes[opcode_at];
        if (rex && opcode_at == z->raw.rex.offset)
            break;
        // Nor may a REX prefix that another one kept from counting come to count.
        if (!is_segment_or_address_prefix(b) && (b & 0xf0) != 0x40)
            e8(e, b);
    }
    const uint8_t *b = i->bytes;
    uint8_t modrm = b[z->raw.modrm.offset];
    unsigned reg = modrm >> 3 & 7, rm = modrm & 7;
    unsigned r = 0, x = 0, bb = 0; // the fourth bits
    unsigned tail = z->raw.modrm.offset + 1u;
    if (z->raw.modrm.mod != 3) {
        if (rm == 4)
            tail++;
        tail += z->raw.disp.size / 8u;
    }
    if (vex) {
        opcode_at = z->raw.vex.offset;
        r = !(b[opcode_at + 1] & 0x80);
        bb = z->raw.vex.size == 3 ? !(b[opcode_at + 1] & 0x20) : 0;
    } else if (rex) {
        opcode_at = z->raw.rex.offset;
        r = b[opcode_at] >> 2 & 1;
        bb = b[opcode_at] & 1;
    }
    if (p) {
        x = p->index != NO_REG && p->index & 8;
        bb = p->base != NO_REG && p->base & 8;
    }
    if (at == AT_REG) {
        reg = rsp_as & 7;
        r = rsp_as >> 3;
    } else if (at == AT_RM) {
        rm = rsp_as & 7;
        bb = rsp_as >> 3;
    }
    if (vex) {
        uint8_t b1 = z->raw.vex.size == 3 ? b[opcode_at + 1] & 0x1f : 1;
        uint8_t b2 = z->raw.vex.size == 3 ? b[opcode_at + 2] : b[opcode_at + 1] & 0x7f;
        if (at == AT_VVVV)
            b2 = (uint8_t)((b2 & 0x87) | (~rsp_as & 15) << 3);
        e8(e, 0xc4);
        e8(e, (r ? 0 : 0x80) | (x ? 0 : 0x40) | (bb ? 0 : 0x20) | b1);
        e8(e, b2);
        opcode_at += z->raw.vex.size;
    } else {
        uint8_t w = rex ? b[opcode_at] & 8 : 0;
        if (rex || r || x || bb)
            e8(e, 0x40 | w | r << 2 | x << 1 | bb);
        opcode_at += rex;
    }
    e_bytes(e, b + opcode_at, z->raw.modrm.offset - opcode_at);
    if (p)
        e_mem(e, reg, p->base, p->index, p->scale, p->disp);
    else
        e8(e, (modrm & 0xc0) | reg << 3 | rm);
    e_bytes(e, b + tail, i->len - tail);
}
