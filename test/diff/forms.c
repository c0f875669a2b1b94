// Enumeration of instruction forms. See forms.h.
#include "forms.h"
#include "case.h"
#include <stdlib.h>
#include <string.h>

// What makes two encodings the same form: mnemonic, opcode, and kind, size and place of each operand.
struct form_key {
    uint16_t mnemonic;
    uint8_t encoding, map, opcode, mem, fixed_reg, fixed_rm, attributes, operands;
    uint8_t pp; // of VEX: some forms differ in nothing else
    struct {
        uint8_t type, kind, actions, encoding;
        uint16_t size;
    } operand[ZYDIS_MAX_OPERAND_COUNT];
};

struct enumeration {
    struct forms *out;
    ZydisDecoder decoder;
    size_t capacity;
    struct form_key *keys;
    size_t *bucket; // index + 1 of a form, open addressing
    size_t buckets;
    bool failed;
};

static uint64_t hash(const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3ull;
    return h ^ h >> 29;
}

static unsigned put_bytes(const struct form *f, uint8_t *out)
{
    unsigned n = 0;
    if (f->vex) {
        out[n++] = 0xc4;
        out[n++] = 0xe0 | f->map;
        out[n++] = (uint8_t)(f->w << 7 | 0x78 | f->l << 2 | f->pp);
    } else {
        for (unsigned i = 0; i < f->prefixes; i++)
            out[n++] = f->prefix[i];
        if (f->w)
            out[n++] = 0x48;
        if (f->map)
            out[n++] = 0x0f;
        if (f->map == 2)
            out[n++] = 0x38;
        if (f->map == 3)
            out[n++] = 0x3a;
    }
    out[n++] = f->opcode;
    return n;
}

static void add(struct enumeration *e, const struct form *f, const struct form_key *key)
{
    size_t at = hash(key, sizeof *key) % e->buckets;
    for (; e->bucket[at]; at = (at + 1) % e->buckets)
        if (!memcmp(&e->keys[e->bucket[at] - 1], key, sizeof *key))
            return;
    if (e->out->count == e->capacity) {
        e->failed = true;
        return;
    }
    e->keys[e->out->count] = *key;
    e->out->form[e->out->count++] = *f;
    e->bucket[at] = e->out->count;
}

// Decodes f with these ModRM fields (ignored by what has none) and adds it if it is new. Returns false if the bytes are
// no instruction.
static bool consider(struct enumeration *e, struct form f, uint8_t mod, uint8_t reg, uint8_t rm)
{
    uint8_t bytes[32] = {0};
    unsigned opcode_at = put_bytes(&f, bytes);
    bytes[opcode_at] = (uint8_t)(mod << 6 | reg << 3 | rm);
    bytes[opcode_at + 1] = 2 << 3; // SIB of a gather: its registers must differ
    // A VSIB operand needs a SIB byte; everything else is content with [rcx] and [esi] or a register.
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&e->decoder, bytes, sizeof bytes, &insn, operand)))
        return false;
    // In 32-bit mode C4 and C5 with a memory operand are LES and LDS, and 48 is DEC.
    if (f.vex != (insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) ||
        (!f.vex && insn.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) || insn.opcode != f.opcode)
        return false;
    unsigned prefixes = 0;
    for (unsigned i = 0; i < insn.raw.prefix_count; i++) {
        if (insn.raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_IGNORED)
            return true; // the form without this prefix is the same
        prefixes++;
    }
    if (prefixes != (unsigned)f.prefixes + (!f.vex && f.w))
        return true;

    f.modrm = insn.attributes & ZYDIS_ATTRIB_HAS_MODRM;
    f.mem = f.modrm && mod != 3;
    f.reg = reg;
    f.rm = rm;
    f.mnemonic = insn.mnemonic;
    f.isa_set = insn.meta.isa_set;
    f.isa_ext = insn.meta.isa_ext;
    f.category = insn.meta.category;
    struct form_key key;
    memset(&key, 0, sizeof key);
    for (unsigned i = 0; i < insn.operand_count; i++) {
        const ZydisDecodedOperand *o = &operand[i];
        if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
            f.reg_free = true;
        if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && o->type == ZYDIS_OPERAND_TYPE_REGISTER)
            f.rm_free = true;
        if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
            f.vvvv_free = true;
        if (o->encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
            f.opcode_reg = true;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
            f.vsib = true;
    }
    unsigned after = opcode_at + f.modrm + (insn.attributes & ZYDIS_ATTRIB_HAS_SIB ? 1 : 0);
    f.imm = (uint8_t)(insn.length - after);
    if (f.mem && insn.raw.disp.size)
        f.imm -= insn.raw.disp.size / 8;

    key.mnemonic = (uint16_t)insn.mnemonic;
    key.encoding = f.vex;
    key.map = f.map;
    key.opcode = f.opcode_reg ? f.opcode & 0xf8 : f.opcode;
    key.mem = f.mem;
    key.fixed_reg = f.modrm && !f.reg_free ? reg : 0xff;
    key.fixed_rm = f.modrm && !f.mem && !f.rm_free ? rm : 0xff;
    static const uint64_t distinct[] = {ZYDIS_ATTRIB_HAS_LOCK, ZYDIS_ATTRIB_HAS_REP, ZYDIS_ATTRIB_HAS_REPE,
                                        ZYDIS_ATTRIB_HAS_REPNE};
    for (unsigned i = 0; i < sizeof distinct / sizeof *distinct; i++)
        if (insn.attributes & distinct[i])
            key.attributes |= (uint8_t)(1 << i);
    key.pp = f.pp;
    key.operands = insn.operand_count;
    for (unsigned i = 0; i < insn.operand_count; i++) {
        const ZydisDecodedOperand *o = &operand[i];
        key.operand[i].type = (uint8_t)o->type;
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
            key.operand[i].kind = (uint8_t)ZydisRegisterGetClass(o->reg.value);
        key.operand[i].actions = (uint8_t)o->actions;
        key.operand[i].encoding = (uint8_t)o->encoding;
        key.operand[i].size = o->size;
    }
    add(e, &f, &key);
    return true;
}

static void all_modrm(struct enumeration *e, const struct form *f)
{
    // Register operands: each rm as well, as x87 opcodes use it. Memory operands: rm 1, and rm 4 (SIB) for VSIB.
    for (uint8_t reg = 0; reg < 8; reg++) {
        for (uint8_t rm = 0; rm < 8; rm++)
            consider(e, *f, 3, reg, rm);
        if (!consider(e, *f, 0, reg, 1))
            consider(e, *f, 0, reg, 4);
    }
}

bool forms_enumerate(struct forms *out, bool long64)
{
    static const uint8_t legacy_prefix[][2] = {
        {0, 0}, {0x66, 0}, {0xf2, 0}, {0xf3, 0}, {0xf0, 0}, {0x66, 0xf2}, {0x66, 0xf3}, {0x66, 0xf0},
    };
    struct enumeration e = {.out = out, .capacity = 16384, .buckets = 65536};
    out->count = 0;
    out->form = calloc(e.capacity, sizeof *out->form);
    e.keys = calloc(e.capacity, sizeof *e.keys);
    e.bucket = calloc(e.buckets, sizeof *e.bucket);
    if (!out->form || !e.keys || !e.bucket)
        e.failed = true;
    case_decoder(&e.decoder, long64);
    for (unsigned map = 0; map < 4 && !e.failed; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            for (unsigned p = 0; p < sizeof legacy_prefix / sizeof *legacy_prefix; p++)
                for (uint8_t w = 0; w <= (long64 ? 1 : 0); w++) {
                    struct form f = {.long64 = long64, .map = (uint8_t)map, .opcode = (uint8_t)opcode, .w = w};
                    for (; f.prefixes < 2 && legacy_prefix[p][f.prefixes]; f.prefixes++)
                        f.prefix[f.prefixes] = legacy_prefix[p][f.prefixes];
                    all_modrm(&e, &f);
                }
            for (unsigned variant = 0; variant < 16 && map; variant++) {
                struct form f = {.long64 = long64, .vex = true, .map = (uint8_t)map, .opcode = (uint8_t)opcode};
                f.pp = variant & 3;
                f.l = variant >> 2 & 1;
                f.w = variant >> 3;
                all_modrm(&e, &f);
            }
        }
    free(e.keys);
    free(e.bucket);
    if (e.failed)
        forms_free(out);
    return !e.failed;
}

void forms_free(struct forms *f)
{
    free(f->form);
    f->form = NULL;
    f->count = 0;
}

size_t forms_mnemonics(const struct forms *f)
{
    uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {0};
    size_t n = 0;
    for (size_t i = 0; i < f->count; i++) {
        n += !seen[f->form[i].mnemonic];
        seen[f->form[i].mnemonic] = 1;
    }
    return n;
}
