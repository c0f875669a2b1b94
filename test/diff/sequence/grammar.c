// What random programs are made of. See program.h.
//
// Half of the pieces are single instructions of random forms, whose memory operands have base registers that mostly
// point somewhere useful: the registers are divided into pointers, small indexes and values. The others are what
// translators do something special about: branches, calls and returns, all that moves RSP, string instructions, stores
// into code, page tables that change under the program, instructions of operating systems.
//
// Two engines must not be blamed for what is undefined: instructions that leave flags undefined are followed by one
// that sets them all, and what stores the addresses of x87 instructions is left out.
#include "maker.h"
#include <stdlib.h>

enum kind { GENERAL, LOCKED, VECTOR, X87, KINDS };

struct grammar {
    struct forms forms;
    const struct form **of[KINDS];
    unsigned count[KINDS];
};

// --- forms

static bool usable(const struct form *f, const struct cpu_model *model)
{
    if (form_excluded(f, model))
        return false;
    switch (f->category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
        return false;
    default:
        break;
    }
    switch (f->mnemonic) {
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LEAVE:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_STD:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
        return false;
    // Which flags an unmasked exception leaves in MXCSR, only the order of the processor's steps tells (../compare.c).
    case ZYDIS_MNEMONIC_DPPD:
    case ZYDIS_MNEMONIC_DPPS:
    case ZYDIS_MNEMONIC_VCVTPS2PH:
    case ZYDIS_MNEMONIC_VDPPD:
    case ZYDIS_MNEMONIC_VDPPS:
        return false;
    default:
        return !f->vsib;
    }
}

static enum kind kind_of(const struct form *f)
{
    for (unsigned n = 0; n < f->prefixes; n++)
        if (f->prefix[n] == 0xf0)
            return LOCKED;
    switch (f->isa_ext) {
    case ZYDIS_ISA_EXT_BASE:
    case ZYDIS_ISA_EXT_LONGMODE:
    case ZYDIS_ISA_EXT_PAUSE:
    case ZYDIS_ISA_EXT_BMI1:
    case ZYDIS_ISA_EXT_BMI2:
    case ZYDIS_ISA_EXT_LZCNT:
    case ZYDIS_ISA_EXT_ADOX_ADCX:
    case ZYDIS_ISA_EXT_MOVBE:
        return GENERAL;
    case ZYDIS_ISA_EXT_X87:
    case ZYDIS_ISA_EXT_MMX:
        return X87;
    default:
        return f->category == ZYDIS_CATEGORY_X87_ALU ? X87 : VECTOR;
    }
}

struct grammar *grammar_make(const struct cpu_model *model)
{
    struct grammar *g = calloc(1, sizeof *g);
    if (!g || !forms_enumerate(&g->forms, true)) {
        free(g);
        return NULL;
    }
    for (unsigned k = 0; k < KINDS; k++)
        g->of[k] = calloc(g->forms.count, sizeof(struct form *));
    for (size_t n = 0; n < g->forms.count; n++) {
        const struct form *f = &g->forms.form[n];
        enum kind k = kind_of(f);
        if (usable(f, model) && g->of[k])
            g->of[k][g->count[k]++] = f;
    }
    for (unsigned k = 0; k < KINDS; k++)
        if (!g->count[k]) {
            grammar_free(g);
            return NULL;
        }
    return g;
}

void grammar_free(struct grammar *g)
{
    for (unsigned k = 0; k < KINDS; k++)
        free(g->of[k]);
    forms_free(&g->forms);
    free(g);
}

// --- pieces

static void p_pointer(struct maker *m)
{
    e_mov_imm(&m->e, pointer(m), data_address(m));
}

static void p_index(struct maker *m)
{
    e_mov_imm(&m->e, one_of(m, m->indexes), (uint64_t)(int64_t)((int)below(m, 64) - (chance(m, 20) ? 32 : 0)));
}

static void p_value(struct maker *m)
{
    e_mov_imm(&m->e, value(m), random_integer(&m->r));
}

static void form(struct maker *m, enum kind kind)
{
    const struct form *f = m->g->of[kind][below(m, m->g->count[kind])];
    struct encode_choice c = {m->values, m->pointers, m->indexes};
    if (chance(m, 20))
        c.registers |= m->indexes;
    if (chance(m, 6))
        c.registers = 0xffff; // RSP, too
    if (chance(m, 12))
        c.bases |= 1 << CPU_RSP;
    if (chance(m, 2))
        c.bases = 0xffff;
    struct encoded e;
    for (unsigned attempt = 0; attempt < 8; attempt++) {
        if (!encode_chosen(&e, f, &m->r, &c))
            continue;
        bool segment = false;
        for (unsigned n = 0; n < e.insn.operand_count; n++)
            segment |= e.operand[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                       ZydisRegisterGetClass(e.operand[n].reg.value) == ZYDIS_REGCLASS_SEGMENT;
        if (segment)
            return;
        e_bytes(&m->e, e.bytes, e.len);
        uint32_t undefined = e.insn.cpu_flags ? e.insn.cpu_flags->undefined : 0;
        // Logical instructions clear AF everywhere.
        if (undefined && e.insn.meta.category != ZYDIS_CATEGORY_LOGICAL)
            all_flags(m);
        return;
    }
}

static void p_general(struct maker *m)
{
    form(m, GENERAL);
}

static void p_locked(struct maker *m)
{
    form(m, LOCKED);
}

static void p_vector(struct maker *m)
{
    form(m, VECTOR);
}

static void p_x87(struct maker *m)
{
    form(m, X87);
}

// An instruction that makes flags and one that uses them, with something in between that leaves them alone.
static void p_flags(struct maker *m)
{
    static const uint8_t make[] = {0x01, 0x29, 0x39, 0x11, 0x19, 0x21, 0x09, 0x31, 0x85};
    unsigned a = value(m), b = any(m), cond = below(m, 16);
    e8(&m->e, rex_for(1, b, NO_REG, a));
    e8(&m->e, make[below(m, sizeof make)]);
    e8(&m->e, 0xc0 | (b & 7) << 3 | (a & 7));
    if (chance(m, 60))
        e_op64(&m->e, chance(m, 50) ? 0x8b : 0x89, value(m), chance(m, 30) ? CPU_RSP : pointer(m), NO_REG, 1,
               (int)below(m, 64) - 16);
    switch (below(m, 5)) {
    case 0: // setcc
        e8(&m->e, rex_for(0, NO_REG, NO_REG, a));
        e8(&m->e, 0x0f);
        e8(&m->e, 0x90 | cond);
        e8(&m->e, 0xc0 | (a & 7));
        break;
    case 1: // cmovcc
        e8(&m->e, rex_for(1, a, NO_REG, b));
        e8(&m->e, 0x0f);
        e8(&m->e, 0x40 | cond);
        e8(&m->e, 0xc0 | (a & 7) << 3 | (b & 7));
        break;
    case 2: // adc
        rex_op(m, 0x83, 2, a);
        e8(&m->e, below(m, 256));
        break;
    case 3:
        e8(&m->e, 0x9f); // lahf
        break;
    default:
        near(m, 0x80 | cond, a_piece(m));
    }
}

static void p_string(struct maker *m)
{
    static const uint8_t op[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
    bool down = chance(m, 15);
    e_mov_imm(&m->e, CPU_RSI, data_address(m));
    e_mov_imm(&m->e, CPU_RDI, data_address(m));
    if (chance(m, 15))
        e_lea(&m->e, CPU_RDI, CPU_RSI, NO_REG, 1, (int)below(m, 32) - 16);
    e_mov_imm(&m->e, CPU_RCX, chance(m, 80) ? below(m, 40) : below(m, 900));
    if (down)
        e8(&m->e, 0xfd);
    if (chance(m, 70))
        e8(&m->e, chance(m, 70) ? 0xf3 : 0xf2);
    if (chance(m, 20))
        e8(&m->e, 0x66);
    if (chance(m, 40))
        e8(&m->e, 0x48);
    e8(&m->e, op[below(m, sizeof op)] | (chance(m, 60) ? 1 : 0));
    if (down)
        e8(&m->e, 0xfc);
}

static const struct {
    void (*make)(struct maker *m);
    uint8_t weight;
} makers[] = {
    {p_pointer, 14},     {p_index, 4},        {p_value, 4},
    {p_general, 24},     {p_locked, 3},       {p_vector, 12},
    {p_x87, 4},          {p_flags, 9},        {piece_branch, 8},
    {piece_loop, 4},     {piece_call, 7},     {piece_push_pop, 9},
    {piece_rsp, 10},     {p_string, 3},       {piece_patchable, 4},
    {piece_modify, 3},   {piece_remap, 2},    {piece_flags_register, 3},
    {piece_system, 4},   {piece_segment, 2},  {piece_edge, 3},
    {piece_block, 4},    {piece_bits, 3},     {piece_targets, 2},
    {piece_map_walk, 1}, {piece_map_read, 4}, {piece_map_change, 2},
};
enum { MAKERS = sizeof makers / sizeof *makers };

// --- programs

static void divide_registers(struct maker *m)
{
    uint8_t order[GPRS];
    for (unsigned n = 0; n < GPRS; n++) {
        unsigned k = below(m, n + 1);
        order[n] = order[k];
        order[k] = (uint8_t)n;
    }
    m->pointers = m->indexes = m->values = 0;
    for (unsigned n = 0; n < GPRS; n++) {
        if (order[n] == CPU_RSP)
            continue;
        uint16_t bit = (uint16_t)(1u << order[n]);
        if (__builtin_popcount(m->pointers) < 6)
            m->pointers |= bit;
        else if (__builtin_popcount(m->indexes) < 3)
            m->indexes |= bit;
        else
            m->values |= bit;
    }
}

static void make_setup(struct maker *m)
{
    static const uint64_t code[] = {0x400000, 0x7ffff0000, 0x5555555000, 0xffffffff81000000, 0xffff888000400000};
    static const uint64_t data[] = {0x600000, 0x7ff200000000, 0xffff888000000000, 0xffffc90000000000, 0x10000000};
    static const uint64_t stack[] = {0x7ffffffd0000, 0xffffc90000800000, 0x800000, 0xffff888100000000};
    struct setup *s = &m->p->setup;
    s->seed = random_bits(&m->r);
    s->user = chance(m, 40);
    s->smap = chance(m, 25);
    s->smep = chance(m, 25);
    s->write_protect = chance(m, 70);
    s->code_readonly = chance(m, 40);
    s->exact_flags = chance(m, 25);
    s->no_sse = chance(m, 4);
    s->code = code[below(m, sizeof code / sizeof *code)];
    s->alias = 0x20000000;
    s->data = data[below(m, sizeof data / sizeof *data)];
    s->stack = stack[below(m, sizeof stack / sizeof *stack)];
    s->good_rsp = chance(m, 60) ? s->stack + PAGE * (2 + below(m, 2)) + 8 * below(m, 64) - 256 : 0;
    s->faults = 24;
    s->interrupts = chance(m, 50) ? below(m, 8) : 0;
    s->start = chance(m, 50) ? below(m, PAGE) : PAGE - 1 - below(m, 200);
    for (unsigned n = 0; n < GPRS; n++)
        s->gpr[n] = m->pointers >> n & 1 ? data_address(m) : m->indexes >> n & 1 ? below(m, 64) : random_integer(&m->r);
    s->gpr[CPU_RSP] = stack_address(m);
    s->rflags = 2 | (random_bits(&m->r) & RFLAGS_STATUS) | (chance(m, 30) ? RFLAGS_IF : 0) |
                (chance(m, 20) ? RFLAGS_AC : 0) | (chance(m, 5) ? RFLAGS_IOPL : 0);
    random_xsave(&m->r, s->xsave);
    if (chance(m, 80)) { // exceptions are masked, and none is pending
        s->xsave[0] |= 0x3f;
        s->xsave[2] = 0;
        s->xsave[3] &= 0x7f;
        s->xsave[24] = 0x80;
        s->xsave[25] |= 0x1f;
    }
}

static void resolve_patches(struct maker *m)
{
    uint8_t patchable[MAX_PIECES];
    unsigned count = 0;
    for (unsigned n = 0; n < m->p->pieces; n++)
        if (m->p->piece[n].patch)
            patchable[count++] = (uint8_t)n;
    for (unsigned n = 0; n < m->p->pieces; n++) {
        struct piece *p = &m->p->piece[n];
        if (!p->refs || p->ref[0].more != PATCH)
            continue;
        if (!count) {
            p->gone = true;
            continue;
        }
        p->ref[0].target = patchable[below(m, count)];
        p->ref[0].more = m->p->piece[p->ref[0].target].patch;
    }
}

void program_make(struct program *p, const struct grammar *g, uint64_t seed)
{
    struct maker *m = &(struct maker){.p = p, .g = g, .r = {seed}};
    unsigned total = 0;
    memset(p, 0, sizeof *p);
    divide_registers(m);
    p->pieces = 8 + below(m, MAX_PIECES - 8);
    make_setup(m);
    for (unsigned n = 0; n < MAKERS; n++)
        total += makers[n].weight;
    for (unsigned n = 0; n < p->pieces; n++) {
        unsigned k = 0, at = below(m, total);
        for (; at >= makers[k].weight; k++)
            at -= makers[k].weight;
        m->piece = &p->piece[n];
        m->e = (struct emit){.p = m->piece->bytes, .end = m->piece->bytes + MAX_BYTES};
        makers[k].make(m);
        m->piece->len = (uint8_t)here(m);
        if (m->e.full)
            memset(m->piece, 0, sizeof *m->piece);
    }
    resolve_patches(m);
}
