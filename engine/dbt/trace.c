// --trace translate: guest code on the left, what was made of it on the right, instruction by instruction.
//
//     cpu0 block ffffffff81000123, kernel: 2 instructions, 7 bytes, become 213 bytes
//       ...
//       ffffffff81000123  48 8b 07        mov rax, [rdi] | +05a  lea r14, [rdi]
//                                                        | +05d  mov r15d, r14d
//                                                        | ...
//                                                        | +07b  jnbe +0x0c4         ; no: cold path, page check
//       ffffffff81000126  48 01 c8          add rax, rcx | +081  add rax, rcx
//
// What is behind a jump or a gs:[...] is said at the end of the line. A legend comes first.
#include "engine/dbt/cache.h"
#include "engine/dbt/cell/cell.h"
#include "engine/dbt/show.h"
#include "engine/dbt/translate.h"
#include <stdio.h>
#include <stdlib.h>

static const char *const legend[] = {
    "Guest code is on the left, with its address and bytes; on the right is what it became, by offset in the block.",
    "Guest registers are in the host's of the same name. RSP is a host pointer: the guest's plus the stack addend.",
    "r14 and r15 are kept in memory between blocks and are scratch registers where the guest's code leaves them free.",
    "gs:[...] are fields of the vCPU. Flags that are still needed are saved by lahf; seto al, and come back by",
    "add al, 0x7f; sahf. A block is entered near (from its own page), back (by a loop: somebody may want the vCPU),",
    "far (is its page still mapped?) or indirect (is it the block for this address?).",
    "What is rarely needed is behind the block: cold paths. An exit jumps to its cold path until its target is",
    "translated, and then to that.",
    "In a cell memory operands are left alone and RSP is the guest's; only ways out differ from the guest's code.",
};

struct listing {
    struct log *log;
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    const uint8_t *code; // where it can be read
    uint64_t base;       // its address when it runs
    uint32_t at, end;    // offsets: what has been listed; of the end
    void (*explain)(const struct listing *l, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op,
                    uint64_t address, char *text, size_t size);
    const struct dbt_translation *t; // of a block
    const struct cell *cell;
};

static void say(const struct listing *l, const char *left, const char *right, const char *why)
{
    log_trace(l->log, TRACE_TRANSLATE, why[0] ? "  %-58s | %-40s ; %s" : "  %-58s | %s", left, right, why);
}

// Lists host code up to an offset; `left` stands beside its first instruction.
static void list(struct listing *l, uint32_t to, const char *left)
{
    if (l->at >= to && *left)
        say(l, left, "", "");
    while (l->at < to) {
        ZydisDecodedInstruction z;
        ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
        char text[96] = "?", right[120], why[96] = "";
        uint64_t address = l->base + l->at;
        unsigned length = 1;
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&l->decoder, l->code + l->at, to - l->at, &z, op))) {
            length = z.length;
            uint64_t target;
            if (z.meta.branch_type && ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&z, &op[0], address, &target)) &&
                op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
                snprintf(text, sizeof text, "%s %s0x%llx", ZydisMnemonicGetString(z.mnemonic),
                         target - l->base < l->end ? "+" : "",
                         (unsigned long long)(target - l->base < l->end ? target - l->base : target));
            else
                ZydisFormatterFormatInstruction(&l->formatter, &z, op, z.operand_count_visible, text, sizeof text,
                                                address, ZYAN_NULL);
            l->explain(l, &z, op, address, why, sizeof why);
        }
        snprintf(right, sizeof right, "+%03x  %s", l->at, text);
        say(l, left, right, why);
        left = "";
        l->at += length;
    }
}

static void guest_text(const struct listing *l, const struct dbt_insn *i, char *text, size_t size)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    char bytes[3 * 15 + 1] = "", what[96] = "?";
    enum { SHOWN = 7 };
    for (unsigned n = 0; n < i->len && n < SHOWN; n++)
        snprintf(bytes + 3 * n, 4, n + 1 == SHOWN && i->len > SHOWN ? ".. " : "%02x ", i->bytes[n]);
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&l->decoder, i->bytes, i->len, &z, op)))
        ZydisFormatterFormatInstruction(&l->formatter, &z, op, z.operand_count_visible, what, sizeof what, i->rip,
                                        ZYAN_NULL);
    snprintf(text, size, "%016llx %-21s %s", (unsigned long long)i->rip, bytes, what);
}

static bool begin(struct listing *l, struct dbt_vcpu *v)
{
    static atomic_flag told = ATOMIC_FLAG_INIT;
    l->log = v->i.base.vm->config.log;
    if (!log_tracing(l->log, TRACE_TRANSLATE))
        return false;
    ZydisDecoderInit(&l->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&l->formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&l->formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    ZydisFormatterSetProperty(&l->formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE, ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&l->formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_RELATIVE, ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&l->formatter, ZYDIS_FORMATTER_PROP_DISP_PADDING, ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&l->formatter, ZYDIS_FORMATTER_PROP_IMM_PADDING, ZYDIS_PADDING_DISABLED);
    if (!atomic_flag_test_and_set(&told))
        for (unsigned n = 0; n < sizeof legend / sizeof *legend; n++)
            log_trace(l->log, TRACE_TRANSLATE, "%s", legend[n]);
    return true;
}

// --- what lies behind addresses

struct field {
    size_t begin, size;
    const char *name;
};

static const char *field_at(const struct field *f, unsigned count, uint64_t offset)
{
    for (unsigned n = 0; n < count; n++)
        if (offset - f[n].begin < f[n].size)
            return f[n].name;
    return NULL;
}

static const char *vcpu_field(uint64_t offset)
{
#define FIELD(member, text)                                                                                            \
    {                                                                                                                  \
        offsetof(struct dbt_vcpu, member), sizeof(((struct dbt_vcpu *)0)->member), text                                \
    }
#define VIEW(view, text)                                                                                               \
    FIELD(tlb[view].tag_r, text ": page that may be read"), FIELD(tlb[view].tag_w, text ": page that may be written"), \
        FIELD(tlb[view].addend, text ": from guest to host address"),                                                  \
        FIELD(ibl[view], text ": blocks by the low bits of their addresses")
    static const struct field fields[] = {
        FIELD(flag_slot, "saved flags"),
        FIELD(poll, "does somebody want the vCPU?"),
        FIELD(stack_addend, "stack addend"),
        FIELD(stack_negative, "minus the stack addend"),
        FIELD(stack_low, "the stack's page"),
        FIELD(stack_limit, "end of the host's addresses"),
        FIELD(exit_address, "address, for those outside"),
        FIELD(exit_arg, "exit or site, for those outside"),
        FIELD(exit_from, "block, for those outside"),
        FIELD(i.base.pending, "interrupts and the like that wait"),
        FIELD(i.s.rflags, "IF, AC and others"),
        FIELD(i.s.seg, "segment base"),
        FIELD(i.s.msr, "MSR"),
        FIELD(i.s.gpr, "guest register's home"),
        FIELD(itlb_kernel, "kernel page that is mapped there"),
        FIELD(itlb_user, "user page that is mapped there"),
        FIELD(count, "counter"),
        VIEW(DBT_KERNEL, "kernel"),
        VIEW(DBT_KERNEL_AC, "kernel, user pages too"),
        VIEW(DBT_USER, "user"),
    };
#undef VIEW
#undef FIELD
    return field_at(fields, sizeof fields / sizeof *fields, offset);
}

static const char *cell_field(uint64_t offset)
{
#define FIELD(member, text)                                                                                            \
    {                                                                                                                  \
        offsetof(struct cell_shared, member), sizeof(((struct cell_shared *)0)->member), text                          \
    }
    static const struct field fields[] = {
        FIELD(spill, "a guest register, for a moment"),
        FIELD(target, "target of the indirect jump"),
        FIELD(why, "why the cell is left"),
        FIELD(exit, "exit or block, for those outside"),
        {CELL_IBL, 8 * CELL_IBL_ENTRIES, "blocks by the low bits of their addresses"},
    };
#undef FIELD
    return field_at(fields, sizeof fields / sizeof *fields, offset);
}

static const char *gs_field(const struct listing *l, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
    for (unsigned n = 0; n < z->operand_count_visible; n++)
        if (op[n].type == ZYDIS_OPERAND_TYPE_MEMORY && op[n].mem.segment == ZYDIS_REGISTER_GS)
            return (l->cell ? cell_field : vcpu_field)((uint64_t)op[n].mem.disp.value);
    return NULL;
}

static const char *runtime_at(struct dbt_vcpu *v, uint64_t address)
{
    const struct dbt_runtime *r = dbt_runtime(v);
    for (unsigned n = 0; n < CPU_GPR_COUNT; n++)
        if (r->slow_for[n] && (uintptr_t)dbt_executable(v, r->slow_for[n]) == address)
            return "slow path: do it or walk the page tables, and go on; or interpret";
    for (unsigned n = 0; n < 2 * CPU_GPR_COUNT; n++)
        if (r->stack_for[n & 1][n / 2] && (uintptr_t)dbt_executable(v, r->stack_for[n & 1][n / 2]) == address)
            return "move the stack window, and go on; or the slow path";
    for (unsigned why = 0; why <= DBT_WHY_POLL; why++)
        for (unsigned slot = 0; slot < 2; slot++)
            if ((uintptr_t)dbt_executable(v, r->leave_for[why][slot]) == address)
                return why == DBT_WHY_LINK   ? "dispatcher: find or translate the target, link"
                       : why == DBT_WHY_STEP ? "dispatcher: interpret one instruction"
                                             : "dispatcher: look at what is pending";
    if ((uintptr_t)dbt_executable(v, r->far_miss) == address)
        return "dispatcher: find the block again";
    return r->indirect_miss_address == address ? "dispatcher: find the target" : NULL;
}

static void cold_text(const struct dbt_translation *t, const struct dbt_cold *c, char *text, size_t size)
{
    static const char *const names[] = {[COLD_ACCESS] = "no: page check missed",
                                        [COLD_COMPUTED] = "no: page check missed",
                                        [COLD_WINDOW] = "no: not in the kernel's window; page check",
                                        [COLD_STACK] = "no: not in the stack's page",
                                        [COLD_RSP] = "no: stack pointer is no host address",
                                        [COLD_TSC] = "ask what time it is",
                                        [COLD_POLL] = "yes: leave",
                                        [COLD_FAR_MISS] = "no: other page is mapped there now"};
    if (c->kind == COLD_EXIT)
        snprintf(text, size, "%s %llx", c->write ? "to the interpreter for" : "exit to",
                 (unsigned long long)t->exit[c->exit].target);
    else
        snprintf(text, size, "%s", names[c->kind]);
}

static void explain(const struct listing *l, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op,
                    uint64_t address, char *text, size_t size)
{
    const char *name = gs_field(l, z, op);
    uint64_t target;
    if (!name && z->meta.branch_type && op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
        ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(z, &op[0], address, &target))) {
        const struct dbt_translation *t = l->t;
        for (unsigned k = 0; t && k < t->colds; k++)
            if (l->base + t->cold[k].at == target) {
                cold_text(t, &t->cold[k], text, size);
                return;
            }
        name = t                                                ? runtime_at(t->v, target)
               : l->cell && target == l->cell->base + CELL_MISS ? "out of the cell: find the target"
                                                                : NULL;
    }
    if (name)
        snprintf(text, size, "%s", name);
}

// --- blocks

static void show_entries(struct listing *l, const struct dbt_block *b)
{
    list(l, b->far, "indirect:");
    list(l, b->back, "far:");
    list(l, b->near, "back:");
    list(l, l->t->host_offset[0], "near:");
}

void dbt_show(struct dbt_vcpu *v, const struct dbt_block *b)
{
    static const char *const views[] = {"kernel", "kernel that may touch user pages", "user"};
    const struct dbt_translation *t = v->cache->t;
    struct listing l = {.t = t, .code = t->start, .base = (uintptr_t)b->code, .end = b->end, .explain = explain};
    dbt_perf_map(v, b);
    if (!begin(&l, v))
        return;
    log_trace(l.log, TRACE_TRANSLATE, "cpu%u block %llx, %s%s: %u instructions, %u bytes, become %u bytes",
              v->i.base.id, (unsigned long long)b->rip, views[b->key & DBT_KEY_VIEW],
              b->key & DBT_KEY_SPLIT ? ", stack at a page's edge" : "", b->insns, b->length, b->end);
    show_entries(&l, b);
    for (unsigned k = 0; k < t->count && k <= b->insns; k++) {
        char left[160];
        bool last = k + 1 >= t->count || k == b->insns;
        guest_text(&l, &t->insn[k], left, sizeof left);
        list(&l, last ? t->cold_begin : t->host_offset[k + 1], left);
    }
    list(&l, b->end, "cold paths:");
}

void cell_show(const struct cell *c, const struct cell_block *b, const struct dbt_translation *t)
{
    struct listing l = {.cell = c,
                        .code = c->memory + b->begin,
                        .base = c->base + b->begin,
                        .end = b->end - b->begin,
                        .explain = explain};
    cell_perf_map(c, b);
    if (!begin(&l, c->v))
        return;
    log_trace(l.log, TRACE_TRANSLATE, "cpu%u block %llx in a cell: %u instructions become %u bytes", c->v->i.base.id,
              (unsigned long long)b->rip, t->count, l.end);
    list(&l, b->host - b->begin, "indirect:");
    const struct cell_place *p = c->place + b->place, *end = p + b->places;
    for (unsigned k = 0; k < t->count && p < end; k++) {
        char left[160];
        unsigned next = k + 1 < t->count ? (unsigned)(t->insn[k + 1].rip - b->rip) : ~0u;
        while (p < end && p->rip < next)
            p++;
        guest_text(&l, &t->insn[k], left, sizeof left);
        list(&l, p < end && p->rip == next ? p->host - b->begin : l.end, left);
    }
}
