// The local APIC for guests that know KVM: EOIs noted in memory, and interrupts for a set of CPUs.
#include "chip/lapic.h"
#include "cpu/msr.h"
#include "fake_vm.h"
#include "unit.h"

enum { WORD = 0x2004, EOI_REGISTER = 0x80b, ISR = 0x810, IRR = 0x820 };

static struct fake_vm f;
static struct lapics *s;

static int wrmsr(unsigned cpu, uint32_t msr, uint64_t val)
{
    return vm_msr_write(&f.vm, cpu, msr, val);
}

static void begin(unsigned cpus)
{
    struct error err;
    fake_vm_init(&f, cpus);
    f.model.leaf[f.model.count++] = (struct cpuid_leaf){CPU_LEAF_PARAVIRT, CPUID_ANY, {.eax = 1u << CPU_PV_EOI}};
    assert_int_equal(lapics_create(&f.vm, cpus, &s, &err), 0);
    fake_vm_reset(&f);
    for (unsigned i = 0; i < cpus; i++) {
        uint64_t on = LAPIC_MMIO_BASE | APIC_BASE_ENABLE | APIC_BASE_X2APIC | (i ? 0 : APIC_BASE_BSP);
        assert_int_equal(wrmsr(i, MSR_APIC_BASE, on), 0);
        assert_int_equal(wrmsr(i, 0x80f, 0x1ff), 0);
        fake_vm_signals(&f, i);
    }
}

static int ack(void)
{
    return f.vm.local_apic.ack(f.vm.local_apic_ctx, 0);
}

static void interrupt(uint8_t vector)
{
    lapics_send(s, &(struct apic_message){.vector = vector});
}

static uint64_t reg(uint32_t first, uint8_t vector)
{
    uint64_t v = 0;
    assert_int_equal(vm_msr_read(&f.vm, 0, first + vector / 32, &v), 0);
    return v >> vector % 32 & 1;
}

// As a guest does it: true if there is nothing more to do.
static bool noted(void)
{
    bool could = f.ram[WORD] & 1;
    f.ram[WORD] &= 0xfe;
    return could;
}

static void on(void)
{
    assert_int_equal(wrmsr(0, MSR_KVM_EOI, WORD | 1), 0);
}

static void noted_in_memory(void **state)
{
    (void)state;
    uint64_t v;
    begin(1);
    interrupt(0x41);
    assert_int_equal(ack(), 0x41);
    assert_int_equal(f.ram[WORD], 0); // not before it is switched on
    assert_int_equal(wrmsr(0, EOI_REGISTER, 0), 0);
    f.ram[WORD] = 0x80; // the other bits are the guest's
    on();
    assert_int_equal(vm_msr_read(&f.vm, 0, MSR_KVM_EOI, &v), 0);
    assert_int_equal(v, WORD | 1);
    fake_vm_signals(&f, 0);
    for (unsigned i = 0; i < 3; i++) {
        interrupt(0x41);
        assert_int_equal(fake_vm_signals(&f, 0), VCPU_INTR);
        assert_int_equal(ack(), 0x41);
        assert_int_equal(f.ram[WORD], 0x81);
        assert_true(noted());
    }
    // One that would have to wait for that EOI, had it not been.
    interrupt(0x32);
    assert_int_equal(fake_vm_signals(&f, 0), VCPU_INTR);
    assert_int_equal(ack(), 0x32);
    assert_int_equal(reg(ISR, 0x41), 0);
    assert_int_equal(reg(ISR, 0x32), 1);
    assert_int_equal(f.ram[WORD], 0x80); // looking at ISR has taken the offer back
    assert_false(noted());
    assert_int_equal(wrmsr(0, EOI_REGISTER, 0), 0);
    assert_int_equal(reg(ISR, 0x32), 0);
    fake_vm_destroy(&f);
}

// Another interrupt comes before the handler is through.
static void taken_back(void **state)
{
    (void)state;
    begin(1);
    on();
    interrupt(0x41);
    assert_int_equal(ack(), 0x41);
    fake_vm_signals(&f, 0);
    interrupt(0x32);
    assert_int_equal(fake_vm_signals(&f, 0), VCPU_INTR); // it has to look: only it can know
    assert_int_equal(ack(), -1);                         // in the handler, interrupts open
    assert_int_equal(f.ram[WORD], 0);
    fake_vm_signals(&f, 0);
    assert_false(noted());
    assert_int_equal(wrmsr(0, EOI_REGISTER, 0), 0);
    assert_int_equal(fake_vm_signals(&f, 0), VCPU_INTR);
    assert_int_equal(ack(), 0x32);
    // A nested one: the offer was for 0x32, and there is none while two are in service.
    interrupt(0x55);
    assert_int_equal(ack(), 0x55);
    assert_int_equal(f.ram[WORD], 0);
    assert_int_equal(wrmsr(0, EOI_REGISTER, 0), 0);
    assert_int_equal(reg(ISR, 0x32), 1);
    assert_int_equal(wrmsr(0, EOI_REGISTER, 0), 0);
    assert_int_equal(reg(ISR, 0x32), 0);
    // A guest that does not care for the offer.
    interrupt(0x41);
    assert_int_equal(ack(), 0x41);
    assert_int_equal(f.ram[WORD], 1);
    assert_int_equal(wrmsr(0, EOI_REGISTER, 0), 0);
    assert_int_equal(f.ram[WORD], 0);
    assert_int_equal(reg(ISR, 0x41), 0);
    // The task priority counts what is in service.
    interrupt(0x41);
    assert_int_equal(ack(), 0x41);
    assert_true(noted());
    interrupt(0x32);
    f.vm.local_apic.tpr_write(s, 0, 3);
    assert_int_equal(ack(), -1);
    fake_vm_signals(&f, 0);
    f.vm.local_apic.tpr_write(s, 0, 2);
    assert_int_equal(fake_vm_signals(&f, 0), VCPU_INTR);
    assert_int_equal(ack(), 0x32);
    fake_vm_destroy(&f);
}

static void not_offered(void **state)
{
    (void)state;
    begin(1);
    on();
    lapics_send(s, &(struct apic_message){.vector = 0x41, .level = true}); // the IOAPIC waits for its EOI
    assert_int_equal(ack(), 0x41);
    assert_int_equal(f.ram[WORD], 0);
    assert_int_equal(wrmsr(0, EOI_REGISTER, 0), 0);
    interrupt(0x41);
    interrupt(0x42); // one is waiting
    assert_int_equal(ack(), 0x42);
    assert_int_equal(f.ram[WORD], 0);
    assert_int_equal(wrmsr(0, EOI_REGISTER, 0), 0);
    assert_int_equal(ack(), 0x41);
    assert_int_equal(f.ram[WORD], 1);
    assert_int_equal(wrmsr(0, MSR_KVM_EOI, 0), 0); // off, with the offer out
    assert_int_equal(f.ram[WORD], 0);
    assert_int_equal(reg(ISR, 0x41), 1);
    assert_int_equal(wrmsr(0, EOI_REGISTER, 0), 0);
    on();
    interrupt(0x41);
    assert_int_equal(ack(), 0x41);
    f.vm.local_apic.init(s, 0); // INIT forgets it all
    assert_int_equal(reg(ISR, 0x41), 0);
    uint64_t v;
    assert_int_equal(vm_msr_read(&f.vm, 0, MSR_KVM_EOI, &v), 0);
    assert_int_equal(v, 0);
    fake_vm_destroy(&f);
}

static void odd_words(void **state)
{
    (void)state;
    struct error err;
    begin(1);
    static const uint64_t wrong[] = {WORD | 3, WORD | 2, FAKE_VM_RAM | 1, ~3ull | 1, 1ull << 40 | 1};
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(wrmsr(0, MSR_KVM_EOI, wrong[i]), -1);
    assert_int_equal(wrmsr(0, MSR_KVM_EOI, (FAKE_VM_RAM - 4) | 1), 0);
    interrupt(0x41);
    assert_int_equal(ack(), 0x41);
    assert_int_equal(f.ram[FAKE_VM_RAM - 4], 1);
    fake_vm_destroy(&f);
    fake_vm_init(&f, 1); // a machine that does not offer it
    assert_int_equal(lapics_create(&f.vm, 1, &s, &err), 0);
    assert_int_equal(wrmsr(0, MSR_KVM_EOI, WORD | 1), -1);
    fake_vm_destroy(&f);
}

// The offer is out when the machine is saved, and taken after it was loaded.
static void saved(void **state)
{
    (void)state;
    begin(1);
    on();
    interrupt(0x41);
    assert_int_equal(ack(), 0x41);
    struct lapic *a = s->apic[0];
    assert_int_equal(fake_vm_copy_state(&a->dev, &a->dev), 0);
    assert_true(noted());
    fake_vm_signals(&f, 0);
    interrupt(0x41);
    assert_int_equal(fake_vm_signals(&f, 0), VCPU_INTR);
    assert_int_equal(ack(), 0x41);
    a->eoi_msr = ~0ull; // a file that lies: no RAM there
    assert_int_equal(fake_vm_copy_state(&a->dev, &a->dev), 0);
    assert_int_equal(reg(ISR, 0x41), 1);
    fake_vm_destroy(&f);
}

static void multicast(void **state)
{
    (void)state;
    begin(4);
    unsigned (*send)(void *, uint64_t, uint8_t, uint8_t) = f.vm.local_apic.multicast;
    assert_int_equal(wrmsr(2, MSR_APIC_BASE, LAPIC_MMIO_BASE), 0); // CPU 2 has its APIC off
    assert_int_equal(send(s, ~0ull, APIC_FIXED, 0x41), 3);
    assert_int_equal(fake_vm_signals(&f, 0), VCPU_INTR);
    assert_int_equal(fake_vm_signals(&f, 1), VCPU_INTR);
    assert_int_equal(fake_vm_signals(&f, 2), 0);
    assert_int_equal(fake_vm_signals(&f, 3), VCPU_INTR);
    assert_int_equal(reg(IRR, 0x41), 1);
    assert_int_equal(send(s, 2, APIC_NMI, 0), 1);
    assert_int_equal(fake_vm_signals(&f, 1), VCPU_NMI);
    assert_int_equal(send(s, ~0ull, APIC_EXTINT, 0x41), 0);
    assert_int_equal(send(s, ~0ull, 3, 0x41), 0);
    assert_int_equal(send(s, 0, APIC_FIXED, 0x41), 0);
    assert_int_equal(send(s, 1, APIC_FIXED, 3), 1); // no such vector: the receiver's error
    assert_int_equal(fake_vm_signals(&f, 0) | fake_vm_signals(&f, 3), 0);
    fake_vm_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(noted_in_memory), cmocka_unit_test(taken_back), cmocka_unit_test(not_offered),
        cmocka_unit_test(odd_words),       cmocka_unit_test(saved),      cmocka_unit_test(multicast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
