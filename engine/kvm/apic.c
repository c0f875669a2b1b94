// Local APICs in the kernel (KVM's "split" interrupt controllers): the kernel has the local APICs with their timers,
// and the PICs, the IOAPIC and the PIT are our chips.
//
// Messages go in by KVM_SIGNAL_MSI, from any thread. For what is level-triggered the kernel must say when it ends: it
// looks at the routes of the IOAPIC's pins, which it would otherwise not need, for vectors whose EOI is an exit.
//
// Registers. KVM gives and takes the xAPIC's page as it is in struct cpu_apic. Not in the page are APIC_BASE and the
// TSC deadline, which are MSRs. What the timer still has to go is in its current count.
//
// MSRs. APIC_BASE is read by the guest, and written through us, since KVM would let the page be moved. The TSC deadline
// and what is paravirtual (EOIs in memory, steal time) is between guest and kernel (msr.c).
//
// Source: api.rst [4.57], [4.58] KVM_GET_LAPIC, [4.70] KVM_SIGNAL_MSI, [4.52] KVM_SET_GSI_ROUTING, [7.5]
// KVM_CAP_SPLIT_IRQCHIP.
#include "engine/kvm/kvm.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>

enum { PINS = 24 }; // of the IOAPIC, whose routes the kernel looks at

_Static_assert(sizeof(struct kvm_lapic_state) == CPU_APIC_REGISTERS * 16, "KVM's page ends where ours does");

// Whether KVM can do all that a guest expects that has local APICs of the engine's.
bool kvm_apic_possible(int dev, const struct kvm_cpuid2 *supported)
{
    const uint32_t needed = 1u << CPU_PV_STEAL_TIME | 1u << CPU_PV_EOI;
    for (unsigned n = 0; n < supported->nent; n++)
        if (supported->entries[n].function == CPU_LEAF_PARAVIRT && (supported->entries[n].eax & needed) != needed)
            return false;
    return ioctl(dev, KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP) > 0 &&
           ioctl(dev, KVM_CHECK_EXTENSION, KVM_CAP_SIGNAL_MSI) > 0 &&
           ioctl(dev, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
}

int kvm_apic_prepare(struct kvm_vm *vm, struct error *err)
{
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {PINS}};
    if (ioctl(vm->fd, KVM_ENABLE_CAP, &split) < 0)
        return error_set(err, errno, "KVM: local APICs in the kernel: %s", strerror(errno));
    return 0;
}

void kvm_apic_get(struct engine_vcpu *e, struct cpu_apic *a)
{
    struct kvm_vcpu *v = KVM_VCPU(e);
    struct kvm_lapic_state page = {0};
    ioctl(v->fd, KVM_GET_LAPIC, &page);
    *a = (struct cpu_apic){.base = kvm_msr_read_kernel(v, MSR_APIC_BASE)};
    for (unsigned n = 0; n < CPU_APIC_REGISTERS; n++)
        memcpy(&a->reg[n], page.regs + 16 * n, sizeof a->reg[n]);
    a->tsc_deadline = kvm_msr_read_kernel(v, MSR_TSC_DEADLINE);
    if (a->tsc_deadline)
        a->tsc_deadline -= v->s.msr.tsc_adjust;
}

// In this order: the page means something else in x2APIC mode, and only a timer in the right mode takes a deadline.
int kvm_apic_set(struct engine_vcpu *e, const struct cpu_apic *a, struct error *err)
{
    struct kvm_vcpu *v = KVM_VCPU(e);
    struct kvm_lapic_state page = {0};
    for (unsigned n = 0; n < CPU_APIC_REGISTERS; n++)
        memcpy(page.regs + 16 * n, &a->reg[n], sizeof a->reg[n]);
    kvm_clock_sync(v); // what the deadline is compared with
    if (!kvm_msr_write_kernel(v, MSR_APIC_BASE, a->base) || ioctl(v->fd, KVM_SET_LAPIC, &page) < 0)
        return error_set(err, EINVAL, "vCPU %u: KVM refuses its local APIC", v->base.id);
    if (a->tsc_deadline)
        kvm_msr_write_kernel(v, MSR_TSC_DEADLINE, a->tsc_deadline + v->s.msr.tsc_adjust);
    return 0;
}

static uint64_t get_msr(struct engine_vcpu *e, uint32_t msr)
{
    return kvm_msr_read_kernel(KVM_VCPU(e), msr);
}

static int set_msr(struct engine_vcpu *e, uint32_t msr, uint64_t val)
{
    return kvm_msr_write_kernel(KVM_VCPU(e), msr, val) ? 0 : -EINVAL;
}

// A message that nobody takes is no error.
static void send(struct engine_vm *e, const struct cpu_msi *m)
{
    struct kvm_msi msi = {
        .address_lo = (uint32_t)m->address, .address_hi = (uint32_t)(m->address >> 32), .data = m->data};
    atomic_fetch_add_explicit(&KVM_VM(e)->messages, 1, memory_order_relaxed);
    ioctl(KVM_VM(e)->fd, KVM_SIGNAL_MSI, &msi);
}

struct pin_routing { // struct kvm_irq_routing with an entry for each pin
    uint32_t count, flags;
    struct kvm_irq_routing_entry entry[PINS];
};

_Static_assert(offsetof(struct pin_routing, entry) == offsetof(struct kvm_irq_routing, entries),
               "layout of struct kvm_irq_routing");

static int routes(struct engine_vm *e, const struct cpu_msi *m, unsigned count)
{
    struct pin_routing r = {.count = count < PINS ? count : PINS};
    for (unsigned n = 0; n < r.count; n++)
        r.entry[n] = (struct kvm_irq_routing_entry){.gsi = n,
                                                    .type = KVM_IRQ_ROUTING_MSI,
                                                    .u.msi = {.address_lo = (uint32_t)m[n].address,
                                                              .address_hi = (uint32_t)(m[n].address >> 32),
                                                              .data = m[n].data}};
    atomic_fetch_add_explicit(&KVM_VM(e)->routings, 1, memory_order_relaxed);
    return ioctl(KVM_VM(e)->fd, KVM_SET_GSI_ROUTING, &r) < 0 ? -errno : 0;
}

const struct engine_apic_ops kvm_apic_ops = {
    .get = kvm_apic_get,
    .set = kvm_apic_set,
    .get_msr = get_msr,
    .set_msr = set_msr,
    .send = send,
    .routes = routes,
};
