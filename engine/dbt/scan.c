// Decoding a block: what each instruction reads, writes and touches, and what is to be done with it.
//
// The rule is a whitelist: an instruction is copied only if it is on the list of innocuous.c and every operand that
// Zydis names, hidden ones too, is of a kind known to be harmless (general-purpose and vector registers, flags,
// immediates, one explicit memory operand). All others go to the interpreter.
#include "engine/dbt/translate.h"
#include "engine/interp/decode.h"

enum { MAX_SIDE_EXITS = 4, MIN_SCRATCH = 2 };

static int gpr_number(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR64:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR16:
        return ZydisRegisterGetId(r);
    case ZYDIS_REGCLASS_GPR8:
        switch (r) {
        case ZYDIS_REGISTER_AH:
        case ZYDIS_REGISTER_CH:
        case ZYDIS_REGISTER_DH:
        case ZYDIS_REGISTER_BH:
            return r - ZYDIS_REGISTER_AH;
        default:
            return r < ZYDIS_REGISTER_AH ? r - ZYDIS_REGISTER_AL : r - ZYDIS_REGISTER_SPL + 4;
        }
    default:
        return -1;
    }
}

static uint8_t flags_of(ZydisAccessedFlagsMask m)
{
    return (uint8_t)((m & ZYDIS_CPUFLAG_CF ? FLAG_CF : 0) | (m & ZYDIS_CPUFLAG_PF ? FLAG_PF : 0) |
                     (m & ZYDIS_CPUFLAG_AF ? FLAG_AF : 0) | (m & ZYDIS_CPUFLAG_ZF ? FLAG_ZF : 0) |
                     (m & ZYDIS_CPUFLAG_SF ? FLAG_SF : 0) | (m & ZYDIS_CPUFLAG_OF ? FLAG_OF : 0));
}

static void scan_memory(struct dbt_insn *i, const ZydisDecodedOperand *o)
{
    struct dbt_mem *m = &i->mem;
    m->present = true;
    m->size = o->size / 8;
    m->read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    m->write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    m->addr32 = i->z.address_width == 32;
    m->base = m->index = NO_REG;
    m->scale = 1;
    m->disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    // A SIB byte with base 5 and ModRM.mod 0 means a displacement and no base. With 32-bit addresses Zydis 4.0 forgets
    // that if REX.B is set.
    bool no_base = (i->z.attributes & ZYDIS_ATTRIB_HAS_SIB) && !i->z.raw.modrm.mod && i->z.raw.sib.base == 5;
    if (no_base)
        m->disp = i->z.raw.disp.value;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP) {
        m->rip_relative = true;
        m->disp += (int64_t)(i->rip + i->len);
        if (m->addr32)
            m->disp = (uint32_t)m->disp;
    } else if (o->mem.base != ZYDIS_REGISTER_NONE && !no_base) {
        m->base = (uint8_t)gpr_number(o->mem.base);
    }
    if (o->mem.index != ZYDIS_REGISTER_NONE && gpr_number(o->mem.index) >= 0) {
        m->index = (uint8_t)gpr_number(o->mem.index);
        m->scale = o->mem.scale ? o->mem.scale : 1;
    }
    m->seg = o->mem.segment == ZYDIS_REGISTER_FS ? CPU_FS : o->mem.segment == ZYDIS_REGISTER_GS ? CPU_GS : 0;
    if (m->base != NO_REG)
        i->used |= 1u << m->base;
    if (m->index != NO_REG)
        i->used |= 1u << m->index;
}

// General-purpose instructions may always be executed; all others only where the guest's vector and x87 state is at
// hand and allowed. (Some of them have no operand that would tell: FNINIT, FLD1.)
static bool needs_fpu(const ZydisDecodedInstruction *z)
{
    switch (z->meta.isa_ext) {
    case ZYDIS_ISA_EXT_BASE:
    case ZYDIS_ISA_EXT_LONGMODE:
    case ZYDIS_ISA_EXT_PAUSE:
    case ZYDIS_ISA_EXT_BMI1:
    case ZYDIS_ISA_EXT_BMI2:
    case ZYDIS_ISA_EXT_LZCNT:
    case ZYDIS_ISA_EXT_ADOX_ADCX:
    case ZYDIS_ISA_EXT_MOVBE:
        return false;
    default:
        return true;
    }
}

// Collects operands. False: something is among them that cannot be copied.
static bool scan_operands(struct dbt_insn *i)
{
    bool fine = true;
    i->fpu = needs_fpu(&i->z);
    for (unsigned k = 0; k < i->z.operand_count; k++) {
        const ZydisDecodedOperand *o = &i->op[k];
        if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            continue;
        if (o->type == ZYDIS_OPERAND_TYPE_POINTER) {
            fine = false;
            continue;
        }
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            bool explicit =
                o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
            if (!explicit || i->mem.present || o->mem.type == ZYDIS_MEMOP_TYPE_VSIB ||
                o->mem.type == ZYDIS_MEMOP_TYPE_MIB)
                fine = false;
            else
                scan_memory(i, o);
            continue;
        }
        ZydisRegister r = o->reg.value;
        int n = gpr_number(r);
        if (n >= 0) {
            i->used |= 1u << n;
            if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
                i->written |= 1u << n;
            if (n == CPU_RSP)
                i->rsp_operand = true;
            continue;
        }
        switch (ZydisRegisterGetClass(r)) {
        case ZYDIS_REGCLASS_FLAGS:
            break;
        case ZYDIS_REGCLASS_X87:
        case ZYDIS_REGCLASS_MMX:
        case ZYDIS_REGCLASS_XMM:
        case ZYDIS_REGCLASS_YMM:
            break;
        default:
            fine &= r == ZYDIS_REGISTER_MXCSR || r == ZYDIS_REGISTER_X87CONTROL || r == ZYDIS_REGISTER_X87STATUS ||
                    r == ZYDIS_REGISTER_X87TAG || r == ZYDIS_REGISTER_RIP;
        }
    }
    return fine;
}

static void scan_flags(struct dbt_insn *i)
{
    const ZydisAccessedFlags *f = i->z.cpu_flags;
    if (!f)
        return;
    i->flags_read = flags_of(f->tested);
    i->flags_written = flags_of(f->modified | f->set_0 | f->set_1 | f->undefined);
    switch (i->z.mnemonic) {
    // Of the flags that the manuals leave undefined, processors leave these as they were (seen on AMD's Zen 5).
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        i->flags_written = flags_of(f->modified | f->set_0 | f->set_1);
        break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        i->flags_written &= ~(FLAG_CF | FLAG_OF);
        break;
    case ZYDIS_MNEMONIC_LZCNT:
    case ZYDIS_MNEMONIC_TZCNT:
        i->flags_written &= ~FLAG_OF;
        break;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        i->flags_conditional = true; // a count of zero leaves them alone
        break;
    default:
        break;
    }
}

static bool is_skipped(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
        return true;
    default:
        return false;
    }
}

// ADD/SUB RSP, imm and LEA RSP, [RSP+imm]: the amount, if it is small enough to stay near the stack window. 0 for
// anything else.
static int32_t constant_rsp_change(const struct dbt_insn *i)
{
    enum { MOST = 1 << 20 };
    int64_t change = 0;
    const ZydisDecodedOperand *a = &i->op[0], *b = &i->op[1];
    if (i->z.operand_count_visible != 2 || a->type != ZYDIS_OPERAND_TYPE_REGISTER || a->reg.value != ZYDIS_REGISTER_RSP)
        return 0;
    if (i->z.mnemonic == ZYDIS_MNEMONIC_LEA) {
        if (b->mem.base == ZYDIS_REGISTER_RSP && b->mem.index == ZYDIS_REGISTER_NONE && i->z.address_width == 64)
            change = b->mem.disp.value;
    } else if (b->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        if (i->z.mnemonic == ZYDIS_MNEMONIC_ADD)
            change = b->imm.value.s;
        if (i->z.mnemonic == ZYDIS_MNEMONIC_SUB)
            change = -b->imm.value.s;
    }
    return change >= -MOST && change <= MOST ? (int32_t)change : 0;
}

static void classify_stack(struct dbt_insn *i)
{
    const ZydisDecodedOperand *a = &i->op[0];
    bool push = i->z.mnemonic == ZYDIS_MNEMONIC_PUSH;
    bool wide = i->z.operand_width == 64 && i->z.address_width == 64;
    i->used |= 1u << CPU_RSP;
    i->written |= 1u << CPU_RSP;
    bool plain = a->type == ZYDIS_OPERAND_TYPE_IMMEDIATE || a->type == ZYDIS_OPERAND_TYPE_MEMORY ||
                 (a->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_number(a->reg.value) >= 0);
    bool odd = !push && (i->mem.present || a->reg.value == ZYDIS_REGISTER_RSP);
    if (wide && !push && a->reg.value == ZYDIS_REGISTER_RSP) {
        i->class = CLASS_POP_RSP;
        i->rsp_unknown = true;
        return;
    }
    if (!wide || !plain || odd) {
        i->class = CLASS_STEP;
        return;
    }
    i->class = push ? CLASS_PUSH : CLASS_POP;
    i->rsp_change = push ? -8 : 8;
    i->rsp_operand = push && a->type == ZYDIS_OPERAND_TYPE_REGISTER && a->reg.value == ZYDIS_REGISTER_RSP;
}

static void classify_branch(struct dbt_insn *i)
{
    const ZydisDecodedOperand *a = &i->op[0];
    bool relative = a->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && a->imm.is_relative;
    if (relative)
        i->target = i->rip + i->len + (uint64_t)a->imm.value.s;
    // A target on the other side of the canonical boundary raises #GP at the branch.
    bool far = i->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || i->z.operand_width != 64 ||
               (relative && (i->target ^ i->rip) >> 47);
    i->class = CLASS_STEP;
    switch (i->z.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
        if (i->z.mnemonic == ZYDIS_MNEMONIC_JRCXZ && !far)
            i->class = CLASS_JRCXZ;
        else if (i->z.mnemonic != ZYDIS_MNEMONIC_JECXZ && i->z.mnemonic != ZYDIS_MNEMONIC_JCXZ &&
                 i->z.mnemonic != ZYDIS_MNEMONIC_LOOP && i->z.mnemonic != ZYDIS_MNEMONIC_LOOPE &&
                 i->z.mnemonic != ZYDIS_MNEMONIC_LOOPNE && !far)
            i->class = CLASS_JCC;
        i->cond = i->z.opcode & 15;
        break;
    case ZYDIS_CATEGORY_UNCOND_BR:
        if (!far)
            i->class = relative ? CLASS_JMP : CLASS_JMP_INDIRECT;
        break;
    case ZYDIS_CATEGORY_CALL:
        if (!far) {
            i->class = relative ? CLASS_CALL : CLASS_CALL_INDIRECT;
            i->rsp_change = -8;
            i->used |= 1u << CPU_RSP;
        }
        break;
    case ZYDIS_CATEGORY_RET:
        if (!far && i->z.mnemonic == ZYDIS_MNEMONIC_RET) {
            i->class = CLASS_RET;
            i->rsp_change = 8;
            i->used |= 1u << CPU_RSP;
        }
        break;
    default:
        break;
    }
    i->rsp_operand = !relative && a->type == ZYDIS_OPERAND_TYPE_REGISTER && i->class != CLASS_RET &&
                     gpr_number(a->reg.value) == CPU_RSP;
    if (i->rsp_operand)
        i->class = CLASS_STEP;
}

static bool is_bit_string(const struct dbt_insn *i)
{
    switch (i->z.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return i->mem.present && i->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    default:
        return false;
    }
}

// A cell takes them as they are. What is rare is left out.
static bool bit_string_can(const struct dbt_translation *t, const struct dbt_insn *i)
{
    return t->key & DBT_KEY_CELL ||
           (!(t->key & DBT_KEY_SPLIT) && i->z.operand_width != 16 && !i->mem.addr32 && !i->mem.seg && !i->rsp_operand);
}

static void classify(struct dbt_translation *t, struct dbt_insn *i)
{
    const ZydisDecodedInstruction *z = &i->z;
    bool copyable = scan_operands(i);
    scan_flags(i);
    i->class = CLASS_STEP;
    if (!decoder_allows(t->v->i.decoder, z))
        return;
    if (is_skipped(z)) {
        i->class = CLASS_SKIP;
        i->mem.present = false;
        i->used = i->written = 0;
        return;
    }
    if (z->mnemonic == ZYDIS_MNEMONIC_PUSH || z->mnemonic == ZYDIS_MNEMONIC_POP) {
        classify_stack(i);
        return;
    }
    if (dbt_sensitive_is(t, i)) {
        i->class = CLASS_SENSITIVE;
        i->used = i->written = 0;
        i->flags_written = 0;
        i->flags_read = 0;
        i->mem.present = false;
        i->used |= dbt_sensitive_registers(i, &i->written);
        if (z->mnemonic == ZYDIS_MNEMONIC_SYSCALL)
            i->flags_read = FLAGS_ALL;
        if (z->mnemonic == ZYDIS_MNEMONIC_PUSHFQ) {
            i->flags_read = FLAGS_ALL;
            i->rsp_change = -8;
            i->used = i->written = 1u << CPU_RSP;
        }
        return;
    }
    uint16_t used, written;
    if (dbt_string_is(t, i, &used, &written)) {
        i->class = CLASS_STRING;
        i->used = used;
        i->written = written;
        i->mem.present = false;
        return;
    }
    if (z->mnemonic == ZYDIS_MNEMONIC_LEAVE && z->operand_width == 64) {
        i->class = CLASS_LEAVE;
        i->used |= 1u << CPU_RSP | 1u << CPU_RBP;
        i->written |= 1u << CPU_RSP | 1u << CPU_RBP;
        i->rsp_unknown = true;
        return;
    }
    switch (z->meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
        classify_branch(i);
        return;
    default:
        break;
    }
    if (!dbt_innocuous(z) || !copyable || (i->fpu && !(t->key & DBT_KEY_FPU)))
        return;
    i->bit_string = is_bit_string(i);
    if (i->bit_string && !bit_string_can(t, i))
        return;
    i->rsp_change = constant_rsp_change(i);
    if (i->rsp_change) {
        i->class = CLASS_RSP_ADD;
        return;
    }
    i->rsp_unknown = i->written & 1u << CPU_RSP;
    if (z->mnemonic == ZYDIS_MNEMONIC_LEA) {
        i->class = CLASS_LEA;
        return;
    }
    if (i->mem.present && (!i->mem.size || i->mem.size > 512 || !dbt_copy_can(i)))
        return;
    if (i->rsp_operand && !dbt_copy_can(i))
        return;
    i->class = CLASS_COPY;
}

static bool ends_block(const struct dbt_insn *i)
{
    switch (i->class) {
    case CLASS_JMP:
    case CLASS_CALL:
    case CLASS_RET:
    case CLASS_JMP_INDIRECT:
    case CLASS_CALL_INDIRECT:
    case CLASS_STEP:
        return true;
    case CLASS_SENSITIVE:
        return dbt_sensitive_ends_block(i);
    default:
        return false;
    }
}

// Going backwards: which flags does somebody still need? Everything that leaves the block may need all of them. Where
// instructions are counted the state is to be right after each of them, so every flag is needed.
static void find_live_flags(struct dbt_translation *t)
{
    uint8_t live = FLAGS_ALL;
    for (unsigned k = t->count; k-- > 0;) {
        struct dbt_insn *i = &t->insn[k];
        if (t->key & DBT_KEY_ALONE || ends_block(i) || i->class == CLASS_JCC || i->class == CLASS_JRCXZ)
            live = FLAGS_ALL;
        i->flags_live_out = live;
        if (i->class == CLASS_STEP)
            live = FLAGS_ALL; // some read flags in ways of their own (SYSCALL), or leave them as they were (REP CMPS)
        else if (i->flags_conditional)
            live |= i->flags_read; // and whatever was there may stay
        else
            live = (uint8_t)((live & ~i->flags_written) | i->flags_read);
        i->flags_live_in = t->key & DBT_KEY_ALONE ? FLAGS_ALL : live;
    }
}

// The block has a way out at the instruction, and may go on.
static bool may_leave(const struct dbt_insn *i)
{
    return i->class == CLASS_JCC || i->class == CLASS_JRCXZ || i->class == CLASS_STRING ||
           i->z.mnemonic == ZYDIS_MNEMONIC_STI;
}

void dbt_scan(struct dbt_translation *t, uint64_t rip, const uint8_t *code, unsigned available, unsigned most)
{
    unsigned at = 0, scratch = MIN_SCRATCH;
    t->count = t->side_exits = 0;
    t->used = t->written = 0;
    t->rip = rip;
    t->ends_open = true;
    if (available > sizeof t->bytes)
        available = sizeof t->bytes;
    memcpy(t->bytes, code, available);
    while (t->count < most && t->count < DBT_MAX_INSNS) {
        struct dbt_insn *i = &t->insn[t->count];
        memset(i, 0, offsetof(struct dbt_insn, z));
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(t->decoder, t->bytes + at, available - at, &i->z, i->op)))
            break; // over the page's edge, or no instruction: the interpreter will say
        i->rip = rip + at;
        i->bytes = t->bytes + at;
        i->len = i->z.length;
        classify(t, i);
        uint16_t used = t->used | i->used;
        unsigned taken = (unsigned)__builtin_popcount(used | 1u << CPU_RSP);
        // RSP as an operand beside one in memory takes a register more.
        if (i->class == CLASS_COPY && i->rsp_operand && i->mem.present)
            scratch = MIN_SCRATCH + 1;
        if (taken > CPU_GPR_COUNT - scratch && !(t->key & DBT_KEY_CELL))
            break;
        if (i->class == CLASS_STEP && t->count)
            break; // it begins a block of its own, so that the one before is complete
        t->used = used;
        t->written |= i->written;
        t->count++;
        at += i->len;
        if (ends_block(i)) {
            t->ends_open = false;
            break;
        }
        if (may_leave(i) && ++t->side_exits == MAX_SIDE_EXITS)
            break;
    }
    find_live_flags(t);
}
