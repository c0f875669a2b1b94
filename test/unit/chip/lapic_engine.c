// Local APICs of the engine's own: the state is in the chips while the vCPUs stand still, and whole when it comes back;
// messages go to where it is.
#include "chip/ioapic.h"
#include "chip/lapic.h"
#include "chip/steal_time.h"
#include "cpu/msr.h"
#include "fake_vm.h"
#include "unit.h"

enum { CPUS = 2, MSR_STEAL = 0x4b564d03 };

static struct fake_vm f;
static struct lapics *s;
static unsigned eois;

static void on_eoi(void *ctx, uint8_t vector)
{
    (void)ctx;
    eois += vector == 0x43;
}

static void begin(void)
{
    struct error err;
    fake_vm_init(&f, CPUS);
    fake_vm_own_apic(&f);
    assert_int_equal(lapics_create(&f.vm, CPUS, &s, &err), 0);
    s->eoi = on_eoi;
    fake_vm_reset(&f);
}

static void message(uint32_t dest, uint8_t vector)
{
    lapics_send(s, &(struct apic_message){.dest = dest, .vector = vector});
}

static bool requested(unsigned cpu, uint8_t vector)
{
    return s->apic[cpu]->irr[vector / 64] >> vector % 64 & 1;
}

static void messages_go_where_the_state_is(void **state)
{
    (void)state;
    begin();
    lapics_virtual_wire(s); // as firmware leaves it; the other CPU's is still off
    message(0, 0x41);
    assert_true(requested(0, 0x41));
    assert_int_equal(f.engine_msis, 0);
    device_release_all(&f.vm);
    assert_int_equal(f.apic[0].reg[CPU_APIC_IRR + 2], 2);
    message(1, 0x52);
    message(APIC_EVERYBODY, 0x53);
    assert_int_equal(f.engine_msis, 2);
    assert_int_equal(f.engine_msi.address, 0xfeeff000);
    assert_int_equal(f.engine_msi.data & 0xff, 0x53);
    assert_false(requested(1, 0x52));
    f.apic[0].reg[CPU_APIC_IRR + 2] = 0; // the guest took it
    f.apic[0].reg[CPU_APIC_ISR + 2] = 2;
    device_hold_all(&f.vm);
    device_hold_all(&f.vm); // once is enough
    assert_int_equal(f.apic_gets, CPUS);
    assert_false(requested(0, 0x41));
    assert_int_equal(s->apic[0]->isr_top, 0x41);
    message(0, 0x61);
    assert_int_equal(f.engine_msis, 2);
    assert_true(requested(0, 0x61));
    fake_vm_destroy(&f);
}

static void all_registers_come_back(void **state)
{
    (void)state;
    begin();
    device_release_all(&f.vm);
    struct cpu_apic *e = &f.apic[1];
    e->base = CPU_APIC_BASE_ADDRESS | CPU_APIC_BASE_ENABLE | CPU_APIC_BASE_X2APIC;
    for (unsigned n = 0; n < 8; n++) {
        e->reg[CPU_APIC_IRR + n] = 0x10000000 << n % 3;
        e->reg[CPU_APIC_ISR + n] = 0x01000000 << n % 3;
        e->reg[CPU_APIC_TMR + n] = 0x00100000 << n % 3;
    }
    for (unsigned n = 0; n < LVT_COUNT; n++)
        e->reg[CPU_APIC_LVT + n] = 0x10040 + n;
    e->reg[CPU_APIC_TPR] = 0x30;
    e->reg[CPU_APIC_SVR] = 0x1ff;
    e->reg[CPU_APIC_ICR] = 0x40fb;
    e->reg[CPU_APIC_ICR + 1] = 5;
    f.apic_msr[1] = 0x9001;
    struct cpu_apic was = *e;
    device_hold_all(&f.vm);
    memset(e, 0, sizeof *e);
    f.apic_msr[1] = 0;
    device_release_all(&f.vm);
    was.reg[CPU_APIC_ID] = 1 << 24;
    was.reg[CPU_APIC_DFR] = 0xffffffff;
    assert_int_equal(e->base, was.base);
    for (unsigned n = 0; n < CPU_APIC_REGISTERS; n++)
        assert_int_equal(e->reg[n], was.reg[n]);
    fake_vm_destroy(&f);
}

static void timers_go_on(void **state)
{
    (void)state;
    begin();
    device_release_all(&f.vm);
    struct cpu_apic *one_shot = &f.apic[0], *deadline = &f.apic[1];
    one_shot->reg[CPU_APIC_SVR] = deadline->reg[CPU_APIC_SVR] = 0x1ff;
    one_shot->reg[CPU_APIC_LVT] = 0x61;
    one_shot->reg[CPU_APIC_TIMER_DIVIDE] = 0xb;
    one_shot->reg[CPU_APIC_TIMER_INITIAL] = 5000;
    one_shot->reg[CPU_APIC_TIMER_CURRENT] = 3000;
    deadline->reg[CPU_APIC_LVT] = 0x40062;
    deadline->tsc_deadline = vm_clock_tsc(&f.vm.clock) + 9000;
    uint64_t at = deadline->tsc_deadline;
    device_hold_all(&f.vm);
    fake_vm_advance(&f, 1000); // as nobody would, but the chips hold it now
    device_release_all(&f.vm);
    assert_int_equal(one_shot->reg[CPU_APIC_TIMER_INITIAL], 5000);
    assert_int_equal(one_shot->reg[CPU_APIC_TIMER_CURRENT], 2000);
    assert_int_equal(deadline->tsc_deadline, at);
    device_hold_all(&f.vm);
    fake_vm_advance(&f, 2000);
    assert_true(requested(0, 0x61));
    device_release_all(&f.vm);
    assert_int_equal(one_shot->reg[CPU_APIC_IRR + 3], 2);
    assert_int_equal(one_shot->reg[CPU_APIC_TIMER_INITIAL], 0); // it has run out: not once more
    fake_vm_advance(&f, 10000);                                 // the chips' timers are off
    assert_false(requested(1, 0x62));
    fake_vm_destroy(&f);
}

static void the_PIC_comes_in_alone(void **state)
{
    (void)state;
    begin();
    device_release_all(&f.vm);
    fake_vm_signals(&f, 0);
    lapics_set_pic(s, true);
    assert_int_equal(fake_vm_signals(&f, 0), VCPU_INTR);
    assert_int_equal(f.vm.local_apic.ack(s, 0), -1); // there is no PIC to ask
    f.vm.local_apic.eoi(s, 0x43);
    assert_int_equal(eois, 1);
    fake_vm_destroy(&f);
}

static void level_triggered_pins_are_told(void **state)
{
    (void)state;
    struct error err;
    struct ioapic *io;
    begin();
    assert_int_equal(ioapic_create(&f.vm, 0, s, (void (*)(void *, const struct apic_message *))lapics_send, &io, &err),
                     0);
    io->levels_changed = (void (*)(void *, const struct apic_message *, unsigned))lapics_set_routes;
    fake_vm_reset(&f);
    unsigned told = f.routings;
    for (unsigned n = 0; n < 2; n++) { // the second time nothing is new
        fake_vm_write(&f, IOAPIC_MMIO_BASE, 4, 0x10 + 2 * 9 + 1);
        fake_vm_write(&f, IOAPIC_MMIO_BASE + 0x10, 4, 1 << 24);
        fake_vm_write(&f, IOAPIC_MMIO_BASE, 4, 0x10 + 2 * 9);
        fake_vm_write(&f, IOAPIC_MMIO_BASE + 0x10, 4, 0x18043); // masked
        fake_vm_write(&f, IOAPIC_MMIO_BASE + 0x10, 4, 0x08043);
        fake_vm_write(&f, IOAPIC_MMIO_BASE, 4, 0x10 + 2 * 10);
        fake_vm_write(&f, IOAPIC_MMIO_BASE + 0x10, 4, 0x00044); // an edge
    }
    assert_int_equal(f.routings, told + 1);
    assert_int_equal(f.routes, 1);
    assert_int_equal(f.route[0].address, 0xfee01000);
    assert_int_equal(f.route[0].data, 0xc043);
    fake_vm_reset(&f);
    assert_int_equal(f.routes, 0);
    fake_vm_destroy(&f);
}

static void steal_time_is_the_engines(void **state)
{
    (void)state;
    struct steal_time *st;
    struct error err;
    begin();
    assert_int_equal(steal_time_create(&f.vm, &st, &err), 0);
    fake_vm_reset(&f);
    device_release_all(&f.vm);
    f.steal_msr[1] = 0x8001; // the guest wrote it
    assert_int_equal(vm_msr_write(&f.vm, 1, MSR_STEAL, 0x8001), -1);
    assert_null(f.vm.watch.sleeps);
    device_hold_all(&f.vm);
    assert_int_equal(st->msr[1], 0x8001);
    f.steal_msr[1] = 0;
    device_release_all(&f.vm);
    assert_int_equal(f.steal_msr[1], 0x8001);
    fake_vm_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_go_where_the_state_is),
        cmocka_unit_test(all_registers_come_back),
        cmocka_unit_test(timers_go_on),
        cmocka_unit_test(the_PIC_comes_in_alone),
        cmocka_unit_test(level_triggered_pins_are_told),
        cmocka_unit_test(steal_time_is_the_engines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
