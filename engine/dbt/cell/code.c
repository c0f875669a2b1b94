// Translating for a cell (cell.h): guest code byte for byte, except for its ways out.
//
// Blocks grow into traces: where the code goes on, the next block is written behind, without a jump. Exits that lead
// nowhere yet jump to stubs and wait, by target; when that is translated they are patched.
//
// Nothing that is added touches flags. An indirect jump goes
//     mov gs:[spill0], rcx;  rcx = target;  mov gs:[target], rcx;  movzx ecx, cx;  jmp gs:[ibl + rcx*8]
// and arrives at
//     mov rcx, gs:[target];  lea rcx, [rcx - rip];  jrcxz here;  jmp miss
//     here: mov rcx, gs:[spill0]
//
// Operands relative to RIP become absolute: as a 32-bit address, or through a scratch register (spill2).
#include "engine/dbt/cache.h"
#include "engine/dbt/cell/cell.h"
#include "engine/dbt/show.h"
#include "engine/dbt/translate.h"
#include "engine/interp/shared.h"
#include "engine/interp/tlb.h"

enum {
    WORK = 64,         // blocks to be translated at one go
    MARGIN = 64 << 10, // bytes of code that a block and its stubs stay below
    BYTES = DBT_MAX_INSNS * 15,
};

#define FIELD(name) offsetof(struct cell_shared, name)
#define SPILL(n) (FIELD(spill) + 8 * (size_t)(n))

struct stub {
    uint32_t jump; // displacement that comes here
    uint32_t exit;
    bool step;
};

struct work {
    struct cell *c;
    struct dbt_translation *t;
    struct cell_block *b;
    uint64_t rip[WORK]; // to be translated
    bool indirect[WORK];
    unsigned wanted, done;
    struct stub stub[WORK * 8];
    unsigned stubs;
    bool full;
};

static uint32_t offset(const struct cell *c)
{
    return (uint32_t)(c->e.p - c->memory);
}

static unsigned hash(uint64_t rip)
{
    return (unsigned)(rip * 0x9e3779b97f4a7c15ull >> 40) & (CELL_HASH - 1);
}

static uint64_t *ibl(struct cell *c)
{
    return (uint64_t *)(c->memory + CELL_IBL);
}

void cell_code_flush(struct cell *c)
{
    memset(c->hash, 0, sizeof c->hash);
    memset(c->waiting, 0, sizeof c->waiting);
    c->blocks = c->exits = c->places = c->pages = 0;
    for (unsigned k = 0; k < CELL_IBL_ENTRIES; k++)
        ibl(c)[k] = c->base + CELL_MISS;
    c->e = (struct emit){.p = c->memory + CELL_BLOCKS, .end = c->memory + CELL_SIZE};
    c->code_stale = c->code_unverified = false;
}

static struct cell_block *find(struct cell *c, uint64_t rip)
{
    for (uint32_t n = c->hash[hash(rip)]; n; n = c->block[n - 1].next)
        if (c->block[n - 1].rip == rip)
            return &c->block[n - 1];
    return NULL;
}

const struct cell_block *cell_code_at(const struct cell *c, uint64_t host, const struct cell_place **place)
{
    uint64_t at = host - c->base;
    unsigned low = 0, high = c->blocks;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (c->block[mid].begin <= at)
            low = mid + 1;
        else
            high = mid;
    }
    const struct cell_block *b = low ? &c->block[low - 1] : NULL;
    if (!b || at >= b->end)
        return NULL;
    *place = NULL;
    for (unsigned k = 0; k < b->places && c->place[b->place + k].host <= at; k++)
        *place = &c->place[b->place + k];
    return *place ? b : NULL;
}

// --- guest code

static const struct tlb_near_code *fetch(struct cell *c, uint64_t rip)
{
    struct interp_vcpu *i = &c->v->i;
    uint64_t gpa;
    i->fault.raised = false;
    const struct tlb_near_code *e = tlb_fetch(i, rip, &gpa);
    i->fault.raised = false;
    return e;
}

bool cell_code_verify(struct cell *c)
{
    c->code_unverified = false;
    for (unsigned k = 0; k < c->pages; k++) {
        const struct tlb_near_code *e = fetch(c, c->page[k].linear);
        if (!e || e->gpa != c->page[k].phys)
            return false;
    }
    return true;
}

static bool note_page(struct cell *c, uint64_t rip, uint64_t phys)
{
    uint64_t linear = rip & ~(uint64_t)(PAGE_SIZE - 1);
    for (unsigned k = c->pages; k-- > 0;)
        if (c->page[k].linear == linear)
            return c->page[k].phys == phys;
    if (c->pages == CELL_MAX_PAGES)
        return false;
    c->page[c->pages++] = (struct cell_page){linear, phys};
    return true;
}

// Copies guest code at rip, from this page and the next one if that is there. Returns the number of bytes.
static unsigned read_code(struct work *w, uint64_t rip, uint8_t *to)
{
    struct cell *c = w->c;
    unsigned got = 0;
    while (got < BYTES) {
        const struct tlb_near_code *e = fetch(c, rip + got);
        if (!e)
            break;
        ram_mark_code(&c->v->i, e->page);
        if (c->v->i.flush_wanted)
            return 0;
        if (!note_page(c, rip + got, e->gpa)) {
            w->full = true;
            break;
        }
        unsigned in = (unsigned)((rip + got) & (PAGE_SIZE - 1)), n = PAGE_SIZE - in;
        if (n > BYTES - got)
            n = BYTES - got;
        memcpy(to + got, e->host + in, n);
        got += n;
    }
    return got;
}

// --- exits

static void want(struct work *w, uint64_t rip, bool indirect)
{
    if (w->wanted < WORK) {
        w->indirect[w->wanted] = indirect;
        w->rip[w->wanted++] = rip;
    }
}

static void set_jump(struct cell *c, uint32_t jump, uint32_t target)
{
    int32_t d = (int32_t)(target - (jump + 4));
    memcpy(c->memory + jump, &d, 4);
}

// The displacement at `jump` leads to target, now or later.
static void lead(struct work *w, uint8_t *displacement, uint64_t target, bool step)
{
    struct cell *c = w->c;
    if (c->e.full)
        return;
    uint32_t jump = (uint32_t)(displacement - c->memory);
    const struct cell_block *b = step ? NULL : find(c, target);
    if (b) {
        set_jump(c, jump, b->host);
        return;
    }
    if (c->exits == CELL_MAX_EXITS || w->stubs == WORK * 8) {
        w->full = true;
        return;
    }
    struct cell_exit *x = &c->exit[c->exits++];
    *x = (struct cell_exit){.target = target, .jump = jump};
    if (!step) {
        x->waits = true;
        x->next = c->waiting[hash(target)];
        c->waiting[hash(target)] = c->exits;
        want(w, target, false);
    }
    w->stub[w->stubs++] = (struct stub){jump, c->exits - 1, step};
}

static void write_stubs(struct work *w)
{
    struct cell *c = w->c;
    for (unsigned k = 0; k < w->stubs && !c->e.full; k++) {
        if (!w->stub[k].step && !c->exit[w->stub[k].exit].waits)
            continue; // its target was translated meanwhile
        set_jump(c, w->stub[k].jump, offset(c));
        e_gs_set32(&c->e, FIELD(exit), w->stub[k].exit);
        e_target(&c->e, e_jmp(&c->e), c->memory + (w->stub[k].step ? CELL_STEP : CELL_LINK));
    }
    w->stubs = 0;
}

static void resolve(struct cell *c, const struct cell_block *b)
{
    uint32_t *from = &c->waiting[hash(b->rip)];
    while (*from) {
        struct cell_exit *x = &c->exit[*from - 1];
        if (x->target == b->rip) {
            set_jump(c, x->jump, b->host);
            x->waits = false;
            *from = x->next;
        } else {
            from = &x->next;
        }
    }
}

// --- instructions

static void place(struct work *w, uint64_t rip, unsigned fix, unsigned reg)
{
    struct cell *c = w->c;
    if (c->places == CELL_MAX_PLACES) {
        w->full = true;
        return;
    }
    c->place[c->places++] = (struct cell_place){offset(c), (uint16_t)(rip - w->b->rip), (uint8_t)fix, (uint8_t)reg};
}

// What needs no translation at all, though dbt would not copy it: its memory operands are many, or of unknown place.
static bool copied_here(const struct dbt_insn *i)
{
    switch (i->z.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
    case ZYDIS_MNEMONIC_LODSB:
    case ZYDIS_MNEMONIC_LODSW:
    case ZYDIS_MNEMONIC_LODSD:
    case ZYDIS_MNEMONIC_LODSQ:
    case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD:
    case ZYDIS_MNEMONIC_SCASQ:
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSQ:
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        break;
    case ZYDIS_MNEMONIC_MOVSD: // the string instructions, not the vector ones
    case ZYDIS_MNEMONIC_CMPSD:
        if (i->z.meta.category != ZYDIS_CATEGORY_STRINGOP)
            return false;
        break;
    default:
        return false;
    }
    return i->z.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && !(i->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT) &&
           !i->mem.rip_relative;
}

static void push_return(struct work *w, const struct dbt_insn *i, unsigned fix)
{
    struct emit *e = &w->c->e;
    uint64_t next = i->rip + i->len;
    e8(e, 0x68);
    e32(e, (uint32_t)next);
    if (!fits32((int64_t)next)) {
        place(w, i->rip, fix | PLACE_UNDO_PUSH, 0);
        e8(e, 0xc7); // mov dword [rsp+4], high
        e_mem(e, 0, CPU_RSP, NO_REG, 1, 4);
        e32(e, (uint32_t)(next >> 32));
    }
}

// RCX is the target, and its own value spilled.
static void jump_indirect(struct work *w, const struct dbt_insn *i, int rsp)
{
    struct cell *c = w->c;
    struct emit *e = &c->e;
    w->b->last = (uint16_t)(i->rip - w->b->rip);
    w->b->last_rsp = (int16_t)rsp;
    place(w, i->rip, PLACE_TARGET | PLACE_RCX, 0);
    e_gs_set32(e, FIELD(exit), (uint32_t)(w->b - c->block));
    place(w, i->rip, PLACE_TARGET | PLACE_RCX, 0);
    e_gs_store(e, CPU_RCX, FIELD(target));
    place(w, i->rip, PLACE_TARGET | PLACE_RCX, 0);
    e_movzx16(e, CPU_RCX, CPU_RCX);
    place(w, i->rip, PLACE_STORED | PLACE_RCX, 0);
    e_jmp_gs(e, CPU_RCX, CELL_IBL);
}

static void spill_rcx(struct work *w, const struct dbt_insn *i)
{
    e_gs_store(&w->c->e, CPU_RCX, SPILL(0));
    place(w, i->rip, 0, 0);
}

static bool reachable(const struct dbt_mem *m)
{
    return fits32(m->disp); // by a 32-bit displacement without a base
}

// RCX = the target that a memory operand holds.
static void load_target(struct work *w, const struct dbt_insn *i)
{
    struct emit *e = &w->c->e;
    const struct dbt_mem *m = &i->mem;
    if (m->rip_relative && !reachable(m)) {
        e_mov_imm(e, CPU_RCX, (uint64_t)m->disp);
        place(w, i->rip, PLACE_RCX, 0);
        e_op64(e, 0x8b, CPU_RCX, CPU_RCX, NO_REG, 1, 0);
        return;
    }
    if (m->seg == CPU_FS)
        e8(e, 0x64);
    if (m->addr32)
        e8(e, 0x67);
    e_op64(e, 0x8b, CPU_RCX, m->base, m->index, m->scale, (int32_t)m->disp);
}

static void write_ret(struct work *w, const struct dbt_insn *i)
{
    struct emit *e = &w->c->e;
    unsigned more = i->z.operand_count_visible && i->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE
                        ? (unsigned)i->op[0].imm.value.u
                        : 0;
    spill_rcx(w, i);
    e8(e, 0x59); // pop rcx
    if (more) {
        // In between RSP is neither here nor there; nobody can look, because this cannot fault and a kick waits.
        e_lea(e, CPU_RSP, CPU_RSP, NO_REG, 1, (int32_t)more);
    }
    jump_indirect(w, i, 8 + (int)more);
}

static void write_indirect(struct work *w, const struct dbt_insn *i, bool call)
{
    struct emit *e = &w->c->e;
    spill_rcx(w, i);
    if (i->mem.present)
        load_target(w, i);
    else if (ZydisRegisterGetId(i->op[0].reg.value) != CPU_RCX)
        e_mov(e, CPU_RCX, (unsigned)ZydisRegisterGetId(i->op[0].reg.value));
    if (call) {
        place(w, i->rip, PLACE_RCX, 0);
        push_return(w, i, PLACE_RCX);
        want(w, i->rip + i->len, true);
    }
    jump_indirect(w, i, call ? -8 : 0);
}

// An operand relative to RIP whose address needs 64 bits.
static bool write_far_operand(struct work *w, const struct dbt_insn *i)
{
    static const uint8_t scratch[] = {CPU_RSI, CPU_RDI, CPU_RBX, CPU_RDX, CPU_RCX, CPU_RAX, CPU_RBP};
    struct emit *e = &w->c->e;
    unsigned r = NO_REG;
    for (unsigned k = 0; k < sizeof scratch && r == NO_REG; k++)
        if (!(i->used & 1u << scratch[k]))
            r = scratch[k];
    if (r == NO_REG)
        return false;
    e_gs_store(e, r, SPILL(2));
    place(w, i->rip, 0, 0);
    e_mov_imm(e, r, (uint64_t)i->mem.disp);
    place(w, i->rip, PLACE_SCRATCH, r);
    dbt_copy(e, i, &(struct dbt_place){(uint8_t)r, NO_REG, 1, 0}, NO_REG);
    place(w, i->rip + i->len, PLACE_SCRATCH, r);
    e_gs_load(e, r, SPILL(2));
    return true;
}

static bool write_lea(struct work *w, const struct dbt_insn *i)
{
    if (!i->mem.rip_relative) {
        e_bytes(&w->c->e, i->bytes, i->len);
        return true;
    }
    unsigned to = (unsigned)ZydisRegisterGetId(i->op[0].reg.value);
    if (i->z.operand_width == 16)
        return false;
    e_mov_imm(&w->c->e, to, i->z.operand_width == 32 ? (uint32_t)i->mem.disp : (uint64_t)i->mem.disp);
    return true;
}

// An instruction that does not end the block. False: it is for the interpreter.
static bool write_plain(struct work *w, const struct dbt_insn *i)
{
    struct emit *e = &w->c->e;
    if (i->class == CLASS_SKIP)
        return true;
    if (i->class == CLASS_STEP ? !copied_here(i) : i->mem.present && i->mem.seg == CPU_GS)
        return false;
    if (i->class == CLASS_LEA)
        return write_lea(w, i);
    if (!i->mem.present || !i->mem.rip_relative) {
        e_bytes(e, i->bytes, i->len);
        return true;
    }
    if (!dbt_copy_can(i))
        return false;
    if (!reachable(&i->mem))
        return write_far_operand(w, i);
    dbt_copy(e, i, &(struct dbt_place){NO_REG, NO_REG, 1, (int32_t)i->mem.disp}, NO_REG);
    return true;
}

// --- blocks

static void write_indirect_entry(struct cell *c, uint64_t rip)
{
    struct emit *e = &c->e;
    if (fits32(-(int64_t)rip)) {
        e_gs_load(e, CPU_RCX, FIELD(target));
        e_lea(e, CPU_RCX, CPU_RCX, NO_REG, 1, (int32_t) - (int64_t)rip);
    } else { // a difference of two addresses in memory: RCX = -rip + target
        e_mov_imm(e, CPU_RCX, ~rip);
        e_gs_store(e, CPU_RDX, SPILL(1));
        e_gs_load(e, CPU_RDX, FIELD(target));
        e_lea(e, CPU_RCX, CPU_RCX, CPU_RDX, 1, 1);
        e_gs_load(e, CPU_RDX, SPILL(1));
    }
    e8(e, 0xe3); // jrcxz over the miss
    e8(e, 5);
    e_target(e, e_jmp(e), c->memory + CELL_MISS);
    e_gs_load(e, CPU_RCX, SPILL(0));
}

static void found_by_indirect(struct cell *c, const struct cell_block *b)
{
    ibl(c)[b->rip & (CELL_IBL_ENTRIES - 1)] = c->base + b->indirect;
}

void cell_code_indirect(struct cell *c, struct cell_block *b)
{
    if (!b->indirect) {
        if (c->e.end - c->e.p < MARGIN) {
            c->code_stale = true;
            return;
        }
        b->indirect = offset(c);
        write_indirect_entry(c, b->rip);
        e_target(&c->e, e_jmp(&c->e), c->memory + b->host);
    }
    found_by_indirect(c, b);
}

static struct cell_block *begin(struct work *w, uint64_t rip, bool indirect, bool first)
{
    struct cell *c = w->c;
    if (c->blocks == CELL_MAX_BLOCKS || c->e.end - c->e.p < MARGIN) {
        w->full = true;
        return NULL;
    }
    if (first)
        while (offset(c) & 31)
            e8(&c->e, 0xcc);
    struct cell_block *b = &c->block[c->blocks++];
    *b = (struct cell_block){.rip = rip, .begin = offset(c), .place = c->places, .next = c->hash[hash(rip)]};
    if (indirect && first) {
        b->indirect = offset(c);
        write_indirect_entry(c, rip);
    }
    b->host = offset(c);
    c->hash[hash(rip)] = (uint32_t)(b - c->block) + 1;
    w->b = b;
    return b;
}

enum { ENDS, GOES_ON, ENDS_LEFT }; // ENDS_LEFT: the rest is to be interpreted

// Writes instruction k. GOES_ON: to *next, at once if `jumped`, else with the following instruction.
static int write_insn(struct work *w, const struct dbt_insn *i, uint64_t *next, bool *jumped)
{
    struct cell *c = w->c;
    place(w, i->rip, 0, 0);
    *jumped = false;
    switch (i->class) {
    case CLASS_JMP:
        *next = i->target;
        *jumped = true;
        return GOES_ON;
    case CLASS_CALL:
        push_return(w, i, 0);
        want(w, i->rip + i->len, true);
        *next = i->target;
        *jumped = true;
        return GOES_ON;
    case CLASS_JCC:
        lead(w, e_jcc(&c->e, i->cond), i->target, false);
        return GOES_ON;
    case CLASS_JRCXZ: {
        e8(&c->e, 0xe3); // to the second jump
        e8(&c->e, 2);
        e8(&c->e, 0xeb); // over it
        e8(&c->e, 5);
        lead(w, e_jmp(&c->e), i->target, false);
        return GOES_ON;
    }
    case CLASS_RET:
        write_ret(w, i);
        return ENDS;
    case CLASS_JMP_INDIRECT:
    case CLASS_CALL_INDIRECT:
        if (i->mem.present && i->mem.seg == CPU_GS)
            return ENDS_LEFT;
        write_indirect(w, i, i->class == CLASS_CALL_INDIRECT);
        return ENDS;
    default:
        return write_plain(w, i) ? GOES_ON : ENDS_LEFT;
    }
}

// One block. True: it goes on at *next.
static bool write_block(struct work *w, uint64_t *next)
{
    struct cell *c = w->c;
    struct dbt_translation *t = w->t;
    bool jumped = false;
    for (unsigned k = 0; k < t->count; k++) {
        const struct dbt_insn *i = &t->insn[k];
        uint8_t *at = c->e.p;
        unsigned places = c->places;
        int how = write_insn(w, i, next, &jumped);
        if (how == ENDS_LEFT) {
            c->e.p = at;
            c->places = places + 1; // the instruction's own
            lead(w, e_jmp(&c->e), i->rip, true);
            want(w, i->rip + i->len, false);
        }
        if (how != GOES_ON)
            return false;
        if (jumped)
            return true;
        *next = i->rip + i->len;
    }
    return true;
}

static void write_trace(struct work *w, uint64_t rip, bool indirect)
{
    struct cell *c = w->c;
    uint8_t code[BYTES];
    bool first = true;
    while (!w->full) {
        const struct cell_block *known = find(c, rip);
        unsigned size = known || w->done == WORK ? 0 : read_code(w, rip, code);
        if (size)
            dbt_scan(w->t, rip, code, size, DBT_MAX_INSNS);
        if (!size || !w->t->count) {
            if (!first)
                lead(w, e_jmp(&c->e), rip, false);
            break;
        }
        w->done++;
        struct cell_block *b = begin(w, rip, indirect, first);
        if (!b)
            break;
        first = false;
        bool on = write_block(w, &rip);
        b->end = offset(c);
        b->places = c->places - b->place;
        cell_show(c, b, w->t);
        resolve(c, b);
        if (b->indirect)
            found_by_indirect(c, b);
        if (!on)
            break;
    }
    // The jump that ends a trace belongs to its last block, so that a kick finds it.
    if (c->blocks && w->b)
        w->b->end = offset(c);
    write_stubs(w);
}

static struct cell_block *translate(struct cell *c, uint64_t rip)
{
    struct work *w = &(struct work){.c = c, .t = c->v->cache->t};
    w->t->key = DBT_USER | DBT_KEY_FPU | DBT_KEY_CELL;
    want(w, rip, false);
    for (unsigned k = 0; k < w->wanted && !w->full && w->done < WORK; k++)
        if (!find(c, w->rip[k]))
            write_trace(w, w->rip[k], w->indirect[k]);
    if (w->full || c->e.full) {
        c->code_stale = true;
        return NULL;
    }
    return find(c, rip);
}

struct cell_block *cell_block(struct cell *c, uint64_t rip)
{
    struct cell_block *b = find(c, rip);
    if (!b)
        b = translate(c, rip);
    if (!b && c->code_stale) { // no room: begin anew
        cell_code_flush(c);
        b = translate(c, rip);
    }
    return c->code_stale ? NULL : b;
}
