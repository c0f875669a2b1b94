// What every instruction of this family asks first: may it execute at all, and where is its memory operand.
//
// Sources: Intel SDM vol. 2, 2.4 (exception classes) and tables 2-16 to 2-31; vol. 3, 2.5 (CR0.EM, TS, MP) and 6.15.
#include "engine/interp/host.h"
#include <immintrin.h>
#include <string.h>

unsigned host_component_size(unsigned n)
{
    // AVX, the three of AVX-512, PKRU (Intel SDM vol. 1, 13.5).
    static const uint16_t size[HOST_COMPONENTS] = {[2] = 256, [5] = 64, [6] = 512, [7] = 1024, [9] = 8};
    return n < HOST_COMPONENTS ? size[n] : 0;
}

unsigned host_component_offset(const struct interp_vcpu *v, unsigned n)
{
    return n == 2 ? AREA_YMM : cpu_xsave_offset(v->model, n);
}

void host_use_slow(struct interp_vcpu *v, uint64_t components)
{
    uint8_t *area = v->s.xsave;
    uint64_t bv = host_get64(area + AREA_XSTATE_BV);
    uint64_t fresh = components & ~bv;
    if (fresh & XSTATE_X87) {
        memset(area, 0, AREA_MXCSR);
        host_put16(area + AREA_FCW, FCW_DEFAULT);
        memset(area + AREA_ST, 0, AREA_XMM - AREA_ST);
    }
    if (fresh & XSTATE_SSE)
        memset(area + AREA_XMM, 0, AREA_LEGACY_END - AREA_XMM);
    for (unsigned n = 2; n < HOST_COMPONENTS; n++)
        if (fresh >> n & 1)
            memset(area + host_component_offset(v, n), 0, host_component_size(n));
    host_put64(area + AREA_XSTATE_BV, bv | components);
}

bool host_check_sse(struct interp_vcpu *v)
{
    if ((v->s.cr0 & CR0_EM) || !(v->s.cr4 & CR4_OSFXSR)) {
        interp_ud(v);
        return false;
    }
    if (v->s.cr0 & CR0_TS) {
        interp_fault(v, EXC_NM);
        return false;
    }
    return true;
}

bool host_check_avx(struct interp_vcpu *v)
{
    uint64_t need = XSTATE_SSE | XSTATE_AVX;
    if (!(v->s.cr4 & CR4_OSXSAVE) || (v->s.xcr0 & need) != need || v->mode == MODE_REAL || (v->s.rflags & RFLAGS_VM)) {
        interp_ud(v);
        return false;
    }
    if (v->s.cr0 & CR0_TS) {
        interp_fault(v, EXC_NM);
        return false;
    }
    return true;
}

// An unmasked x87 exception waits to be raised. With CR0.NE clear the processor would tell the PC's interrupt
// controller (FERR#, IRQ 13) and go on when that says so; our machines have no such wire, so it goes on at once.
bool host_check_pending(struct interp_vcpu *v)
{
    const uint8_t *area = v->s.xsave;
    if (!(host_get64(area + AREA_XSTATE_BV) & XSTATE_X87) || !(v->s.cr0 & CR0_NE) ||
        !(host_get16(area + AREA_FSW) & ~host_get16(area + AREA_FCW) & FSW_EXCEPTIONS))
        return true;
    interp_fault(v, EXC_MF);
    return false;
}

bool host_check_x87(struct interp_vcpu *v, bool waits)
{
    if (v->s.cr0 & (CR0_EM | CR0_TS)) {
        interp_fault(v, EXC_NM);
        return false;
    }
    return !waits || host_check_pending(v);
}

bool host_check_mmx(struct interp_vcpu *v)
{
    if (v->s.cr0 & CR0_EM) {
        interp_ud(v);
        return false;
    }
    return host_check_x87(v, true);
}

bool host_address(struct interp_vcpu *v, const struct interp_insn *i, unsigned size, unsigned align, bool write,
                  uint64_t *la)
{
    uint64_t offset = interp_ea(v, i);
    // Processors look at the alignment first, even of an address that is not canonical.
    uint64_t linear = v->s.seg[i->seg].base + offset;
    if (align && (linear & (align - 1))) {
        // Where #AC is on, it is raised instead for the x87 and SSE state's image, unless its address is not canonical.
        bool image = size == 512, ac = image && v->cpl == 3 && (v->s.cr0 & CR0_AM) && (v->s.rflags & RFLAGS_AC);
        if (ac && !interp_linear(v, i->seg, offset, size, write ? CPU_WRITE : CPU_READ, la))
            return false;
        if (!image || interp_aligned(v, linear, 16))
            interp_gp(v, 0);
        return false;
    }
    return interp_linear(v, i->seg, offset, size, write ? CPU_WRITE : CPU_READ, la);
}

bool host_aligned(struct interp_vcpu *v, uint64_t la, unsigned size)
{
    return (size >= 16 && v->host->intel) || interp_aligned(v, la, size < 16 ? size : 16);
}

bool host_read(struct interp_vcpu *v, uint64_t la, void *buf, unsigned size)
{
    const void *p = interp_host_pointer(v, la, size, CPU_READ);
    if (!p)
        return !v->fault.raised && interp_read_bytes(v, la, buf, size, false);
    // Guests rely on aligned reads of 8 and, on processors with AVX, 16 bytes being one access.
    switch (size) {
    case 4:
        host_put32(buf, *(const volatile uint32_t *)p);
        break;
    case 8:
        host_put64(buf, *(const volatile uint64_t *)p);
        break;
    case 32:
        _mm_storeu_si128((__m128i *)buf + 1, _mm_loadu_si128((const __m128i *)p + 1));
        // fall through
    case 16:
        _mm_storeu_si128(buf, _mm_loadu_si128(p));
        break;
    default:
        memcpy(buf, p, size);
        break;
    }
    return true;
}

bool host_write(struct interp_vcpu *v, uint64_t la, const void *buf, unsigned size)
{
    void *p = interp_host_pointer(v, la, size, CPU_WRITE);
    if (!p)
        return !v->fault.raised && interp_write_bytes(v, la, buf, size, false);
    switch (size) {
    case 4:
        *(volatile uint32_t *)p = host_get32(buf);
        break;
    case 8:
        *(volatile uint64_t *)p = host_get64(buf);
        break;
    case 32:
        _mm_storeu_si128((__m128i *)p + 1, _mm_loadu_si128((const __m128i *)buf + 1));
        // fall through
    case 16:
        _mm_storeu_si128(p, _mm_loadu_si128(buf));
        break;
    default:
        memcpy(p, buf, size);
        break;
    }
    interp_host_written(v, la, size);
    return true;
}
