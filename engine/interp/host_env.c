// Instructions about the x87, MMX and SSE environment itself: control and status words, FNSTENV and FNSAVE, MXCSR, and
// clearing registers. They are a matter of bytes, done here in C.
//
// Sources: Intel SDM vol. 1, 8.1 (x87 environment, figures 8-9 to 8-12), 10.2.3 (MXCSR), vol. 2 for each instruction.
#include "engine/interp/host.h"
#include <string.h>

enum { FCW_USED = 0x1f3f, FCW_FIXED = 0x40, FPU_REGISTERS = 80 };

void host_settle_x87(struct interp_vcpu *v)
{
    uint8_t *area = v->s.xsave;
    host_put16(area + AREA_FCW, (host_get16(area + AREA_FCW) & FCW_USED) | FCW_FIXED);
    uint16_t fsw = host_get16(area + AREA_FSW) & (uint16_t) ~(FSW_ES | FSW_B);
    if (fsw & ~host_get16(area + AREA_FCW) & FSW_EXCEPTIONS)
        fsw |= FSW_ES | FSW_B;
    host_put16(area + AREA_FSW, fsw);
}

static void initialize(uint8_t *area)
{
    // The data registers keep their contents; they are just empty.
    memset(area, 0, AREA_MXCSR);
    host_put16(area + AREA_FCW, FCW_DEFAULT);
}

static unsigned top_of(const uint8_t *area)
{
    return (host_get16(area + AREA_FSW) & FSW_TOP) >> FSW_TOP_SHIFT;
}

// The tag word with two bits a register: 0 valid, 1 zero, 2 special, 3 empty (Intel SDM vol. 1, 8.1.7).
static uint16_t full_tags(const uint8_t *area)
{
    uint16_t tags = 0;
    for (unsigned n = 0; n < 8; n++) {
        const uint8_t *st = area + AREA_ST + 16 * ((n - top_of(area)) & 7);
        uint64_t significand = host_get64(st);
        unsigned exponent = host_get16(st + 8) & 0x7fff, tag;
        if (!(area[AREA_FTW] & 1 << n))
            tag = 3;
        else if (!exponent && !significand)
            tag = 1;
        else if (!exponent || exponent == 0x7fff || !(significand >> 63))
            tag = 2;
        else
            tag = 0;
        tags |= (uint16_t)(tag << 2 * n);
    }
    return tags;
}

static bool real_format(const struct interp_vcpu *v)
{
    return v->mode == MODE_REAL || (v->s.rflags & RFLAGS_VM);
}

// Size of the environment, and of it written to buf.
static unsigned make_environment(const struct interp_vcpu *v, unsigned opsize, uint8_t buf[28])
{
    const uint8_t *area = v->s.xsave;
    uint64_t fip = host_get64(area + AREA_FIP), fdp = host_get64(area + AREA_FDP);
    uint16_t fop = host_get16(area + AREA_FOP) & 0x7ff;
    uint16_t word[3] = {host_get16(area + AREA_FCW), host_get16(area + AREA_FSW), full_tags(area)};
    if (opsize == 2) {
        for (unsigned n = 0; n < 3; n++)
            host_put16(buf + 2 * n, word[n]);
        host_put16(buf + 6, (uint16_t)fip);
        host_put16(buf + 8, real_format(v) ? (uint16_t)((fip >> 16 & 15) << 12 | fop) : 0);
        host_put16(buf + 10, (uint16_t)fdp);
        host_put16(buf + 12, real_format(v) ? (uint16_t)((fdp >> 16 & 15) << 12) : 0);
        return 14;
    }
    for (unsigned n = 0; n < 3; n++)
        host_put32(buf + 4 * n, 0xffff0000 | word[n]);
    if (real_format(v)) {
        host_put32(buf + 12, 0xffff0000 | (uint16_t)fip);
        host_put32(buf + 16, (uint32_t)(fip >> 16 & 0xffff) << 12 | fop);
        host_put32(buf + 20, 0xffff0000 | (uint16_t)fdp);
        host_put32(buf + 24, (uint32_t)(fdp >> 16 & 0xffff) << 12);
    } else {
        // The selectors read as zero, as on every processor that has CPUID.7.EBX bit 13.
        host_put32(buf + 12, (uint32_t)fip);
        host_put32(buf + 16, (uint32_t)fop << 16);
        host_put32(buf + 20, (uint32_t)fdp);
        host_put32(buf + 24, 0xffff0000);
    }
    return 28;
}

static void take_environment(struct interp_vcpu *v, unsigned opsize, const uint8_t *buf)
{
    uint8_t *area = v->s.xsave;
    unsigned step = opsize == 2 ? 2 : 4;
    uint16_t tags = host_get16(buf + 2 * step);
    uint64_t fip, fdp;
    uint16_t fop = 0;
    if (opsize == 2) {
        fip = host_get16(buf + 6);
        fdp = host_get16(buf + 10);
        if (real_format(v)) {
            fop = host_get16(buf + 8) & 0x7ff;
            fip |= (uint64_t)(host_get16(buf + 8) >> 12) << 16;
            fdp |= (uint64_t)(host_get16(buf + 12) >> 12) << 16;
        }
    } else if (real_format(v)) {
        fip = host_get16(buf + 12) | (uint64_t)(host_get32(buf + 16) >> 12 & 0xffff) << 16;
        fop = host_get16(buf + 16) & 0x7ff;
        fdp = host_get16(buf + 20) | (uint64_t)(host_get32(buf + 24) >> 12 & 0xffff) << 16;
    } else {
        fip = host_get32(buf + 12);
        fop = host_get16(buf + 18) & 0x7ff;
        fdp = host_get32(buf + 20);
    }
    host_put16(area + AREA_FCW, host_get16(buf));
    host_put16(area + AREA_FSW, host_get16(buf + step));
    area[AREA_FTW] = 0;
    for (unsigned n = 0; n < 8; n++)
        if ((tags >> 2 * n & 3) != 3)
            area[AREA_FTW] |= (uint8_t)(1 << n);
    host_put16(area + AREA_FOP, fop);
    host_put64(area + AREA_FIP, fip);
    host_put64(area + AREA_FDP, fdp);
    host_settle_x87(v);
}

// The data registers belong to physical places, the area holds them relative to the top: after TOP changed from `old`
// they have to be turned.
static void turn_registers(uint8_t *area, unsigned old)
{
    uint8_t was[8][16];
    unsigned by = top_of(area) - old;
    memcpy(was, area + AREA_ST, sizeof was);
    for (unsigned n = 0; n < 8; n++)
        memcpy(area + AREA_ST + 16 * n, was[(n + by) & 7], 16);
}

static bool environment_address(struct interp_vcpu *v, const struct interp_insn *i, unsigned size, bool write,
                                uint64_t *la)
{
    return host_address(v, i, size, 0, write, la) && interp_aligned(v, *la, i->opsize == 2 ? 2 : 4);
}

static enum interp_result fnstenv(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint8_t buf[28 + FPU_REGISTERS], *area = v->s.xsave;
    bool save = i->mnemonic == ZYDIS_MNEMONIC_FNSAVE;
    uint64_t la;
    if (!host_check_x87(v, false))
        return INTERP_FAULT;
    host_use(v, XSTATE_X87);
    unsigned size = make_environment(v, i->opsize, buf);
    for (unsigned n = 0; n < 8 && save; n++) {
        memcpy(buf + size, area + AREA_ST + 16 * n, 10);
        size += 10;
    }
    if (!environment_address(v, i, size, true, &la) || !host_write(v, la, buf, size))
        return INTERP_FAULT;
    if (save) {
        unsigned top = top_of(area);
        initialize(area);
        turn_registers(area, top);
    } else {
        host_put16(area + AREA_FCW, host_get16(area + AREA_FCW) | FSW_EXCEPTIONS);
        host_settle_x87(v);
    }
    return INTERP_NEXT;
}

static enum interp_result fldenv(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint8_t buf[28 + FPU_REGISTERS], *area = v->s.xsave;
    bool restore = i->mnemonic == ZYDIS_MNEMONIC_FRSTOR;
    unsigned size = i->opsize == 2 ? 14 : 28;
    unsigned whole = size + (restore ? FPU_REGISTERS : 0);
    uint64_t la;
    if (!host_check_x87(v, true) || !environment_address(v, i, whole, false, &la) || !host_read(v, la, buf, whole))
        return INTERP_FAULT;
    host_use(v, XSTATE_X87);
    unsigned top = top_of(area);
    take_environment(v, i->opsize, buf);
    if (!restore) {
        turn_registers(area, top);
    } else {
        for (unsigned n = 0; n < 8; n++) {
            memset(area + AREA_ST + 16 * n, 0, 16);
            memcpy(area + AREA_ST + 16 * n, buf + size + 10 * n, 10);
        }
    }
    return INTERP_NEXT;
}

static enum interp_result fninit(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    if (!host_check_x87(v, false))
        return INTERP_FAULT;
    host_use(v, XSTATE_X87);
    unsigned top = top_of(v->s.xsave);
    initialize(v->s.xsave);
    turn_registers(v->s.xsave, top);
    return INTERP_NEXT;
}

static enum interp_result fnclex(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint8_t *fsw = v->s.xsave + AREA_FSW;
    (void)i;
    if (!host_check_x87(v, false))
        return INTERP_FAULT;
    host_use(v, XSTATE_X87);
    host_put16(fsw, host_get16(fsw) & 0x7f00);
    return INTERP_NEXT;
}

static enum interp_result fldcw(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t la, fcw = 0;
    if (!host_check_x87(v, true) || !host_address(v, i, 2, 0, false, &la) || !interp_aligned(v, la, 2) ||
        !host_read(v, la, &fcw, 2))
        return INTERP_FAULT;
    host_use(v, XSTATE_X87);
    host_put16(v->s.xsave + AREA_FCW, (uint16_t)fcw);
    host_settle_x87(v);
    return INTERP_NEXT;
}

// FNSTCW and FNSTSW, to memory or (FNSTSW) AX.
static enum interp_result fnst(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t la;
    if (!host_check_x87(v, false))
        return INTERP_FAULT;
    host_use(v, XSTATE_X87);
    const uint8_t *from = v->s.xsave + (i->mnemonic == ZYDIS_MNEMONIC_FNSTCW ? AREA_FCW : AREA_FSW);
    if (i->op[0].kind == OPERAND_REG) {
        interp_set_reg(v, &i->op[0], host_get16(from));
        return INTERP_NEXT;
    }
    if (!host_address(v, i, 2, 0, true, &la) || !interp_aligned(v, la, 2) || !host_write(v, la, from, 2))
        return INTERP_FAULT;
    return INTERP_NEXT;
}

// What the 8087 and 80287 needed: FENI, FDISI, FSETPM. They don't even wait.
static enum interp_result fnop_historic(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    return host_check_x87(v, false) ? INTERP_NEXT : INTERP_FAULT;
}

static enum interp_result fwait(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    // TS counts only together with MP (Intel SDM vol. 3, table 2-2); EM not at all.
    if ((v->s.cr0 & (CR0_TS | CR0_MP)) == (CR0_TS | CR0_MP))
        return interp_fault(v, EXC_NM);
    return host_check_pending(v) ? INTERP_NEXT : INTERP_FAULT;
}

static enum interp_result emms(struct interp_vcpu *v, const struct interp_insn *i)
{
    (void)i;
    if (!host_check_mmx(v))
        return INTERP_FAULT;
    host_use(v, XSTATE_X87);
    host_enter_mmx(v);
    v->s.xsave[AREA_FTW] = 0;
    return INTERP_NEXT;
}

static bool check_mxcsr(struct interp_vcpu *v, bool vex)
{
    return vex ? host_check_avx(v) : host_check_sse(v);
}

static enum interp_result ldmxcsr(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t la, val = 0;
    if (!check_mxcsr(v, i->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR) || !host_address(v, i, 4, 0, false, &la) ||
        !interp_aligned(v, la, 4) || !host_read(v, la, &val, 4))
        return INTERP_FAULT;
    if (val & ~v->host->mxcsr_mask)
        return interp_gp(v, 0);
    host_put32(v->s.xsave + AREA_MXCSR, (uint32_t)val);
    return INTERP_NEXT;
}

static enum interp_result stmxcsr(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint64_t la;
    if (!check_mxcsr(v, i->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR) || !host_address(v, i, 4, 0, true, &la) ||
        !interp_aligned(v, la, 4) || !host_write(v, la, v->s.xsave + AREA_MXCSR, 4))
        return INTERP_FAULT;
    return INTERP_NEXT;
}

static enum interp_result vzero(struct interp_vcpu *v, const struct interp_insn *i)
{
    if (!host_check_avx(v))
        return INTERP_FAULT;
    host_use(v, XSTATE_SSE | XSTATE_AVX);
    // Outside of 64-bit mode only the registers that can be named there.
    unsigned registers = v->mode == MODE_LONG64 ? 16 : 8;
    memset(host_ymm_high(v, 0), 0, 16 * registers);
    if (i->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
        memset(host_xmm(v, 0), 0, 16 * registers);
    return INTERP_NEXT;
}

interp_fn host_env_handler(const struct interp_insn *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
        return fnstenv;
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
        return fldenv;
    case ZYDIS_MNEMONIC_FNINIT:
        return fninit;
    case ZYDIS_MNEMONIC_FNCLEX:
        return fnclex;
    case ZYDIS_MNEMONIC_FLDCW:
        return fldcw;
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
        return fnst;
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return fnop_historic;
    case ZYDIS_MNEMONIC_FWAIT:
        return fwait;
    case ZYDIS_MNEMONIC_EMMS:
        return emms;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        return ldmxcsr;
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
        return stmxcsr;
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_VZEROUPPER:
        return vzero;
    default:
        return NULL;
    }
}
