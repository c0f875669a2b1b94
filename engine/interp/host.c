// From a decoded instruction to its canonical form, and the table of forms. See host.h for the idea.
//
// Example: `vaddps ymm9, ymm10, [r13+8]` is c4 41 2c 58 4d 08. Its canonical form is c4 e1 64 58 0f, `vaddps ymm1,
// ymm3, [rdi]`; the instruction keeps for itself that field REG is 9 and field VVVV is 10.
//
// What the host is made to execute is checked, not trusted: the canonical bytes are decoded again, in 64-bit mode, and
// must be the same instruction with operands of the same kinds and sizes.
#include "engine/interp/host.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool decode64(const uint8_t *bytes, size_t len, ZydisDecodedInstruction *d, ZydisDecodedOperand *o)
{
    ZydisDecoder decoder;
    return ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)) &&
           ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, d, o)) && d->length == len;
}

static bool is_ours(const ZydisDecodedInstruction *d)
{
    switch (d->meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87:
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_GFNI:
    case ZYDIS_ISA_EXT_VAES:
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_AVX_VNNI:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_F16C:
        return d->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY || d->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    default:
        return false;
    }
}

static unsigned slot_of(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_MMX:
        return SLOT_MMX;
    case ZYDIS_REGCLASS_XMM:
        return SLOT_XMM;
    case ZYDIS_REGCLASS_YMM:
        return SLOT_YMM;
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return SLOT_GPR;
    default:
        return SLOT_NONE;
    }
}

static int field_of(const ZydisDecodedOperand *o)
{
    switch (o->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        return FIELD_REG;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        return FIELD_RM;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        return FIELD_VVVV;
    case ZYDIS_OPERAND_ENCODING_IS4:
        return FIELD_IS4;
    default:
        return -1;
    }
}

// --- canonical bytes

struct canonical {
    uint8_t bytes[24];
    unsigned len;
    uint8_t reg[FIELDS]; // the guest's register numbers
};

static void canonicalize(const uint8_t *bytes, const ZydisDecodedInstruction *d, const ZydisDecodedOperand *o,
                         unsigned w, struct canonical *c)
{
    memset(c, 0, sizeof *c);
    bool mem = d->raw.modrm.mod != 3 && (d->attributes & ZYDIS_ATTRIB_HAS_MODRM);
    uint8_t reg = d->raw.modrm.reg, rm = mem ? 7 : d->raw.modrm.rm;
    unsigned vvvv = 0;
    bool is4 = false;
    for (unsigned n = 0; n < d->operand_count; n++) {
        int field = field_of(&o[n]);
        if (o[n].type != ZYDIS_OPERAND_TYPE_REGISTER || field < 0 || slot_of(o[n].reg.value) == SLOT_NONE)
            continue;
        c->reg[field] = (uint8_t)ZydisRegisterGetId(o[n].reg.value);
        uint8_t name = slot_of(o[n].reg.value) == SLOT_GPR ? 0 : (uint8_t)(field + 1);
        if (field == FIELD_REG)
            reg = name;
        else if (field == FIELD_RM)
            rm = name;
        else if (field == FIELD_VVVV)
            vvvv = name;
        else
            is4 = true;
    }
    if (d->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        c->bytes[c->len++] = 0xc4;
        c->bytes[c->len++] = 0xe0 | d->raw.vex.m_mmmm;
        c->bytes[c->len++] = (uint8_t)(w << 7 | (~vvvv & 15) << 3 | d->raw.vex.L << 2 | d->raw.vex.pp);
    } else {
        for (unsigned n = 0; n < d->raw.prefix_count; n++)
            if (d->raw.prefixes[n].type == ZYDIS_PREFIX_TYPE_MANDATORY)
                c->bytes[c->len++] = d->raw.prefixes[n].value;
        if (w)
            c->bytes[c->len++] = 0x48;
        if (d->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
            c->bytes[c->len++] = 0x0f;
        if (d->opcode_map == ZYDIS_OPCODE_MAP_0F38)
            c->bytes[c->len++] = 0x38;
        if (d->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
            c->bytes[c->len++] = 0x3a;
    }
    c->bytes[c->len++] = d->opcode;
    if (!(d->attributes & ZYDIS_ATTRIB_HAS_MODRM))
        return;
    c->bytes[c->len++] = (uint8_t)((mem ? 0 : 0xc0) | reg << 3 | rm);
    // Immediates are what follows ModRM, SIB and displacement.
    unsigned at = d->raw.modrm.offset + 1u + (d->attributes & ZYDIS_ATTRIB_HAS_SIB ? 1 : 0) + d->raw.disp.size / 8;
    for (; at < d->length; at++)
        c->bytes[c->len++] = is4 ? (FIELD_IS4 + 1) << 4 : bytes[at];
}

// True if the canonical instruction is the guest's.
static bool same(const ZydisDecodedInstruction *d, const ZydisDecodedOperand *o, const ZydisDecodedInstruction *cd,
                 const ZydisDecodedOperand *co)
{
    if (d->mnemonic != cd->mnemonic || d->operand_count_visible != cd->operand_count_visible ||
        d->meta.isa_set != cd->meta.isa_set)
        return false;
    for (unsigned n = 0; n < d->operand_count_visible; n++) {
        if (o[n].type != co[n].type || o[n].size != co[n].size || o[n].encoding != co[n].encoding ||
            o[n].actions != co[n].actions)
            return false;
        if (o[n].type == ZYDIS_OPERAND_TYPE_REGISTER && slot_of(o[n].reg.value) != slot_of(co[n].reg.value))
            return false;
        if (o[n].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o[n].imm.value.u != co[n].imm.value.u)
            return false;
    }
    return true;
}

static bool canonical_form(const ZydisDecodedInstruction *d, const ZydisDecodedOperand *o, const uint8_t *bytes,
                           struct canonical *c)
{
    unsigned w = d->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? d->raw.vex.W : d->raw.rex.W;
    bool wide = d->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
    // Outside of 64-bit mode VEX.W does not make a general register longer: it goes, unless it chooses the instruction.
    for (unsigned try = wide ? w : 0; try <= w; try++) {
        ZydisDecodedInstruction cd;
        ZydisDecodedOperand co[ZYDIS_MAX_OPERAND_COUNT];
        canonicalize(bytes, d, o, try, c);
        if (c->len <= HOST_BYTES && decode64(c->bytes, c->len, &cd, co) && same(d, o, &cd, co))
            return true;
    }
    return false;
}

// --- forms

static bool unaligned_allowed(const struct interp_host *h, ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return true;
    case ZYDIS_MNEMONIC_SHA1RNDS4: // the manuals ask for alignment here, AMD's processors don't
    case ZYDIS_MNEMONIC_SHA1NEXTE:
    case ZYDIS_MNEMONIC_SHA1MSG1:
    case ZYDIS_MNEMONIC_SHA1MSG2:
    case ZYDIS_MNEMONIC_SHA256RNDS2:
    case ZYDIS_MNEMONIC_SHA256MSG1:
    case ZYDIS_MNEMONIC_SHA256MSG2:
        return !h->intel;
    default:
        return false;
    }
}

static bool rounds_scalar(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_ROUNDSS || m == ZYDIS_MNEMONIC_ROUNDSD;
}

static bool explicitly_aligned(const ZydisDecodedInstruction *d)
{
    return d->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE1 ||
           d->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1;
}

// What an instruction does to a register that is not named by one of its fields. False if that can't be had.
static bool implied_register(struct host_form *f, const ZydisDecodedOperand *o)
{
    bool writes = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    switch (o->reg.value) {
    case ZYDIS_REGISTER_XMM0:
        f->xmm0 = true;
        f->xmm0_written = writes;
        return true;
    case ZYDIS_REGISTER_EAX:
    case ZYDIS_REGISTER_RAX:
        f->rax = true;
        return !writes;
    case ZYDIS_REGISTER_EDX:
    case ZYDIS_REGISTER_RDX:
        f->rdx = true;
        return !writes;
    case ZYDIS_REGISTER_ECX:
    case ZYDIS_REGISTER_RCX:
        f->rcx = true;
        return writes;
    case ZYDIS_REGISTER_RFLAGS:
        f->flags = true;
        return true;
    case ZYDIS_REGISTER_X87STATUS:
    case ZYDIS_REGISTER_MXCSR:
        return true;
    default:
        return ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_X87;
    }
}

// Fills everything but `run`. False if the host may not execute this.
static bool describe(const struct interp_host *h, struct host_form *f, const uint8_t *bytes, unsigned len)
{
    ZydisDecodedInstruction d;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    memset(f, 0, sizeof *f);
    if (len > HOST_BYTES || !decode64(bytes, len, &d, o) || !is_ours(&d))
        return false;
    memcpy(f->bytes, bytes, len);
    f->len = (uint8_t)len;
    f->vex = d.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    f->x87 = d.meta.isa_ext == ZYDIS_ISA_EXT_X87 || d.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT; // FISTTP came with SSE3
    if (f->x87)
        f->x87_opcode = (uint16_t)((d.opcode & 7) << 8);
    if (f->x87 && (d.opcode < 0xd8 || d.opcode > 0xdf || !(d.attributes & ZYDIS_ATTRIB_HAS_MODRM)))
        return false;
    bool vectors = f->x87;
    for (unsigned n = 0; n < d.operand_count; n++) {
        const ZydisDecodedOperand *p = &o[n];
        if (p->element_type >= ZYDIS_ELEMENT_TYPE_FLOAT16 && p->element_type <= ZYDIS_ELEMENT_TYPE_FLOAT64 && !f->x87)
            f->fp = true;
        if (p->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (p->mem.type != ZYDIS_MEMOP_TYPE_MEM || p->mem.base != ZYDIS_REGISTER_RDI ||
                p->mem.index != ZYDIS_REGISTER_NONE || p->mem.disp.value || !p->size || p->size > 256 || f->mem_size)
                return false;
            f->mem_size = (uint8_t)(p->size / 8);
            f->mem_read = p->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
            f->mem_write = p->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        } else if (p->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            int field = field_of(p);
            unsigned slot = slot_of(p->reg.value);
            if (field < 0 || slot == SLOT_NONE) {
                if (!implied_register(f, p))
                    return false;
                continue;
            }
            unsigned name = slot == SLOT_GPR ? 0 : (unsigned)field + 1;
            if ((unsigned)ZydisRegisterGetId(p->reg.value) != name)
                return false;
            f->slot[field] = (uint8_t)slot;
            if (p->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
                f->written |= (uint8_t)(1 << field);
            f->mmx |= slot == SLOT_MMX;
            f->sse |= slot == SLOT_XMM;
            vectors |= slot != SLOT_GPR;
        } else if (p->type != ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            return false;
        }
    }
    // Zydis calls the operands of these two integers.
    f->fp |= rounds_scalar(d.mnemonic);
    if (explicitly_aligned(&d)) {
        f->fp = false;
        f->align = f->mem_size;
        f->align_strict = true;
    } else if (!f->vex && f->mem_size == 16 && !unaligned_allowed(h, d.mnemonic)) {
        f->align = 16;
    }
    // Conversions to a general register may have no vector register but memory.
    return vectors || f->fp;
}

static bool make_stub(struct interp_host *h, struct host_form *f, void *at)
{
    uint8_t code[HOST_STUB_MAX];
    size_t len = host_stub_emit(f, code);
    void *p = len ? host_code_put(&h->code, code, len, at) : NULL;
    memcpy(&f->run, &p, sizeof p);
    return p != NULL;
}

static uint32_t *bucket_of(struct interp_host *h, const uint8_t *bytes, unsigned len)
{
    uint64_t key = 0;
    memcpy(&key, bytes, len);
    return &h->bucket[(key * 0x9e3779b97f4a7c15ull >> 32) & (h->buckets - 1)];
}

static const struct host_form *find(struct interp_host *h, const uint8_t *bytes, unsigned len)
{
    for (uint32_t n = *bucket_of(h, bytes, len); n; n = h->form[n - 1].next)
        if (h->form[n - 1].len == len && !memcmp(h->form[n - 1].bytes, bytes, len))
            return &h->form[n - 1];
    return NULL;
}

const struct host_form *host_form_passing(struct interp_host *h, const struct interp_insn *i)
{
    struct host_form *f = &h->passing;
    uint8_t bytes[HOST_BYTES];
    memcpy(bytes, &i->imm, sizeof bytes);
    if (f->run && f->len == i->ops && !memcmp(f->bytes, bytes, f->len))
        return f;
    // It was described successfully when it was decoded.
    if (!describe(h, f, bytes, i->ops) || !make_stub(h, f, h->code.exec))
        f->run = NULL;
    return f->run ? f : NULL;
}

interp_fn interp_host_handler(struct interp_vcpu *v, struct interp_insn *i, const uint8_t *bytes, const void *decoded,
                              const void *operands)
{
    const ZydisDecodedInstruction *d = decoded;
    const ZydisDecodedOperand *o = operands;
    struct interp_host *h = v->host;
    interp_fn fn = host_move_handler(i, d, o);
    if (!fn)
        fn = host_mask_handler(i, d, o);
    if (!fn)
        fn = host_env_handler(i);
    if (!fn)
        fn = host_xsave_handler(i);
    if (fn || !is_ours(d))
        return fn;

    struct canonical c;
    if (!canonical_form(d, o, bytes, &c))
        return NULL;
    const struct host_form *f = find(h, c.bytes, c.len);
    if (!f) {
        struct host_form new;
        if (!describe(h, &new, c.bytes, c.len))
            return NULL;
        if (h->forms < h->limit && make_stub(h, &new, NULL)) {
            uint32_t *bucket = bucket_of(h, c.bytes, c.len);
            new.next = *bucket;
            h->form[h->forms++] = new;
            *bucket = h->forms;
            f = &h->form[h->forms - 1];
        }
    }
    for (unsigned n = 0; n < FIELDS; n++)
        i->op[n].reg = c.reg[n];
    bool x87 = d->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && d->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    i->op[3].size = (uint8_t)(d->raw.modrm.mod << 6 | d->raw.modrm.reg << 3 | d->raw.modrm.rm); // for FOP
    i->stub = f;
    if (f)
        return x87 ? host_x87 : host_vector;
    // The table is full: the instruction carries its canonical bytes with it.
    i->imm = 0;
    memcpy(&i->imm, c.bytes, c.len);
    i->ops = (uint8_t)c.len;
    return x87 ? host_x87_passing : host_vector_passing;
}

int interp_host_create(struct interp_vcpu *v, struct error *err)
{
    struct interp_host *h = aligned_alloc(64, (sizeof *h + 63) & ~(size_t)63);
    if (!h)
        return error_set(err, ENOMEM, "no memory for a vCPU");
    memset(h, 0, sizeof *h);
    v->host = h;
    h->limit = HOST_FORMS;
    h->buckets = HOST_FORMS;
    h->form = calloc(h->limit, sizeof *h->form);
    h->bucket = calloc(h->buckets, sizeof *h->bucket);
    int r = h->form && h->bucket ? 0 : error_set(err, ENOMEM, "no memory for a vCPU");
    if (!r)
        r = host_code_create(&h->code, HOST_STUB_MAX * ((size_t)HOST_FORMS + 1), err);
    if (r) {
        interp_host_destroy(v);
        return r;
    }
    interp_host_forget(v);
    h->intel = v->model->vendor == CPU_VENDOR_INTEL;
    // Bit 17 (misaligned exception mask) where the model has it (AMD APM vol. 1, 4.2.2).
    h->mxcsr_mask = 0xffff | (cpu_model_has(v->model, 0x80000001, 0, 2, 7) ? MXCSR_MM : 0);
    return 0;
}

void interp_host_destroy(struct interp_vcpu *v)
{
    struct interp_host *h = v->host;
    if (!h)
        return;
    host_code_destroy(&h->code);
    free(h->form);
    free(h->bucket);
    free(h);
    v->host = NULL;
}

void interp_host_forget(struct interp_vcpu *v)
{
    struct interp_host *h = v->host;
    h->forms = 0;
    memset(h->bucket, 0, h->buckets * sizeof *h->bucket);
    h->code.used = HOST_STUB_MAX; // the first place is the passing stub's
}
