// See run.h. Compiled for general registers only; what may use others is called after dbt_park().
//
// The loop: look at events; find the block at RIP; link the exit that led here; enter; see why it was left. Whatever
// translated code does not do, interp_step() does.
#include "engine/dbt/run.h"
#include "engine/dbt/cache.h"
#include "engine/dbt/cell/cell.h"
#include "engine/dbt/fault.h"
#include "engine/dbt/mmu.h"
#include "engine/dbt/quick.h"
#include "engine/dbt/runtime.h"
#include "engine/dbt/written.h"
#include "engine/interp/run.h"
#include "engine/interp/tlb.h"

enum { XSAVE_FIP = 8, XSAVE_FDP = 16 };
enum { XSTATE = XSTATE_X87 | XSTATE_SSE | XSTATE_AVX };

// The host's x87 remembers the last instruction's address as that of translated code; and its operand's address, which
// nobody can know any more.
static void hide_pointers(struct dbt_vcpu *v)
{
    uint64_t *fip = (uint64_t *)&v->i.s.xsave[XSAVE_FIP], *fdp = (uint64_t *)&v->i.s.xsave[XSAVE_FDP];
    if (*fip - (uint64_t)(uintptr_t)v->cache->rx >= v->cache->size)
        return;
    const struct dbt_map *insn;
    const struct dbt_block *b = dbt_block_at(v, *fip, &insn);
    *fip = b && insn ? b->rip + insn->rip : 0;
    *fdp = 0;
}

void dbt_park(struct dbt_vcpu *v)
{
    static const uint32_t mxcsr = 0x1f80;
    if (!v->fpu_live)
        return;
    v->fpu_live = false;
    v->count.fpu_parks++;
    __asm__ volatile("xsave64 %0\n\tvzeroupper\n\tfninit\n\tldmxcsr %1"
                     : "+m"(v->i.s.xsave)
                     : "m"(mxcsr), "a"(XSTATE), "d"(0));
    hide_pointers(v);
}

void dbt_unpark(struct dbt_vcpu *v)
{
    if (v->fpu_live)
        return;
    v->fpu_live = true;
    __asm__ volatile("xrstor64 %0" : : "m"(v->i.s.xsave), "a"(XSTATE), "d"(0));
}

// --- state at the moment of leaving

static void take_flags(struct dbt_vcpu *v)
{
    uint64_t f = v->host_flags;
    if (v->exit_why & DBT_WHY_SLOT) {
        uint32_t slot = v->flag_slot;
        f = (slot >> 8 & 0xd5) | (slot & 1) << 11;
    }
    v->i.s.rflags = (v->i.s.rflags & ~(uint64_t)RFLAGS_STATUS) | (f & RFLAGS_STATUS);
}

// `live`: guest registers that were in host registers.
static void take_registers(struct dbt_vcpu *v, unsigned live)
{
    for (unsigned r = 0; r < CPU_GPR_COUNT; r++)
        if (live & 1u << r)
            v->i.s.gpr[r] = v->save[r];
    v->i.s.gpr[CPU_RSP] = v->save[CPU_RSP] - v->stack_addend;
    take_flags(v);
}

enum { BETWEEN = 0xffff & ~(1u << CPU_R14 | 1u << CPU_R15) }; // what is in registers between blocks

// --- finding

static bool fpu_usable(const struct cpu_state *s)
{
    uint64_t cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    return !(s->cr0 & (CR0_TS | CR0_EM)) && (s->cr0 & CR0_NE) && (s->cr4 & cr4) == cr4 && (s->xcr0 & XSTATE) == XSTATE;
}

static unsigned key_now(const struct dbt_vcpu *v)
{
    return dbt_view_of(&v->i) | (fpu_usable(&v->i.s) ? DBT_KEY_FPU : 0);
}

static bool translatable(const struct dbt_vcpu *v)
{
    const struct interp_vcpu *i = &v->i;
    return i->mode == MODE_LONG64 && (i->cpl == 0 || i->cpl == 3) && i->near != i->tlb->near[TLB_NONE];
}

static const struct tlb_near_code *fetch(struct dbt_vcpu *v, uint64_t rip)
{
    struct interp_vcpu *i = &v->i;
    uint64_t gpa;
    const struct tlb_near_code *e = &i->near_code[tlb_code_index(rip)];
    if (rip - e->la < PAGE_SIZE)
        return e;
    dbt_park(v);
    i->fault.raised = false;
    e = tlb_fetch(i, rip, &gpa);
    i->fault.raised = false;
    return e;
}

// The block at RIP. *cold: there may be none for code that is not hot; it stays true if that is why.
static struct dbt_block *find(struct dbt_vcpu *v, unsigned key, bool *cold)
{
    enum { LONGEST = 15 };
    struct interp_vcpu *i = &v->i;
    uint64_t rip = i->s.rip, offset = rip & (PAGE_SIZE - 1);
    bool user = (key & DBT_KEY_VIEW) == DBT_USER;
    struct dbt_code code = {.rip = rip, .phys2 = DBT_NO_PAGE};
    const struct tlb_near_code *second = NULL;
    if (offset > PAGE_SIZE - LONGEST && (second = fetch(v, rip + LONGEST))) {
        code.phys2 = second->gpa;
        code.page2 = second->host;
        code.word2 = second->page;
        v->kernel_code_not_global |= !user && !second->global;
    }
    const struct tlb_near_code *e = fetch(v, rip);
    if (!e)
        return NULL;
    v->kernel_code_not_global |= !user && !e->global;
    code.phys = e->gpa | offset;
    code.page = e->host;
    struct dbt_block *b = dbt_block_find(v, &code, key);
    if (!b) {
        dbt_park(v);
        if (*cold && (*cold = dbt_cold_still(v, &code)))
            return NULL;
        ram_mark_code(i, e->page);
        if (i->flush_wanted)
            return NULL;
        return dbt_block(v, &code, key);
    }
    *dbt_itlb(v, user, rip) = b->page_id;
    if (b->phys2 != DBT_NO_PAGE)
        *dbt_itlb(v, user, rip + LONGEST) = b->page_id2;
    return b;
}

// --- the loop

struct arrival {            // how we came to where we are
    struct dbt_exit *link;  // to be linked to the block found, or NULL
    bool indirect;          // by a jump that the table may serve another time
    struct dbt_block *from; // whose it was, or NULL
    uint64_t flushes;       // of the cache, when these were noted
    unsigned key;           // bits to be added
};

static void arrive(struct dbt_vcpu *v, const struct arrival *a, struct dbt_block *b)
{
    if (b->key & DBT_KEY_ALONE)
        return;
    bool kept = a->flushes == v->count.cache_flushes;
    if (a->link && kept)
        dbt_link(v, a->link, b);
    if (a->indirect)
        dbt_ibl_set(v, b);
    if (a->from && kept)
        dbt_guess(v, a->from, b);
}

static void step(struct dbt_vcpu *v)
{
    dbt_park(v);
    v->count.steps++;
    interp_step(&v->i);
}

static void interpret_block(struct dbt_vcpu *v)
{
    dbt_park(v);
    v->count.cold++;
    interp_block(&v->i);
}

// An indirect branch to an address that is not canonical: #GP at the branch, which has done nothing (but for what a
// call left below the stack pointer).
static void branch_faults(struct dbt_vcpu *v, const struct dbt_block *b)
{
    v->i.s.rip = b->rip + b->length - b->branch_length;
    v->i.s.gpr[CPU_RSP] -= (uint64_t)(int64_t)b->branch_rsp;
    dbt_park(v);
    interp_gp(&v->i, 0);
    interp_deliver_fault(&v->i);
}

// `counted`: the block was entered by the dispatcher and is ALONE, so how much of it was done is known.
static void left(struct dbt_vcpu *v, struct arrival *a, bool counted)
{
    unsigned done = 0;
    struct cpu_state *s = &v->i.s;
    const struct dbt_exit *x = (const struct dbt_exit *)(uintptr_t)v->exit_arg;
    const struct dbt_site *site = (const struct dbt_site *)(uintptr_t)v->exit_arg;
    const struct dbt_block *b = (const struct dbt_block *)(uintptr_t)v->exit_arg;
    *a = (struct arrival){.flushes = v->count.cache_flushes};
    switch (v->exit_why & ~(unsigned)DBT_WHY_SLOT) {
    case DBT_WHY_LINK:
        take_registers(v, BETWEEN);
        s->rip = x->target;
        done = x->done;
        a->link = (struct dbt_exit *)(uintptr_t)v->exit_arg;
        a->key = x->key;
        break;
    case DBT_WHY_STEP:
        take_registers(v, BETWEEN);
        s->rip = x->target;
        done = x->done;
        if (x->quick && !interp_stepping(&v->i))
            dbt_quick(v, x->quick);
        else
            step(v);
        break;
    case DBT_WHY_POLL:
        take_registers(v, BETWEEN);
        s->rip = b->rip;
        a->key = b->key & DBT_KEY_SPLIT;
        v->count.polls++;
        break;
    case DBT_WHY_INDIRECT:
        take_registers(v, BETWEEN);
        s->rip = v->exit_address;
        a->indirect = true;
        if (v->exit_from == DBT_NOBODY) {
            v->count.far_misses++;
            break;
        }
        v->count.indirect_misses++;
        a->from = dbt_block_numbered(v->cache, v->exit_from);
        done = a->from->insns;
        if (!cpu_is_canonical(s, v->exit_address)) {
            branch_faults(v, a->from);
            *a = (struct arrival){0};
            done--;
        }
        break;
    case DBT_WHY_SITE:
        take_registers(v, site->block->live);
        s->rip = site->block->rip + site->rip_offset;
        done = site->done;
        step(v);
        break;
    case DBT_WHY_SPLIT:
        take_registers(v, site->block->live);
        s->rip = site->block->rip + site->rip_offset;
        done = site->done;
        a->key = DBT_KEY_SPLIT;
        break;
    case DBT_WHY_FAULT:
        take_registers(v, b->live);
        s->rip = v->exit_address;
        done = v->fault_done;
        v->count.host_faults++;
        step(v);
        break;
    }
    if (counted)
        v->i.count.instructions += done;
}

static void enter(struct dbt_vcpu *v, const struct dbt_block *b)
{
    unsigned view = b->key & DBT_KEY_VIEW, fpu = b->key & DBT_KEY_FPU;
    if (v->stack_view != view) {
        v->stack_low = DBT_NO_WINDOW;
        v->stack_view = (uint8_t)view;
    }
    if (v->ibl_fpu != fpu) {
        dbt_ibl_clear(v);
        v->ibl_fpu = (uint8_t)fpu;
    }
    if (v->i.s.gpr[CPU_RSP] + v->stack_addend >= DBT_HOST_END)
        dbt_stack_move(v, v->i.s.gpr[CPU_RSP]);
    v->enter_at = (uint64_t)(uintptr_t)(b->code + b->near);
    v->host_flags = (v->i.s.rflags & RFLAGS_STATUS) | RFLAGS_FIXED | RFLAGS_IF;
    dbt_unpark(v);
    v->count.dispatches++;
    dbt_runtime(v)->enter(v);
    dbt_sanitized(v);
    dbt_view_sync(&v->i);
}

// Whether what blocks take for granted is still so; from now on it is.
static bool still_assumed(struct dbt_vcpu *v)
{
    const struct cpu_state *s = &v->i.s;
    const struct dbt_assumed now = {s->cr4 & (CR4_SMAP | CR4_TSD), s->efer & EFER_SCE, s->msr.star, v->window.seen};
    struct dbt_assumed *then = &v->assumed;
    if (then->cr4 == now.cr4 && then->efer == now.efer && then->star == now.star && then->window == now.window)
        return true;
    *then = now;
    return false;
}

// Instructions are counted: blocks one at a time, and near the end such of one instruction.
static struct dbt_block *find_counted(struct dbt_vcpu *v, unsigned key, uint64_t left)
{
    bool cold = false;
    struct dbt_block *b = find(v, key | DBT_KEY_ALONE, &cold);
    return b && (uint64_t)b->insns + b->steps > left ? find(v, key | DBT_KEY_ALONE | DBT_KEY_SINGLE, &cold) : b;
}

enum engine_exit dbt_run(struct dbt_vcpu *v, uint64_t count, struct error *err)
{
    bool counted = count != UINT64_MAX;
    uint64_t until = v->i.count.instructions + count;
    if (until < count)
        until = UINT64_MAX;
    struct interp_vcpu *i = &v->i;
    struct arrival a = {0};
    struct dbt_thread thread;
    int e = dbt_thread_enter(v, &thread, err);
    if (e)
        return ENGINE_EXIT_ERROR;
    enum engine_exit how = ENGINE_EXIT_REQUESTED;
    interp_guest_enter(i);
    for (;;) {
        __atomic_store_n(&v->poll, 0, __ATOMIC_SEQ_CST);
        if (!still_assumed(v)) {
            dbt_park(v);
            dbt_cache_flush(v);
            a = (struct arrival){0};
        }
        if (dbt_is_written(v)) {
            dbt_park(v);
            dbt_take_written(v);
        }
        if (interp_attention(i)) {
            dbt_park(v);
            bool user = i->cpl == 3;
            uint64_t interrupts = i->count.interrupts;
            enum interp_event event = interp_events(i);
            if (i->count.interrupts != interrupts)
                cells_note_interrupt(v, user);
            if (event == EVENT_EXIT)
                break;
            if (event == EVENT_SHUTDOWN) {
                how = ENGINE_EXIT_SHUTDOWN;
                break;
            }
            if (event == EVENT_AGAIN) {
                a = (struct arrival){0};
                continue;
            }
            if (interp_stepping(i)) {
                if (counted && i->count.instructions >= until)
                    break;
                step(v);
                a = (struct arrival){0};
                continue;
            }
        }
        if (counted && i->count.instructions >= until)
            break;
        i->amid = false; // translated code may end what the interpreter began; who does not says so again
        // With something pending that cannot be taken now it would be kept from entering for ever.
        if (!counted && cells_wanted(v) && translatable(v) && fpu_usable(&i->s) && !interp_attention(i)) {
            dbt_park(v);
            if (cells_run(v)) {
                if (cells_lost(v)) {
                    error_set(err, 0, "vCPU %u: the process that ran a guest program has died", i->base.id);
                    how = ENGINE_EXIT_ERROR;
                    break;
                }
                a = (struct arrival){0};
                continue;
            }
        }
        bool cold = !counted && !v->eager;
        struct dbt_block *b = !translatable(v) ? NULL
                              : counted        ? find_counted(v, key_now(v) | a.key, until - i->count.instructions)
                                               : find(v, key_now(v) | a.key, &cold);
        if (i->cpl == 3 && !(v->cells && v->cells->always)) // no cell: the way back from system calls may be short
            v->direct = i->tlb->context;
        if (!b) {
            if (cold)
                interpret_block(v);
            else
                step(v);
            a = (struct arrival){0};
            continue;
        }
        arrive(v, &a, b);
        enter(v, b);
        left(v, &a, counted);
    }
    dbt_park(v);
    interp_guest_leave(i);
    dbt_thread_leave(&thread);
    return how;
}
