// Random cases. See generate.h.
//
// Registers and memory are random; then the addresses that the instruction will use are made to lead into the window
// (at a random alignment, across a page, into the read-only page or out of the window) by solving for a register or for
// the displacement, and the few instructions that would do something pointless with random values get likelier ones.
#include "generate.h"
#include "encode.h"
#include <string.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
enum { POOL = 1 << 16 };

struct generator {
    struct diff_case *c;
    const struct form *f;
    struct random r;
    struct encoded e;
};

// Memory contents: a piece of a pool that is made once, from random vectors.
static void fill_memory(struct generator *g)
{
    static uint8_t pool[POOL];
    static bool made;
    if (!made) {
        struct random r = {.state = 1};
        for (size_t at = 0; at < POOL; at += 32)
            random_vector(&r, pool + at, 32);
        made = true;
    }
    size_t at = random_below(&g->r, POOL - CASE_WRITABLE);
    memcpy(g->c->data, pool + at, CASE_WRITABLE);
    case_fill_readonly(g->c->data + CASE_WRITABLE);
}

// An address for an operand of `size` bytes.
static uint64_t target(struct generator *g, unsigned size)
{
    struct random *r = &g->r;
    unsigned room = CASE_WRITABLE - size, how = random_below(r, 100);
    if (how < 45)
        return CASE_DATA + (random_below(r, room) & ~63u);
    if (how < 80)
        return CASE_DATA + random_below(r, room);
    if (how < 92) // across a page
        return CASE_DATA + CASE_PAGE * (1 + random_below(r, 2)) - (size > 1 ? 1 + random_below(r, size - 1) : 1);
    if (how < 95) // read-only, or half of it
        return CASE_DATA + CASE_WRITABLE - random_below(r, size + 1);
    if (how < 98) // out of the window, or half of it
        return CASE_DATA + CASE_WINDOW - random_below(r, size + 1);
    if (how < 99 || !g->c->long64)
        return CASE_DATA - random_below(r, size + 1);
    return 0x0000800000000000 + random_below(r, 64); // not canonical
}

static bool is_gpr(ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    return class == ZYDIS_REGCLASS_GPR64 || class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR16;
}

// A SIB byte with base 5 and ModRM.mod 0 means no base; Zydis 4.0 forgets that for 32-bit addresses with REX.B.
static bool has_base(const struct generator *g, const ZydisDecodedOperand *o)
{
    return is_gpr(o->mem.base) &&
           !((g->e.insn.attributes & ZYDIS_ATTRIB_HAS_SIB) && !g->e.insn.raw.modrm.mod && g->e.insn.raw.sib.base == 5);
}

static uint64_t address_mask(const struct generator *g)
{
    return g->e.insn.address_width == 64 ? ~0ull : g->e.insn.address_width == 32 ? 0xffffffff : 0xffff;
}

// A gather's indexes: small enough that all elements are near the base.
static void tame_indexes(struct generator *g, const ZydisDecodedOperand *o)
{
    unsigned n = (unsigned)ZydisRegisterGetId(o->mem.index);
    uint8_t *low = g->c->in.xsave + 160 + 16 * n, *high = g->c->in.xsave + 576 + 16 * n;
    bool quad = g->f->opcode & 1; // 91 and 93 have 64-bit indexes
    for (unsigned half = 0; half < 2; half++)
        for (unsigned at = 0; at < 16; at += quad ? 8 : 4) {
            int64_t v = (int64_t)random_below(&g->r, 512) - 256;
            memcpy((half ? high : low) + at, &v, quad ? 8 : 4);
        }
    if (random_chance(&g->r, 4)) // one element out of reach
        low[7] = 0x12;
}

// Makes the memory operand's address `want`. False if nothing in the operand can do that.
static bool aim(struct generator *g, const ZydisDecodedOperand *o, uint64_t want)
{
    uint64_t *gpr = g->c->in.gpr, mask = address_mask(g);
    if (o->mem.segment == ZYDIS_REGISTER_GS)
        want -= g->c->in.gs_base;
    uint64_t disp = (uint64_t)g->e.insn.raw.disp.value;
    bool vsib = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    if (vsib)
        tame_indexes(g, o);
    int base = has_base(g, o) ? ZydisRegisterGetId(o->mem.base) : -1;
    int index = !vsib && is_gpr(o->mem.index) ? ZydisRegisterGetId(o->mem.index) : -1;
    if (mask == 0xffff)
        return true;                                      // below 64 KiB nothing is mapped: it faults wherever it is
    if (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM) { // MOV with an absolute address
        if (g->f->imm != 4 && g->f->imm != 8)
            return false;
        memcpy(g->e.bytes + g->e.imm_at, &want, g->f->imm);
        return encode_decode(&g->e, g->f);
    }
    if (base >= 0 && base == index) {
        uint64_t factor = 1u + o->mem.scale;
        uint64_t rest = (want - disp) & mask;
        if (rest % factor)
            rest -= rest % factor;
        gpr[base] = (gpr[base] & ~mask) | rest / factor;
        return true;
    }
    if (base >= 0) {
        uint64_t scaled = index >= 0 ? gpr[index] * o->mem.scale : 0;
        gpr[base] = (gpr[base] & ~mask) | ((want - disp - scaled) & mask);
        return true;
    }
    // No base: the displacement has 32 bits, signed, so a large index must go.
    uint64_t from =
        o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP ? g->c->in.rip + g->e.insn.length : 0;
    if (index >= 0) {
        gpr[index] = random_below(&g->r, 1024);
        from = gpr[index] * o->mem.scale;
    }
    int64_t offset = (int64_t)(want - from);
    if (!g->e.disp_at || g->e.insn.raw.disp.size != 32)
        return false;
    int32_t narrow = (int32_t)offset;
    memcpy(g->e.bytes + g->e.disp_at, &narrow, 4);
    return encode_decode(&g->e, g->f);
}

// Where the memory operand is, in the case's data, or NULL if it lies outside.
static uint8_t *window(struct generator *g, uint64_t la, unsigned size)
{
    uint64_t at = la - CASE_DATA;
    return at < CASE_WRITABLE && size <= CASE_WRITABLE - at ? g->c->data + at : NULL;
}

// A place for a jump to go: INT3s in the code page, away from the instruction, or where nothing is mapped.
static uint64_t destination(struct generator *g)
{
    uint64_t to = CASE_CODE + random_below(&g->r, CASE_PAGE);
    if (to - g->c->in.rip < 16)
        to = CASE_CODE + (to + 64) % CASE_PAGE;
    return random_chance(&g->r, 80) ? to : 0x21000000 + random_below(&g->r, CASE_PAGE);
}

static void put_state_image(struct generator *g, uint8_t *p)
{
    struct random *r = &g->r;
    random_xsave(r, p);
    memset(p + 512, 0, 64);
    p[512] = (uint8_t)(random_below(r, 8) | (random_chance(r, 3) ? 8 : 0));
    if (random_chance(r, 40)) { // compacted: AVX state follows the header, as it does otherwise
        p[520] = (uint8_t)(p[512] | random_below(r, 8));
        p[527] = 0x80;
        if (random_chance(r, 5))
            p[512] |= (uint8_t)(~p[520] & 7);
    }
    unsigned at = 513 + random_below(r, 63);
    if (random_chance(r, 6) && at != 520 && at != 521) // components that this host may have and the model not
        p[at] |= (uint8_t)(1u << random_below(r, 8));
    if (random_chance(r, 4))
        p[26] |= 0x10; // a reserved bit of MXCSR
}

// What lies at the memory operand, where random bytes would be pointless.
static void put_operand(struct generator *g, uint8_t *p, const ZydisDecodedOperand *o)
{
    struct random *r = &g->r;
    switch (g->f->mnemonic) {
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR: {
        uint32_t v = random_mxcsr(r) | (random_chance(r, 5) ? 1u << (18 + random_below(r, 14)) : 0);
        memcpy(p, &v, 4);
        return;
    }
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
        put_state_image(g, p);
        return;
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR: {
        uint8_t image[832];
        unsigned step = o->size / 8 % 28 && o->size / 8 != 108 ? 2 : 4;
        random_xsave(r, image);
        memcpy(p, image, 2);
        memcpy(p + step, image + 2, 2);
        for (unsigned at = 7 * step; at + 10 <= o->size / 8u; at += 10)
            random_extended(r, p + at);
        return;
    }
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        if (random_chance(r, 50)) {
            unsigned half = o->size / 16;
            memcpy(&g->c->in.gpr[RAX], p, half);
            memcpy(&g->c->in.gpr[RDX], p + half, half);
        }
        return;
    case ZYDIS_MNEMONIC_CMPXCHG:
        if (random_chance(r, 50))
            memcpy(&g->c->in.gpr[RAX], p, o->size / 8);
        return;
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP: {
        uint64_t to = destination(g);
        memcpy(p, &to, o->size / 8);
        return;
    }
    default:
        break;
    }
    if (o->element_type == ZYDIS_ELEMENT_TYPE_FLOAT80 || o->element_type == ZYDIS_ELEMENT_TYPE_LONGBCD) {
        random_extended(r, p);
    } else if (o->element_type == ZYDIS_ELEMENT_TYPE_FLOAT64 && o->size == 64) {
        uint64_t v = random_double(r);
        memcpy(p, &v, 8);
    } else if (o->element_type == ZYDIS_ELEMENT_TYPE_FLOAT32 && o->size == 32) {
        uint32_t v = random_float(r);
        memcpy(p, &v, 4);
    } else if (random_chance(r, 60)) {
        random_vector(r, p, o->size / 8 <= 64 ? o->size / 8 : 64);
    }
}

static bool uses(const ZydisDecodedOperand *o, unsigned reg)
{
    return (is_gpr(o->mem.base) && (unsigned)ZydisRegisterGetId(o->mem.base) == reg) ||
           (is_gpr(o->mem.index) && (unsigned)ZydisRegisterGetId(o->mem.index) == reg);
}

static bool is_xsave(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return true;
    default:
        return false;
    }
}

static bool place_memory(struct generator *g)
{
    const ZydisDecodedOperand *o = NULL;
    for (unsigned n = 0; n < g->e.insn.operand_count && !o; n++)
        if (g->e.operand[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            g->e.operand[n].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
            (g->f->mem || g->e.operand[n].encoding != ZYDIS_OPERAND_ENCODING_NONE))
            o = &g->e.operand[n];
    if (!o || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return true;
    unsigned size = o->size / 8;
    if (size > 1024 || !size)
        size = g->f->mnemonic == ZYDIS_MNEMONIC_FXSAVE || g->f->mnemonic == ZYDIS_MNEMONIC_FXRSTOR ? 512 : 832;
    if (g->f->mnemonic == ZYDIS_MNEMONIC_BT || g->f->mnemonic == ZYDIS_MNEMONIC_BTS ||
        g->f->mnemonic == ZYDIS_MNEMONIC_BTR || g->f->mnemonic == ZYDIS_MNEMONIC_BTC) {
        // The register is a bit offset of either sign: it must stay near, and so can't be part of the address.
        const ZydisDecodedOperand *bit = &g->e.operand[1];
        if (bit->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            unsigned reg = (unsigned)ZydisRegisterGetId(bit->reg.value);
            if (uses(o, reg))
                return false;
            uint64_t width = bit->size == 64 ? ~0ull : (1ull << bit->size) - 1;
            g->c->in.gpr[reg] = (g->c->in.gpr[reg] & ~width) | ((random_below(&g->r, 4096) - 2048ull) & width);
        }
    }
    // RDX:RAX says which components: it can't be part of the address, which would ask for more than the model has.
    if (is_xsave(g->f->mnemonic) && (uses(o, RAX) || uses(o, RDX)))
        return false;
    uint64_t want = target(g, size);
    if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
        want = CASE_DATA + CASE_PAGE + random_below(&g->r, CASE_PAGE);
    uint8_t *p = window(g, want, size);
    if (p)
        put_operand(g, p, o);
    else if (g->e.insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
        want = CASE_DATA + CASE_WINDOW + random_below(&g->r, 64); // nowhere: no jump to random bytes
    if (!aim(g, o, want))
        return false;
    // A register that is both address and value has its value changed by that.
    return true;
}

static void string_operands(struct generator *g)
{
    uint64_t *gpr = g->c->in.gpr;
    struct random *r = &g->r;
    unsigned width = g->e.insn.address_width;
    uint64_t mask = width == 64 ? ~0ull : width == 32 ? 0xffffffff : 0xffff;
    uint64_t from = CASE_DATA + 64 + random_below(r, CASE_WRITABLE - 128),
             to = CASE_DATA + 64 + random_below(r, CASE_WRITABLE - 128);
    if (random_chance(r, 10))
        to = CASE_DATA + CASE_WRITABLE - random_below(r, 64);
    if (random_chance(r, 10))
        from = CASE_DATA + CASE_WINDOW - random_below(r, 64);
    if (random_chance(r, 15))
        to = from + random_below(r, 16); // overlapping
    gpr[RSI] = (gpr[RSI] & ~mask) | (from & mask);
    gpr[RDI] = (gpr[RDI] & ~mask) | (to & mask);
    gpr[RCX] = (gpr[RCX] & ~mask) | random_below(r, 40);
    uint8_t *a = window(g, from - 32, 96), *b = window(g, to - 32, 96);
    if (a && b && random_chance(r, 50)) {
        bool scan = g->f->category == ZYDIS_CATEGORY_STRINGOP && random_chance(r, 50);
        memmove(b, a, 96);
        if (scan)
            memset(b + 32 - 8, (int)(gpr[RAX] & 0xff), 16);
    }
}

static void stack_operands(struct generator *g)
{
    uint64_t *gpr = g->c->in.gpr, top;
    struct random *r = &g->r;
    top = CASE_DATA + CASE_PAGE + random_below(r, CASE_PAGE);
    if (random_chance(r, 85))
        top &= ~7ull;
    if (random_chance(r, 4))
        top = CASE_DATA + random_below(r, 40);
    else if (random_chance(r, 4))
        top = CASE_DATA + CASE_WRITABLE + random_below(r, 40);
    gpr[RSP] = top;
    if (g->f->mnemonic == ZYDIS_MNEMONIC_ENTER || g->f->mnemonic == ZYDIS_MNEMONIC_LEAVE)
        gpr[RBP] = CASE_DATA + CASE_PAGE + random_below(r, CASE_PAGE);
    uint8_t *p = window(g, top, 16);
    if (g->f->mnemonic == ZYDIS_MNEMONIC_RET) {
        uint64_t to = destination(g);
        if (p)
            memcpy(p, &to, 8);
        else
            gpr[RSP] = CASE_DATA + CASE_WINDOW + random_below(r, 64); // nowhere: no jump to random bytes
    }
    if (p && (g->f->mnemonic == ZYDIS_MNEMONIC_POPF || g->f->mnemonic == ZYDIS_MNEMONIC_POPFD ||
              g->f->mnemonic == ZYDIS_MNEMONIC_POPFQ))
        p[1] &= 0xfe; // a single step would trap, natively one instruction later
}

static bool jump_operands(struct generator *g)
{
    const ZydisDecodedOperand *o = &g->e.operand[0];
    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && g->f->category != ZYDIS_CATEGORY_RET) {
        g->c->in.gpr[ZydisRegisterGetId(o->reg.value)] = destination(g);
    } else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative) {
        // Not into the instruction itself.
        uint64_t to = g->c->in.rip + g->e.insn.length + (uint64_t)o->imm.value.s;
        if (!g->c->long64)
            to &= g->e.insn.operand_width == 16 ? 0xffff : 0xffffffff;
        if (to - g->c->in.rip < g->e.insn.length)
            return false;
    }
    if (random_chance(&g->r, 40))
        g->c->in.gpr[RCX] = (g->c->in.gpr[RCX] & ~0xffffffffull) | random_below(&g->r, 3);
    return true;
}

static bool adjust(struct generator *g)
{
    uint64_t *gpr = g->c->in.gpr;
    struct random *r = &g->r;
    if (is_xsave(g->f->mnemonic)) {
        // The host may have more components enabled than the model.
        gpr[RAX] = random_below(r, 8);
        gpr[RDX] = 0;
    }
    switch (g->f->mnemonic) {
    case ZYDIS_MNEMONIC_INT: {
        uint8_t n = g->e.bytes[g->e.imm_at];
        // Linux has a use for the first three; reserved vectors mean something to hosts that run in virtual machines.
        return n != 0x80 && n != 3 && n != 4 && (n < 0x15 || n > 0x1f);
    }
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        if (random_chance(r, 40))
            gpr[RDX] = 0;
        else if (random_chance(r, 40))
            gpr[RDX] = (uint64_t)((int64_t)gpr[RAX] >> 63);
        if (random_chance(r, 30))
            gpr[RAX] = (uint64_t)(int64_t)(int16_t)gpr[RAX];
        break;
    case ZYDIS_MNEMONIC_XLAT:
        gpr[RBX] = target(g, 1) - (gpr[RAX] & 0xff);
        break;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        gpr[RDI] = CASE_DATA + random_below(r, CASE_WRITABLE - 16);
        if (random_chance(r, 10)) {
            // What the mask leaves out may or may not fault: so here it leaves out nothing.
            unsigned mask = (unsigned)ZydisRegisterGetId(g->e.operand[1].reg.value);
            gpr[RDI] = CASE_DATA + CASE_WRITABLE - random_below(r, 17);
            memset(g->c->in.xsave + 160 + 16 * mask, 0xff, 16);
            memset(g->c->in.xsave + 32, 0xff, 128);
        }
        break;
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_VPCMPESTRI:
    case ZYDIS_MNEMONIC_VPCMPESTRM:
        for (unsigned n = RAX; n <= RDX; n += RDX - RAX)
            if (random_chance(r, 60))
                gpr[n] = random_below(r, 40) - 20ull;
        break;
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW: {
        static const uint16_t selector[] = {0,    3,    0x08, 0x10, 0x18, 0x1b, 0x20,
                                            0x23, 0x28, 0x2b, 0x30, 0x33, 0x88, 0xfffc};
        for (unsigned n = 0; n < 16; n++)
            gpr[n] = (gpr[n] & ~0xffffull) | selector[random_below(r, sizeof selector / sizeof *selector)];
        if (g->f->mem)
            return false; // the selector would lie in memory; the register form says the same
        break;
    }
    case ZYDIS_MNEMONIC_WRGSBASE:
        if (random_chance(r, 30))
            gpr[ZydisRegisterGetId(g->e.operand[0].reg.value)] |= 1ull << 63;
        break;
    case ZYDIS_MNEMONIC_CMPXCHG:
        if (!g->f->mem && random_chance(r, 50))
            gpr[RAX] = gpr[ZydisRegisterGetId(g->e.operand[0].reg.value) & 15];
        break;
    default:
        break;
    }
    return true;
}

static void registers(struct generator *g)
{
    struct case_registers *in = &g->c->in;
    struct random *r = &g->r;
    for (unsigned n = 0; n < 16; n++)
        in->gpr[n] = random_integer(r);
    if (random_chance(r, 30)) // equal operands
        in->gpr[random_below(r, 16)] = in->gpr[random_below(r, 16)];
    in->rip = CASE_CODE + 16 + random_below(r, CASE_PAGE - 32);
    in->gs_base = CASE_GS_BASE;
    in->rflags = 0x202 | (random_bits(r) & 0x8d5);
    if (random_chance(r, 40))
        in->rflags |= 1 << 10; // DF
    if (random_chance(r, 5))
        in->rflags |= 1 << 18; // AC
    if (random_chance(r, 10))
        in->rflags |= 1 << 21; // ID
    random_xsave(r, in->xsave);
}

bool case_generate(struct diff_case *c, const struct form *f, uint64_t seed)
{
    struct generator g = {.c = c, .f = f, .r = {.state = seed}};
    memset(&c->in, 0, sizeof c->in);
    c->long64 = f->long64;
    if (!encode_random(&g.e, f, &g.r))
        return false;
    registers(&g);
    fill_memory(&g);
    stack_operands(&g);
    if (f->category == ZYDIS_CATEGORY_STRINGOP || f->category == ZYDIS_CATEGORY_IOSTRINGOP)
        string_operands(&g);
    if (!adjust(&g) || !place_memory(&g))
        return false;
    if (g.e.insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && !jump_operands(&g))
        return false;
    if (!c->long64)
        for (unsigned n = 0; n < 16; n++)
            c->in.gpr[n] = n < 8 ? (uint32_t)c->in.gpr[n] : 0;
    memcpy(c->code, g.e.bytes, sizeof c->code);
    c->len = g.e.insn.length;
    return true;
}
