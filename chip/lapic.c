// The local APIC: accepting, prioritizing and acknowledging interrupts (Intel SDM vol. 3, 11.8).
//
// An interrupt is first a bit in IRR (requested). The CPU may take it when its class (vector >> 4) is above that of the
// processor priority PPR, which is the higher of the task priority (TPR, what the OS asks for) and the highest vector
// in ISR (in service). Taking it moves the bit from IRR to ISR; the EOI clears the highest bit in ISR.
//
// The CPU is told (VCPU_INTR) whenever something became deliverable: a new bit in IRR, a lower TPR, an EOI. It comes
// back through ack() when its interrupts are open. Telling it once too often is harmless, for ack() then says -1;
// telling it once too seldom would hang a guest. So the rule is: whoever changes IRR, ISR, TPR or the PIC's line ends
// with lapic_update().
//
// Example: vector 0x41 is in service and 0x52 arrives: class 5 > class 4, so 0x52 nests. 0x4f would wait for the EOI.
#include "chip/lapic.h"
#include "cpu/msr.h"
#include "vm/alloc.h"
#include "vm/engine_apic.h"
#include <errno.h>
#include <string.h>

// What `route` publishes; bits 0..31 are the logical APIC id.
enum { ROUTE_ENABLED_BIT = 32, ROUTE_X2APIC_BIT, ROUTE_FLAT_BIT, ROUTE_ACCEPTS_BIT };
#define ROUTE_ENABLED (1ull << ROUTE_ENABLED_BIT) // APIC_BASE says so
#define ROUTE_X2APIC (1ull << ROUTE_X2APIC_BIT)
#define ROUTE_FLAT (1ull << ROUTE_FLAT_BIT)       // xAPIC: flat, not cluster model
#define ROUTE_ACCEPTS (1ull << ROUTE_ACCEPTS_BIT) // SVR says so: fixed interrupts are accepted

int lapic_top(const uint64_t set[4])
{
    for (int i = 3; i >= 0; i--)
        if (set[i])
            return i * 64 + 63 - __builtin_clzll(set[i]);
    return -1;
}

static inline bool has(const uint64_t set[4], uint8_t v)
{
    return set[v / 64] >> (v % 64) & 1;
}

static inline void add(uint64_t set[4], uint8_t v)
{
    set[v / 64] |= 1ull << (v % 64);
}

static inline void drop(uint64_t set[4], uint8_t v)
{
    set[v / 64] &= ~(1ull << (v % 64));
}

uint32_t lapic_ppr(const struct lapic *a)
{
    uint32_t service = a->isr_top < 0 ? 0 : a->isr_top & 0xf0;
    return (a->tpr & 0xf0) >= service ? a->tpr : service;
}

// The vector that the CPU would get now, or -1.
static int deliverable(const struct lapic *a)
{
    int v = lapic_top(a->irr);
    return v >= 0 && (uint32_t)(v & 0xf0) > (lapic_ppr(a) & 0xf0) ? v : -1;
}

static unsigned lvt_mode(uint32_t lvt)
{
    return lvt >> LVT_MODE_SHIFT & 7;
}

// True if the PIC's INT line reaches this CPU as an interrupt whose vector the PIC gives. With the APIC switched off,
// the pins are those of a CPU without APIC; they are wired on the boot CPU.
static bool takes_pic(const struct lapic *a)
{
    if (!(a->base & APIC_BASE_ENABLE))
        return a->cpu == 0;
    uint32_t l = a->lvt[LVT_LINT0];
    return !(l & LVT_MASKED) && lvt_mode(l) == APIC_EXTINT;
}

static bool pic_waits(const struct lapic *a)
{
    return atomic_load_explicit(&a->set->pic_int, memory_order_seq_cst) && (a->extint || takes_pic(a));
}

void lapic_update(struct lapic *a)
{
    atomic_store_explicit(&a->priority, lapic_ppr(a), memory_order_relaxed);
    // With an EOI offered, ISR may be stale: the CPU itself has to look.
    if (deliverable(a) >= 0 || pic_waits(a) || (a->eoi_offered && lapic_top(a->irr) >= 0))
        vcpu_signal(a->dev.vm, a->cpu, VCPU_INTR);
}

void lapic_error(struct lapic *a, uint32_t esr)
{
    a->esr_new |= esr;
    uint32_t l = a->lvt[LVT_ERROR];
    if (!(l & LVT_MASKED) && (l & 0xff) >= 16) // an illegal vector here would be an error without end
        lapic_accept(a, l, false);
}

void lapic_accept(struct lapic *a, uint8_t vector, bool level)
{
    if (!(a->svr & SVR_ENABLE))
        return;
    if (vector < 16) {
        lapic_error(a, ESR_RECEIVE_ILLEGAL_VECTOR);
        return;
    }
    if (level)
        add(a->tmr, vector);
    else
        drop(a->tmr, vector);
    if (has(a->irr, vector)) // the CPU was told when the bit was set
        return;
    add(a->irr, vector);
    if (log_tracing(a->dev.vm->log, TRACE_INTERRUPTS))
        log_trace(a->dev.vm->log, TRACE_INTERRUPTS, "cpu %u: vector 0x%02x requested", a->cpu, vector);
    lapic_update(a);
}

void lapic_local(struct lapic *a, enum lapic_lvt source)
{
    uint32_t l = a->lvt[source];
    if ((l & LVT_MASKED) || !(a->base & APIC_BASE_ENABLE))
        return;
    // The timer's and the error's entries have no mode: theirs is fixed (bits 8..10 read as zero).
    switch (lvt_mode(l)) {
    case APIC_FIXED:
        if (source == LVT_LINT0 && (l & LVT_LEVEL)) {
            if (l & LVT_REMOTE_IRR)
                return;
            a->lvt[source] |= LVT_REMOTE_IRR;
            lapic_accept(a, l, true);
        } else {
            lapic_accept(a, l, false);
        }
        break;
    case APIC_NMI:
        vcpu_signal(a->dev.vm, a->cpu, VCPU_NMI);
        break;
    case APIC_INIT:
        vcpu_signal(a->dev.vm, a->cpu, VCPU_INIT);
        break;
    }
}

void lapic_set_lvt(struct lapic *a, enum lapic_lvt l, uint32_t val)
{
    static const uint32_t writable[LVT_COUNT] = {0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};
    uint64_t now = lapic_timer_settle(a);
    val &= writable[l];
    if (!(a->svr & SVR_ENABLE))
        val |= LVT_MASKED;
    if ((val & LVT_LEVEL) && lvt_mode(val) == APIC_FIXED)
        val |= a->lvt[l] & LVT_REMOTE_IRR;
    if (l == LVT_TIMER && (val >> LVT_TIMER_SHIFT & 2) != (a->lvt[l] >> LVT_TIMER_SHIFT & 2)) {
        // To or from TSC-deadline mode: disarmed (Intel SDM vol. 3, 11.5.4.1).
        a->tsc_deadline = 0;
        a->timer_initial = 0;
    }
    a->lvt[l] = val;
    if (l == LVT_TIMER)
        lapic_timer_arm(a, now);
    if (l == LVT_LINT0) {
        if ((val & LVT_LEVEL) && atomic_load(&a->set->pic_int))
            lapic_local(a, LVT_LINT0);
        lapic_update(a);
    }
}

void lapic_publish(struct lapic *a)
{
    uint64_t r = 0;
    if (a->base & APIC_BASE_ENABLE)
        r |= ROUTE_ENABLED;
    if (a->base & APIC_BASE_X2APIC)
        r |= ROUTE_X2APIC | (uint64_t)(a->cpu >> 4) << 16 | 1u << (a->cpu & 15); // Intel SDM vol. 3, 11.12.10.2
    else
        r |= a->ldr >> 24;
    if (a->dfr >> 28 == 0xf)
        r |= ROUTE_FLAT;
    if (a->svr & SVR_ENABLE)
        r |= ROUTE_ACCEPTS;
    atomic_store_explicit(&a->route, r, memory_order_release);
}

void lapic_state_reset(struct lapic *a, bool init)
{
    if (!init)
        a->base = LAPIC_MMIO_BASE | APIC_BASE_ENABLE | (a->cpu == 0 ? APIC_BASE_BSP : 0);
    a->tpr = a->ldr = a->esr = a->esr_new = 0;
    a->icr = 0;
    a->dfr = 0xffffffff;
    a->svr = 0xff;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        a->lvt[i] = LVT_MASKED;
    a->extint = 0;
    memset(a->irr, 0, sizeof a->irr);
    memset(a->isr, 0, sizeof a->isr);
    memset(a->tmr, 0, sizeof a->tmr);
    a->isr_top = -1;
    a->eoi_msr = 0;
    a->eoi_offered = false;
    a->timer_initial = a->timer_divide = 0;
    a->timer_start = 0;
    a->tsc_deadline = 0;
    lapic_timer_arm(a, vm_clock_ns(&a->dev.vm->clock));
    lapic_publish(a);
    atomic_store_explicit(&a->priority, 0, memory_order_relaxed);
}

void lapic_retire(struct lapic *a)
{
    drop(a->isr, a->isr_top);
    a->isr_top = lapic_top(a->isr);
}

void lapic_eoi(struct lapic *a)
{
    vm_lock(&a->dev.lock);
    lapic_eoi_settle(a);
    int v = a->isr_top;
    if (v < 0) {
        vm_unlock(&a->dev.lock);
        return;
    }
    lapic_retire(a);
    bool tell = has(a->tmr, v) && !(a->svr & SVR_NO_EOI_BROADCAST);
    uint32_t *lint = &a->lvt[LVT_LINT0];
    if ((*lint & LVT_REMOTE_IRR) && (*lint & 0xff) == (uint32_t)v) {
        *lint &= ~LVT_REMOTE_IRR;
        if (atomic_load(&a->set->pic_int))
            lapic_local(a, LVT_LINT0);
    }
    lapic_update(a);
    vm_unlock(&a->dev.lock);
    if (tell && a->set->eoi)
        a->set->eoi(a->set->ctx, v);
}

// ---- messages

static bool addressed(uint64_t route, unsigned id, const struct apic_message *m)
{
    if (!(route & ROUTE_ENABLED))
        return false;
    if (m->dest == APIC_EVERYBODY)
        return true;
    if (!m->logical)
        return m->dest == id;
    uint32_t ldr = route;
    if (route & ROUTE_X2APIC)
        return m->dest >> 16 == ldr >> 16 && (m->dest & ldr & 0xffff);
    if (m->dest > 0xff)
        return false;
    if (route & ROUTE_FLAT)
        return m->dest & ldr;
    return (m->dest >> 4 == ldr >> 4 || m->dest >> 4 == 0xf) && (m->dest & ldr & 0xf);
}

// CPUs that the message addresses, one bit each.
static uint64_t targets(struct lapics *s, const struct apic_message *m)
{
    uint64_t set = 0;
    if (!m->logical && m->dest != APIC_EVERYBODY) {
        if (m->dest < s->count && addressed(atomic_load(&s->apic[m->dest]->route), m->dest, m))
            set = 1ull << m->dest;
        return set;
    }
    for (unsigned i = 0; i < s->count; i++)
        if (addressed(atomic_load(&s->apic[i]->route), i, m))
            set |= 1ull << i;
    return set;
}

// Lowest-priority arbitration: of the CPUs in `set` that accept interrupts, the one with the lowest PPR. Ties go round.
static uint64_t arbitrate(struct lapics *s, uint64_t set)
{
    unsigned first = atomic_fetch_add_explicit(&s->turn, 1, memory_order_relaxed), best = CPU_MAX, best_priority = 256;
    for (unsigned k = 0; k < s->count; k++) {
        unsigned i = (first + k) % s->count;
        if (!(set >> i & 1) || !(atomic_load(&s->apic[i]->route) & ROUTE_ACCEPTS))
            continue;
        unsigned p = atomic_load_explicit(&s->apic[i]->priority, memory_order_relaxed) & 0xf0;
        if (p < best_priority) {
            best = i;
            best_priority = p;
        }
    }
    return best < CPU_MAX ? 1ull << best : 0;
}

static void deliver(struct lapic *a, const struct apic_message *m)
{
    struct vm *vm = a->dev.vm;
    switch (m->mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        vm_lock(&a->dev.lock);
        lapic_accept(a, m->vector, m->level);
        vm_unlock(&a->dev.lock);
        break;
    case APIC_NMI:
        vcpu_signal(vm, a->cpu, VCPU_NMI);
        break;
    case APIC_INIT:
        vcpu_signal(vm, a->cpu, VCPU_INIT);
        break;
    case APIC_STARTUP:
        vcpu_startup(vm, a->cpu, m->vector);
        break;
    case APIC_EXTINT:
        vm_lock(&a->dev.lock);
        a->extint = 1;
        lapic_update(a);
        vm_unlock(&a->dev.lock);
        break;
    case APIC_SMI: // there is no system management mode to enter
        break;
    }
}

static void deliver_all(struct lapics *s, uint64_t set, const struct apic_message *m)
{
    if (m->mode == APIC_LOWEST && (set & (set - 1)))
        set = arbitrate(s, set);
    for (; set; set &= set - 1)
        deliver(s->apic[__builtin_ctzll(set)], m);
}

void lapics_send(struct lapics *s, const struct apic_message *m)
{
    if (s->engines && lapics_send_to_engine(s, m))
        return;
    deliver_all(s, targets(s, m), m);
    if (s->engines)
        lapics_sent(s);
}

// An IPI as ICR asks for it (Intel SDM vol. 3, 11.6.1). `wide`: the destination is 32 bits (x2APIC).
void lapic_send_ipi(struct lapic *a, uint64_t icr, bool wide)
{
    struct lapics *s = a->set;
    struct apic_message m = {
        .dest = wide ? icr >> 32 : apic_dest8(icr >> 56),
        .vector = icr,
        .mode = icr >> 8 & 7,
        .logical = icr >> 11 & 1,
    };
    bool trigger_level = icr >> 15 & 1, asserted = icr >> 14 & 1;
    if (m.mode == APIC_EXTINT || m.mode == 3)
        return; // reserved in ICR
    if (m.mode == APIC_INIT && trigger_level && !asserted)
        return; // the INIT level de-assert of old: modern CPUs ignore it
    if ((m.mode == APIC_FIXED || m.mode == APIC_LOWEST) && m.vector < 16) {
        vm_lock(&a->dev.lock);
        lapic_error(a, ESR_SEND_ILLEGAL_VECTOR);
        vm_unlock(&a->dev.lock);
        return;
    }
    uint64_t self = 1ull << a->cpu, all = s->count == 64 ? ~0ull : (1ull << s->count) - 1;
    switch (icr >> 18 & 3) {
    case 0:
        deliver_all(s, targets(s, &m), &m);
        return;
    case 1:
        deliver_all(s, self, &m);
        return;
    case 3:
        all &= ~self;
        break;
    }
    m.dest = APIC_EVERYBODY;
    deliver_all(s, targets(s, &m) & all, &m);
}

void lapics_set_pic(struct lapics *s, bool level)
{
    if (atomic_exchange(&s->pic_int, level) == level || !level)
        return;
    for (unsigned i = 0; i < s->count; i++) {
        struct lapic *a = s->apic[i];
        if (s->engines) { // it knows whether LINT0 is open
            vcpu_signal(a->dev.vm, i, VCPU_INTR);
            continue;
        }
        vm_lock(&a->dev.lock);
        lapic_local(a, LVT_LINT0); // LINT0 may be set up as something other than ExtINT
        if (pic_waits(a))
            vcpu_signal(a->dev.vm, i, VCPU_INTR);
        vm_unlock(&a->dev.lock);
    }
}

void lapics_virtual_wire(struct lapics *s)
{
    struct lapic *a = s->apic[0];
    vm_lock(&a->dev.lock);
    a->svr |= SVR_ENABLE;
    lapic_publish(a);
    lapic_set_lvt(a, LVT_LINT0, APIC_EXTINT << LVT_MODE_SHIFT);
    lapic_set_lvt(a, LVT_LINT1, APIC_NMI << LVT_MODE_SHIFT);
    vm_unlock(&a->dev.lock);
}

// ---- what the vCPUs ask

// Where the local APIC is the engine's, and its LINT0 open: the PIC's vector. The line may stay up.
static int ack_pic(struct lapics *s, unsigned cpu)
{
    int v = atomic_load(&s->pic_int) && s->pic_ack ? s->pic_ack(s->ctx) : -1;
    if (atomic_load(&s->pic_int))
        vcpu_signal(s->dev.vm, cpu, VCPU_INTR);
    return v;
}

static int ack(void *ctx, unsigned cpu)
{
    struct lapics *s = ctx;
    struct lapic *a = s->apic[cpu];
    int v = -1;
    if (s->engines)
        return ack_pic(s, cpu);
    vm_lock(&a->dev.lock);
    lapic_eoi_settle(a);
    bool ask_pic = pic_waits(a);
    a->extint = 0; // it is answered now, or the PIC has withdrawn what it was about
    if (ask_pic) {
        vm_unlock(&a->dev.lock); // the PIC's lock comes before ours
        v = s->pic_ack ? s->pic_ack(s->ctx) : -1;
        vm_lock(&a->dev.lock);
    }
    if (v < 0) {
        v = deliverable(a);
        if (v >= 0) {
            drop(a->irr, v);
            add(a->isr, v);
            a->isr_top = v;
            lapic_eoi_offer(a);
        }
    }
    lapic_update(a); // the other of the two may be waiting still
    vm_unlock(&a->dev.lock);
    return v;
}

static unsigned multicast(void *ctx, uint64_t cpus, uint8_t mode, uint8_t vector)
{
    struct lapics *s = ctx;
    const struct apic_message m = {.vector = vector, .mode = mode};
    unsigned taken = 0;
    if (mode == APIC_EXTINT || mode == 3)
        return 0; // as in ICR
    for (unsigned i = 0; i < s->count; i++) {
        if (!(cpus >> i & 1) || !(atomic_load(&s->apic[i]->route) & ROUTE_ENABLED))
            continue;
        deliver(s->apic[i], &m);
        taken++;
    }
    return taken;
}

static uint64_t tpr_read(void *ctx, unsigned cpu)
{
    struct lapic *a = ((struct lapics *)ctx)->apic[cpu];
    vm_lock(&a->dev.lock);
    uint64_t tpr = a->tpr >> 4;
    vm_unlock(&a->dev.lock);
    return tpr;
}

static void tpr_write(void *ctx, unsigned cpu, uint64_t tpr)
{
    struct lapic *a = ((struct lapics *)ctx)->apic[cpu];
    vm_lock(&a->dev.lock);
    lapic_eoi_settle(a);
    a->tpr = (tpr & 0xf) << 4;
    lapic_update(a);
    vm_unlock(&a->dev.lock);
}

static void init(void *ctx, unsigned cpu)
{
    struct lapics *s = ctx;
    struct lapic *a = s->apic[cpu];
    if (s->engines)
        lapic_fetch(a);
    vm_lock(&a->dev.lock);
    lapic_state_reset(a, true);
    vm_unlock(&a->dev.lock);
    if (s->engines)
        lapic_hand_over(a);
}

static void eoi(void *ctx, uint8_t vector)
{
    struct lapics *s = ctx;
    if (s->eoi)
        s->eoi(s->ctx, vector);
}

// ---- devices

static void lapic_reset(struct device *d)
{
    struct lapic *a = (struct lapic *)d;
    vm_lock(&d->lock);
    lapic_state_reset(a, false);
    vm_unlock(&d->lock);
}

// Saved values are as hostile as a guest's: whatever they are, no invariant may break.
static int lapic_loaded(struct device *d)
{
    struct lapic *a = (struct lapic *)d;
    uint64_t mode = a->base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC);
    if ((a->base & ~(mode | APIC_BASE_BSP)) != LAPIC_MMIO_BASE || mode == APIC_BASE_X2APIC)
        return -EINVAL;
    vm_lock(&d->lock);
    a->irr[0] &= ~0xffffull;
    a->isr[0] &= ~0xffffull;
    a->isr_top = lapic_top(a->isr);
    a->tpr &= 0xff;
    a->eoi_msr &= ~2ull;
    a->eoi_offered &= a->isr_top >= 0;
    a->timer_divide &= 0xb;
    lapic_timer_arm(a, vm_clock_ns(&a->dev.vm->clock));
    lapic_publish(a);
    lapic_update(a);
    vm_unlock(&d->lock);
    return 0;
}

static void destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field lapic_fields[] = {
    STATE_U64(struct lapic, base, 1),         STATE_U32(struct lapic, tpr, 1),
    STATE_U32(struct lapic, ldr, 1),          STATE_U32(struct lapic, dfr, 1),
    STATE_U32(struct lapic, svr, 1),          STATE_U32(struct lapic, esr, 1),
    STATE_U32(struct lapic, esr_new, 1),      STATE_U64(struct lapic, icr, 1),
    STATE_U32(struct lapic, lvt, 1),          STATE_U8(struct lapic, extint, 1),
    STATE_U64(struct lapic, irr, 1),          STATE_U64(struct lapic, isr, 1),
    STATE_U64(struct lapic, tmr, 1),          STATE_U32(struct lapic, timer_initial, 1),
    STATE_U32(struct lapic, timer_divide, 1), STATE_U64(struct lapic, timer_start, 1),
    STATE_U64(struct lapic, tsc_deadline, 1), STATE_U64(struct lapic, eoi_msr, 2),
    STATE_U8(struct lapic, eoi_offered, 2),   STATE_END,
};

static const struct state_table lapic_state = {"lapic", 2, lapic_fields};

static const struct device_ops lapic_ops = {
    .name = "lapic",
    .unlocked = true,
    .reset = lapic_reset,
    .state = &lapic_state,
    .loaded = lapic_loaded,
    .destroy = destroy,
};

// The level of the PIC's output is state of its own: a restored PIC says it again, which must not be an edge.
static const struct state_field lapics_fields[] = {STATE_U8(struct lapics, pic_int, 1), STATE_END};

static const struct state_table lapics_state = {"lapics", 1, lapics_fields};

static const struct device_ops lapics_ops = {
    .name = "lapics",
    .unlocked = true,
    .state = &lapics_state,
    .read = lapics_mmio_read,
    .write = lapics_mmio_write,
    .msr_read = lapics_msr_read,
    .msr_write = lapics_msr_write,
    .hold = lapics_hold,
    .release = lapics_release,
    .destroy = destroy,
};

int lapics_create(struct vm *vm, unsigned cpus, struct lapics **out, struct error *err)
{
    if (cpus < 1 || cpus > CPU_MAX)
        return error_set(err, EINVAL, "%u CPUs: 1 to %u are possible", cpus, CPU_MAX);
    struct lapics *s = vm_alloc(sizeof *s);
    if (!s)
        return error_set(err, ENOMEM, "local APICs: out of memory");
    s->engines = vm_apic_is_engines(vm);
    device_add(vm, &s->dev, &lapics_ops, "lapics");
    for (unsigned i = 0; i < cpus; i++) {
        struct lapic *a = vm_alloc(sizeof *a);
        if (!a)
            return error_set(err, ENOMEM, "local APICs: out of memory");
        char name[] = {'l', 'a', 'p', 'i', 'c', i < 10 ? '0' + i : '0' + i / 10, i < 10 ? 0 : '0' + i % 10, 0};
        a->set = s;
        a->cpu = i;
        s->apic[s->count++] = a;
        device_add(vm, &a->dev, &lapic_ops, name);
        vm_timer_init(&a->timer, &a->dev, lapic_timer_fire);
        vm_timer_bind(&a->timer, i);
        lapic_reset(&a->dev);
    }
    int r = bus_add(&vm->mmio,
                    &(struct bus_range){
                        .base = LAPIC_MMIO_BASE, .size = LAPIC_MMIO_SIZE, .dev = &s->dev, .min_size = 1, .max_size = 4},
                    err);
    if (r)
        return r;
    if (cpu_model_has_paravirt(vm->model, CPU_PV_EOI) && vm_msr_add(vm, MSR_KVM_EOI, MSR_KVM_EOI, &s->dev))
        return error_set(err, ENOSPC, "local APICs: no room for another MSR range");
    if (vm_msr_add(vm, MSR_APIC_BASE, MSR_APIC_BASE, &s->dev) ||
        vm_msr_add(vm, MSR_TSC_DEADLINE, MSR_TSC_DEADLINE, &s->dev) ||
        vm_msr_add(vm, MSR_X2APIC_FIRST, MSR_X2APIC_LAST, &s->dev))
        return error_set(err, ENOSPC, "local APICs: no room for another MSR range");
    vm->local_apic = (struct local_apic_ops){ack, tpr_read, tpr_write, init, eoi, multicast};
    vm->local_apic_ctx = s;
    *out = s;
    return 0;
}
