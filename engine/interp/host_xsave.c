// FXSAVE, FXRSTOR and the XSAVE family, on the state's own XSAVE area.
//
// The state is kept in the standard format with 64-bit pointers, which is nearly what these instructions write; what
// differs is spelled out here: 32-bit pointers without REX.W, the compacted format, fewer registers outside of 64-bit
// mode. A component is in use (XINUSE) if it differs from its initial state: the processor may track that more
// coarsely, exactly is allowed.
//
// Sources: Intel SDM vol. 1, 10.5 (FXSAVE) and 13.4 to 13.13 (XSAVE).
#include "engine/interp/host.h"
#include <string.h>

enum { COMPONENTS = HOST_COMPONENTS, AREA_HEADER_END = AREA_EXTENDED };

static bool all_zero(const uint8_t *p, size_t n)
{
    return !n || (!*p && !memcmp(p, p + 1, n - 1));
}

static uint64_t in_use(struct interp_vcpu *v, uint64_t components)
{
    const uint8_t *area = v->s.xsave;
    uint64_t bv = host_get64(area + AREA_XSTATE_BV) & components, used = 0;
    if ((bv & XSTATE_X87) &&
        !(host_get16(area + AREA_FCW) == FCW_DEFAULT && all_zero(area + AREA_FSW, AREA_MXCSR - AREA_FSW) &&
          all_zero(area + AREA_ST, AREA_XMM - AREA_ST)))
        used |= XSTATE_X87;
    if ((bv & XSTATE_SSE) && !all_zero(area + AREA_XMM, AREA_LEGACY_END - AREA_XMM))
        used |= XSTATE_SSE;
    for (unsigned n = 2; n < COMPONENTS; n++)
        if ((bv >> n & 1) && !all_zero(area + host_component_offset(v, n), host_component_size(n)))
            used |= 1ull << n;
    return used;
}

// Registers outside of 64-bit mode are eight, not sixteen.
static unsigned registers(const struct interp_vcpu *v)
{
    return v->mode == MODE_LONG64 ? 16 : 8;
}

static unsigned saved_size(const struct interp_vcpu *v, unsigned n)
{
    return n == 2 ? 16 * registers(v) : host_component_size(n);
}

static void narrow_pointers(uint8_t *legacy)
{
    // Selectors: zero, as in FNSTENV.
    host_put64(legacy + AREA_FIP, host_get32(legacy + AREA_FIP));
    host_put64(legacy + AREA_FDP, host_get32(legacy + AREA_FDP));
}

// What of the x87 state is written: AMD's processors tell the last instruction's pointers only while an exception is
// pending (AMD APM vol. 2, 11.4.4).
static void prepare_x87(const struct interp_vcpu *v, uint8_t *legacy, bool wide)
{
    if (!v->host->intel && !(host_get16(legacy + AREA_FSW) & FSW_ES))
        memset(legacy + AREA_FOP, 0, AREA_MXCSR - AREA_FOP);
    if (!wide)
        narrow_pointers(legacy);
}

static bool is_wide(const struct interp_insn *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS64:
        return true;
    default:
        return false;
    }
}

// --- loading components, from an image in the given memory format

static void load_x87(struct interp_vcpu *v, const uint8_t *legacy, bool wide)
{
    uint8_t *area = v->s.xsave;
    memcpy(area, legacy, AREA_MXCSR);
    if (!wide)
        narrow_pointers(area);
    host_put16(area + AREA_FOP, host_get16(area + AREA_FOP) & 0x7ff);
    area[AREA_FTW + 1] = 0;
    for (unsigned n = 0; n < 8; n++) {
        memset(area + AREA_ST + 16 * n, 0, 16);
        memcpy(area + AREA_ST + 16 * n, legacy + AREA_ST + 16 * n, 10);
    }
    host_settle_x87(v);
}

static void load_xmm(struct interp_vcpu *v, const uint8_t *legacy)
{
    memcpy(host_xmm(v, 0), legacy + AREA_XMM, 16 * registers(v));
}

// --- FXSAVE, FXRSTOR

// AMD's fast FXSAVE: the operating system promises not to use vector registers (AMD APM vol. 2, 11.4.4).
static bool fast(const struct interp_vcpu *v)
{
    return (v->s.efer & EFER_FFXSR) && v->cpl == 0 && v->mode == MODE_LONG64;
}

static enum interp_result fxsave(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint8_t image[AREA_LEGACY_END];
    uint64_t la;
    if (!host_check_x87(v, false) || !host_address(v, i, 512, 16, true, &la))
        return INTERP_FAULT;
    host_use(v, XSTATE_X87 | XSTATE_SSE);
    memcpy(image, v->s.xsave, sizeof image);
    prepare_x87(v, image, is_wide(i));
    host_put32(image + AREA_MXCSR_MASK, v->host->mxcsr_mask);
    unsigned size = fast(v) ? AREA_XMM : AREA_XMM + 16 * registers(v);
    if (!interp_probe(v, la, 512, CPU_WRITE, false) || !host_write(v, la, image, size))
        return INTERP_FAULT;
    return INTERP_NEXT;
}

static enum interp_result fxrstor(struct interp_vcpu *v, const struct interp_insn *i)
{
    uint8_t image[512];
    uint64_t la;
    if (!host_check_x87(v, false) || !host_address(v, i, sizeof image, 16, false, &la) ||
        !host_read(v, la, image, sizeof image))
        return INTERP_FAULT;
    uint32_t mxcsr = host_get32(image + AREA_MXCSR);
    if (mxcsr & ~v->host->mxcsr_mask)
        return interp_gp(v, 0);
    host_use(v, XSTATE_X87 | XSTATE_SSE);
    load_x87(v, image, is_wide(i));
    host_put32(v->s.xsave + AREA_MXCSR, mxcsr);
    if (!fast(v))
        load_xmm(v, image);
    return INTERP_NEXT;
}

// --- XSAVE

static bool check_xsave(struct interp_vcpu *v, bool supervisor)
{
    if (!(v->s.cr4 & CR4_OSXSAVE)) {
        interp_ud(v);
        return false;
    }
    if (v->s.cr0 & CR0_TS) {
        interp_fault(v, EXC_NM);
        return false;
    }
    if (supervisor && v->cpl) {
        interp_gp(v, 0);
        return false;
    }
    return true;
}

static uint64_t requested(const struct interp_vcpu *v)
{
    return (v->s.gpr[CPU_RDX] << 32) | (uint32_t)v->s.gpr[CPU_RAX];
}

// Offset of a component in memory: the model's, or behind all smaller ones that `format` has.
static unsigned memory_offset(const struct interp_vcpu *v, unsigned n, bool compacted, uint64_t format)
{
    if (!compacted)
        return host_component_offset(v, n);
    unsigned at = AREA_EXTENDED;
    for (unsigned k = 2; k < n; k++)
        if (format >> k & 1)
            at += host_component_size(k);
    return at;
}

static unsigned memory_size(const struct interp_vcpu *v, uint64_t components, bool compacted, uint64_t format)
{
    unsigned end = AREA_HEADER_END;
    for (unsigned n = 2; n < COMPONENTS; n++) {
        unsigned last = memory_offset(v, n, compacted, format) + host_component_size(n);
        if ((components >> n & 1) && last > end)
            end = last;
    }
    return end;
}

static enum interp_result xsave(struct interp_vcpu *v, const struct interp_insn *i)
{
    bool optimized = true, compacted = false, supervisor = false;
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
        optimized = false;
        break;
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
        supervisor = true;
        // fall through
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
        compacted = true;
        break;
    default:
        break;
    }
    if (!check_xsave(v, supervisor))
        return INTERP_FAULT;
    uint64_t rfbm = (v->s.xcr0 | (supervisor ? v->s.msr.xss : 0)) & requested(v);
    uint8_t *area = v->s.xsave, legacy[AREA_MXCSR], header[16];
    uint64_t la;
    unsigned size = memory_size(v, rfbm, compacted, rfbm);
    if (!host_address(v, i, size, 64, true, &la) || !interp_probe(v, la, size, CPU_WRITE, false) ||
        !host_read(v, la + AREA_XSTATE_BV, header, sizeof header))
        return INTERP_FAULT;
    host_use(v, rfbm);
    uint64_t used = in_use(v, rfbm);
    if (compacted && (rfbm & XSTATE_SSE) && host_get32(area + AREA_MXCSR) != MXCSR_DEFAULT)
        used |= XSTATE_SSE;
    uint64_t save = optimized ? used : rfbm;

    memcpy(legacy, area, sizeof legacy);
    prepare_x87(v, legacy, is_wide(i));
    uint8_t mxcsr[8];
    host_put32(mxcsr, host_get32(area + AREA_MXCSR));
    host_put32(mxcsr + 4, v->host->mxcsr_mask);
    if (compacted) {
        host_put64(header, used);
        host_put64(header + 8, rfbm | 1ull << 63);
    } else {
        host_put64(header, (host_get64(header) & ~rfbm) | used);
    }
    // The whole range was probed: none of these can fault any more, but that is the memory's word, not ours.
    bool ok = true;
    if (save & XSTATE_X87)
        ok =
            host_write(v, la, legacy, sizeof legacy) && host_write(v, la + AREA_ST, area + AREA_ST, AREA_XMM - AREA_ST);
    if (ok && (compacted ? save & XSTATE_SSE : rfbm & (XSTATE_SSE | XSTATE_AVX)))
        ok = host_write(v, la + AREA_MXCSR, mxcsr, sizeof mxcsr);
    if (ok && (save & XSTATE_SSE))
        ok = host_write(v, la + AREA_XMM, area + AREA_XMM, 16 * registers(v));
    for (unsigned n = 2; n < COMPONENTS && ok; n++)
        if (save >> n & 1)
            ok = host_write(v, la + memory_offset(v, n, compacted, rfbm), area + host_component_offset(v, n),
                            saved_size(v, n));
    return ok && host_write(v, la + AREA_XSTATE_BV, header, compacted ? 16 : 8) ? INTERP_NEXT : INTERP_FAULT;
}

// --- XRSTOR

// The rules of Intel SDM vol. 1, 13.8 and 13.12 for the header of an image.
static bool header_valid(const struct interp_vcpu *v, const uint8_t *header, bool supervisor)
{
    uint64_t bv = host_get64(header), comp = host_get64(header + 8);
    uint64_t enabled = v->s.xcr0 | (supervisor ? v->s.msr.xss : 0);
    if (!(comp >> 63))
        return !supervisor && !(bv & ~v->s.xcr0) && all_zero(header + 8, 16);
    comp &= ~(1ull << 63);
    return cpu_model_has(v->model, 0xd, 1, 0, 1) && !(comp & ~enabled) && !(bv & ~comp) && all_zero(header + 16, 48);
}

static enum interp_result xrstor(struct interp_vcpu *v, const struct interp_insn *i)
{
    bool supervisor = i->mnemonic == ZYDIS_MNEMONIC_XRSTORS || i->mnemonic == ZYDIS_MNEMONIC_XRSTORS64;
    uint8_t image[CPU_XSAVE_SIZE], *area = v->s.xsave;
    uint64_t la;
    if (!check_xsave(v, supervisor))
        return INTERP_FAULT;
    uint64_t rfbm = (v->s.xcr0 | (supervisor ? v->s.msr.xss : 0)) & requested(v);
    if (!host_address(v, i, AREA_HEADER_END, 64, false, &la) || !host_read(v, la, image, AREA_HEADER_END))
        return INTERP_FAULT;
    if (!header_valid(v, image + AREA_XSTATE_BV, supervisor))
        return interp_gp(v, 0);
    uint64_t bv = host_get64(image + AREA_XSTATE_BV), format = host_get64(image + AREA_XCOMP_BV);
    bool compacted = format >> 63;
    uint64_t restore = rfbm & bv;
    uint32_t mxcsr = host_get32(image + AREA_MXCSR);
    bool with_mxcsr = compacted ? restore & XSTATE_SSE : rfbm & (XSTATE_SSE | XSTATE_AVX);
    if (with_mxcsr && (mxcsr & ~v->host->mxcsr_mask))
        return interp_gp(v, 0);
    for (unsigned n = 2; n < COMPONENTS; n++) {
        unsigned at = memory_offset(v, n, compacted, format);
        if ((restore >> n & 1) && (!host_address(v, i, at + host_component_size(n), 64, false, &la) ||
                                   !host_read(v, la + at, image + host_component_offset(v, n), saved_size(v, n))))
            return INTERP_FAULT;
    }
    // Nothing can fault from here on. Outside of 64-bit mode only the first eight registers change, so what is made
    // initial is written too.
    host_use(v, rfbm);
    if (restore & XSTATE_X87) {
        load_x87(v, image, is_wide(i));
    } else if (rfbm & XSTATE_X87) {
        host_put64(area + AREA_XSTATE_BV, host_get64(area + AREA_XSTATE_BV) & ~XSTATE_X87);
        host_use(v, XSTATE_X87);
    }
    if (with_mxcsr)
        host_put32(area + AREA_MXCSR, mxcsr);
    else if (rfbm & XSTATE_SSE)
        host_put32(area + AREA_MXCSR, MXCSR_DEFAULT);
    if (restore & XSTATE_SSE)
        load_xmm(v, image);
    else if (rfbm & XSTATE_SSE)
        memset(host_xmm(v, 0), 0, 16 * registers(v));
    for (unsigned n = 2; n < COMPONENTS; n++) {
        uint8_t *to = area + host_component_offset(v, n);
        if (restore >> n & 1)
            memcpy(to, image + host_component_offset(v, n), saved_size(v, n));
        else if (rfbm >> n & 1)
            memset(to, 0, saved_size(v, n));
    }
    return INTERP_NEXT;
}

interp_fn host_xsave_handler(const struct interp_insn *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        return fxsave;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        return fxrstor;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
        return xsave;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
        return xrstor;
    default:
        return NULL;
    }
}
