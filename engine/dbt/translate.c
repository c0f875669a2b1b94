// One block: from guest code to host code.
//
// Layout:    indirect: is R14 my address?      (flags in flag_slot)
//            far:      is my page still mapped where it was?
//            back:     does somebody want the vCPU?
//            near:     registers, then the instructions, then ways out; behind them the cold paths
#include "engine/dbt/translate.h"
#include "engine/dbt/cache.h"
#include "engine/dbt/runtime.h"

static void choose_registers(struct dbt_translation *t)
{
    uint16_t used = t->used | 1u << CPU_RSP;
    static const uint8_t order[] = {CPU_R14, CPU_R15, CPU_R11, CPU_R10, CPU_R9,  CPU_R8,  CPU_RDI, CPU_RSI,
                                    CPU_R13, CPU_R12, CPU_RBX, CPU_RBP, CPU_RDX, CPU_RCX, CPU_RAX};
    unsigned accesses = 0, bases = 0;
    uint16_t seen = 0;
    for (unsigned k = 0; k < t->count && !(t->key & DBT_KEY_SPLIT); k++) {
        const struct dbt_mem *m = &t->insn[k].mem;
        if (!m->present || m->base == NO_REG || m->base == CPU_RSP || m->index != NO_REG || m->seg ||
            t->insn[k].bit_string)
            continue;
        accesses++;
        bases += !(seen & 1u << m->base);
        seen |= 1u << m->base;
    }
    // A borrowed register costs a store and a load: worth it where several bases take turns.
    unsigned want = accesses > bases + 1 && bases > 1 ? bases : 1;
    for (unsigned k = 0; k < t->count; k++)
        if (t->insn[k].class == CLASS_COPY && t->insn[k].rsp_operand && t->insn[k].mem.present && want < 2)
            want = 2;
    unsigned free_high = !(used & 1u << CPU_R14) + !(used & 1u << CPU_R15), got = 0;
    uint8_t scratch[1 + MAX_POOL];
    if (want > MAX_POOL)
        want = MAX_POOL;
    if (want + 1 < free_high)
        want = free_high - 1;
    for (unsigned k = 0; k < sizeof order && got < want + 1; k++)
        if (!(used & 1u << order[k]))
            scratch[got++] = order[k];
    t->s0 = scratch[0];
    t->pools = got - 1;
    t->borrowed = 1u << t->s0;
    for (unsigned k = 0; k < t->pools; k++) {
        t->pool[k] = scratch[1 + k];
        t->borrowed |= 1u << t->pool[k];
    }
    uint16_t not_needed = (1u << CPU_R14 | 1u << CPU_R15) & ~t->used;
    t->live = (uint16_t)(0xffff & ~t->borrowed & ~not_needed);
}

static void write_registers(struct dbt_translation *t)
{
    for (unsigned r = 0; r < CPU_R14; r++)
        if (t->borrowed & 1u << r)
            e_gs_store(&t->e, r, dbt_home(r));
    for (unsigned r = CPU_R14; r <= CPU_R15; r++)
        if (t->live & 1u << r)
            e_gs_load(&t->e, r, dbt_home(r));
}

// Compares the number of the page at `rip` in itlb with id.
static void write_page_check(struct dbt_translation *t, uint64_t rip, uint32_t id)
{
    bool user = (t->key & DBT_KEY_VIEW) == DBT_USER;
    e_gs_cmp32(&t->e, dbt_itlb_field(user, rip), id);
    struct dbt_cold *miss = dbt_cold(t, COLD_FAR_MISS, 0);
    miss->jump[0] = e_jcc(&t->e, COND_NE);
}

enum { CHECKS_LATER = 1 << 30 }; // takes 32 bits

// Adds n to the field, without flags, by a register that is free between blocks. Returns where n was written last.
static uint8_t *write_count(struct emit *e, size_t field, int32_t n)
{
    e_gs_load(e, CPU_R15, field);
    e_lea(e, CPU_R15, CPU_R15, NO_REG, 1, n);
    uint8_t *at = e->p - 4;
    e_gs_store(e, CPU_R15, field);
    return at;
}

// Now it is known how many checks there are.
static void write_checks(struct dbt_translation *t)
{
    uint32_t n = 0;
    for (unsigned k = 0; k < t->colds; k++)
        n += t->cold[k].kind <= COLD_STACK;
    if (t->v->counting && !t->e.full)
        memcpy(t->checks_at, &n, sizeof n);
}

static void write_entries(struct dbt_translation *t, struct dbt_block *b)
{
    struct emit *e = &t->e;
    bool live = t->insn[0].flags_live_in;
    b->indirect = (uint32_t)(e->p - t->start);
    if (fits32((int64_t)t->rip)) {
        e_cmp_imm(e, CPU_R14, (int32_t)t->rip);
    } else {
        e_mov_imm(e, CPU_R15, t->rip);
        e_cmp(e, CPU_R14, CPU_R15);
    }
    e_target(e, e_jcc(e, COND_NE), dbt_runtime(t->v)->indirect_miss);
    if (t->v->counting)
        e_gs_inc(e, offsetof(struct dbt_vcpu, count.indirect_hits));
    b->far = (uint32_t)(e->p - t->start);
    write_page_check(t, t->rip, b->page_id);
    uint8_t *over = NULL;
    if (live) { // far and back must not meet: one has the flags in the slot, the other in the host
        e_gs_cmp32(e, offsetof(struct dbt_vcpu, poll), 0);
        struct dbt_cold *poll = dbt_cold(t, COLD_POLL, 0);
        poll->flags_in_slot = true;
        poll->jump[0] = e_jcc(e, COND_NE);
        t->flags_in_slot = true;
        dbt_flags_restore(t, CPU_R15);
        over = e_jmp(e);
    }
    b->back = (uint32_t)(e->p - t->start);
    if (live) {
        t->flags_in_slot = false;
        dbt_flags_save(t, CPU_R15);
    }
    e_gs_cmp32(e, offsetof(struct dbt_vcpu, poll), 0);
    struct dbt_cold *poll = dbt_cold(t, COLD_POLL, 0);
    poll->flags_in_slot = live;
    poll->jump[0] = e_jcc(e, COND_NE);
    if (live)
        dbt_flags_restore(t, CPU_R15);
    if (over)
        e_target(e, over, e->p);
    b->near = (uint32_t)(e->p - t->start);
    t->flags_in_slot = false;
    if (t->v->counting) {
        write_count(e, offsetof(struct dbt_vcpu, count.entries), 1);
        t->checks_at = write_count(e, offsetof(struct dbt_vcpu, count.checks), CHECKS_LATER);
    }
    if (b->phys2 != DBT_NO_PAGE) { // nobody who comes here has looked at the second page
        if (live)
            dbt_flags_save(t, CPU_R15);
        write_page_check(t, (t->rip | 4095) + 1, b->page_id2);
    }
}

// The guest's RSP into reg; no flags.
static void emit_guest_rsp(struct dbt_translation *t, unsigned reg)
{
    e_gs_load(&t->e, reg, offsetof(struct dbt_vcpu, stack_negative));
    e_lea(&t->e, reg, CPU_RSP, reg, 1, 0);
}

// The instruction reads flags, or changes only some of those that are still needed.
static bool wants_flags(const struct dbt_insn *i)
{
    return i->flags_read || (i->flags_written && ((i->flags_live_out & ~i->flags_written) || i->flags_conditional));
}

// Has the flags in the host's flags if the instruction wants them there.
static void flags_before(struct dbt_translation *t, const struct dbt_insn *i, unsigned temp)
{
    if (wants_flags(i))
        dbt_flags_restore(t, temp);
    t->slot_if_fault = t->flags_in_slot;
    if (i->flags_written) // all that is still needed is made anew, unless the instruction faults
        t->flags_in_slot = false;
}

static unsigned other_scratch(const struct dbt_translation *t, const struct dbt_place *p)
{
    // A register that the place does not use; one of the two plain ones always is free.
    unsigned r = t->s0;
    if (p && (p->base == r || p->index == r))
        r = t->pool[0];
    return r;
}

// RSP = the guest's value in r, by `temp`; after instruction k has made its flags.
static void set_guest_rsp(struct dbt_translation *t, unsigned k, unsigned r, unsigned temp)
{
    if (t->insn[k].flags_live_out)
        dbt_flags_save(t, temp);
    e_gs_load(&t->e, temp, offsetof(struct dbt_vcpu, stack_addend));
    e_lea(&t->e, r, r, temp, 1, 0);
    dbt_stack_set(t, k, r);
}

static bool write_copy(struct dbt_translation *t, unsigned k)
{
    const struct dbt_insn *i = &t->insn[k];
    struct dbt_place place, *p = NULL;
    if (i->mem.present) {
        if (i->rsp_operand && !(i->mem.base == CPU_RSP && i->mem.index == NO_REG && !(t->key & DBT_KEY_SPLIT)) &&
            t->pools < 2)
            return false; // needs a third scratch register
        if (!dbt_access(t, k, &i->mem, &place))
            return false;
        p = &place;
    }
    if (!i->rsp_operand) {
        if (t->flags_in_slot && wants_flags(i)) {
            if (p && p->base == t->s0 && p->index == t->pool[0]) { // both scratch registers: make it one
                e_lea(&t->e, t->pool[0], t->s0, t->pool[0], 1, p->disp);
                place = (struct dbt_place){t->pool[0], NO_REG, 1, 0};
            }
            unsigned temp = other_scratch(t, p);
            if (temp == t->pool[0])
                t->group[0].valid = false;
            dbt_flags_restore(t, temp);
        }
        flags_before(t, i, NO_REG);
        dbt_copy(&t->e, i, p, NO_REG);
        return true;
    }
    // RSP as an operand: the guest's value in a scratch register that neither the place nor the flags need
    unsigned r = NO_REG, temp = NO_REG;
    uint8_t all[1 + MAX_POOL];
    unsigned n = 0;
    all[n++] = t->s0;
    for (unsigned q = 0; q < t->pools; q++)
        all[n++] = t->pool[q];
    for (unsigned q = 0; q < n; q++) {
        if (p && (p->base == all[q] || p->index == all[q]))
            continue;
        if (r == NO_REG)
            r = all[q];
        else if (temp == NO_REG)
            temp = all[q];
    }
    if (r == NO_REG || (t->flags_in_slot && temp == NO_REG))
        return false;
    for (unsigned q = 0; q < t->pools; q++)
        if (t->pool[q] == r || t->pool[q] == temp)
            t->group[q].valid = false;
    flags_before(t, i, temp);
    emit_guest_rsp(t, r);
    dbt_copy(&t->e, i, p, r);
    if (!(i->written & 1u << CPU_RSP))
        return true;
    unsigned a = r == t->s0 ? t->pool[0] : t->s0;
    for (unsigned q = 0; q < t->pools; q++)
        if (t->pool[q] == a)
            t->group[q].valid = false;
    if (i->class == CLASS_RSP_ADD) { // lea leaves the new flags alone
        e_gs_load(&t->e, a, offsetof(struct dbt_vcpu, stack_addend));
        e_lea(&t->e, CPU_RSP, r, a, 1, 0);
        return true;
    }
    set_guest_rsp(t, k, r, a);
    return true;
}

static bool write_lea(struct dbt_translation *t, unsigned k)
{
    const struct dbt_insn *i = &t->insn[k];
    const ZydisDecodedOperand *o = &i->op[1];
    bool rip = o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP;
    bool base_rsp = o->mem.base == ZYDIS_REGISTER_RSP || o->mem.base == ZYDIS_REGISTER_ESP;
    if (!rip && !base_rsp) {
        if (i->written & 1u << CPU_RSP) { // LEA RSP, [other]
            dbt_emit_address(t, t->s0, &i->mem, 0);
            if (i->z.operand_width != 64)
                return false;
            t->group[0].valid = false;
            set_guest_rsp(t, k, t->s0, t->pool[0]);
            return true;
        }
        e_bytes(&t->e, i->bytes, i->len); // registers only: as it is
        return true;
    }
    if (i->z.operand_width == 16 || i->written & 1u << CPU_RSP || i->mem.seg)
        return false;
    unsigned to = (unsigned)ZydisRegisterGetId(i->op[0].reg.value);
    dbt_emit_address(t, t->s0, &i->mem, 0);
    if (i->z.operand_width == 32)
        e_lea32(&t->e, to, t->s0, NO_REG, 1, 0);
    else
        e_mov(&t->e, to, t->s0);
    return true;
}

static struct dbt_mem stack_operand(int64_t disp, bool write)
{
    return (struct dbt_mem){.present = true,
                            .read = !write,
                            .write = write,
                            .base = CPU_RSP,
                            .index = NO_REG,
                            .scale = 1,
                            .size = 8,
                            .disp = disp};
}

static void store_reg(struct dbt_translation *t, const struct dbt_place *p, unsigned reg)
{
    e_op64(&t->e, 0x89, reg, p->base, p->index, p->scale, p->disp);
}

// PUSH of what is in reg, where RSP is split.
static bool push_split(struct dbt_translation *t, unsigned k, unsigned reg)
{
    struct dbt_mem m = stack_operand(-8, true);
    struct dbt_place p;
    if (!dbt_access(t, k, &m, &p))
        return false;
    store_reg(t, &p, reg);
    e_lea(&t->e, CPU_RSP, CPU_RSP, NO_REG, 1, -8);
    return true;
}

static void push_reg(struct dbt_translation *t, unsigned reg)
{
    if (reg & 8)
        e8(&t->e, 0x41);
    e8(&t->e, 0x50 | (reg & 7));
}

static bool write_push(struct dbt_translation *t, unsigned k)
{
    const struct dbt_insn *i = &t->insn[k];
    const ZydisDecodedOperand *o = &i->op[0];
    if (t->key & DBT_KEY_SPLIT) {
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && !i->rsp_operand)
            return push_split(t, k, (unsigned)ZydisRegisterGetId(o->reg.value));
        if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            struct dbt_mem m = stack_operand(-8, true);
            struct dbt_place p;
            if (!dbt_access(t, k, &m, &p))
                return false;
            e8(&t->e, rex_for(1, NO_REG, p.index, p.base));
            e8(&t->e, 0xc7);
            e_mem(&t->e, 0, p.base, p.index, p.scale, p.disp);
            e32(&t->e, (uint32_t)o->imm.value.s);
            e_lea(&t->e, CPU_RSP, CPU_RSP, NO_REG, 1, -8);
            return true;
        }
        return false;
    }
    dbt_stack_check(t, k);
    if (i->mem.present) {
        struct dbt_place p;
        if (!dbt_access(t, k, &i->mem, &p))
            return false;
        dbt_copy(&t->e, i, &p, NO_REG);
    } else if (i->rsp_operand) {
        emit_guest_rsp(t, t->s0);
        push_reg(t, t->s0);
    } else {
        e_bytes(&t->e, i->bytes, i->len);
    }
    return true;
}

static bool write_pop(struct dbt_translation *t, unsigned k)
{
    const struct dbt_insn *i = &t->insn[k];
    if (!(t->key & DBT_KEY_SPLIT)) {
        dbt_stack_check(t, k);
        e_bytes(&t->e, i->bytes, i->len);
        return true;
    }
    struct dbt_mem m = stack_operand(0, false);
    struct dbt_place p;
    if (!dbt_access(t, k, &m, &p))
        return false;
    e_op64(&t->e, 0x8b, (unsigned)ZydisRegisterGetId(i->op[0].reg.value), p.base, p.index, p.scale, p.disp);
    e_lea(&t->e, CPU_RSP, CPU_RSP, NO_REG, 1, 8);
    return true;
}

static bool write_pop_rsp(struct dbt_translation *t, unsigned k)
{
    if (t->key & DBT_KEY_SPLIT)
        return false;
    dbt_stack_check(t, k);
    t->group[0].valid = false;
    if (t->s0 & 8)
        e8(&t->e, 0x41);
    e8(&t->e, 0x58 | (t->s0 & 7)); // pop s0
    set_guest_rsp(t, k, t->s0, t->pool[0]);
    return true;
}

static bool write_leave(struct dbt_translation *t, unsigned k)
{
    if (t->key & DBT_KEY_SPLIT) {
        struct dbt_mem m = stack_operand(0, false);
        struct dbt_place p;
        m.base = CPU_RBP;
        if (!dbt_access(t, k, &m, &p))
            return false;
        unsigned a = other_scratch(t, &p);
        if (p.base == a || p.index == a)
            return false;
        for (unsigned q = 0; q < t->pools; q++)
            if (t->pool[q] == a)
                t->group[q].valid = false;
        dbt_flags_free(t, k, a);
        e_gs_load(&t->e, a, offsetof(struct dbt_vcpu, stack_addend));
        e_lea(&t->e, a, a, CPU_RBP, 1, 8);
        dbt_stack_set(t, k, a);
        e_op64(&t->e, 0x8b, CPU_RBP, p.base, p.index, p.scale, p.disp);
        return true;
    }
    // The new stack pointer is checked before it becomes RSP. If the window moves, it must be computed again: retry
    // begins there.
    dbt_flags_free(t, k, t->s0);
    uint8_t *retry = t->e.p;
    t->group[0].valid = false;
    e_gs_load(&t->e, t->s0, offsetof(struct dbt_vcpu, stack_addend));
    e_lea(&t->e, t->s0, t->s0, CPU_RBP, 1, 0);
    dbt_stack_check_reg(t, k, t->s0, 0, 8);
    t->cold[t->colds - 1].retry = retry;
    e_mov(&t->e, CPU_RSP, t->s0);
    e8(&t->e, 0x5d); // pop rbp
    t->stack_covered = 0;
    return true;
}

static bool write_rsp_add(struct dbt_translation *t, unsigned k)
{
    const struct dbt_insn *i = &t->insn[k];
    bool split = t->key & DBT_KEY_SPLIT, flags = i->flags_live_out & i->flags_written;
    if (!split)
        dbt_stack_check(t, k); // which looks ahead over it
    if (flags)                 // those of the guest's value
        return !split && write_copy(t, k);
    if (!split) {
        e_lea(&t->e, CPU_RSP, CPU_RSP, NO_REG, 1, i->rsp_change);
        return true;
    }
    dbt_flags_free(t, k, t->s0);
    e_lea(&t->e, t->s0, CPU_RSP, NO_REG, 1, i->rsp_change);
    dbt_stack_set(t, k, t->s0);
    return true;
}

static bool push_return_address(struct dbt_translation *t, unsigned k, unsigned temp)
{
    const struct dbt_insn *i = &t->insn[k];
    uint64_t next = i->rip + i->len;
    if (t->key & DBT_KEY_SPLIT) {
        // The value in a home slot while the check takes both scratch registers.
        struct dbt_mem m = stack_operand(-8, true);
        struct dbt_place p;
        if (!dbt_access(t, k, &m, &p))
            return false;
        for (unsigned half = 0; half < 2; half++) { // mov dword [p+4*half], imm32
            if ((p.base != NO_REG && p.base & 8) || (p.index != NO_REG && p.index & 8))
                e8(&t->e, rex_for(0, NO_REG, p.index, p.base));
            e8(&t->e, 0xc7);
            e_mem(&t->e, 0, p.base, p.index, p.scale, p.disp + 4 * (int)half);
            e32(&t->e, (uint32_t)(next >> 32 * half));
        }
        e_lea(&t->e, CPU_RSP, CPU_RSP, NO_REG, 1, -8);
        return true;
    }
    dbt_stack_check(t, k);
    if (fits32((int64_t)next)) {
        e8(&t->e, 0x68);
        e32(&t->e, (uint32_t)next);
    } else {
        e_mov_imm(&t->e, temp, next);
        push_reg(t, temp);
    }
    return true;
}

static bool write_ret(struct dbt_translation *t, unsigned k)
{
    const struct dbt_insn *i = &t->insn[k];
    int32_t more =
        i->z.operand_count_visible && i->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? (int32_t)i->op[0].imm.value.u : 0;
    if (t->key & DBT_KEY_SPLIT) {
        struct dbt_mem m = stack_operand(0, false);
        struct dbt_place p;
        if (!dbt_access(t, k, &m, &p))
            return false;
        e_op64(&t->e, 0x8b, t->s0, p.base, p.index, p.scale, p.disp);
        e_lea(&t->e, CPU_RSP, CPU_RSP, NO_REG, 1, 8 + more);
    } else {
        dbt_stack_check(t, k);
        if (t->s0 & 8)
            e8(&t->e, 0x41);
        e8(&t->e, 0x58 | (t->s0 & 7)); // pop s0
        if (more)
            e_lea(&t->e, CPU_RSP, CPU_RSP, NO_REG, 1, more);
    }
    t->block->branch_rsp = 8 + more;
    dbt_exit_indirect(t, k, t->s0);
    return true;
}

static bool write_indirect(struct dbt_translation *t, unsigned k)
{
    const struct dbt_insn *i = &t->insn[k];
    bool call = i->class == CLASS_CALL_INDIRECT;
    if (call && t->key & DBT_KEY_SPLIT)
        return false; // the target and the push would need three scratch registers
    if (call)
        dbt_stack_check(t, k);
    unsigned target = t->s0;
    if (i->mem.present) {
        struct dbt_place p;
        if (!dbt_access(t, k, &i->mem, &p))
            return false;
        e_op64(&t->e, 0x8b, t->s0, p.base, p.index, p.scale, p.disp);
    } else {
        target = (unsigned)ZydisRegisterGetId(i->op[0].reg.value);
    }
    if (call) {
        unsigned temp = target == t->s0 ? t->pool[0] : t->s0;
        if (!push_return_address(t, k, temp))
            return false;
    }
    t->block->branch_rsp = call ? -8 : 0;
    dbt_exit_indirect(t, k, target);
    return true;
}

// False: the interpreter must do this instruction; the block ends before it.
static bool write_insn(struct dbt_translation *t, unsigned k)
{
    const struct dbt_insn *i = &t->insn[k];
    switch (i->class) {
    case CLASS_SKIP:
        return true;
    case CLASS_COPY:
        return write_copy(t, k);
    case CLASS_LEA:
        return write_lea(t, k);
    case CLASS_PUSH:
        return write_push(t, k);
    case CLASS_POP:
        return write_pop(t, k);
    case CLASS_POP_RSP:
        return write_pop_rsp(t, k);
    case CLASS_SENSITIVE:
        return dbt_sensitive_write(t, k);
    case CLASS_STRING:
        dbt_string_write(t, k);
        return true;
    case CLASS_LEAVE:
        return write_leave(t, k);
    case CLASS_RSP_ADD:
        return write_rsp_add(t, k);
    case CLASS_JMP:
        dbt_exit_direct(t, k, i->target);
        return true;
    case CLASS_JCC:
        dbt_exit_cond(t, k, i->target, i->cond);
        return true;
    case CLASS_JRCXZ: {
        dbt_flags_restore(t, t->s0);
        e8(&t->e, 0xe3); // jrcxz over a jump
        e8(&t->e, 5);
        uint8_t *over = e_jmp(&t->e);
        dbt_exit_direct(t, k, i->target);
        t->flags_in_slot = false;
        e_target(&t->e, over, t->e.p);
        return true;
    }
    case CLASS_CALL:
        if (!push_return_address(t, k, t->s0))
            return false;
        dbt_exit_direct(t, k, i->target);
        return true;
    case CLASS_RET:
        return write_ret(t, k);
    case CLASS_JMP_INDIRECT:
    case CLASS_CALL_INDIRECT:
        return write_indirect(t, k);
    default:
        return false;
    }
}

// Goes through the instructions. Returns how many were written in full; what follows the last of them is the way out.
static unsigned write_body(struct dbt_translation *t)
{
    t->slot_before = t->flags_in_slot;
    for (unsigned k = 0; k < t->count; k++) {
        struct emit at = t->e;
        unsigned colds = t->colds, exits = t->exits;
        t->host_offset[k] = (uint32_t)(t->e.p - t->start);
        t->slot_if_fault = -1;
        if (!write_insn(t, k)) {
            t->e = at;
            t->colds = colds;
            t->exits = exits;
            // Flags may have been saved by what was taken back: then they are still in the host's flags.
            t->flags_in_slot = t->slot_before;
            dbt_exit_step(t, k);
            t->block->steps = true;
            return k;
        }
        dbt_sensitive_after(t, k);
        t->slot_before = t->flags_in_slot;
        t->slot_in_fault[k] = t->slot_if_fault < 0 ? t->flags_in_slot : t->slot_if_fault;
        dbt_groups_drop(t, t->insn[k].written);
    }
    if (t->ends_open) {
        const struct dbt_insn *last = &t->insn[t->count - 1];
        dbt_exit_direct(t, t->count - 1, last->rip + last->len);
    }
    return t->count;
}

struct dbt_block *dbt_translate(struct dbt_translation *t, struct dbt_block *b)
{
    t->colds = t->exits = t->sites = 0;
    t->look_after = 0;
    t->next_pool = 0;
    t->stack_covered = 0;
    t->flags_in_slot = false;
    memset(t->group, 0, sizeof t->group);
    t->start = t->e.p;
    t->block = b;
    choose_registers(t);
    b->live = t->live;
    write_entries(t, b);
    write_registers(t);
    b->insns = (uint16_t)write_body(t);
    write_checks(t);
    t->cold_begin = (uint32_t)(t->e.p - t->start);
    dbt_write_cold(t);
    b->end = (uint32_t)(t->e.p - t->start);
    return t->e.full ? NULL : b;
}
