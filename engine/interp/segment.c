// Instructions that name segment registers and descriptor tables: MOV, PUSH, POP and LDS..LGS, LGDT and its family,
// LLDT, LTR, and those that only ask about a descriptor (LAR, LSL, VERR, VERW, ARPL).
//
// Example: MOV SS, AX; MOV ESP, EBX: the first one holds interrupts and debug traps off until after the second, so that
// nothing is ever pushed onto half a stack pointer.
#include "engine/interp/system.h"
#include <string.h>

// --- operands

bool operand_read(struct interp_vcpu *v, const struct interp_insn *i, unsigned n, unsigned size, uint64_t *val)
{
    if (i->op[n].kind == OPERAND_MEM)
        return interp_read(v, i->seg, interp_ea(v, i), size, val);
    struct interp_operand o = i->op[n];
    o.size = (uint8_t)size;
    *val = interp_reg(v, &o);
    return true;
}

// To memory `size` bytes; to a register as many as the operand has.
bool operand_write(struct interp_vcpu *v, const struct interp_insn *i, unsigned n, unsigned size, uint64_t val)
{
    if (i->op[n].kind == OPERAND_MEM)
        return interp_write(v, i->seg, interp_ea(v, i), size, val);
    interp_set_reg(v, &i->op[n], val);
    return true;
}

unsigned far_opsize(const struct interp_vcpu *v, const struct interp_insn *i)
{
    return i->opsize == 8 && v->model->vendor == CPU_VENDOR_AMD ? 4 : i->opsize;
}

static uint64_t address_mask(const struct interp_insn *i)
{
    return i->addrsize == 8 ? ~0ull : i->addrsize == 4 ? 0xffffffff : 0xffff;
}

bool operand_far(struct interp_vcpu *v, const struct interp_insn *i, unsigned opsize, uint16_t *sel, uint64_t *offset)
{
    uint64_t ea = interp_ea(v, i), val;
    if (!interp_read(v, i->seg, ea, opsize, offset) ||
        !interp_read(v, i->seg, (ea + opsize) & address_mask(i), 2, &val))
        return false;
    *sel = (uint16_t)val;
    return true;
}

// After a segment register was loaded.
static enum interp_result loaded(struct interp_vcpu *v, unsigned seg)
{
    if (seg != CPU_SS)
        return INTERP_NEXT;
    v->s.ev.shadow = CPU_SHADOW_MOV_SS;
    return INTERP_BREAK;
}

// --- segment registers

enum interp_result sys_mov_to_seg(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t sel;
    unsigned seg = i->op[0].reg;
    if (seg == CPU_CS || seg >= CPU_SEG_COUNT)
        return interp_ud(v);
    if (!operand_read(v, i, 1, 2, &sel) || !interp_load_segment(v, seg, (uint16_t)sel))
        return INTERP_FAULT;
    return loaded(v, seg);
}

enum interp_result sys_mov_from_seg(struct interp_vcpu *v, const struct interp_insn *i)
{
    unsigned seg = i->op[1].reg;
    if (seg >= CPU_SEG_COUNT)
        return interp_ud(v);
    return operand_write(v, i, 0, 2, v->s.seg[seg].selector) ? INTERP_NEXT : INTERP_FAULT;
}

enum interp_result sys_push_seg(struct interp_vcpu *v, const struct interp_insn *i)
{
    // Intel's processors make room for 4 bytes and write 2 (Intel SDM vol. 2, PUSH).
    unsigned written = i->opsize == 4 && v->model->vendor == CPU_VENDOR_INTEL ? 2 : i->opsize;
    return interp_push_part(v, i->opsize, written, v->s.seg[i->op[0].reg].selector) ? INTERP_NEXT : INTERP_FAULT;
}

enum interp_result sys_pop_seg(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t rsp = v->s.gpr[CPU_RSP], val;
    unsigned seg = i->op[0].reg;
    if (!interp_pop(v, i->opsize, &val))
        return INTERP_FAULT;
    if (!interp_load_segment(v, seg, (uint16_t)val)) {
        v->s.gpr[CPU_RSP] = rsp;
        return INTERP_FAULT;
    }
    return loaded(v, seg);
}

static enum interp_result load_far(struct interp_vcpu *v, const struct interp_insn *i, unsigned seg)
{
    struct interp_operand to = i->op[0];
    unsigned opsize = far_opsize(v, i);
    uint64_t offset;
    uint16_t sel;
    to.size = (uint8_t)opsize;
    if (!operand_far(v, i, opsize, &sel, &offset) || !interp_load_segment(v, seg, sel))
        return INTERP_FAULT;
    interp_set_reg(v, &to, offset);
    return seg == CPU_SS ? INTERP_BREAK : INTERP_NEXT; // LSS needs no shadow: it loads both
}

enum interp_result sys_lds(struct interp_vcpu *v, const struct interp_insn *i)
{
    return load_far(v, i, CPU_DS);
}

enum interp_result sys_les(struct interp_vcpu *v, const struct interp_insn *i)
{
    return load_far(v, i, CPU_ES);
}

enum interp_result sys_lss(struct interp_vcpu *v, const struct interp_insn *i)
{
    return load_far(v, i, CPU_SS);
}

enum interp_result sys_lfs(struct interp_vcpu *v, const struct interp_insn *i)
{
    return load_far(v, i, CPU_FS);
}

enum interp_result sys_lgs(struct interp_vcpu *v, const struct interp_insn *i)
{
    return load_far(v, i, CPU_GS);
}

// --- GDTR and IDTR

static enum interp_result load_table(struct interp_vcpu *v, const struct interp_insn *i, struct cpu_table *t)
{
    bool wide = v->mode == MODE_LONG64;
    uint64_t ea = interp_ea(v, i), limit, base;
    if (v->cpl != 0)
        return interp_gp(v, 0);
    if (!interp_read(v, i->seg, ea, 2, &limit) ||
        !interp_read(v, i->seg, (ea + 2) & address_mask(i), wide ? 8 : 4, &base))
        return INTERP_FAULT;
    if (wide && !cpu_is_canonical(&v->s, base))
        return interp_gp(v, 0);
    if (!wide && i->opsize == 2)
        base &= 0xffffff;
    *t = (struct cpu_table){.base = base, .limit = (uint16_t)limit};
    return INTERP_NEXT;
}

// The whole base is stored, even with a 16-bit operand size, as processors since the 386 do.
static enum interp_result store_table(struct interp_vcpu *v, const struct interp_insn *i, const struct cpu_table *t)
{
    unsigned size = v->mode == MODE_LONG64 ? 10 : 6;
    uint8_t image[10];
    uint64_t la;
    if (v->s.cr4 & CR4_UMIP && v->cpl != 0)
        return interp_gp(v, 0);
    memcpy(image, &t->limit, 2);
    memcpy(image + 2, &t->base, 8);
    if (!interp_linear(v, i->seg, interp_ea(v, i), size, CPU_WRITE, &la) ||
        !interp_write_bytes(v, la, image, size, false))
        return INTERP_FAULT;
    return INTERP_NEXT;
}

enum interp_result sys_lgdt(struct interp_vcpu *v, const struct interp_insn *i)
{
    return load_table(v, i, &v->s.gdtr);
}

enum interp_result sys_lidt(struct interp_vcpu *v, const struct interp_insn *i)
{
    return load_table(v, i, &v->s.idtr);
}

enum interp_result sys_sgdt(struct interp_vcpu *v, const struct interp_insn *i)
{
    return store_table(v, i, &v->s.gdtr);
}

enum interp_result sys_sidt(struct interp_vcpu *v, const struct interp_insn *i)
{
    return store_table(v, i, &v->s.idtr);
}

// --- LDTR and TR

static enum interp_result store_selector(struct interp_vcpu *v, const struct interp_insn *i, uint16_t sel)
{
    if (!is_protected(v))
        return interp_ud(v);
    if (v->s.cr4 & CR4_UMIP && v->cpl != 0)
        return interp_gp(v, 0);
    return operand_write(v, i, 0, 2, sel) ? INTERP_NEXT : INTERP_FAULT;
}

enum interp_result sys_sldt(struct interp_vcpu *v, const struct interp_insn *i)
{
    return store_selector(v, i, v->s.ldtr.selector);
}

enum interp_result sys_str(struct interp_vcpu *v, const struct interp_insn *i)
{
    return store_selector(v, i, v->s.tr.selector);
}

// The descriptor of an LDT or TSS: in the GDT, of one of two types, present.
static bool system_fetch(struct interp_vcpu *v, uint16_t sel, int type, int other, struct descriptor *d)
{
    if (sel & 4)
        return selector_fault(v, EXC_GP, sel);
    if (!descriptor_fetch(v, sel, EXC_GP, d))
        return false;
    int found = descriptor_system_type(d);
    if (found != type && found != other)
        return selector_fault(v, EXC_GP, sel);
    if (!(d->attr & CPU_SEG_P))
        return selector_fault(v, EXC_NP, sel);
    if (!descriptor_extend(v, sel, EXC_GP, d))
        return false;
    if (is_long(v) && !cpu_is_canonical(&v->s, descriptor_segment(sel, d).base))
        return selector_fault(v, EXC_GP, sel);
    return true;
}

enum interp_result sys_lldt(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t sel;
    struct descriptor d;
    if (!is_protected(v))
        return interp_ud(v);
    if (v->cpl != 0)
        return interp_gp(v, 0);
    if (!operand_read(v, i, 0, 2, &sel))
        return INTERP_FAULT;
    if (selector_null((uint16_t)sel)) {
        v->s.ldtr = null_segment((uint16_t)sel, 0);
        return INTERP_NEXT;
    }
    if (!system_fetch(v, (uint16_t)sel, SYS_LDT, SYS_LDT, &d))
        return INTERP_FAULT;
    v->s.ldtr = descriptor_segment((uint16_t)sel, &d);
    return INTERP_NEXT;
}

enum interp_result sys_ltr(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t sel;
    struct descriptor d;
    if (!is_protected(v))
        return interp_ud(v);
    if (v->cpl != 0)
        return interp_gp(v, 0);
    if (!operand_read(v, i, 0, 2, &sel))
        return INTERP_FAULT;
    if (selector_null((uint16_t)sel))
        return interp_gp(v, 0);
    if (!system_fetch(v, (uint16_t)sel, SYS_TSS, is_long(v) ? SYS_TSS : SYS_TSS16, &d) ||
        !descriptor_set_busy(v, d.la, true))
        return INTERP_FAULT;
    d.attr |= 2;
    v->s.tr = descriptor_segment((uint16_t)sel, &d);
    return INTERP_NEXT;
}

// --- questions about a descriptor; the answer is ZF

// 1: visible, *d is its descriptor; 0: not; -1: fault. Which system types count is a mask by type.
static int visible(struct interp_vcpu *v, uint16_t sel, unsigned types, struct descriptor *d)
{
    if (selector_null(sel))
        return 0;
    if (!descriptor_fetch(v, sel, EXC_GP, d))
        return v->fault.vector == EXC_GP ? 0 : -1;
    int type = descriptor_system_type(d);
    if (type >= 0 && !(types >> type & 1))
        return 0;
    bool conforming = type < 0 && (d->attr & CPU_SEG_CODE) && (d->attr & CPU_SEG_DOWN);
    unsigned dpl = descriptor_dpl(d);
    return conforming || (dpl >= v->cpl && dpl >= (sel & 3u));
}

static void answer(struct interp_vcpu *v, bool yes)
{
    v->s.rflags = (v->s.rflags & ~RFLAGS_ZF) | (yes ? RFLAGS_ZF : 0);
}

enum {
    LONG_TYPES = 1 << SYS_LDT | 1 << SYS_TSS | 1 << SYS_TSS_BUSY,
    LSL_TYPES = LONG_TYPES | 1 << SYS_TSS16 | 1 << SYS_TSS16_BUSY,
    LAR_TYPES = LSL_TYPES | 1 << SYS_CALL16 | 1 << SYS_TASK_GATE | 1 << SYS_CALL,
};

static enum interp_result ask(struct interp_vcpu *v, const struct interp_insn *i, bool limit)
{
    uint64_t sel;
    struct descriptor d;
    if (!is_protected(v))
        return interp_ud(v);
    if (!operand_read(v, i, 1, 2, &sel))
        return INTERP_FAULT;
    unsigned types = limit ? LSL_TYPES : LAR_TYPES;
    if (is_long(v))
        types = limit ? LONG_TYPES : LONG_TYPES | 1 << SYS_CALL;
    int yes = visible(v, (uint16_t)sel, types, &d);
    if (yes < 0)
        return INTERP_FAULT;
    answer(v, yes);
    if (yes)
        interp_set_reg(v, &i->op[0], limit ? descriptor_segment((uint16_t)sel, &d).limit : d.low >> 32 & 0x00ffff00);
    return INTERP_NEXT;
}

enum interp_result sys_lar(struct interp_vcpu *v, const struct interp_insn *i)
{
    return ask(v, i, false);
}

enum interp_result sys_lsl(struct interp_vcpu *v, const struct interp_insn *i)
{
    return ask(v, i, true);
}

static enum interp_result verify(struct interp_vcpu *v, const struct interp_insn *i, bool write)
{
    uint64_t sel;
    struct descriptor d;
    if (!is_protected(v))
        return interp_ud(v);
    if (!operand_read(v, i, 0, 2, &sel))
        return INTERP_FAULT;
    int yes = visible(v, (uint16_t)sel, 0, &d);
    if (yes < 0)
        return INTERP_FAULT;
    if (yes && d.attr & CPU_SEG_CODE)
        yes = !write && d.attr & CPU_SEG_WRITE;
    else if (yes && write)
        yes = d.attr & CPU_SEG_WRITE;
    answer(v, yes);
    return INTERP_NEXT;
}

enum interp_result sys_verr(struct interp_vcpu *v, const struct interp_insn *i)
{
    return verify(v, i, false);
}

enum interp_result sys_verw(struct interp_vcpu *v, const struct interp_insn *i)
{
    return verify(v, i, true);
}

enum interp_result sys_arpl(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t to, from;
    if (!is_protected(v))
        return interp_ud(v);
    if (!operand_read(v, i, 0, 2, &to) || !operand_read(v, i, 1, 2, &from))
        return INTERP_FAULT;
    bool raise = (to & 3) < (from & 3);
    if (raise && !operand_write(v, i, 0, 2, (to & ~3ull) | (from & 3)))
        return INTERP_FAULT;
    answer(v, raise);
    return INTERP_NEXT;
}
