// What the local APIC does for a guest that knows KVM: an EOI without leaving the guest, and one interrupt for many
// CPUs (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_EOI_EN, and hypercalls.rst, KVM_HC_SEND_IPI).
//
// EOI. MSR 0x4b564d04 takes the address of a word of the CPU's, with bit 0 as the switch. When the CPU takes an
// interrupt whose end nobody else waits for (edge-triggered, none below it in service, none behind it), bit 0 of that
// word is set: then the guest may clear the bit instead of writing to the EOI register. ISR is stale from then on. It
// is put right (lapic_eoi_settle) whenever something depends on it, always on the CPU's own thread: if the bit is
// clear, the EOI has been; if not, the bit is taken back and the guest has to write to the register.
//
// While such a bit is out, nobody else can know whether the interrupt is still in service. So a new interrupt makes the
// CPU look in any case (lapic_update), and it settles before it chooses a vector.
//
// Example: the timer's 0xec is taken, the bit set; the handler clears it. 0xec comes again: IRR is not empty and a bit
// is out, so the CPU is told; ack() finds the bit clear, drops 0xec from ISR and delivers it again.
#include "chip/lapic.h"
#include <stdatomic.h>

enum { ENABLE = 1, RESERVED = 2, WORD = 4 };
enum { SKIP_EOI = 1 }; // in the guest's word

static uint64_t address(const struct lapic *a)
{
    return a->eoi_msr & ~(uint64_t)ENABLE;
}

static _Atomic uint32_t *word_of(const struct lapic *a)
{
    return a->eoi_msr & ENABLE ? vm_ram(a->dev.vm, address(a), WORD, true) : NULL;
}

void lapic_eoi_offer(struct lapic *a)
{
    if (!(a->eoi_msr & ENABLE) || a->eoi_offered || a->isr_top < 0)
        return;
    unsigned top = (unsigned)a->isr_top;
    uint64_t only = 1ull << top % 64;
    for (unsigned i = 0; i < 4; i++)
        if (a->irr[i] || a->isr[i] != (i == top / 64 ? only : 0))
            return;
    if (a->tmr[top / 64] & only)
        return;
    _Atomic uint32_t *word = word_of(a);
    if (!word)
        return;
    atomic_fetch_or_explicit(word, SKIP_EOI, memory_order_relaxed);
    vm_ram_written(a->dev.vm, address(a), WORD);
    a->eoi_offered = true;
}

void lapic_eoi_settle(struct lapic *a)
{
    if (!a->eoi_offered)
        return;
    a->eoi_offered = false;
    _Atomic uint32_t *word = word_of(a);
    if (!word)
        return;
    if (!(atomic_load_explicit(word, memory_order_relaxed) & SKIP_EOI)) {
        lapic_retire(a);
        return;
    }
    atomic_fetch_and_explicit(word, ~(uint32_t)SKIP_EOI, memory_order_relaxed);
    vm_ram_written(a->dev.vm, address(a), WORD);
}

int lapic_eoi_set_msr(struct lapic *a, uint64_t val)
{
    if ((val & RESERVED) || ((val & ENABLE) && !vm_ram(a->dev.vm, val & ~(uint64_t)ENABLE, WORD, true)))
        return -1;
    vm_lock(&a->dev.lock);
    lapic_eoi_settle(a);
    a->eoi_msr = val;
    lapic_update(a);
    vm_unlock(&a->dev.lock);
    return 0;
}
