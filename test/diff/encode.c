// Random encodings of a form. See encode.h.
#include "encode.h"
#include "case.h"
#include <string.h>

static void put(struct encoded *e, unsigned byte)
{
    e->bytes[e->len++] = (uint8_t)byte;
}

static void prefixes(struct encoded *e, const struct form *f, struct random *r, const struct encode_choice *c)
{
    // In 64-bit mode ES, CS, SS and DS mean nothing and FS is not ours.
    static const uint8_t segment[] = {0x26, 0x2e, 0x36, 0x3e, 0x65, 0x65};
    if (f->modrm && f->mem && random_chance(r, 8))
        put(e, segment[random_below(r, sizeof segment)]);
    // Without ModRM an address size can't be told from the bytes that follow it; string instructions are tried too.
    bool sized = (f->modrm && f->mem) || f->category == ZYDIS_CATEGORY_STRINGOP;
    if (sized && random_chance(r, c ? 2 : f->long64 ? 12 : 3))
        put(e, 0x67);
    for (unsigned n = 0; n < f->prefixes; n++)
        put(e, f->prefix[n]);
}

static unsigned choose(struct random *r, uint16_t from)
{
    unsigned n = random_below(r, (unsigned)__builtin_popcount(from));
    for (; n; n--)
        from &= from - 1;
    return (unsigned)__builtin_ctz(from);
}

static unsigned any_register(const struct form *f, struct random *r, const struct encode_choice *c)
{
    return c ? choose(r, c->registers) : random_below(r, f->long64 ? 16 : 8);
}

// A memory operand with a base of choice.
static void chosen_operand(struct encoded *e, struct random *r, const struct encode_choice *c, unsigned reg,
                           unsigned *rex)
{
    unsigned base = choose(r, c->bases), mod = random_below(r, 3);
    bool sib = (base & 7) == 4 || random_chance(r, 25);
    if (!mod && (base & 7) == 5)
        mod = 1;
    *rex |= base & 8 ? 1 : 0;
    put(e, mod << 6 | (reg & 7) << 3 | (sib ? 4 : base & 7));
    if (sib) {
        unsigned index = random_chance(r, 70) ? choose(r, c->indexes) : 4;
        *rex |= index & 8 ? 2 : 0;
        put(e, random_below(r, 4) << 6 | (index & 7) << 3 | (base & 7));
    }
    e->disp_at = e->len;
    int disp = (int)random_below(r, 256) - 128;
    if (random_chance(r, 5))
        disp *= 61;
    for (unsigned n = 0; n < 4; n++)
        put(e, (unsigned)(disp >> 8 * n) & 0xff);
}

// `address16`: 16-bit addressing, which has no SIB.
static void modrm(struct encoded *e, const struct form *f, struct random *r, const struct encode_choice *c,
                  bool address16, unsigned *rex)
{
    unsigned reg = f->reg, rm = f->rm, mod = 3;
    if (f->reg_free) {
        reg = any_register(f, r, c);
        *rex |= reg & 8 ? 4 : 0;
    }
    if (f->mem && c && !f->vsib) {
        chosen_operand(e, r, c, reg, rex);
        return;
    }
    if (f->mem) {
        mod = random_below(r, 3);
        rm = f->vsib || random_chance(r, 30) ? 4 : random_below(r, 8);
        if (f->long64)
            *rex |= random_below(r, 4);
    } else if (f->rm_free) {
        rm = any_register(f, r, c);
        *rex |= rm & 8 ? 1 : 0;
    }
    put(e, mod << 6 | (reg & 7) << 3 | (rm & 7));
    if (!f->mem)
        return;
    if (rm == 4 && !address16)
        put(e, (unsigned)random_bits(r) & 0xff);
    // Which displacement there is, decoding tells; until then there is room for the longest.
    e->disp_at = e->len;
    for (unsigned n = 0; n < 4; n++)
        put(e, (unsigned)random_bits(r) & 0xff);
}

static void vex(struct encoded *e, const struct form *f, struct random *r, const struct encode_choice *c,
                bool address16)
{
    unsigned vvvv = f->vvvv_free ? any_register(f, r, c) : 0, rex = 0;
    struct encoded tail = {.len = 0};
    modrm(&tail, f, r, c, address16, &rex);
    if (f->map == 1 && !f->w && !(rex & 3) && random_chance(r, 50)) {
        put(e, 0xc5);
        put(e, (rex & 4 ? 0 : 0x80) | (~vvvv & 15) << 3 | f->l << 2 | f->pp);
    } else {
        put(e, 0xc4);
        put(e, (unsigned)((rex & 4 ? 0 : 0x80) | (rex & 2 ? 0 : 0x40) | (rex & 1 ? 0 : 0x20) | f->map));
        put(e, (unsigned)(f->w << 7 | (~vvvv & 15) << 3 | f->l << 2 | f->pp));
    }
    put(e, f->opcode);
    if (tail.disp_at)
        e->disp_at = e->len + tail.disp_at;
    memcpy(e->bytes + e->len, tail.bytes, tail.len);
    e->len += tail.len;
}

static void legacy(struct encoded *e, const struct form *f, struct random *r, const struct encode_choice *c,
                   bool address16)
{
    unsigned rex = 0, opcode = f->opcode;
    struct encoded tail = {.len = 0};
    if (f->modrm)
        modrm(&tail, f, r, c, address16, &rex);
    if (f->opcode_reg) {
        unsigned reg = any_register(f, r, c);
        opcode = (opcode & 0xf8) | (reg & 7);
        rex |= reg & 8 ? 1 : 0;
    }
    if (f->long64 && (f->w || rex || random_chance(r, 10)))
        put(e, 0x40 | (unsigned)f->w << 3 | rex);
    if (f->map)
        put(e, 0x0f);
    if (f->map == 2)
        put(e, 0x38);
    if (f->map == 3)
        put(e, 0x3a);
    put(e, opcode);
    if (tail.disp_at)
        e->disp_at = e->len + tail.disp_at;
    memcpy(e->bytes + e->len, tail.bytes, tail.len);
    e->len += tail.len;
}

bool encode_decode(struct encoded *e, const struct form *f)
{
    ZydisDecoder decoder;
    case_decoder(&decoder, f->long64);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, e->bytes, e->len, &e->insn, e->operand));
}

bool encode_random(struct encoded *e, const struct form *f, struct random *r)
{
    return encode_chosen(e, f, r, NULL);
}

bool encode_chosen(struct encoded *e, const struct form *f, struct random *r, const struct encode_choice *c)
{
    memset(e, 0, sizeof *e);
    prefixes(e, f, r, c);
    bool address16 = !f->long64 && memchr(e->bytes, 0x67, e->len);
    if (f->vex)
        vex(e, f, r, c, address16);
    else
        legacy(e, f, r, c, address16);
    // Decoded once with four bytes of displacement to learn how many there are.
    unsigned end = e->len;
    for (unsigned n = 0; n < 8; n++)
        put(e, (unsigned)random_bits(r) & 0xff);
    if (!encode_decode(e, f))
        return false;
    if (e->disp_at) {
        unsigned size = e->insn.raw.disp.size / 8;
        if (size > 4 || (size && e->insn.raw.disp.offset != e->disp_at))
            return false;
        end = e->disp_at + size;
        if (!size)
            e->disp_at = 0;
    }
    e->imm_at = end;
    e->len = e->insn.length;
    return e->len <= 15 && e->insn.mnemonic == f->mnemonic && e->insn.opcode_map == (ZydisOpcodeMap)f->map &&
           (f->opcode_reg || e->insn.opcode == f->opcode) && e->imm_at + f->imm == e->len;
}
