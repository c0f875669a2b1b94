// Port input and output: IN, OUT, INS, OUTS, who may, and through what.
//
// At CPL <= IOPL every port may be used; otherwise (and always in virtual-8086 mode) the I/O bitmap of the TSS decides,
// one bit per byte of port. The string forms move up to IO_BURST elements and then say AGAIN, so that a long one looks
// at interrupts in between; each element is either moved or not begun: memory is probed before a device is read.
//
// Example: OUT 0xe9, AL at CPL 3 with IOPL 0: allowed if bit 0xe9 of the bitmap at TSS + iomap base is clear.
#include "engine/interp/system.h"

enum { IO_BURST = 256 };

// Intel SDM vol. 1, 18.5.2.
static bool port_allowed(struct interp_vcpu *v, uint16_t port, unsigned size)
{
    unsigned iopl = (v->s.rflags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT;
    if (!(v->s.cr0 & CR0_PE) || (v->cpl <= iopl && !is_v86(v)))
        return true;
    const struct cpu_segment *tr = &v->s.tr;
    uint16_t map, bits;
    if (!(tr->attr & CPU_SEG_P) || (tr->attr & CPU_SEG_TYPE) != SYS_TSS_BUSY || tr->limit < 103)
        goto denied;
    if (!interp_read_bytes(v, tr->base + 102, &map, 2, true))
        return false;
    // Two bytes are read, so that a port range may cross into the next one.
    if (map + port / 8u + 1 > tr->limit)
        goto denied;
    if (!interp_read_bytes(v, tr->base + map + port / 8, &bits, 2, true))
        return false;
    if (!(bits >> port % 8 & ((1u << size) - 1)))
        return true;
denied:
    interp_gp(v, 0);
    return false;
}

static uint64_t size_mask(unsigned size)
{
    return (1ull << 8 * size) - 1;
}

static uint16_t port_of(const struct interp_vcpu *v, const struct interp_operand *o, int64_t imm)
{
    return o->kind == OPERAND_IMM ? imm & 0xff : v->s.gpr[CPU_RDX] & 0xffff;
}

enum interp_result sys_in(struct interp_vcpu *v, const struct interp_insn *i)
{
    struct interp_operand a = {.kind = OPERAND_REG, .size = i->op[0].size > 4 ? 4 : i->op[0].size, .reg = CPU_RAX};
    uint16_t port = port_of(v, &i->op[1], i->imm);
    if (!port_allowed(v, port, a.size))
        return INTERP_FAULT;
    interp_set_reg(v, &a, interp_up_port_read(v, port, a.size) & size_mask(a.size));
    debug_port(v, port, a.size);
    return INTERP_NEXT;
}

enum interp_result sys_out(struct interp_vcpu *v, const struct interp_insn *i)
{
    unsigned size = i->op[1].size > 4 ? 4 : i->op[1].size;
    uint16_t port = port_of(v, &i->op[0], i->imm);
    if (!port_allowed(v, port, size))
        return INTERP_FAULT;
    interp_up_port_write(v, port, size, v->s.gpr[CPU_RAX] & size_mask(size));
    debug_port(v, port, size);
    // A port may have asked for anything: an interrupt, a reset, the end of the machine.
    return INTERP_BREAK;
}

// --- strings

static uint64_t address_mask(const struct interp_insn *i)
{
    return i->addrsize == 8 ? ~0ull : size_mask(i->addrsize);
}

// An index or count register, of the address size.
static void set_index(struct interp_vcpu *v, const struct interp_insn *i, unsigned reg, uint64_t val)
{
    struct interp_operand o = {.kind = OPERAND_REG, .size = i->addrsize, .reg = reg};
    interp_set_reg(v, &o, val);
}

static bool in_element(struct interp_vcpu *v, const struct interp_insn *i, uint16_t port, unsigned size)
{
    uint64_t offset = v->s.gpr[CPU_RDI] & address_mask(i), la;
    if (!interp_linear(v, CPU_ES, offset, size, CPU_WRITE, &la) || !interp_probe(v, la, size, CPU_WRITE, false))
        return false;
    uint64_t val = interp_up_port_read(v, port, size) & size_mask(size);
    if (!interp_write(v, CPU_ES, offset, size, val))
        return false;
    return true;
}

static bool out_element(struct interp_vcpu *v, const struct interp_insn *i, uint16_t port, unsigned size)
{
    uint64_t val;
    if (!interp_read(v, i->seg, v->s.gpr[CPU_RSI] & address_mask(i), size, &val))
        return false;
    interp_up_port_write(v, port, size, val);
    return true;
}

static enum interp_result string(struct interp_vcpu *v, const struct interp_insn *i, unsigned size, bool in)
{
    uint16_t port = v->s.gpr[CPU_RDX] & 0xffff;
    uint64_t mask = address_mask(i), step = v->s.rflags & RFLAGS_DF ? -(uint64_t)size : size;
    unsigned reg = in ? CPU_RDI : CPU_RSI;
    if (!port_allowed(v, port, size)) // even for no element
        return INTERP_FAULT;
    if (i->rep && !(v->s.gpr[CPU_RCX] & mask))
        return INTERP_NEXT;
    for (unsigned n = 0; n < IO_BURST; n++) {
        if (!(in ? in_element(v, i, port, size) : out_element(v, i, port, size)))
            return INTERP_FAULT;
        debug_port(v, port, size);
        set_index(v, i, reg, (v->s.gpr[reg] & mask) + step);
        if (!i->rep)
            return INTERP_BREAK;
        set_index(v, i, CPU_RCX, (v->s.gpr[CPU_RCX] & mask) - 1);
        if (!(v->s.gpr[CPU_RCX] & mask))
            return INTERP_BREAK;
        if (v->s.ev.pending_debug || v->s.rflags & RFLAGS_TF)
            break;
    }
    return INTERP_AGAIN;
}

enum interp_result sys_insb(struct interp_vcpu *v, const struct interp_insn *i)
{
    return string(v, i, 1, true);
}

enum interp_result sys_insw(struct interp_vcpu *v, const struct interp_insn *i)
{
    return string(v, i, 2, true);
}

enum interp_result sys_insd(struct interp_vcpu *v, const struct interp_insn *i)
{
    return string(v, i, 4, true);
}

enum interp_result sys_outsb(struct interp_vcpu *v, const struct interp_insn *i)
{
    return string(v, i, 1, false);
}

enum interp_result sys_outsw(struct interp_vcpu *v, const struct interp_insn *i)
{
    return string(v, i, 2, false);
}

enum interp_result sys_outsd(struct interp_vcpu *v, const struct interp_insn *i)
{
    return string(v, i, 4, false);
}
