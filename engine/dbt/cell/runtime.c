// Entering and leaving guest code in a cell (cell.h): code at fixed places, written once per cell.
//
//     ENTER    registers from the shared page, then to enter_at; or, if somebody has kicked, NOTHING
//     LEAVE    registers to the shared page, then cell_loop()
//     LINK, STEP, MISS  set `why` and leave
//
// A kick that finds ENTER under way moves it to NOTHING (child.c), so none is lost between the look at `kicked` and the
// first guest instruction.
#include "engine/dbt/cell/cell.h"

#define FIELD(name) offsetof(struct cell_shared, name)

static struct emit at(struct cell *c, uint32_t place, uint32_t end)
{
    return (struct emit){.p = c->memory + place, .end = c->memory + end};
}

static const uint8_t *place(const struct cell *c, uint32_t offset)
{
    return c->memory + offset;
}

// xsave64 (4) or xrstor64 (5) gs:[xsave] of x87, SSE and AVX state
static void state(struct emit *e, unsigned which)
{
    e_mov_imm(e, CPU_RAX, XSTATE_X87 | XSTATE_SSE | XSTATE_AVX);
    e_mov_imm(e, CPU_RDX, 0);
    e8(e, 0x65);
    e8(e, 0x48);
    e8(e, 0x0f);
    e8(e, 0xae);
    e_mem(e, which, NO_REG, NO_REG, 1, (int32_t)FIELD(xsave));
}

static void stack(const struct cell *c, struct emit *e)
{
    e_mov_imm(e, CPU_RSP, c->base + CELL_STACK_END - 8); // as after a call
}

static void to_loop(const struct cell *c, struct emit *e)
{
    e_mov_imm(e, CPU_RAX, c->base + CELL_CHILD + (uint64_t)((const uint8_t *)cell_loop - __start_cell_text));
    e8(e, 0xff);
    e8(e, 0xe0); // jmp rax
}

static void write_enter(struct cell *c, struct emit *e)
{
    state(e, 5);
    e_gs_cmp32(e, FIELD(kicked), 0);
    e_target(e, e_jcc(e, COND_NE), place(c, CELL_NOTHING));
    e8(e, 0x65);
    e8(e, 0xff);
    e_mem(e, 6, NO_REG, NO_REG, 1, (int32_t)FIELD(flags)); // push gs:[flags]
    e8(e, 0x9d);                                           // popfq
    for (unsigned r = 0; r < CPU_GPR_COUNT; r++)
        e_gs_load(e, r, FIELD(gpr) + 8 * (size_t)r);
    e_jmp_gs(e, NO_REG, FIELD(enter_at));
}

static void write_leave(const struct cell *c, struct emit *e)
{
    for (unsigned r = 0; r < CPU_GPR_COUNT; r++)
        e_gs_store(e, r, FIELD(gpr) + 8 * (size_t)r);
    stack(c, e);
    e8(e, 0x9c); // pushfq
    e8(e, 0x65);
    e8(e, 0x8f);
    e_mem(e, 0, NO_REG, NO_REG, 1, (int32_t)FIELD(flags)); // pop gs:[flags]
    state(e, 4);
    to_loop(c, e);
}

static void write_why(struct cell *c, struct emit *e, unsigned why)
{
    e_gs_set32(e, FIELD(why), why);
    e_target(e, e_jmp(e), place(c, CELL_LEAVE));
}

bool cell_runtime_write(struct cell *c)
{
    struct emit enter = at(c, CELL_ENTER, CELL_ENTER_END), leave = at(c, CELL_LEAVE, CELL_NOTHING),
                nothing = at(c, CELL_NOTHING, CELL_LINK), link = at(c, CELL_LINK, CELL_STEP),
                step = at(c, CELL_STEP, CELL_MISS), miss = at(c, CELL_MISS, CELL_CHILD);
    write_enter(c, &enter);
    write_leave(c, &leave);
    e_gs_set32(&nothing, FIELD(why), CELL_WHY_NOTHING);
    stack(c, &nothing);
    to_loop(c, &nothing);
    write_why(c, &link, CELL_WHY_LINK);
    write_why(c, &step, CELL_WHY_STEP);
    e_gs_load(&miss, CPU_RCX, FIELD(spill));
    write_why(c, &miss, CELL_WHY_INDIRECT);
    size_t child = (size_t)(__stop_cell_text - __start_cell_text);
    if (enter.full || leave.full || nothing.full || link.full || step.full || miss.full ||
        child > CELL_BLOCKS - CELL_CHILD)
        return false;
    memcpy(c->memory + CELL_CHILD, __start_cell_text, child);
    return true;
}
