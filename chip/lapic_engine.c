// Local APICs that are the engine's own while vCPUs run (vm/engine_apic.h): the state goes there and comes back.
//
// While the vCPUs stand still, struct lapic holds the state as if there were no such engine: it is reset, saved and
// loaded, and messages (of disks that finish their last requests, say) are taken. So what a machine saves does not tell
// under which engine it ran.
//
// Moving. A sender counts itself, looks where the state is, and sends there or delivers here. Whoever moves the state
// first says that it is moving, then waits until nobody counts, then moves it. So a message either is in what is moved
// or goes to where it was moved.
//
// What is lost on the way: that ESR has something new which the guest has not asked for yet; and the initial count of a
// one-shot timer that has run out, since an engine that is given one would interrupt once more.
//
// Example: vm_pause(), states are saved and loaded by another process under another engine, vm_resume() there: the
// timer of CPU 0 that had 3 ms to go interrupts 3 ms after that.
#include "chip/lapic.h"
#include "vm/engine_apic.h"
#include <string.h>

static void begin_move(struct lapics *s)
{
    atomic_store(&s->where, LAPICS_MOVING);
    while (atomic_load(&s->senders))
        __builtin_ia32_pause(); // each is as long as a system call
}

bool lapics_send_to_engine(struct lapics *s, const struct apic_message *m)
{
    for (;;) {
        atomic_fetch_add(&s->senders, 1);
        uint8_t where = atomic_load(&s->where);
        if (where == LAPICS_IN_CHIPS)
            return false;
        if (where == LAPICS_IN_ENGINE) {
            struct cpu_msi msi = apic_message_to_msi(m);
            if (log_tracing(s->dev.vm->log, TRACE_INTERRUPTS))
                log_trace(s->dev.vm->log, TRACE_INTERRUPTS, "vector 0x%02x sent to 0x%x", m->vector, m->dest);
            vm_apic_send(s->dev.vm, msi.address, msi.data);
            lapics_sent(s);
            return true;
        }
        lapics_sent(s);
        __builtin_ia32_pause();
    }
}

void lapics_sent(struct lapics *s)
{
    atomic_fetch_sub(&s->senders, 1);
}

void lapics_set_routes(struct lapics *s, const struct apic_message *m, unsigned count)
{
    enum { ROUTES = 24 }; // pins of an IOAPIC
    struct cpu_msi msi[ROUTES];
    if (count > ROUTES)
        count = ROUTES;
    for (unsigned i = 0; i < count; i++)
        msi[i] = apic_message_to_msi(&m[i]);
    vm_apic_routes(s->dev.vm, msi, count);
}

// ---- one APIC

static void get_set(const uint32_t reg[8], uint64_t set[4])
{
    for (unsigned i = 0; i < 4; i++)
        set[i] = reg[2 * i] | (uint64_t)reg[2 * i + 1] << 32;
}

static void put_set(uint32_t reg[8], const uint64_t set[4])
{
    for (unsigned i = 0; i < 8; i++)
        reg[i] = (uint32_t)(set[i / 2] >> (i & 1) * 32);
}

void lapic_fetch(struct lapic *a)
{
    struct cpu_apic e;
    struct vm *vm = a->dev.vm;
    vm_apic_get(vm, a->cpu, &e);
    uint64_t eoi_msr = cpu_model_has_paravirt(vm->model, CPU_PV_EOI) ? vm_apic_get_msr(vm, a->cpu, MSR_KVM_EOI) : 0;
    vm_lock(&a->dev.lock);
    a->base = e.base;
    a->tpr = e.reg[CPU_APIC_TPR];
    if (!(a->base & APIC_BASE_X2APIC)) {
        a->ldr = e.reg[CPU_APIC_LDR] & 0xff000000;
        a->dfr = e.reg[CPU_APIC_DFR] | 0x0fffffff;
    }
    a->svr = e.reg[CPU_APIC_SVR];
    a->esr = e.reg[CPU_APIC_ESR];
    a->esr_new = 0;
    a->icr = e.reg[CPU_APIC_ICR] | (uint64_t)e.reg[CPU_APIC_ICR + 1] << 32;
    memcpy(a->lvt, &e.reg[CPU_APIC_LVT], sizeof a->lvt);
    a->extint = 0;
    get_set(&e.reg[CPU_APIC_IRR], a->irr);
    get_set(&e.reg[CPU_APIC_ISR], a->isr);
    get_set(&e.reg[CPU_APIC_TMR], a->tmr);
    a->isr_top = lapic_top(a->isr);
    a->eoi_msr = eoi_msr;
    a->eoi_offered = false;
    a->tsc_deadline = e.tsc_deadline;
    lapic_timer_put(a, e.reg[CPU_APIC_TIMER_INITIAL], e.reg[CPU_APIC_TIMER_CURRENT],
                    e.reg[CPU_APIC_TIMER_DIVIDE] & 0xb);
    lapic_publish(a);
    lapic_update(a);
    vm_unlock(&a->dev.lock);
}

void lapic_hand_over(struct lapic *a)
{
    struct cpu_apic e = {0};
    struct vm *vm = a->dev.vm;
    struct error err = {""};
    vm_lock(&a->dev.lock);
    lapic_eoi_settle(a);
    lapic_timer_settle(a);
    vm_timer_cancel(&a->timer);
    a->timer_next = VM_TIMER_NEVER;
    uint32_t current = lapic_timer_count(a);
    bool periodic = (a->lvt[LVT_TIMER] >> LVT_TIMER_SHIFT & 3) == LVT_TIMER_PERIODIC;
    e.base = a->base;
    e.reg[CPU_APIC_ID] = a->cpu << 24;
    e.reg[CPU_APIC_TPR] = a->tpr;
    e.reg[CPU_APIC_LDR] = a->ldr;
    e.reg[CPU_APIC_DFR] = a->dfr;
    e.reg[CPU_APIC_SVR] = a->svr;
    e.reg[CPU_APIC_ESR] = a->esr;
    e.reg[CPU_APIC_ICR] = (uint32_t)a->icr;
    e.reg[CPU_APIC_ICR + 1] = (uint32_t)(a->icr >> 32);
    memcpy(&e.reg[CPU_APIC_LVT], a->lvt, sizeof a->lvt);
    put_set(&e.reg[CPU_APIC_IRR], a->irr);
    put_set(&e.reg[CPU_APIC_ISR], a->isr);
    put_set(&e.reg[CPU_APIC_TMR], a->tmr);
    e.reg[CPU_APIC_TIMER_INITIAL] = current || periodic ? a->timer_initial : 0;
    e.reg[CPU_APIC_TIMER_CURRENT] = current;
    e.reg[CPU_APIC_TIMER_DIVIDE] = a->timer_divide;
    e.tsc_deadline = a->tsc_deadline;
    uint64_t eoi_msr = a->eoi_msr;
    vm_unlock(&a->dev.lock);
    int r = vm_apic_set(vm, a->cpu, &e, &err);
    if (r)
        log_error(vm->log, "%s", err.text);
    else if (cpu_model_has_paravirt(vm->model, CPU_PV_EOI) && vm_apic_set_msr(vm, a->cpu, MSR_KVM_EOI, eoi_msr))
        log_error(vm->log, "vCPU %u: the engine refuses EOIs in memory", a->cpu);
}

// ---- all of them

void lapics_hold(struct device *d)
{
    struct lapics *s = (struct lapics *)d;
    if (!s->engines)
        return;
    begin_move(s);
    for (unsigned i = 0; i < s->count; i++)
        lapic_fetch(s->apic[i]);
    atomic_store(&s->where, LAPICS_IN_CHIPS);
}

void lapics_release(struct device *d)
{
    struct lapics *s = (struct lapics *)d;
    if (!s->engines)
        return;
    begin_move(s);
    for (unsigned i = 0; i < s->count; i++)
        lapic_hand_over(s->apic[i]);
    atomic_store(&s->where, LAPICS_IN_ENGINE);
    if (atomic_load(&s->pic_int))
        for (unsigned i = 0; i < s->count; i++)
            vcpu_signal(s->dev.vm, i, VCPU_INTR);
}
