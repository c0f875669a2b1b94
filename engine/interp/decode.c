// Decoding: from bytes to struct interp_insn, once per cached instruction.
//
// Zydis knows the encodings; what it leaves to us is legality that depends on the CPU model (instruction sets,
// isa.c) and a few encodings that mean something else on a CPU without a feature (LZCNT is BSR, ENDBR is NOP),
// which are decoder modes set from the model.
//
// Bytes that are no instruction decode, too: to one whose handler raises #UD, or #GP(0) when it would be longer than 15
// bytes.
//
// Example: "48 03 47 08" in 64-bit mode: fn = add, 8 bytes, register from memory; op[0] = {REG, 8, RAX}, op[1] = {MEM,
// 8}; seg DS, base RDI, no index, disp 8.
#include "engine/interp/decode.h"
#include "engine/interp/isa.h"
#include <Zydis/Zydis.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 15 };

struct interp_decoder {
    ZydisDecoder mode[MODE_LONG64 + 1];
    bool allowed[ZYDIS_ISA_SET_MAX_VALUE + 1];
    bool amd; // the model's vendor
};

int decoder_create(const struct cpu_model *m, struct interp_decoder **out, struct error *err)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[] = {
        [MODE_REAL] = {ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16},
        [MODE_PROT16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
        [MODE_PROT32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [MODE_COMPAT16] = {ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16},
        [MODE_COMPAT32] = {ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32},
        [MODE_LONG64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
    };
    struct interp_decoder *d = calloc(1, sizeof *d);
    if (!d)
        return error_set(err, ENOMEM, "decoder: no memory");
    for (unsigned n = 0; n <= ZYDIS_ISA_SET_MAX_VALUE; n++)
        d->allowed[n] = isa_allows(m, n);
    d->amd = m->vendor == CPU_VENDOR_AMD;
    bool wbnoinvd = cpu_model_has(m, 0x80000008, 0, 1, 9);
    for (unsigned n = 0; n <= MODE_LONG64; n++) {
        ZydisDecoder *z = &d->mode[n];
        ZydisDecoderInit(z, modes[n].machine, modes[n].stack);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_AMD_BRANCHES, d->amd);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_LZCNT, d->allowed[ZYDIS_ISA_SET_LZCNT]);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_TZCNT, d->allowed[ZYDIS_ISA_SET_BMI1]);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_WBNOINVD, wbnoinvd);
    }
    *out = d;
    return 0;
}

const ZydisDecoder *decoder_zydis(const struct interp_decoder *d, enum interp_mode mode)
{
    return &d->mode[mode];
}

void decoder_destroy(struct interp_decoder *d)
{
    free(d);
}

static enum interp_result undefined(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    return interp_ud(v);
}

static enum interp_result too_long(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    return interp_gp(v, 0);
}

// --- operands

static void operand_reg(struct interp_operand *o, ZydisRegister r)
{
    o->kind = OPERAND_REG;
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8: { // AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B ...
        unsigned n = r - ZYDIS_REGISTER_AL;
        o->high = n >= 4 && n < 8;
        o->reg = n < 4 ? n : n - 4;
        break;
    }
    case ZYDIS_REGCLASS_GPR16:
        o->reg = r - ZYDIS_REGISTER_AX;
        break;
    case ZYDIS_REGCLASS_GPR32:
        o->reg = r - ZYDIS_REGISTER_EAX;
        break;
    case ZYDIS_REGCLASS_GPR64:
        o->reg = r - ZYDIS_REGISTER_RAX;
        break;
    case ZYDIS_REGCLASS_SEGMENT:
        o->kind = OPERAND_SEG;
        o->reg = r - ZYDIS_REGISTER_ES;
        break;
    case ZYDIS_REGCLASS_CONTROL:
        o->kind = OPERAND_CR;
        o->reg = r - ZYDIS_REGISTER_CR0;
        break;
    case ZYDIS_REGCLASS_DEBUG:
        o->kind = OPERAND_DR;
        o->reg = r - ZYDIS_REGISTER_DR0;
        break;
    default:
        o->kind = OPERAND_OTHER;
    }
}

// Number of an address register, whatever its width.
static uint8_t address_reg(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR16:
        return r - ZYDIS_REGISTER_AX;
    case ZYDIS_REGCLASS_GPR32:
        return r - ZYDIS_REGISTER_EAX;
    case ZYDIS_REGCLASS_GPR64:
        return r - ZYDIS_REGISTER_RAX;
    case ZYDIS_REGCLASS_IP:
        return INSN_RIP;
    default: // none, EIZ/RIZ, vector (VSIB: host*.c)
        return INSN_NONE;
    }
}

static void memory(struct interp_insn *i, const ZydisDecodedOperandMem *m)
{
    i->seg =
        m->segment >= ZYDIS_REGISTER_ES && m->segment <= ZYDIS_REGISTER_GS ? m->segment - ZYDIS_REGISTER_ES : CPU_DS;
    i->base = address_reg(m->base);
    i->index = address_reg(m->index);
    i->scale = m->scale;
    i->disp = m->disp.has_displacement ? m->disp.value : 0;
}

// What the operand list of an instruction leaves unsaid: string instructions, PUSH and the like have only hidden memory
// operands. The one that a segment prefix can apply to is the one that has rSI or rBX as its base.
static void hidden_memory(struct interp_insn *i, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
    for (unsigned n = z->operand_count_visible; n < z->operand_count; n++) {
        if (op[n].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        uint8_t base = address_reg(op[n].mem.base);
        if (base == CPU_RSI || base == CPU_RBX || i->base == INSN_NONE)
            memory(i, &op[n].mem);
    }
}

static void operands(struct interp_insn *i, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
    bool mem = false, imm = false, disp = false; // seen; disp: `disp` holds something else than a displacement
    i->base = i->index = INSN_NONE;
    i->seg = CPU_DS;
    for (unsigned n = 0; n < z->operand_count_visible && n < 4; n++) {
        struct interp_operand *o = &i->op[n];
        o->size = op[n].size / 8;
        i->ops = n + 1;
        switch (op[n].type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            operand_reg(o, op[n].reg.value);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            o->kind = OPERAND_MEM;
            if (!mem || address_reg(op[n].mem.base) == CPU_RSI)
                memory(i, &op[n].mem);
            // A SIB byte with base 5 and ModRM.mod 0 means a displacement and no base. With 32-bit addresses Zydis 4.0
            // forgets that if REX.B is set.
            if ((z->attributes & ZYDIS_ATTRIB_HAS_SIB) && !z->raw.modrm.mod && z->raw.sib.base == 5) {
                i->base = INSN_NONE;
                i->disp = z->raw.disp.value;
            }
            mem = true;
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            o->kind = OPERAND_IMM;
            disp |= imm;
            if (imm)
                i->disp = op[n].imm.value.u;
            else
                i->imm = op[n].imm.is_signed ? op[n].imm.value.s : (int64_t)op[n].imm.value.u;
            imm = true;
            break;
        case ZYDIS_OPERAND_TYPE_POINTER:
            o->kind = OPERAND_IMM;
            i->imm = op[n].ptr.offset;
            i->disp = op[n].ptr.segment;
            disp = true;
            break;
        default:
            o->kind = OPERAND_NONE;
        }
    }
    if (!mem && !disp)
        hidden_memory(i, z, op);
}

// REP counts for string instructions only, and F2 does the same as F3 where there is no condition to differ in. The
// last of the two wins.
static uint8_t repeat_prefix(const ZydisDecodedInstruction *z)
{
    uint8_t rep = 0;
    if (z->meta.category == ZYDIS_CATEGORY_STRINGOP || z->meta.category == ZYDIS_CATEGORY_IOSTRINGOP)
        for (unsigned n = 0; n < z->raw.prefix_count; n++)
            if (z->raw.prefixes[n].value == 0xf2 || z->raw.prefixes[n].value == 0xf3)
                rep = z->raw.prefixes[n].value;
    return rep;
}

// VMCALL and VMMCALL are hypercalls for any guest.
bool decoder_allows(const struct interp_decoder *d, const ZydisDecodedInstruction *z)
{
    if (z->mnemonic == ZYDIS_MNEMONIC_VMCALL || z->mnemonic == ZYDIS_MNEMONIC_VMMCALL)
        return true;
    // PREFETCH of a register is reserved: a NOP for Intel, #UD for AMD.
    if (z->meta.isa_set == ZYDIS_ISA_SET_PREFETCH_NOP && z->raw.modrm.mod == 3 && d->amd)
        return false;
    return d->allowed[z->meta.isa_set];
}

static bool ends_block(const ZydisDecodedInstruction *z)
{
    switch (z->meta.category) {
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
        return true;
    default:
        return z->mnemonic == ZYDIS_MNEMONIC_HLT;
    }
}

// How many bytes it takes to know that they are no instruction. If one of them changes, they may become one.
static uint8_t bytes_enough(const ZydisDecoder *d, const uint8_t *bytes, unsigned available)
{
    ZydisDecodedInstruction z;
    unsigned n = 1;
    while (n < available && ZydisDecoderDecodeInstruction(d, NULL, bytes, n, &z) == ZYDIS_STATUS_NO_MORE_DATA)
        n++;
    return (uint8_t)n;
}

bool decode_insn(struct interp_vcpu *v, const uint8_t *bytes, unsigned available, struct interp_insn *out, bool *last)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    const struct interp_decoder *d = v->decoder;
    if (available > LONGEST)
        available = LONGEST;
    *out = (struct interp_insn){.fn = undefined, .len = 1};
    *last = true;
    ZyanStatus r = ZydisDecoderDecodeFull(&d->mode[v->mode], bytes, available, &z, op);
    if (r == ZYDIS_STATUS_DECODING_ERROR && v->mode == MODE_REAL) {
        // To Zydis these two exist in protected mode only; to a processor, in real mode they raise #GP.
        r = ZydisDecoderDecodeFull(&d->mode[MODE_PROT16], bytes, available, &z, op);
        if (ZYAN_SUCCESS(r) && z.mnemonic != ZYDIS_MNEMONIC_SYSENTER && z.mnemonic != ZYDIS_MNEMONIC_SYSEXIT)
            r = ZYDIS_STATUS_DECODING_ERROR;
    }
    if (r == ZYDIS_STATUS_NO_MORE_DATA) {
        if (available < LONGEST)
            return false;
        out->fn = too_long;
        return true;
    }
    if (ZYAN_FAILED(r)) {
        if (r == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
            out->fn = too_long;
        out->len = bytes_enough(&d->mode[v->mode], bytes, available);
        return true;
    }
    out->len = z.length;
    if (!decoder_allows(d, &z))
        return true;
    out->mnemonic = z.mnemonic;
    out->opsize = z.operand_width / 8;
    out->addrsize = z.address_width / 8;
    out->lock = (z.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
    out->rep = repeat_prefix(&z);
    out->cond = z.opcode & 15;
    out->far = z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    operands(out, &z, op);
    interp_fn fn = interp_gp_handler(out);
    if (!fn)
        fn = interp_system_handler(out);
    if (!fn)
        fn = interp_host_handler(v, out, bytes, &z, op);
    if (fn) {
        out->fn = fn;
        *last = ends_block(&z);
    }
    return true;
}

void interp_decode(struct interp_vcpu *v, const uint8_t *bytes, unsigned available, struct interp_insn *out)
{
    bool last;
    decode_insn(v, bytes, available, out, &last);
}
