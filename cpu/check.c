// Checking a CPU's state: see check.h. The rules are those of the instructions that load each register.
//
// Example: CR0 with PG but without PE is refused, as MOV to CR0 would (Intel SDM vol. 2, MOV to control registers).
#include "cpu/check.h"
#include "cpu/msr.h"
#include <errno.h>
#include <string.h>

#define RFLAGS_KNOWN 0x3f7fd7ull
#define CR0_KNOWN (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define LOW32 0xffffffffull

enum { SEG_ATTR = 0xfff, SEG_READ_CODE = CPU_SEG_S | CPU_SEG_CODE };
enum { XSAVE_MXCSR = 24, XSAVE_BV = 512, XSAVE_XCOMP = 520, XSAVE_HEADER_END = 576 };
enum { MXCSR_KNOWN = 0xffff, PENDING_DEBUG = 0xe00f };

static int bad(struct error *err, const char *what)
{
    return error_set(err, EINVAL, "%s: no such CPU can hold that", what);
}

static bool modes_fit(const struct cpu_state *s)
{
    bool paging = s->cr0 & CR0_PG, active = s->efer & EFER_LMA;
    if (active != (paging && (s->efer & EFER_LME)) || (active && !(s->cr4 & CR4_PAE)))
        return false;
    if ((s->cr4 & CR4_PCIDE) && !active)
        return false;
    return !(s->rflags & RFLAGS_VM) || ((s->cr0 & CR0_PE) && !active);
}

static int check_control(const struct cpu_state *s, const struct cpu_model *m, struct error *err)
{
    if ((s->rflags & ~RFLAGS_KNOWN) || !(s->rflags & RFLAGS_FIXED))
        return bad(err, "RFLAGS");
    if ((s->cr0 & ~CR0_KNOWN) || ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE)) || ((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD)))
        return bad(err, "CR0");
    if (s->cr4 & ~m->cr4_mask)
        return bad(err, "CR4");
    if (s->efer & ~(m->efer_mask | EFER_LMA))
        return bad(err, "EFER");
    if (!modes_fit(s))
        return bad(err, "CR0, CR4, EFER and RFLAGS together");
    if (s->cr3 >> m->phys_bits)
        return bad(err, "CR3");
    if (s->xcr0 & ~(m->xcr0_mask | XSTATE_X87) || !(s->xcr0 & XSTATE_X87) ||
        ((s->xcr0 & XSTATE_AVX) && !(s->xcr0 & XSTATE_SSE)) ||
        ((s->xcr0 & XSTATE_AVX512) && ((s->xcr0 & XSTATE_AVX512) != XSTATE_AVX512 || !(s->xcr0 & XSTATE_AVX))))
        return bad(err, "XCR0");
    if (s->dr6 > LOW32 || s->dr7 > LOW32)
        return bad(err, "debug registers");
    return 0;
}

static bool segment_fits(const struct cpu_state *s, const struct cpu_segment *g)
{
    return !(g->attr & ~SEG_ATTR) && ((s->efer & EFER_LMA) ? cpu_is_canonical(s, g->base) : g->base <= LOW32);
}

static int check_segments(const struct cpu_state *s, struct error *err)
{
    for (unsigned i = 0; i < CPU_SEG_COUNT; i++) {
        const struct cpu_segment *g = &s->seg[i];
        // Bases of FS and GS keep 64 bits whatever the mode; the other four are 32 bits wide.
        bool wide = i == CPU_FS || i == CPU_GS;
        if ((g->attr & ~SEG_ATTR) || (wide ? !cpu_is_canonical(s, g->base) : g->base > LOW32))
            return bad(err, "segment registers");
    }
    const struct cpu_segment *cs = &s->seg[CPU_CS];
    if ((s->efer & EFER_LMA) && (cs->attr & CPU_SEG_L) && (cs->attr & CPU_SEG_DB))
        return bad(err, "CS");
    if (!segment_fits(s, &s->ldtr) || !segment_fits(s, &s->tr) || !cpu_is_canonical(s, s->gdtr.base) ||
        !cpu_is_canonical(s, s->idtr.base))
        return bad(err, "descriptor tables");
    if (cpu_is_64bit(s) ? !cpu_is_canonical(s, s->rip) : s->rip > LOW32)
        return bad(err, "RIP");
    return 0;
}

// Each register takes back what it reads as; one that the model does not have is what it is after reset.
static int check_msrs(const struct cpu_state *s, const struct cpu_model *m, struct error *err)
{
    static const struct {
        uint32_t first, count, stride;
    } list[] = {{MSR_STAR, 4, 1},
                {MSR_KERNEL_GS_BASE, 1, 1},
                {MSR_TSC_AUX, 1, 1},
                {MSR_SYSENTER_CS, 3, 1},
                {MSR_PAT, 1, 1},
                {MSR_TSC_ADJUST, 1, 1},
                {MSR_SPEC_CTRL, 1, 1},
                {MSR_MISC_ENABLE, 1, 1},
                {MSR_XSS, 1, 1},
                {MSR_DEBUGCTL, 1, 1},
                {MSR_MTRR_DEF_TYPE, 1, 1},
                {0x250, 1, 1},
                {0x258, 2, 1},
                {0x268, 8, 1},
                {MSR_MTRR_BASE0, 16, 1},
                {MSR_MCG_STATUS, 2, 1}};
    struct cpu_state copy = *s;
    for (unsigned i = 0; i < sizeof list / sizeof list[0]; i++) {
        for (unsigned k = 0; k < list[i].count; k++) {
            uint32_t msr = list[i].first + k * list[i].stride;
            uint64_t val;
            if (cpu_msr_read(s, m, msr, &val) == CPU_MSR_OK && cpu_msr_write(&copy, m, msr, val) == CPU_MSR_GP)
                return error_set(err, EINVAL, "MSR 0x%x: no such CPU can hold 0x%llx", msr, (unsigned long long)val);
        }
    }
    return 0;
}

static int check_events(const struct cpu_state *s, struct error *err)
{
    const struct cpu_events *ev = &s->ev;
    if (ev->activity > CPU_SHUTDOWN || ev->shadow > CPU_SHADOW_MOV_SS || (ev->pending_debug & ~(uint64_t)PENDING_DEBUG))
        return bad(err, "pending events");
    return 0;
}

// What XRSTOR of the area would fault on (Intel SDM vol. 1, 13.8).
static int check_xsave(const struct cpu_state *s, const struct cpu_model *m, struct error *err)
{
    uint32_t mxcsr;
    uint64_t bv;
    memcpy(&mxcsr, s->xsave + XSAVE_MXCSR, sizeof mxcsr);
    memcpy(&bv, s->xsave + XSAVE_BV, sizeof bv);
    if (mxcsr & ~(uint32_t)MXCSR_KNOWN)
        return bad(err, "MXCSR");
    bool clear = true;
    for (unsigned i = XSAVE_XCOMP; i < XSAVE_HEADER_END; i++)
        clear &= !s->xsave[i];
    if (!clear || (bv & ~(m->xcr0_mask | XSTATE_X87 | XSTATE_SSE)))
        return bad(err, "header of the XSAVE area");
    return 0;
}

int cpu_state_check(const struct cpu_state *s, const struct cpu_model *m, struct error *err)
{
    int e = check_control(s, m, err);
    if (!e)
        e = check_segments(s, err);
    if (!e)
        e = check_msrs(s, m, err);
    if (!e)
        e = check_events(s, err);
    return e ? e : check_xsave(s, m, err);
}
