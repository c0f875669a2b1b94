// SYSCALL and SYSRET, translated: from one block to another in a different view, without the dispatcher.
//
// What they leave in CS and SS depends on STAR, and whether they exist on EFER.SCE: both are constants of a block, and
// blocks are thrown away when they change (struct dbt_assumed). The near tables of the interpreter's MMU are not
// switched; whoever leaves translated code does that (dbt_view_sync).
//
// SYSRET is left to the interpreter if anything is to be looked at before user code runs: an interrupt that waits, a
// flag that is rare, a return address that is not canonical, a program whose place may be in a cell (`direct`).
//
// Sources: as engine/interp/syscall.c.
#include "engine/dbt/translate.h"
#include "engine/interp/system.h"
#include "engine/interp/tlb.h"

#define FIELD(name) offsetof(struct dbt_vcpu, name)

enum { STATUS = RFLAGS_STATUS, SYSRET_PLAIN = STATUS | RFLAGS_IF | RFLAGS_ID };

// Two-register and immediate forms on 32 bits; all change flags.
static void op_rr(struct emit *e, uint8_t opcode, unsigned to, unsigned from)
{
    e8(e, rex_for(0, from, NO_REG, to));
    e8(e, opcode);
    e8(e, 0xc0 | (from & 7) << 3 | (to & 7));
}

static void op_imm(struct emit *e, unsigned extension, unsigned reg, uint32_t imm)
{
    e8(e, rex_for(0, NO_REG, NO_REG, reg));
    e8(e, 0x81);
    e8(e, 0xc0 | extension << 3 | (reg & 7));
    e32(e, imm);
}

static void not32(struct emit *e, unsigned reg)
{
    e8(e, rex_for(0, NO_REG, NO_REG, reg));
    e8(e, 0xf7);
    e8(e, 0xd0 | (reg & 7));
}

enum { OR = 0x09, AND = 0x21, MOV = 0x89 };

// reg = flag_slot as RFLAGS has it; `temp` goes.
static void from_slot(struct emit *e, unsigned reg, unsigned temp)
{
    e_gs_load32(e, reg, FIELD(flag_slot));
    op_rr(e, MOV, temp, reg);
    e_shift(e, SHIFT_RIGHT, false, temp, 8);
    e_and32(e, temp, STATUS & 0xff);
    e_and32(e, reg, 1);
    e_shift(e, SHIFT_LEFT, false, reg, 11);
    op_rr(e, OR, reg, temp);
}

// flag_slot = the status flags in reg, which goes; temp, too.
static void to_slot(struct emit *e, unsigned reg, unsigned temp)
{
    op_rr(e, MOV, temp, reg);
    e_and32(e, temp, STATUS & 0xff);
    e_shift(e, SHIFT_LEFT, false, temp, 8);
    e_shift(e, SHIFT_RIGHT, false, reg, 11);
    e_and32(e, reg, 1);
    op_rr(e, OR, temp, reg);
    e_gs_store32(e, temp, FIELD(flag_slot));
}

static void set_segment(struct emit *e, unsigned which, const struct cpu_segment *s, unsigned temp)
{
    size_t field = FIELD(i.s.seg) + which * sizeof *s;
    uint64_t word;
    memcpy(&word, s, sizeof word);
    e_mov_imm(e, temp, word);
    e_gs_store(e, temp, field);
    e_mov_imm(e, temp, 0);
    e_gs_store(e, temp, field + offsetof(struct cpu_segment, base));
}

static void move_field(struct emit *e, size_t to, size_t from, unsigned temp)
{
    e_gs_load(e, temp, from);
    e_gs_store(e, temp, to);
}

// The stack window is for the other ring.
static void leave_window(struct emit *e, unsigned temp)
{
    move_field(e, FIELD(user_low), FIELD(stack_low), temp);
    move_field(e, FIELD(user_addend), FIELD(stack_addend), temp);
    e_mov_imm(e, temp, DBT_NO_WINDOW);
    e_gs_store(e, temp, FIELD(stack_low));
}

// And back to the one that was left, whatever RSP is now.
static void return_to_window(struct dbt_translation *t, unsigned index)
{
    struct emit *e = &t->e;
    unsigned rsp = t->s0, temp = t->pool[0];
    e_gs_load(e, rsp, FIELD(stack_negative));
    e_lea(e, rsp, CPU_RSP, rsp, 1, 0); // the guest's
    e_gs_load(e, temp, FIELD(user_addend));
    e_gs_store(e, temp, FIELD(stack_addend));
    e_lea(e, rsp, rsp, temp, 1, 0);
    e_mov_imm(e, temp, 0);
    e_gs(e, 0x2b, temp, FIELD(stack_addend)); // sub
    e_gs_store(e, temp, FIELD(stack_negative));
    move_field(e, FIELD(stack_low), FIELD(user_low), temp);
    dbt_stack_set(t, index, rsp);
}

// CS, SS, CPL.
static void change_ring(struct dbt_translation *t, bool ret, unsigned temp)
{
    struct emit *e = &t->e;
    struct cpu_segment cs, ss;
    interp_syscall_segments(t->v->i.s.msr.star, ret, &cs, &ss);
    set_segment(e, CPU_CS, &cs, temp);
    set_segment(e, CPU_SS, &ss, temp);
    e_gs_set8(e, FIELD(i.cpl), ret ? 3 : 0);
    e_gs_set8(e, FIELD(stack_view), ret ? DBT_USER : DBT_KERNEL);
}

void dbt_syscall_write(struct dbt_translation *t, unsigned index)
{
    const struct dbt_insn *i = &t->insn[index];
    struct emit *e = &t->e;
    t->group[0].valid = false;
    dbt_flags_save(t, t->s0);
    from_slot(e, CPU_R11, CPU_RCX);
    e_gs_load32(e, CPU_RCX, FIELD(i.s.rflags));
    e_and32(e, CPU_RCX, ~(uint32_t)(STATUS | RFLAGS_RF | RFLAGS_VM));
    op_rr(e, OR, CPU_R11, CPU_RCX);
    e_gs_load32(e, CPU_RCX, FIELD(i.s.msr.sfmask));
    not32(e, CPU_RCX);
    op_rr(e, AND, CPU_RCX, CPU_R11);
    op_imm(e, 1, CPU_RCX, RFLAGS_FIXED); // or
    e_gs_store(e, CPU_RCX, FIELD(i.s.rflags));
    to_slot(e, CPU_RCX, t->s0);
    e_mov_imm(e, CPU_RCX, i->rip + i->len);
    change_ring(t, false, t->s0);
    leave_window(e, t->s0);
    dbt_exit_view(t, index, DBT_KERNEL, NO_REG, FIELD(i.s.msr.lstar));
}

// The last comparison says that the interpreter must do it: unless `cond`.
static void unless(struct dbt_translation *t, unsigned index, unsigned cond)
{
    uint8_t *over = e_jcc(&t->e, cond);
    dbt_exit_step(t, index);
    e_target(&t->e, over, t->e.p);
}

void dbt_sysret_write(struct dbt_translation *t, unsigned index)
{
    struct emit *e = &t->e;
    t->group[0].valid = false;
    dbt_flags_save(t, t->s0);
    // Whatever is wrong leaves a bit in s0, and there is one way out.
    e_mov(e, t->s0, CPU_RCX);
    e_shift(e, SHIFT_RIGHT, true, t->s0, 47);
    op_rr(e, MOV, t->pool[0], CPU_R11);
    e_and32(e, t->pool[0], ~(uint32_t)(SYSRET_PLAIN | RFLAGS_FIXED));
    op_rr(e, OR, t->s0, t->pool[0]);
    e_gs_load32(e, t->pool[0], FIELD(i.base.pending));
    op_rr(e, OR, t->s0, t->pool[0]);
    if (t->v->cells) {
        e_gs_load(e, t->pool[0], FIELD(i.tlb));
        e_op64(e, 0x8b, t->pool[0], t->pool[0], NO_REG, 1, (int32_t)offsetof(struct interp_tlb, context));
        e_gs(e, 0x33, t->pool[0], FIELD(direct)); // xor
        op_rr(e, OR, t->s0, t->pool[0]);
        e_shift(e, SHIFT_RIGHT, true, t->pool[0], 32);
        op_rr(e, OR, t->s0, t->pool[0]);
    }
    op_rr(e, 0x85, t->s0, t->s0); // test
    unless(t, index, COND_E);
    op_rr(e, MOV, t->pool[0], CPU_R11);
    e_and32(e, t->pool[0], SYSRET_PLAIN);
    op_imm(e, 1, t->pool[0], RFLAGS_FIXED);
    e_gs_store(e, t->pool[0], FIELD(i.s.rflags));
    to_slot(e, t->pool[0], t->s0);
    change_ring(t, true, t->s0);
    return_to_window(t, index);
    dbt_exit_view(t, index, DBT_USER, CPU_RCX, 0);
}
