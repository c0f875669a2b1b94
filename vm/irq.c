// Interrupt routing: see irq.h.
//
// A GSI is up while any of its sources is. The controllers hear only changes of that OR, in the order in which they
// happen, because they are told under the router's lock.
#include "vm/irq.h"
#include "vm/vm.h"
#include <inttypes.h>

void irq_line_init(struct irq_line *l, struct vm *vm, unsigned gsi)
{
    struct vm_irq *irq = &vm->irq;
    *l = (struct irq_line){.vm = vm, .gsi = IRQ_GSI_MAX};
    vm_lock(&irq->lock);
    if (gsi < IRQ_GSI_MAX && irq->sources[gsi] < IRQ_SOURCES) {
        l->gsi = (uint16_t)gsi;
        l->source = irq->sources[gsi]++;
    }
    vm_unlock(&irq->lock);
    if (l->gsi == IRQ_GSI_MAX)
        log_error(vm->log, "interrupt line %u: no such line, or too many devices on it", gsi);
}

static void set(struct irq_line *l, bool level)
{
    struct vm_irq *irq = &l->vm->irq;
    uint32_t before = irq->raised[l->gsi], bit = 1u << l->source;
    uint32_t after = level ? before | bit : before & ~bit;
    irq->raised[l->gsi] = after;
    if (!before == !after)
        return;
    if (log_tracing(l->vm->log, TRACE_INTERRUPTS))
        log_trace(l->vm->log, TRACE_INTERRUPTS, "line %u %s", l->gsi, level ? "up" : "down");
    if (irq->to.line)
        irq->to.line(irq->to.ctx, l->gsi, level);
}

void irq_set(struct irq_line *l, bool level)
{
    if (l->gsi >= IRQ_GSI_MAX)
        return;
    vm_lock(&l->vm->irq.lock);
    set(l, level);
    vm_unlock(&l->vm->irq.lock);
}

void irq_pulse(struct irq_line *l)
{
    if (l->gsi >= IRQ_GSI_MAX)
        return;
    vm_lock(&l->vm->irq.lock);
    set(l, true);
    set(l, false);
    vm_unlock(&l->vm->irq.lock);
}

void irq_msi(struct vm *vm, uint64_t address, uint32_t data)
{
    if (log_tracing(vm->log, TRACE_INTERRUPTS))
        log_trace(vm->log, TRACE_INTERRUPTS, "message 0x%" PRIx64 " data 0x%" PRIx32, address, data);
    if (vm->irq.to.msi)
        vm->irq.to.msi(vm->irq.to.ctx, address, data);
}
