// The guest's state in the common form of cpu/state.h, from and to KVM's.
//
// Both are written only while the vCPU is not running, and run() leaves no instruction unfinished, so there is nothing
// half done to be had. Two things have no place of their own in struct cpu_state and are told as a pending exception:
// an interrupt that was acknowledged but not delivered yet (its vector is above 31), and such an NMI (vector 2).
// A debug trap that waits for the instruction boundary becomes the #DB that it will be.
//
// A CPU that has shut down: on AMD's hardware the state is lost with it, and what KVM gives is that after INIT.
//
// Source: api.rst [4.11] to [4.14], [4.22], [4.29] to [4.34], [4.100]; Intel SDM vol. 3, 24.4.1 (segments).
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>

enum { VECTOR_DB = 1, VECTOR_NMI = 2, VECTOR_INTERRUPT = 32 };
enum { XSAVE_FCW = 0, XSAVE_MXCSR = 24, XSAVE_ST = 32, XSAVE_XMM = 160, XSAVE_BV = 512, XSAVE_XCOMP = 520 };

_Static_assert(sizeof(((struct kvm_xsave *)0)->region) == CPU_XSAVE_SIZE, "KVM's XSAVE area is as large as ours");

static int failed(const struct kvm_vcpu *v, struct error *err, const char *what)
{
    return error_set(err, errno, "vCPU %u: KVM refuses %s: %s", v->base.id, what, strerror(errno));
}

// --- general registers. KVM's order is A B C D SI DI SP BP.

static const uint8_t gpr_order[] = {CPU_RAX, CPU_RBX, CPU_RCX, CPU_RDX, CPU_RSI, CPU_RDI, CPU_RSP, CPU_RBP,
                                    CPU_R8,  CPU_R9,  CPU_R10, CPU_R11, CPU_R12, CPU_R13, CPU_R14, CPU_R15};

_Static_assert(offsetof(struct kvm_regs, rip) == sizeof gpr_order * 8, "struct kvm_regs begins with them");

static void get_general(struct kvm_vcpu *v, struct cpu_state *s)
{
    struct kvm_regs r = {0};
    ioctl(v->fd, KVM_GET_REGS, &r);
    for (unsigned n = 0; n < CPU_GPR_COUNT; n++)
        memcpy(&s->gpr[gpr_order[n]], (const char *)&r + 8 * n, 8);
    s->rip = r.rip;
    s->rflags = r.rflags;
}

static int set_general(struct kvm_vcpu *v, const struct cpu_state *s, struct error *err)
{
    struct kvm_regs r = {.rip = s->rip, .rflags = (s->rflags & 0x3f7fd5) | RFLAGS_FIXED};
    for (unsigned n = 0; n < CPU_GPR_COUNT; n++)
        memcpy((char *)&r + 8 * n, &s->gpr[gpr_order[n]], 8);
    return ioctl(v->fd, KVM_SET_REGS, &r) < 0 ? failed(v, err, "its registers") : 0;
}

// --- segments and control registers: one structure of KVM's

static struct cpu_segment from_kvm(const struct kvm_segment *k)
{
    unsigned attr = k->type | (k->s ? CPU_SEG_S : 0) | (unsigned)k->dpl << CPU_SEG_DPL_SHIFT |
                    (k->present && !k->unusable ? CPU_SEG_P : 0) | (k->avl ? CPU_SEG_AVL : 0) | (k->l ? CPU_SEG_L : 0) |
                    (k->db ? CPU_SEG_DB : 0) | (k->g ? CPU_SEG_G : 0);
    return (struct cpu_segment){.selector = k->selector, .attr = (uint16_t)attr, .limit = k->limit, .base = k->base};
}

static struct kvm_segment to_kvm(const struct cpu_segment *g)
{
    return (struct kvm_segment){
        .base = g->base,
        .limit = g->limit,
        .selector = g->selector,
        .type = g->attr & CPU_SEG_TYPE,
        .present = !!(g->attr & CPU_SEG_P),
        .dpl = (g->attr & CPU_SEG_DPL) >> CPU_SEG_DPL_SHIFT,
        .db = !!(g->attr & CPU_SEG_DB),
        .s = !!(g->attr & CPU_SEG_S),
        .l = !!(g->attr & CPU_SEG_L),
        .g = !!(g->attr & CPU_SEG_G),
        .avl = !!(g->attr & CPU_SEG_AVL),
        .unusable = !(g->attr & CPU_SEG_P),
    };
}

// In the order of enum cpu_seg_name.
static const uint16_t seg_offset[CPU_SEG_COUNT] = {offsetof(struct kvm_sregs2, es), offsetof(struct kvm_sregs2, cs),
                                                   offsetof(struct kvm_sregs2, ss), offsetof(struct kvm_sregs2, ds),
                                                   offsetof(struct kvm_sregs2, fs), offsetof(struct kvm_sregs2, gs)};

_Static_assert(offsetof(struct kvm_sregs, apic_base) == offsetof(struct kvm_sregs2, apic_base),
               "both structures begin alike");

// The older call lacks the PDPTEs: the kernel then loads them from memory.
static int sregs(struct kvm_vcpu *v, struct kvm_sregs2 *s, bool set)
{
    if (v->vm->sregs2)
        return ioctl(v->fd, set ? KVM_SET_SREGS2 : KVM_GET_SREGS2, s);
    struct kvm_sregs old = {0};
    if (!set)
        memset(s, 0, sizeof *s);
    else
        memcpy(&old, s, offsetof(struct kvm_sregs, interrupt_bitmap));
    int r = ioctl(v->fd, set ? KVM_SET_SREGS : KVM_GET_SREGS, &old);
    if (!set)
        memcpy(s, &old, offsetof(struct kvm_sregs, interrupt_bitmap));
    return r;
}

static void get_system(struct kvm_vcpu *v, struct cpu_state *s, unsigned groups)
{
    struct kvm_sregs2 k = {0};
    sregs(v, &k, false);
    if (groups & CPU_GROUP_SEG) {
        for (unsigned n = 0; n < CPU_SEG_COUNT; n++)
            s->seg[n] = from_kvm((const struct kvm_segment *)((const char *)&k + seg_offset[n]));
        s->ldtr = from_kvm(&k.ldt);
        s->tr = from_kvm(&k.tr);
        s->gdtr = (struct cpu_table){.base = k.gdt.base, .limit = k.gdt.limit};
        s->idtr = (struct cpu_table){.base = k.idt.base, .limit = k.idt.limit};
    }
    if (groups & CPU_GROUP_CR) {
        s->cr0 = k.cr0;
        s->cr2 = k.cr2;
        s->cr3 = k.cr3;
        s->cr4 = k.cr4;
        s->efer = k.efer | v->efer_hidden;
        memset(s->pdpte, 0, sizeof s->pdpte);
        if (k.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
            memcpy(s->pdpte, k.pdptrs, sizeof s->pdpte);
    }
}

static bool pae_paging(const struct cpu_state *s)
{
    return (s->cr0 & CR0_PG) && (s->cr4 & CR4_PAE) && !(s->efer & EFER_LMA);
}

static int set_system(struct kvm_vcpu *v, const struct cpu_state *s, unsigned groups, struct error *err)
{
    struct kvm_sregs2 k = {0};
    if (sregs(v, &k, false) < 0)
        return failed(v, err, "to tell its system registers");
    if (!v->base.vm->own_apic) { // else both stay what they are
        k.apic_base = CPU_APIC_BASE_ADDRESS | CPU_APIC_BASE_ENABLE | (v->base.id == 0 ? CPU_APIC_BASE_BSP : 0);
        k.cr8 = v->run->cr8;
    }
    if (groups & CPU_GROUP_SEG) {
        for (unsigned n = 0; n < CPU_SEG_COUNT; n++)
            *(struct kvm_segment *)((char *)&k + seg_offset[n]) = to_kvm(&s->seg[n]);
        k.ldt = to_kvm(&s->ldtr);
        k.tr = to_kvm(&s->tr);
        k.gdt = (struct kvm_dtable){.base = s->gdtr.base, .limit = s->gdtr.limit};
        k.idt = (struct kvm_dtable){.base = s->idtr.base, .limit = s->idtr.limit};
    }
    if (groups & CPU_GROUP_CR) {
        k.cr0 = s->cr0;
        k.cr2 = s->cr2;
        k.cr3 = s->cr3;
        k.cr4 = s->cr4;
        k.efer = s->efer & ~EFER_AIBRSE; // kvm_msr_set_efer() finds out whether the kernel takes it
        k.flags = pae_paging(s) ? KVM_SREGS2_FLAGS_PDPTRS_VALID : 0;
        memcpy(k.pdptrs, s->pdpte, sizeof s->pdpte);
    }
    if (sregs(v, &k, true) < 0)
        return failed(v, err, "its system registers");
    if (groups & CPU_GROUP_CR)
        kvm_msr_set_efer(v, s->efer);
    return 0;
}

// --- debug registers

static void get_debug(struct kvm_vcpu *v, struct cpu_state *s)
{
    struct kvm_debugregs d = {0};
    ioctl(v->fd, KVM_GET_DEBUGREGS, &d);
    memcpy(s->dr, d.db, sizeof s->dr);
    s->dr6 = d.dr6;
    s->dr7 = d.dr7;
}

static int set_debug(struct kvm_vcpu *v, const struct cpu_state *s, struct error *err)
{
    struct kvm_debugregs d = {.dr6 = s->dr6, .dr7 = s->dr7};
    memcpy(d.db, s->dr, sizeof s->dr);
    return ioctl(v->fd, KVM_SET_DEBUGREGS, &d) < 0 ? failed(v, err, "its debug registers") : 0;
}

// --- x87, SSE, AVX

static bool has_xsave(const struct kvm_vcpu *v)
{
    return cpu_model_has(v->base.vm->config.model, 1, 0, 2, 26);
}

static void get_vectors(struct kvm_vcpu *v, struct cpu_state *s)
{
    struct kvm_xsave x;
    if (ioctl(v->fd, KVM_GET_XSAVE, &x) == 0) {
        memcpy(s->xsave, x.region, sizeof s->xsave);
        uint64_t bv;
        memcpy(&bv, s->xsave + XSAVE_BV, sizeof bv);
        bv &= v->base.vm->config.model->xcr0_mask;
        memcpy(s->xsave + XSAVE_BV, &bv, sizeof bv);
        memset(s->xsave + XSAVE_XCOMP, 0, 8);
    }
    s->xcr0 = XSTATE_X87;
    struct kvm_xcrs c = {0};
    if (has_xsave(v) && ioctl(v->fd, KVM_GET_XCRS, &c) == 0)
        for (unsigned n = 0; n < c.nr_xcrs && n < KVM_MAX_XCRS; n++)
            if (c.xcrs[n].xcr == 0)
                s->xcr0 = c.xcrs[n].value;
}

// The kernel takes MXCSR only along with the registers that it governs: x87 and SSE are always given, as what they are
// in their initial state if need be.
static void spell_out(uint8_t *area, uint64_t mask)
{
    uint64_t bv;
    memcpy(&bv, area + XSAVE_BV, sizeof bv);
    if (!(bv & XSTATE_X87)) {
        const uint16_t fcw = 0x37f; // as FNINIT leaves it
        memset(area, 0, XSAVE_MXCSR);
        memcpy(area + XSAVE_FCW, &fcw, sizeof fcw);
        memset(area + XSAVE_ST, 0, XSAVE_XMM - XSAVE_ST);
    }
    if (!(bv & XSTATE_SSE))
        memset(area + XSAVE_XMM, 0, 256);
    bv = (bv & mask) | XSTATE_X87 | XSTATE_SSE;
    memcpy(area + XSAVE_BV, &bv, sizeof bv);
}

static int set_vectors(struct kvm_vcpu *v, const struct cpu_state *s, struct error *err)
{
    struct kvm_xcrs c = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = s->xcr0}}};
    if (has_xsave(v) && ioctl(v->fd, KVM_SET_XCRS, &c) < 0)
        return failed(v, err, "its XCR0");
    struct kvm_xsave x;
    memcpy(x.region, s->xsave, sizeof s->xsave);
    spell_out((uint8_t *)x.region, v->base.vm->config.model->xcr0_mask);
    return ioctl(v->fd, KVM_SET_XSAVE, &x) < 0 ? failed(v, err, "its x87 and vector state") : 0;
}

// --- between two instructions

// What the CPU is doing, which the kernel knows where it has the local APIC; but that it has shut down is kept here.
unsigned kvm_activity(struct kvm_vcpu *v)
{
    struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
    if (!v->base.vm->own_apic || v->activity == CPU_SHUTDOWN || ioctl(v->fd, KVM_GET_MP_STATE, &mp) < 0)
        return v->activity;
    switch (mp.mp_state) {
    case KVM_MP_STATE_HALTED:
        return CPU_HALTED;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
        return CPU_WAIT_SIPI;
    default:
        return CPU_RUNNING;
    }
}

// A CPU that waits for its startup IPI has had its INIT.
static int set_activity(struct kvm_vcpu *v, unsigned activity, struct error *err)
{
    v->activity = (uint8_t)activity;
    if (!v->base.vm->own_apic)
        return 0;
    struct kvm_mp_state mp = {.mp_state = activity == CPU_HALTED      ? KVM_MP_STATE_HALTED
                                          : activity == CPU_WAIT_SIPI ? KVM_MP_STATE_INIT_RECEIVED
                                                                      : KVM_MP_STATE_RUNNABLE};
    if (activity != CPU_SHUTDOWN)
        v->activity = CPU_RUNNING;
    return ioctl(v->fd, KVM_SET_MP_STATE, &mp) < 0 ? failed(v, err, "its activity") : 0;
}

static void get_events(struct kvm_vcpu *v, struct cpu_state *s)
{
    struct kvm_vcpu_events k = {0};
    unsigned activity = kvm_activity(v);
    ioctl(v->fd, KVM_GET_VCPU_EVENTS, &k);
    s->ev =
        (struct cpu_events){.activity = (uint8_t)activity, .nmi_masked = k.nmi.masked, .nmi_pending = k.nmi.pending};
    // AMD's hardware does not tell the two apart and KVM then says both.
    if (k.interrupt.shadow & KVM_X86_SHADOW_INT_STI)
        s->ev.shadow = CPU_SHADOW_STI;
    else if (k.interrupt.shadow)
        s->ev.shadow = CPU_SHADOW_MOV_SS;
    if (k.exception.injected || k.exception.pending) {
        s->ev.exception_pending = true;
        s->ev.exception_vector = k.exception.nr;
        s->ev.exception_has_error = k.exception.has_error_code;
        s->ev.exception_error = k.exception.error_code;
    } else if (k.nmi.injected) {
        s->ev.exception_pending = true;
        s->ev.exception_vector = VECTOR_NMI;
    } else if (k.interrupt.injected) {
        s->ev.exception_pending = true;
        s->ev.exception_vector = k.interrupt.nr;
    }
}

static int set_events(struct kvm_vcpu *v, const struct cpu_state *s, struct error *err)
{
    const struct cpu_events *ev = &s->ev;
    struct kvm_vcpu_events k = {.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
                                .nmi = {.pending = ev->nmi_pending, .masked = ev->nmi_masked}};
    if (ev->activity != CPU_HALTED && ev->shadow != CPU_SHADOW_NONE)
        k.interrupt.shadow = ev->shadow == CPU_SHADOW_STI ? KVM_X86_SHADOW_INT_STI : KVM_X86_SHADOW_INT_MOV_SS;
    if (ev->exception_pending && ev->exception_vector >= VECTOR_INTERRUPT) {
        k.interrupt.injected = 1;
        k.interrupt.nr = ev->exception_vector;
    } else if (ev->exception_pending && ev->exception_vector == VECTOR_NMI) {
        k.nmi.injected = 1;
    } else if (ev->exception_pending) {
        k.exception.injected = 1;
        k.exception.nr = ev->exception_vector;
        k.exception.has_error_code = ev->exception_has_error;
        k.exception.error_code = ev->exception_error;
    } else if (ev->pending_debug) {
        struct kvm_debugregs d = {0};
        ioctl(v->fd, KVM_GET_DEBUGREGS, &d);
        d.dr6 |= ev->pending_debug;
        if (ioctl(v->fd, KVM_SET_DEBUGREGS, &d) < 0)
            return failed(v, err, "its debug registers");
        k.exception.injected = 1;
        k.exception.nr = VECTOR_DB;
    }
    // What a CPU in HLT wakes up for. (And none is in a shadow: HLT has ended it.)
    bool wakes = ev->exception_pending || ev->pending_debug || (ev->nmi_pending && !ev->nmi_masked);
    if (ioctl(v->fd, KVM_SET_VCPU_EVENTS, &k) < 0)
        return failed(v, err, "its pending events");
    return set_activity(v, ev->activity == CPU_HALTED && wakes ? CPU_RUNNING : ev->activity, err);
}

// --- all of it

void kvm_get_state(struct engine_vcpu *e, struct cpu_state *s, unsigned groups)
{
    struct kvm_vcpu *v = KVM_VCPU(e);
    if (groups & CPU_GROUP_GPR)
        get_general(v, s);
    if (groups & (CPU_GROUP_SEG | CPU_GROUP_CR))
        get_system(v, s, groups);
    if (groups & CPU_GROUP_DR)
        get_debug(v, s);
    if (groups & CPU_GROUP_XSAVE)
        get_vectors(v, s);
    if (groups & CPU_GROUP_MSR)
        kvm_msr_get(v, &s->msr);
    if (groups & CPU_GROUP_EVENTS)
        get_events(v, s);
}

// Events last: setting general registers drops a pending exception.
int kvm_set_state(struct engine_vcpu *e, const struct cpu_state *s, unsigned groups, struct error *err)
{
    struct kvm_vcpu *v = KVM_VCPU(e);
    int r = 0;
    v->unfinished = true; // the kernel is to look at it: what it says of being open for interrupts is of before
    v->tpr_stale = true;
    if (groups & CPU_GROUP_MSR)
        kvm_msr_set(v, &s->msr);
    if (groups & (CPU_GROUP_SEG | CPU_GROUP_CR))
        r = set_system(v, s, groups, err);
    if (!r && groups & CPU_GROUP_GPR)
        r = set_general(v, s, err);
    if (!r && groups & CPU_GROUP_DR)
        r = set_debug(v, s, err);
    if (!r && groups & CPU_GROUP_XSAVE)
        r = set_vectors(v, s, err);
    if (!r && groups & CPU_GROUP_EVENTS)
        r = set_events(v, s, err);
    return r;
}
