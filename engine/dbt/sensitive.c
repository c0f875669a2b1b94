// Sensitive instructions that operating systems use all the time, translated: they work on the guest's state in the
// vCPU instead of on the host's.
//
//     CLI              rflags.IF = 0
//     STI              rflags.IF = 1, and after the next instruction a look at `pending`: an interrupt may be waiting.
//                      Only if that is a plain one without memory; else the interpreter keeps the shadow.
//     SWAPGS           exchanges two fields
//     PUSHFQ           the host's, with the bits of rflags that are not in the host's flags put in
//     STAC, CLAC       change rflags.AC and so the view; the next block is another view's
//     RDTSC, RDTSCP    the host's TSC plus the difference of the two; or a call where time has another source
//     SYSCALL, SYSRET  syscall.c
//
// What their translation takes for granted (CR4, EFER, STAR) is struct dbt_assumed: when that changes, blocks go.
#include "engine/dbt/runtime.h"
#include "engine/dbt/translate.h"

#define FIELD(name) offsetof(struct dbt_vcpu, name)

enum { OP_OR = 1, OP_AND = 4 };

// op dword gs:[field], imm (flags)
static void on_field(struct emit *e, unsigned op, size_t field, uint32_t imm)
{
    e8(e, 0x65);
    e8(e, 0x81);
    e_mem(e, op, NO_REG, NO_REG, 1, (int32_t)field);
    e32(e, imm);
}

bool dbt_sensitive_is(const struct dbt_translation *t, const struct dbt_insn *i)
{
    bool here = !(t->key & (DBT_KEY_CELL | DBT_KEY_SPLIT)), free = here && !(t->key & DBT_KEY_ALONE);
    bool kernel = here && (t->key & DBT_KEY_VIEW) != DBT_USER;
    const struct interp_vcpu *v = &t->v->i;
    switch (i->z.mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
        return free && !kernel && (v->s.efer & EFER_SCE);
    case ZYDIS_MNEMONIC_SYSRET:
        return free && (t->key & DBT_KEY_VIEW) == DBT_KERNEL && (v->s.efer & EFER_SCE) && i->z.operand_width == 64;
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
        return free && (kernel || !(v->s.cr4 & CR4_TSD));
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_SWAPGS:
        return kernel;
    case ZYDIS_MNEMONIC_STI:
        return kernel && free;
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
        return kernel && (t->v->i.s.cr4 & CR4_SMAP);
    case ZYDIS_MNEMONIC_PUSHFQ:
        return kernel && i->z.operand_width == 64;
    default:
        return false;
    }
}

bool dbt_sensitive_ends_block(const struct dbt_insn *i)
{
    switch (i->z.mnemonic) {
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
        return true;
    default:
        return false;
    }
}

uint16_t dbt_sensitive_registers(const struct dbt_insn *i, uint16_t *written)
{
    enum { AX = 1 << CPU_RAX, CX = 1 << CPU_RCX, DX = 1 << CPU_RDX, R11 = 1 << CPU_R11 };
    switch (i->z.mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
        return *written = CX | R11;
    case ZYDIS_MNEMONIC_SYSRET:
        *written = 0;
        return CX | R11;
    case ZYDIS_MNEMONIC_RDTSC:
        return *written = AX | DX;
    case ZYDIS_MNEMONIC_RDTSCP:
        return *written = AX | CX | DX;
    default:
        return *written = 0;
    }
}

static void write_swapgs(struct dbt_translation *t)
{
    struct emit *e = &t->e;
    size_t base = FIELD(i.s.seg) + CPU_GS * sizeof(struct cpu_segment) + offsetof(struct cpu_segment, base);
    t->group[0].valid = false;
    e_gs_load(e, t->s0, base);
    e_gs_load(e, t->pool[0], FIELD(i.s.msr.kernel_gs_base));
    e_gs_store(e, t->s0, FIELD(i.s.msr.kernel_gs_base));
    e_gs_store(e, t->pool[0], base);
}

static void write_pushfq(struct dbt_translation *t, unsigned index)
{
    struct emit *e = &t->e;
    dbt_stack_check(t, index);
    dbt_flags_restore(t, t->s0);
    e8(e, 0x9c); // pushfq
    if (t->insn[index].flags_live_out)
        dbt_flags_save(t, t->s0);
    e_gs_load32(e, t->s0, FIELD(i.s.rflags));
    e_and32(e, t->s0, ~(uint32_t)(RFLAGS_STATUS | RFLAGS_RF | RFLAGS_VM));
    e8(e, 0x81); // and dword [rsp], status
    e_mem(e, OP_AND, CPU_RSP, NO_REG, 1, 0);
    e32(e, RFLAGS_STATUS);
    if (t->s0 & 8)
        e8(e, 0x44);
    e8(e, 0x09); // or [rsp], s0
    e_mem(e, t->s0, CPU_RSP, NO_REG, 1, 0);
}

// Nothing that could fault: whoever handles that would let the interrupt in first.
static bool plain(const struct dbt_insn *i)
{
    bool divides = i->z.mnemonic == ZYDIS_MNEMONIC_DIV || i->z.mnemonic == ZYDIS_MNEMONIC_IDIV;
    return i->class == CLASS_SKIP ||
           (i->class == CLASS_COPY && !i->mem.present && !i->rsp_operand && !i->fpu && !divides);
}

static void write_view(struct dbt_translation *t, unsigned index, bool ac)
{
    const struct dbt_insn *i = &t->insn[index];
    dbt_flags_free(t, index, t->s0);
    if (ac)
        on_field(&t->e, OP_OR, FIELD(i.s.rflags), RFLAGS_AC);
    else
        on_field(&t->e, OP_AND, FIELD(i.s.rflags), ~(uint32_t)RFLAGS_AC);
    e_gs_set8(&t->e, FIELD(stack_view), ac ? DBT_KERNEL_AC : DBT_KERNEL);
    dbt_exit_direct(t, index, i->rip + i->len);
}

static void write_rdtsc(struct dbt_translation *t, unsigned index)
{
    static const uint8_t read[] = {0x0f, 0xae, 0xe8, 0x0f, 0x31, // lfence; rdtsc: why so, host/clock.c tells
                                   0x48, 0xc1, 0xe2, 0x20,       // shl rdx, 32
                                   0x48, 0x09, 0xd0};            // or rax, rdx
    static const uint8_t split[] = {0x48, 0x89, 0xc2,            // mov rdx, rax
                                    0x48, 0xc1, 0xea, 0x20,      // shr rdx, 32
                                    0x89, 0xc0};                 // mov eax, eax
    struct emit *e = &t->e;
    t->group[0].valid = false;
    dbt_flags_free(t, index, t->s0);
    const _Atomic uint64_t *offset = t->v->i.base.vm->config.tsc_offset;
    if (offset) {
        e_bytes(e, read, sizeof read);
        e_mov_imm(e, t->s0, (uintptr_t)offset);
        e_op64(e, 0x03, CPU_RAX, t->s0, NO_REG, 1, 0);
        e_gs(e, 0x03, CPU_RAX, FIELD(i.s.msr.tsc_adjust));
        e_bytes(e, split, sizeof split);
    } else {
        struct dbt_cold *c = dbt_cold(t, COLD_TSC, index);
        c->jump[0] = e_jmp(e);
        c->retry = e->p;
    }
    if (t->insn[index].z.mnemonic == ZYDIS_MNEMONIC_RDTSCP)
        e_gs_load32(e, CPU_RCX, FIELD(i.s.msr.tsc_aux));
}

bool dbt_sensitive_write(struct dbt_translation *t, unsigned index)
{
    switch (t->insn[index].z.mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        dbt_flags_free(t, index, t->s0);
        on_field(&t->e, OP_AND, FIELD(i.s.rflags), ~(uint32_t)RFLAGS_IF);
        return true;
    case ZYDIS_MNEMONIC_STI:
        if (index + 1 == t->count || !plain(&t->insn[index + 1]))
            return false;
        dbt_flags_free(t, index, t->s0);
        on_field(&t->e, OP_OR, FIELD(i.s.rflags), RFLAGS_IF);
        t->look_after = index + 1;
        return true;
    case ZYDIS_MNEMONIC_SWAPGS:
        write_swapgs(t);
        return true;
    case ZYDIS_MNEMONIC_SYSCALL:
        dbt_syscall_write(t, index);
        return true;
    case ZYDIS_MNEMONIC_SYSRET:
        dbt_sysret_write(t, index);
        return true;
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
        write_rdtsc(t, index);
        return true;
    case ZYDIS_MNEMONIC_PUSHFQ:
        write_pushfq(t, index);
        return true;
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
        write_view(t, index, t->insn[index].z.mnemonic == ZYDIS_MNEMONIC_STAC);
        return true;
    default:
        return false;
    }
}

void dbt_sensitive_after(struct dbt_translation *t, unsigned index)
{
    if (!t->look_after || index != t->look_after)
        return;
    t->look_after = 0;
    if (t->insn[index].flags_live_out)
        dbt_flags_save(t, t->s0);
    e_gs_cmp32(&t->e, FIELD(i.base.pending), 0);
    uint8_t *over = e_jcc(&t->e, COND_E);
    dbt_exit_look(t, index);
    e_target(&t->e, over, t->e.p);
}
