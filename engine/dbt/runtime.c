// Entering and leaving translated code: see runtime.h. Written with the emitter, because it needs the same field
// offsets and the same registers as the blocks.
#include "engine/dbt/runtime.h"
#include "engine/dbt/cache.h"

static const uint8_t callee_saved[] = {CPU_RBX, CPU_RBP, CPU_R12, CPU_R13, CPU_R14, CPU_R15};

#define FIELD(name) offsetof(struct dbt_vcpu, name)

static void push(struct emit *e, unsigned r)
{
    if (r & 8)
        e8(e, 0x41);
    e8(e, 0x50 | (r & 7));
}

static void pop(struct emit *e, unsigned r)
{
    if (r & 8)
        e8(e, 0x41);
    e8(e, 0x58 | (r & 7));
}

static void push_gs(struct emit *e, size_t field)
{
    e8(e, 0x65);
    e8(e, 0xff);
    e_mem(e, 6, NO_REG, NO_REG, 1, (int32_t)field);
}

static void pop_gs(struct emit *e, size_t field)
{
    e8(e, 0x65);
    e8(e, 0x8f);
    e_mem(e, 0, NO_REG, NO_REG, 1, (int32_t)field);
}

// Loads all registers from 16 fields; if translate_rsp, the addend is added to RSP. Flags stay.
static void load_all(struct emit *e, size_t fields, bool translate_rsp)
{
    if (translate_rsp) { // not in RSP itself: the guest's value may be no address
        e_gs_load(e, CPU_RAX, fields + 8 * CPU_RSP);
        e_gs_load(e, CPU_RCX, FIELD(stack_addend));
        e_lea(e, CPU_RSP, CPU_RAX, CPU_RCX, 1, 0);
    } else {
        e_gs_load(e, CPU_RSP, fields + 8 * CPU_RSP);
    }
    for (unsigned r = 0; r < CPU_GPR_COUNT; r++)
        if (r != CPU_RSP)
            e_gs_load(e, r, fields + 8 * r);
}

static void store_all(struct emit *e, size_t fields)
{
    for (unsigned r = 0; r < CPU_GPR_COUNT; r++)
        e_gs_store(e, r, fields + 8 * r);
}

static void write_enter(struct emit *e)
{
    for (unsigned k = 0; k < sizeof callee_saved; k++)
        push(e, callee_saved[k]);
    e_gs_store(e, CPU_RSP, FIELD(host_rsp));
    push_gs(e, FIELD(host_flags));
    e8(e, 0x9d); // popfq
    load_all(e, FIELD(i.s.gpr), true);
    e_jmp_gs(e, NO_REG, FIELD(enter_at));
}

// Registers are in save; back to who called enter.
static void write_return(struct emit *e)
{
    for (unsigned k = sizeof callee_saved; k-- > 0;)
        pop(e, callee_saved[k]);
    e8(e, 0xc3);
}

static void write_leave(struct emit *e)
{
    store_all(e, FIELD(save));
    e_gs_load(e, CPU_RSP, FIELD(host_rsp));
    e8(e, 0x9c); // pushfq
    pop_gs(e, FIELD(host_flags));
    write_return(e);
}

static void write_leave_for(struct emit *e, struct dbt_runtime *r)
{
    for (unsigned why = 0; why <= DBT_WHY_POLL; why++)
        for (unsigned slot = 0; slot < 2; slot++) {
            r->leave_for[why][slot] = e->p;
            e_gs_store(e, CPU_R14, FIELD(exit_arg));
            e_mov_imm(e, CPU_R14, why | (slot ? DBT_WHY_SLOT : 0));
            e_gs_store32(e, CPU_R14, FIELD(exit_why));
            e_target(e, e_jmp(e), r->leave);
        }
}

// The site is in register s; what comes then is at `next`.
static void write_site_for(struct emit *e, const uint8_t *entry[CPU_GPR_COUNT], const uint8_t *next)
{
    for (unsigned s = 0; s < CPU_GPR_COUNT; s++) {
        if (s == CPU_RSP)
            continue;
        entry[s] = e->p;
        e_gs_store(e, s, FIELD(exit_arg));
        e_target(e, e_jmp(e), next);
    }
}

static void write_slow(struct emit *e, struct dbt_vcpu *v)
{
    store_all(e, FIELD(save));
    e_gs_load(e, CPU_RSP, FIELD(host_rsp));
    // enter pushed six registers on a stack that was 8 off: 8 more make a call aligned
    e_lea(e, CPU_RSP, CPU_RSP, NO_REG, 1, -8);
    e_mov_imm(e, CPU_RDI, (uintptr_t)v);
    e_mov_imm(e, CPU_RAX, (uintptr_t)dbt_slow);
    e8(e, 0xff);
    e8(e, 0xd0); // call rax
    e8(e, 0x85);
    e8(e, 0xc0); // test eax, eax
    uint8_t *again = e_jcc(e, COND_NE);
    e_lea(e, CPU_RSP, CPU_RSP, NO_REG, 1, 8);
    write_return(e);
    e_target(e, again, e->p);
    load_all(e, FIELD(save), false);
    e_jmp_gs(e, NO_REG, FIELD(enter_at));
}

// The stack's page has changed, to one that may be written: the window moves there and the block goes on at the site's
// retry. What dbt_slow() would do; it happens three times in a system call.
static void write_stack_window(struct emit *e, unsigned view, const uint8_t *slow)
{
    static const uint8_t taken[] = {CPU_RAX, CPU_RCX, CPU_RDX, CPU_RSI};
    const size_t tlb = FIELD(tlb) + view * sizeof(struct dbt_tlb);
    for (unsigned k = 0; k < sizeof taken; k++)
        e_gs_store(e, taken[k], FIELD(save) + 8 * taken[k]);
    e_gs_load(e, CPU_RAX, FIELD(exit_address));
    e_rorx(e, CPU_RCX, CPU_RAX, 12);
    e_and32(e, CPU_RCX, DBT_TLB_SIZE - 1);
    e_mov(e, CPU_RDX, CPU_RAX);
    e_gs_indexed(e, 0x2b, CPU_RDX, CPU_RCX, tlb + offsetof(struct dbt_tlb, tag_w));
    e_cmp_imm(e, CPU_RDX, PAGE_SIZE - 1);
    uint8_t *other_page = e_jcc(e, COND_A);
    e_sub(e, CPU_RAX, CPU_RDX);
    e_gs_load(e, CPU_RSI, FIELD(exit_arg));
    e_load16(e, CPU_RSI, CPU_RSI, offsetof(struct dbt_site, span));
    e_lea(e, CPU_RDX, CPU_RDX, CPU_RSI, 1, 0);
    e_cmp_imm(e, CPU_RDX, PAGE_SIZE);
    uint8_t *over_its_end = e_jcc(e, COND_A);
    e_gs_indexed(e, 0x8b, CPU_RCX, CPU_RCX, tlb + offsetof(struct dbt_tlb, addend));
    e_lea(e, CPU_RAX, CPU_RAX, CPU_RCX, 1, 0);
    e_gs_store(e, CPU_RAX, FIELD(stack_low));
    e_gs_load(e, CPU_RAX, FIELD(stack_negative)); // the sum first: RSP is never the guest's
    e_lea(e, CPU_RAX, CPU_RAX, CPU_RCX, 1, 0);
    e_lea(e, CPU_RSP, CPU_RSP, CPU_RAX, 1, 0);
    e_gs_store(e, CPU_RCX, FIELD(stack_addend));
    e_mov_imm(e, CPU_RAX, 0);
    e_sub(e, CPU_RAX, CPU_RCX);
    e_gs_store(e, CPU_RAX, FIELD(stack_negative));
    e_gs_inc(e, FIELD(count.misses));
    e_gs_inc(e, FIELD(count.stack_fills));
    e_gs_load(e, CPU_RSI, FIELD(exit_arg));
    e_op64(e, 0x8b, CPU_RAX, CPU_RSI, NO_REG, 1, offsetof(struct dbt_site, block));
    e_op64(e, 0x8b, CPU_RAX, CPU_RAX, NO_REG, 1, offsetof(struct dbt_block, code));
    e_load32(e, CPU_RSI, CPU_RSI, offsetof(struct dbt_site, retry));
    e_lea(e, CPU_RAX, CPU_RAX, CPU_RSI, 1, 0);
    e_gs_store(e, CPU_RAX, FIELD(enter_at));
    for (unsigned k = 0; k < sizeof taken; k++)
        e_gs_load(e, taken[k], FIELD(save) + 8 * taken[k]);
    e_jmp_gs(e, NO_REG, FIELD(enter_at));
    e_target(e, other_page, e->p);
    e_target(e, over_its_end, e->p);
    for (unsigned k = 0; k < sizeof taken; k++)
        e_gs_load(e, taken[k], FIELD(save) + 8 * taken[k]);
    e_target(e, e_jmp(e), slow);
}

static void write_indirect_miss(struct emit *e, const uint8_t *leave)
{
    e_gs_store(e, CPU_R14, FIELD(exit_address));
    e_mov_imm(e, CPU_R14, DBT_WHY_INDIRECT | DBT_WHY_SLOT);
    e_gs_store32(e, CPU_R14, FIELD(exit_why));
    e_target(e, e_jmp(e), leave);
}

int dbt_runtime_write(struct dbt_vcpu *v)
{
    struct dbt_runtime *r = dbt_runtime(v);
    struct emit e = dbt_cache_emitter(v);
    void *enter = dbt_executable(v, e.p);
    memcpy(&r->enter, &enter, sizeof enter);
    write_enter(&e);
    r->leave = e.p;
    write_leave(&e);
    write_leave_for(&e, r);
    const uint8_t *slow = e.p;
    write_slow(&e, v);
    write_site_for(&e, r->slow_for, slow);
    for (unsigned user = 0; user < 2; user++) {
        const uint8_t *window = e.p;
        write_stack_window(&e, user ? DBT_USER : DBT_KERNEL, slow);
        write_site_for(&e, r->stack_for[user], window);
    }
    r->return_address = (uint64_t)(uintptr_t)dbt_executable(v, e.p);
    write_return(&e);
    r->far_miss = e.p;
    e_gs_set32(&e, FIELD(exit_from), DBT_NOBODY);
    r->indirect_miss = e.p;
    r->indirect_miss_address = (uint64_t)(uintptr_t)dbt_executable(v, e.p);
    write_indirect_miss(&e, r->leave);
    dbt_cache_emitted(v, &e);
    return e.full ? -1 : 0;
}
