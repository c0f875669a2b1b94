// The local APIC's registers: the xAPIC's MMIO page and the x2APIC's MSRs (Intel SDM vol. 3, tables 11-1 and 11-6).
//
// Both faces name a register by the same number, the MMIO offset divided by 16, so one read and one write function
// serve them. The MSR face adds what the architecture is strict about there: registers that do not exist, reserved bits
// and the wrong direction are #GP. The MMIO face never faults: such accesses set ESR's "illegal register" bit.
//
// Only the CPU itself can reach its registers, through whichever face APIC_BASE has switched on.
//
// Example: WRMSR 0x80b (EOI) and a store to 0xfee000b0 are both register 0x0b.
#include "chip/lapic.h"
#include "cpu/msr.h"

enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT = 0x32,
    REG_TIMER_INITIAL = 0x38,
    REG_TIMER_CURRENT = 0x39,
    REG_TIMER_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
};

// 0x14: an integrated APIC; highest LVT entry; EOI broadcast can be suppressed.
static const uint32_t version = 0x14 | (LVT_COUNT - 1) << 16 | 1u << 24;

// What may be written: bits outside are reserved.
static uint64_t writable(unsigned reg)
{
    switch (reg) {
    case REG_TPR:
        return 0xff;
    case REG_EOI:
    case REG_ESR:
        return 0; // x2APIC: only zero may be written
    case REG_SVR:
        return 0x11ff;
    case REG_ICR:
        return 0xffffffff000cdfffull; // with bit 12, the delivery status of the xAPIC, which is ignored
    case REG_LVT + LVT_TIMER:
        return 0x710ff;
    case REG_LVT + LVT_THERMAL:
    case REG_LVT + LVT_PERF:
        return 0x117ff;
    case REG_LVT + LVT_LINT0:
    case REG_LVT + LVT_LINT1:
        return 0x1f7ff;
    case REG_LVT + LVT_ERROR:
        return 0x110ff;
    case REG_TIMER_INITIAL:
        return 0xffffffff;
    case REG_TIMER_DIVIDE:
        return 0xb;
    case REG_SELF_IPI:
        return 0xff;
    }
    return 0;
}

// Returns false if there is no such register to be read.
static bool read_register(struct lapic *a, unsigned reg, bool x2, uint64_t *val)
{
    vm_lock(&a->dev.lock);
    lapic_eoi_settle(a);
    bool ok = true;
    uint64_t v = 0;
    switch (reg) {
    case REG_ID:
        v = x2 ? a->cpu : a->cpu << 24;
        break;
    case REG_VERSION:
        v = version;
        break;
    case REG_TPR:
        v = a->tpr;
        break;
    case REG_PPR:
        v = lapic_ppr(a);
        break;
    case REG_LDR:
        v = x2 ? (uint32_t)atomic_load(&a->route) : a->ldr;
        break;
    case REG_APR: // arbitration is not by bus any more
    case REG_RRD:
    case REG_EOI:
        ok = !x2;
        break;
    case REG_DFR:
        ok = !x2;
        v = a->dfr;
        break;
    case REG_SVR:
        v = a->svr;
        break;
    case REG_ISR ... REG_ISR + 7:
        v = (uint32_t)(a->isr[(reg - REG_ISR) / 2] >> (reg & 1) * 32);
        break;
    case REG_TMR ... REG_TMR + 7:
        v = (uint32_t)(a->tmr[(reg - REG_TMR) / 2] >> (reg & 1) * 32);
        break;
    case REG_IRR ... REG_IRR + 7:
        v = (uint32_t)(a->irr[(reg - REG_IRR) / 2] >> (reg & 1) * 32);
        break;
    case REG_ESR:
        v = a->esr;
        break;
    case REG_ICR:
        v = x2 ? a->icr : (uint32_t)a->icr;
        break;
    case REG_ICR_HIGH:
        ok = !x2;
        v = a->icr >> 32;
        break;
    case REG_LVT ... REG_LVT + LVT_COUNT - 1:
        v = a->lvt[reg - REG_LVT];
        break;
    case REG_TIMER_INITIAL:
        v = a->timer_initial;
        break;
    case REG_TIMER_CURRENT:
        v = lapic_timer_count(a);
        break;
    case REG_TIMER_DIVIDE:
        v = a->timer_divide;
        break;
    default:
        ok = false;
    }
    vm_unlock(&a->dev.lock);
    *val = v;
    return ok;
}

static void set_svr(struct lapic *a, uint32_t val)
{
    a->svr = val;
    if (!(val & SVR_ENABLE))
        for (unsigned i = 0; i < LVT_COUNT; i++)
            lapic_set_lvt(a, i, a->lvt[i] | LVT_MASKED);
    lapic_publish(a);
}

// Returns false if there is no such register to be written. `val` has no reserved bits.
static bool write_register(struct lapic *a, unsigned reg, bool x2, uint64_t val)
{
    // These two talk to others, and lock by themselves.
    if (reg == REG_EOI) {
        lapic_eoi(a);
        return true;
    }
    if (reg == REG_SELF_IPI && x2) {
        lapic_send_ipi(a, 1 << 18 | val, true);
        return true;
    }

    bool ok = true;
    vm_lock(&a->dev.lock);
    if (reg == REG_TPR || reg == REG_SVR)
        lapic_eoi_settle(a);
    switch (reg) {
    case REG_ID: // read-only here, see lapic.h
    case REG_RRD:
        ok = !x2;
        break;
    case REG_TPR:
        a->tpr = val;
        lapic_update(a);
        break;
    case REG_LDR:
        ok = !x2;
        if (ok)
            a->ldr = val & 0xff000000;
        lapic_publish(a);
        break;
    case REG_DFR:
        ok = !x2;
        if (ok)
            a->dfr = val | 0x0fffffff;
        lapic_publish(a);
        break;
    case REG_SVR:
        set_svr(a, val);
        break;
    case REG_ESR:
        a->esr = a->esr_new;
        a->esr_new = 0;
        break;
    case REG_ICR: {
        a->icr = x2 ? val & ~0x1000ull : (a->icr & ~0xffffffffull) | (uint32_t)(val & ~0x1000ull);
        uint64_t icr = a->icr;
        vm_unlock(&a->dev.lock);
        lapic_send_ipi(a, icr, x2);
        return true;
    }
    case REG_ICR_HIGH:
        ok = !x2;
        if (ok)
            a->icr = (uint32_t)a->icr | (val & 0xff000000) << 32;
        break;
    case REG_LVT ... REG_LVT + LVT_COUNT - 1:
        lapic_set_lvt(a, reg - REG_LVT, val);
        break;
    case REG_TIMER_INITIAL:
        lapic_timer_set_initial(a, val);
        break;
    case REG_TIMER_DIVIDE:
        lapic_timer_set_divide(a, val);
        break;
    default:
        ok = false;
    }
    vm_unlock(&a->dev.lock);
    return ok;
}

// ---- MMIO

static struct lapic *xapic_of(struct lapics *s, unsigned cpu)
{
    if (cpu >= s->count || s->engines) // switched off there, or the access would not come here
        return NULL;
    struct lapic *a = s->apic[cpu];
    // Only this CPU writes its base, so no lock is needed to read it here.
    return (a->base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_ENABLE ? a : NULL;
}

static void illegal_register(struct lapic *a)
{
    vm_lock(&a->dev.lock);
    lapic_error(a, ESR_ILLEGAL_REGISTER);
    vm_unlock(&a->dev.lock);
}

uint64_t lapics_mmio_read(struct device *d, struct bus_access b)
{
    struct lapic *a = xapic_of((struct lapics *)d, b.cpu);
    if (!a)
        return ~0ull;
    uint64_t v = 0;
    if ((b.offset & 15) + b.size > 4)
        return 0; // between two registers
    if (!read_register(a, b.offset >> 4, false, &v))
        illegal_register(a);
    return v >> (b.offset & 3) * 8;
}

void lapics_mmio_write(struct device *d, struct bus_access b, uint64_t val)
{
    struct lapic *a = xapic_of((struct lapics *)d, b.cpu);
    if (!a || b.size != 4 || (b.offset & 15))
        return;
    unsigned reg = b.offset >> 4;
    if (reg != REG_LDR && reg != REG_DFR && reg != REG_ICR_HIGH)
        val &= writable(reg);
    if (!write_register(a, reg, false, val))
        illegal_register(a);
}

// ---- MSRs

static int write_base(struct lapic *a, uint64_t val)
{
    enum { OFF = 0, X2APIC = 3 };
    unsigned from = a->base >> 10 & 3, to = val >> 10 & 3;
    if (!cpu_apic_base_allowed(a->base, val))
        return -1;
    vm_lock(&a->dev.lock);
    a->base = val;
    if (to == OFF && from != OFF)
        lapic_state_reset(a, true);
    if (to == X2APIC && from != X2APIC)
        a->icr = (uint32_t)a->icr;
    lapic_publish(a);
    lapic_update(a);
    vm_unlock(&a->dev.lock);
    return 0;
}

int lapics_msr_read(struct device *d, unsigned cpu, uint32_t msr, uint64_t *val)
{
    struct lapics *s = (struct lapics *)d;
    if (cpu >= s->count || s->engines) // which asks only about what it has refused
        return -1;
    struct lapic *a = s->apic[cpu];
    if (msr == MSR_APIC_BASE) {
        *val = a->base;
        return 0;
    }
    if (msr == MSR_KVM_EOI) {
        *val = a->eoi_msr;
        return 0;
    }
    if (msr == MSR_TSC_DEADLINE) {
        vm_lock(&a->dev.lock);
        *val = lapic_timer_deadline(a);
        vm_unlock(&a->dev.lock);
        return 0;
    }
    if (!(a->base & APIC_BASE_X2APIC))
        return -1;
    return read_register(a, msr - MSR_X2APIC_FIRST, true, val) ? 0 : -1;
}

int lapics_msr_write(struct device *d, unsigned cpu, uint32_t msr, uint64_t val)
{
    struct lapics *s = (struct lapics *)d;
    if (cpu >= s->count || s->engines)
        return -1;
    struct lapic *a = s->apic[cpu];
    if (msr == MSR_APIC_BASE)
        return write_base(a, val);
    if (msr == MSR_KVM_EOI)
        return lapic_eoi_set_msr(a, val);
    if (msr == MSR_TSC_DEADLINE) {
        vm_lock(&a->dev.lock);
        lapic_timer_set_deadline(a, val);
        vm_unlock(&a->dev.lock);
        return 0;
    }
    if (!(a->base & APIC_BASE_X2APIC))
        return -1;
    unsigned reg = msr - MSR_X2APIC_FIRST;
    if (val & ~writable(reg))
        return -1;
    return write_register(a, reg, true, val) ? 0 : -1;
}
