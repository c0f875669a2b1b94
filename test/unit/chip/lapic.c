// The local APIC: priorities, messages and their addressing, both register faces, the timer, reset and saving.
#include "chip/lapic.h"
#include "cpu/msr.h"
#include "fake_vm.h"
#include "unit.h"

struct bench {
    struct fake_vm f;
    struct lapics *s;
    uint8_t eoi[16];
    unsigned eois;
    int pic_vector;
};

static void on_eoi(void *ctx, uint8_t vector)
{
    struct bench *b = ctx;
    b->eoi[b->eois++ % 16] = vector;
}

static int on_pic_ack(void *ctx)
{
    struct bench *b = ctx;
    lapics_set_pic(b->s, false);
    return b->pic_vector;
}

static void bench_init(struct bench *b, unsigned cpus)
{
    struct error err;
    memset(b, 0, sizeof *b);
    fake_vm_init(&b->f, cpus);
    assert_int_equal(lapics_create(&b->f.vm, cpus, &b->s, &err), 0);
    b->s->ctx = b;
    b->s->eoi = on_eoi;
    b->s->pic_ack = on_pic_ack;
    fake_vm_reset(&b->f);
    for (unsigned i = 0; i < cpus; i++)
        fake_vm_signals(&b->f, i);
}

static uint32_t get(struct bench *b, unsigned cpu, unsigned reg)
{
    return bus_read(&b->f.vm.mmio, cpu, LAPIC_MMIO_BASE + reg, 4);
}

static void set(struct bench *b, unsigned cpu, unsigned reg, uint32_t val)
{
    bus_write(&b->f.vm.mmio, cpu, LAPIC_MMIO_BASE + reg, 4, val);
}

static int ack(struct bench *b, unsigned cpu)
{
    return b->f.vm.local_apic.ack(b->f.vm.local_apic_ctx, cpu);
}

static void enable(struct bench *b, unsigned cpu)
{
    set(b, cpu, 0xf0, 0x1ff);
}

static void x2apic(struct bench *b, unsigned cpu)
{
    assert_int_equal(vm_msr_write(&b->f.vm, cpu, MSR_APIC_BASE,
                                  LAPIC_MMIO_BASE | APIC_BASE_ENABLE | APIC_BASE_X2APIC | (cpu ? 0 : APIC_BASE_BSP)),
                     0);
    assert_int_equal(vm_msr_write(&b->f.vm, cpu, 0x80f, 0x1ff), 0);
}

static uint64_t rdmsr(struct bench *b, unsigned cpu, uint32_t msr)
{
    uint64_t v = 0;
    assert_int_equal(vm_msr_read(&b->f.vm, cpu, msr, &v), 0);
    return v;
}

static int wrmsr(struct bench *b, unsigned cpu, uint32_t msr, uint64_t val)
{
    return vm_msr_write(&b->f.vm, cpu, msr, val);
}

static void fixed(struct bench *b, uint32_t dest, uint8_t vector)
{
    lapics_send(b->s, &(struct apic_message){.dest = dest, .vector = vector});
}

static void registers_after_reset(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2);
    assert_int_equal(get(&b, 1, 0x20), 1 << 24);
    assert_int_equal(get(&b, 0, 0x30), 0x01050014);
    assert_int_equal(get(&b, 0, 0xe0), 0xffffffff);
    assert_int_equal(get(&b, 0, 0xf0), 0xff);
    for (unsigned r = 0x320; r <= 0x370; r += 0x10)
        assert_int_equal(get(&b, 0, r), LVT_MASKED);
    assert_int_equal(rdmsr(&b, 0, MSR_APIC_BASE), 0xfee00900);
    assert_int_equal(rdmsr(&b, 1, MSR_APIC_BASE), 0xfee00800);
    // Disabled by software: fixed interrupts are not accepted and no entry can be unmasked.
    fixed(&b, 0, 0x40);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    set(&b, 0, 0x320, 0x40);
    assert_int_equal(get(&b, 0, 0x320), LVT_MASKED | 0x40);
    fake_vm_destroy(&b.f);
}

static void priorities(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    enable(&b, 0);
    assert_int_equal(ack(&b, 0), -1);
    fixed(&b, 0, 0x41);
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(get(&b, 0, 0x220), 1 << 1); // IRR 0x40..0x5f
    assert_int_equal(ack(&b, 0), 0x41);
    assert_int_equal(get(&b, 0, 0x220), 0);
    assert_int_equal(get(&b, 0, 0x120), 1 << 1);
    assert_int_equal(get(&b, 0, 0xa0), 0x40);
    fixed(&b, 0, 0x4f); // the same class waits
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    assert_int_equal(ack(&b, 0), -1);
    fixed(&b, 0, 0x52); // a higher one nests
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(ack(&b, 0), 0x52);
    set(&b, 0, 0xb0, 0);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0); // 0x41 is still in service
    set(&b, 0, 0xb0, 0);
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(ack(&b, 0), 0x4f);
    set(&b, 0, 0xb0, 0);
    set(&b, 0, 0xb0, 0); // one too many: nothing happens
    assert_int_equal(b.eois, 0);

    set(&b, 0, 0x80, 0x5f);
    fixed(&b, 0, 0x5e);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    assert_int_equal(b.f.vm.local_apic.tpr_read(b.f.vm.local_apic_ctx, 0), 5);
    b.f.vm.local_apic.tpr_write(b.f.vm.local_apic_ctx, 0, 4);
    assert_int_equal(get(&b, 0, 0x80), 0x40);
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(ack(&b, 0), 0x5e);
    fake_vm_destroy(&b.f);
}

static void level_and_eoi(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    enable(&b, 0);
    lapics_send(b.s, &(struct apic_message){.dest = 0, .vector = 0x61, .level = true});
    assert_int_equal(get(&b, 0, 0x1b0), 2); // TMR
    assert_int_equal(ack(&b, 0), 0x61);
    set(&b, 0, 0xb0, 0);
    assert_int_equal(b.eois, 1);
    assert_int_equal(b.eoi[0], 0x61);
    set(&b, 0, 0xf0, 0x1ff | SVR_NO_EOI_BROADCAST);
    lapics_send(b.s, &(struct apic_message){.dest = 0, .vector = 0x61, .level = true});
    assert_int_equal(ack(&b, 0), 0x61);
    set(&b, 0, 0xb0, 0);
    assert_int_equal(b.eois, 1);
    fixed(&b, 0, 0x61); // the last acceptance decides
    assert_int_equal(get(&b, 0, 0x1b0), 0);
    fake_vm_destroy(&b.f);
}

// Which of 8 CPUs got vector v, as a bit mask; takes it there.
static unsigned who(struct bench *b, unsigned cpus, int v)
{
    unsigned set_of = 0;
    for (unsigned i = 0; i < cpus; i++) {
        int got = ack(b, i);
        assert_true(got == -1 || got == v);
        if (got == v) {
            set_of |= 1 << i;
            b->f.vm.local_apic.tpr_write(b->f.vm.local_apic_ctx, i, 0);
            lapic_eoi(b->s->apic[i]);
        }
    }
    return set_of;
}

static void destinations(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 8);
    for (unsigned i = 0; i < 8; i++) {
        enable(&b, i);
        set(&b, i, 0xd0, 1u << (24 + i)); // flat
    }
    struct apic_message m = {.dest = 3, .vector = 0x77};
    lapics_send(b.s, &m);
    assert_int_equal(who(&b, 8, 0x77), 1 << 3);
    m.dest = APIC_EVERYBODY;
    lapics_send(b.s, &m);
    assert_int_equal(who(&b, 8, 0x77), 0xff);
    m.dest = 9; // nobody
    lapics_send(b.s, &m);
    assert_int_equal(who(&b, 8, 0x77), 0);
    m.logical = true;
    m.dest = 0xa5;
    lapics_send(b.s, &m);
    assert_int_equal(who(&b, 8, 0x77), 0xa5);

    for (unsigned i = 0; i < 8; i++) { // clusters 0 and 1 of four each
        set(&b, i, 0xe0, 0x0fffffff);
        set(&b, i, 0xd0, ((i / 4) << 4 | 1 << (i % 4)) << 24);
    }
    m.dest = 0x1a;
    lapics_send(b.s, &m);
    assert_int_equal(who(&b, 8, 0x77), 0xa0);
    m.dest = 0xf3; // all clusters
    lapics_send(b.s, &m);
    assert_int_equal(who(&b, 8, 0x77), 0x33);

    for (unsigned i = 0; i < 8; i++)
        x2apic(&b, i);
    assert_int_equal(rdmsr(&b, 5, 0x80d), 1 << 5);
    m.dest = 0x00f0;
    lapics_send(b.s, &m);
    assert_int_equal(who(&b, 8, 0x77), 0xf0);
    m.dest = 0x100f0; // cluster 1 is CPUs 16..31
    lapics_send(b.s, &m);
    assert_int_equal(who(&b, 8, 0x77), 0);
    fake_vm_destroy(&b.f);
}

static void lowest_priority(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 4);
    for (unsigned i = 0; i < 3; i++)
        enable(&b, i); // CPU 3 accepts nothing
    for (unsigned i = 0; i < 4; i++)
        set(&b, i, 0xd0, 1u << (24 + i));
    struct apic_message m = {.dest = 0xf, .logical = true, .mode = APIC_LOWEST, .vector = 0x81};
    unsigned seen = 0;
    for (unsigned i = 0; i < 30; i++) {
        lapics_send(b.s, &m);
        unsigned w = who(&b, 4, 0x81);
        assert_int_equal(w & (w - 1), 0);
        seen |= w;
    }
    assert_int_equal(seen, 7); // ties go round
    set(&b, 0, 0x80, 0x20);
    set(&b, 2, 0x80, 0x20);
    for (unsigned i = 0; i < 10; i++) {
        lapics_send(b.s, &m);
        assert_int_equal(ack(&b, 1), 0x81);
        set(&b, 1, 0xb0, 0);
    }
    fake_vm_destroy(&b.f);
}

static void messages_from_msi(void **state)
{
    (void)state;
    struct apic_message m = apic_message_from_msi(0xfee03000, 0x4041);
    assert_int_equal(m.dest, 3);
    assert_int_equal(m.vector, 0x41);
    assert_int_equal(m.mode, APIC_FIXED);
    assert_false(m.logical || m.level);
    m = apic_message_from_msi(0xfeeff00c, 0xc155);
    assert_int_equal(m.dest, APIC_EVERYBODY);
    assert_int_equal(m.mode, APIC_LOWEST);
    assert_true(m.logical && m.level);
    m = apic_message_from_msi(0xfee0100c, 0x0055);
    assert_int_equal(m.mode, APIC_LOWEST); // by the redirection hint
}

static void ipis(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 4);
    for (unsigned i = 0; i < 4; i++)
        enable(&b, i);
    set(&b, 0, 0x310, 2 << 24);
    set(&b, 0, 0x300, 0x4091);
    assert_int_equal(who(&b, 4, 0x91), 4);
    set(&b, 1, 0x300, 0x40091 | 1 << 14); // self
    assert_int_equal(who(&b, 4, 0x91), 2);
    set(&b, 1, 0x300, 0x80091); // all
    assert_int_equal(who(&b, 4, 0x91), 15);
    set(&b, 1, 0x300, 0xc0091); // all but self
    assert_int_equal(who(&b, 4, 0x91), 13);
    for (unsigned i = 0; i < 4; i++)
        fake_vm_signals(&b.f, i);

    set(&b, 0, 0x300, 0xc4500); // INIT to all but self
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    assert_int_equal(fake_vm_signals(&b.f, 3), VCPU_INIT);
    set(&b, 0, 0x300, 0xc8500); // its de-assert: nothing
    assert_int_equal(fake_vm_signals(&b.f, 3), 0);
    set(&b, 0, 0x300, 0xc4698);
    assert_int_equal(fake_vm_signals(&b.f, 1), VCPU_INIT | VCPU_SIPI);
    assert_int_equal(fake_vm_sipi_vector(&b.f, 1), 0x98);
    fake_vm_signals(&b.f, 2);
    set(&b, 0, 0x310, 2 << 24);
    set(&b, 0, 0x300, 0x4400);
    assert_int_equal(fake_vm_signals(&b.f, 2), VCPU_NMI);
    // INIT goes to an APIC that software has disabled, too, but not to one that is switched off.
    set(&b, 2, 0xf0, 0xff);
    set(&b, 0, 0x300, 0x4500);
    assert_int_equal(fake_vm_signals(&b.f, 2), VCPU_INIT);
    assert_int_equal(wrmsr(&b, 2, MSR_APIC_BASE, LAPIC_MMIO_BASE), 0);
    set(&b, 0, 0x300, 0x4500);
    assert_int_equal(fake_vm_signals(&b.f, 2), 0);
    assert_int_equal(get(&b, 2, 0x20), 0xffffffff);

    x2apic(&b, 1);
    assert_int_equal(wrmsr(&b, 1, 0x83f, 0x93), 0);
    assert_int_equal(who(&b, 4, 0x93), 2);
    assert_int_equal(wrmsr(&b, 1, 0x830, 3ull << 32 | 0x94), 0);
    assert_int_equal(who(&b, 4, 0x94), 8);
    assert_true(rdmsr(&b, 1, 0x830) == (3ull << 32 | 0x94));
    fake_vm_destroy(&b.f);
}

static void errors(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    enable(&b, 0);
    set(&b, 0, 0x370, 0xfe);
    set(&b, 0, 0x300, 0x40003); // to self, vector 3
    assert_int_equal(get(&b, 0, 0x280), 0);
    set(&b, 0, 0x280, 0);
    assert_int_equal(get(&b, 0, 0x280), ESR_SEND_ILLEGAL_VECTOR);
    assert_int_equal(ack(&b, 0), 0xfe);
    fixed(&b, 0, 15);
    get(&b, 0, 0x40); // reserved
    set(&b, 0, 0x280, 0);
    assert_int_equal(get(&b, 0, 0x280), ESR_RECEIVE_ILLEGAL_VECTOR | ESR_ILLEGAL_REGISTER);
    set(&b, 0, 0x280, 0);
    assert_int_equal(get(&b, 0, 0x280), 0);
    // An error entry with an illegal vector must not be an error itself, for ever.
    set(&b, 0, 0x370, 0x05);
    get(&b, 0, 0x40);
    fake_vm_destroy(&b.f);
}

static void x2apic_faults(void **state)
{
    (void)state;
    struct bench b;
    uint64_t v;
    bench_init(&b, 2);
    assert_int_equal(vm_msr_read(&b.f.vm, 1, 0x802, &v), -1); // not in x2APIC mode
    // Transitions.
    assert_int_equal(wrmsr(&b, 1, MSR_APIC_BASE, LAPIC_MMIO_BASE | APIC_BASE_X2APIC), -1);
    assert_int_equal(wrmsr(&b, 1, MSR_APIC_BASE, 0xfec00000 | APIC_BASE_ENABLE), -1);
    assert_int_equal(wrmsr(&b, 1, MSR_APIC_BASE, LAPIC_MMIO_BASE | APIC_BASE_ENABLE | 1), -1);
    assert_int_equal(wrmsr(&b, 1, MSR_APIC_BASE, LAPIC_MMIO_BASE), 0);
    assert_int_equal(wrmsr(&b, 1, MSR_APIC_BASE, LAPIC_MMIO_BASE | APIC_BASE_ENABLE | APIC_BASE_X2APIC), -1);
    assert_int_equal(wrmsr(&b, 1, MSR_APIC_BASE, LAPIC_MMIO_BASE | APIC_BASE_ENABLE), 0);
    x2apic(&b, 1);
    assert_int_equal(wrmsr(&b, 1, MSR_APIC_BASE, LAPIC_MMIO_BASE | APIC_BASE_ENABLE), -1);
    assert_int_equal(rdmsr(&b, 1, 0x802), 1);
    assert_int_equal(get(&b, 1, 0x20), 0xffffffff); // the page is gone
    static const uint32_t unreadable[] = {0x80b, 0x80e, 0x831, 0x83f, 0x80c, 0x840, 0x82f};
    for (unsigned i = 0; i < sizeof unreadable / sizeof unreadable[0]; i++)
        assert_int_equal(vm_msr_read(&b.f.vm, 1, unreadable[i], &v), -1);
    static const uint32_t unwritable[] = {0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x818, 0x820, 0x831, 0x839, 0x87f};
    for (unsigned i = 0; i < sizeof unwritable / sizeof unwritable[0]; i++)
        assert_int_equal(wrmsr(&b, 1, unwritable[i], 0), -1);
    assert_int_equal(wrmsr(&b, 1, 0x80b, 1), -1);
    assert_int_equal(wrmsr(&b, 1, 0x80b, 0), 0);
    assert_int_equal(wrmsr(&b, 1, 0x808, 0x100), -1);
    assert_int_equal(wrmsr(&b, 1, 0x808, 1ull << 32), -1);
    assert_int_equal(wrmsr(&b, 1, 0x80f, 0x1ff | 1 << 9), -1);
    assert_int_equal(wrmsr(&b, 1, 0x830, 0x20000), -1);
    assert_int_equal(wrmsr(&b, 1, 0x83e, 4), -1);
    fake_vm_destroy(&b.f);
}

static void timer(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    enable(&b, 0);
    set(&b, 0, 0x3e0, 0x3); // by 16: a count is 16 ns
    set(&b, 0, 0x320, 0xec);
    set(&b, 0, 0x380, 100000);
    fake_vm_advance(&b.f, 800000);
    assert_int_equal(get(&b, 0, 0x390), 50000);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    fake_vm_advance(&b.f, 799999);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    fake_vm_advance(&b.f, 1);
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(ack(&b, 0), 0xec);
    assert_int_equal(get(&b, 0, 0x390), 0);
    fake_vm_advance(&b.f, 10000000);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    set(&b, 0, 0xb0, 0);

    set(&b, 0, 0x320, 0x200ec); // periodic
    set(&b, 0, 0x380, 100000);
    for (unsigned i = 0; i < 5; i++) {
        fake_vm_advance(&b.f, 1600000);
        assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
        assert_int_equal(ack(&b, 0), 0xec);
        set(&b, 0, 0xb0, 0);
        assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    }
    // Masked, it counts on silently; unmasked, the phase is where it would be.
    set(&b, 0, 0x320, 0x300ec);
    fake_vm_advance(&b.f, 1600000 + 400000);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    assert_int_equal(get(&b, 0, 0x390), 75000);
    set(&b, 0, 0x320, 0x200ec);
    fake_vm_advance(&b.f, 1200000);
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    // A change of the divider keeps the count.
    fake_vm_advance(&b.f, 800000);
    set(&b, 0, 0x3e0, 0xb); // by 1
    assert_int_equal(get(&b, 0, 0x390), 50000);
    set(&b, 0, 0x380, 0);
    assert_int_equal(get(&b, 0, 0x390), 0);
    ack(&b, 0);
    set(&b, 0, 0xb0, 0);
    fake_vm_signals(&b.f, 0);
    fake_vm_advance(&b.f, 100000000);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);

    // A period of 1 ns does not drown the host: at most one interrupt per 100 us.
    set(&b, 0, 0x380, 1);
    unsigned n = 0;
    for (unsigned i = 0; i < 1000; i++) {
        fake_vm_advance(&b.f, 10000);
        if (fake_vm_signals(&b.f, 0) && ack(&b, 0) == 0xec) {
            n++;
            set(&b, 0, 0xb0, 0);
            fake_vm_signals(&b.f, 0);
        }
    }
    assert_in_range(n, 90, 101);
    fake_vm_destroy(&b.f);
}

static void tsc_deadline(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    enable(&b, 0);
    fake_vm_advance(&b.f, 1000);
    assert_int_equal(wrmsr(&b, 0, MSR_TSC_DEADLINE, 5000), 0); // ignored in the other modes
    assert_int_equal(rdmsr(&b, 0, MSR_TSC_DEADLINE), 0);
    set(&b, 0, 0x320, 0x400ec);
    assert_int_equal(wrmsr(&b, 0, MSR_TSC_DEADLINE, 5000), 0);
    assert_int_equal(rdmsr(&b, 0, MSR_TSC_DEADLINE), 5000);
    fake_vm_advance(&b.f, 3999);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    fake_vm_advance(&b.f, 1);
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(rdmsr(&b, 0, MSR_TSC_DEADLINE), 0);
    assert_int_equal(ack(&b, 0), 0xec);
    set(&b, 0, 0xb0, 0);
    assert_int_equal(wrmsr(&b, 0, MSR_TSC_DEADLINE, 4000), 0); // in the past: at once
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(ack(&b, 0), 0xec);
    set(&b, 0, 0xb0, 0);
    assert_int_equal(wrmsr(&b, 0, MSR_TSC_DEADLINE, 9000), 0);
    assert_int_equal(wrmsr(&b, 0, MSR_TSC_DEADLINE, 0), 0); // disarmed
    fake_vm_advance(&b.f, 100000);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    // The initial count means nothing in this mode, and leaving the mode disarms.
    assert_int_equal(wrmsr(&b, 0, MSR_TSC_DEADLINE, 900000), 0);
    set(&b, 0, 0x380, 1000);
    assert_int_equal(get(&b, 0, 0x390), 0);
    set(&b, 0, 0x320, 0xec);
    fake_vm_advance(&b.f, 1000000);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    // A deadline at the end of time.
    set(&b, 0, 0x320, 0x400ec);
    assert_int_equal(wrmsr(&b, 0, MSR_TSC_DEADLINE, ~0ull), 0);
    fake_vm_advance(&b.f, 1000000);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    fake_vm_destroy(&b.f);
}

// The event loop is late: what is due happens before the register changes under it.
static void settles_before_changes(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1);
    enable(&b, 0);
    set(&b, 0, 0x320, 0xec);
    set(&b, 0, 0x3e0, 0xb);
    set(&b, 0, 0x380, 1000);
    b.f.vm.clock.virtual_ns += 2000; // time goes on, but no timer runs
    set(&b, 0, 0x380, 5000);
    assert_int_equal(ack(&b, 0), 0xec);
    set(&b, 0, 0xb0, 0);
    fake_vm_advance(&b.f, 5000);
    assert_int_equal(ack(&b, 0), 0xec);
    fake_vm_destroy(&b.f);
}

static void pic_through_lint0(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2);
    b.pic_vector = 0x38;
    lapics_set_pic(b.s, true);
    assert_int_equal(fake_vm_signals(&b.f, 0), 0); // masked after reset
    lapics_virtual_wire(b.s);
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(fake_vm_signals(&b.f, 1), 0);
    fixed(&b, 0, 0xf1);
    assert_int_equal(ack(&b, 0), 0x38); // the PIC's comes first and is not in the APIC's service
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(ack(&b, 0), 0xf1);
    assert_int_equal(ack(&b, 0), -1);
    lapics_set_pic(b.s, true); // even below what is in service
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(ack(&b, 0), 0x38);
    // LINT0 as an ordinary interrupt, edge and level.
    set(&b, 0, 0xb0, 0);
    set(&b, 0, 0x350, 0x51);
    lapics_set_pic(b.s, true);
    assert_int_equal(ack(&b, 0), 0x51);
    set(&b, 0, 0xb0, 0);
    assert_int_equal(ack(&b, 0), -1);
    set(&b, 0, 0x350, 0x8051); // still up
    assert_int_equal(get(&b, 0, 0x350), 0x8051 | LVT_REMOTE_IRR);
    assert_int_equal(ack(&b, 0), 0x51);
    set(&b, 0, 0xb0, 0);
    assert_int_equal(ack(&b, 0), 0x51);
    lapics_set_pic(b.s, false);
    set(&b, 0, 0xb0, 0);
    assert_int_equal(ack(&b, 0), -1);
    // Switched off, the boot CPU takes the PIC's interrupts as one without APIC does.
    assert_int_equal(wrmsr(&b, 0, MSR_APIC_BASE, LAPIC_MMIO_BASE | APIC_BASE_BSP), 0);
    fake_vm_signals(&b.f, 0);
    lapics_set_pic(b.s, true);
    assert_int_equal(fake_vm_signals(&b.f, 0), VCPU_INTR);
    assert_int_equal(ack(&b, 0), 0x38);
    fake_vm_destroy(&b.f);
}

static void extint_messages(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2);
    enable(&b, 1);
    b.pic_vector = 0x30;
    lapics_set_pic(b.s, true);
    lapics_send(b.s, &(struct apic_message){.dest = 1, .mode = APIC_EXTINT});
    assert_int_equal(fake_vm_signals(&b.f, 0), 0);
    assert_int_equal(fake_vm_signals(&b.f, 1), VCPU_INTR);
    assert_int_equal(ack(&b, 1), 0x30);
    assert_int_equal(ack(&b, 1), -1);
    fake_vm_destroy(&b.f);
}

static void init_and_reset(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2);
    x2apic(&b, 1);
    assert_int_equal(wrmsr(&b, 1, 0x832, 0x400ec), 0);
    assert_int_equal(wrmsr(&b, 1, MSR_TSC_DEADLINE, 5000), 0);
    fixed(&b, 1, 0x99);
    b.f.vm.local_apic.init(b.f.vm.local_apic_ctx, 1);
    fake_vm_signals(&b.f, 1);
    assert_int_equal(rdmsr(&b, 1, MSR_APIC_BASE), LAPIC_MMIO_BASE | APIC_BASE_ENABLE | APIC_BASE_X2APIC);
    assert_int_equal(rdmsr(&b, 1, 0x80f), 0xff);
    assert_int_equal(rdmsr(&b, 1, 0x832), LVT_MASKED);
    assert_int_equal(rdmsr(&b, 1, 0x824), 0);
    fake_vm_advance(&b.f, 100000);
    assert_int_equal(fake_vm_signals(&b.f, 1), 0);
    fake_vm_reset(&b.f);
    assert_int_equal(rdmsr(&b, 1, MSR_APIC_BASE), LAPIC_MMIO_BASE | APIC_BASE_ENABLE);
    fake_vm_destroy(&b.f);
}

static void saves_and_loads(void **state)
{
    (void)state;
    struct bench b, c;
    bench_init(&b, 1);
    bench_init(&c, 1);
    x2apic(&b, 0);
    assert_int_equal(wrmsr(&b, 0, 0x832, 0x200ec), 0);
    assert_int_equal(wrmsr(&b, 0, 0x83e, 0xb), 0);
    fake_vm_advance(&b.f, 1000);
    fake_vm_advance(&c.f, 1000);
    assert_int_equal(wrmsr(&b, 0, 0x838, 200000), 0);
    fixed(&b, 0, 0x55);
    assert_int_equal(ack(&b, 0), 0x55);
    fixed(&b, 0, 0x44);
    fixed(&b, 0, 0x66);
    fake_vm_signals(&c.f, 0);
    assert_int_equal(fake_vm_copy_state(&b.s->apic[0]->dev, &c.s->apic[0]->dev), 0);
    assert_int_equal(fake_vm_signals(&c.f, 0), VCPU_INTR);
    assert_int_equal(ack(&c, 0), 0x66);
    assert_int_equal(wrmsr(&c, 0, 0x80b, 0), 0);
    assert_int_equal(ack(&c, 0), -1); // 0x55 is in service, 0x44 waits
    fake_vm_signals(&c.f, 0);
    fake_vm_advance(&c.f, 199999);
    assert_int_equal(fake_vm_signals(&c.f, 0), 0);
    fake_vm_advance(&c.f, 1);
    assert_int_equal(fake_vm_signals(&c.f, 0), VCPU_INTR);
    assert_int_equal(ack(&c, 0), 0xec);
    // Values that no guest could have made.
    b.s->apic[0]->base = 0x1000 | APIC_BASE_ENABLE;
    assert_int_equal(fake_vm_copy_state(&b.s->apic[0]->dev, &c.s->apic[0]->dev), -22);
    fake_vm_destroy(&b.f);
    fake_vm_destroy(&c.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers_after_reset),
        cmocka_unit_test(priorities),
        cmocka_unit_test(level_and_eoi),
        cmocka_unit_test(destinations),
        cmocka_unit_test(lowest_priority),
        cmocka_unit_test(messages_from_msi),
        cmocka_unit_test(ipis),
        cmocka_unit_test(errors),
        cmocka_unit_test(x2apic_faults),
        cmocka_unit_test(timer),
        cmocka_unit_test(tsc_deadline),
        cmocka_unit_test(settles_before_changes),
        cmocka_unit_test(pic_through_lint0),
        cmocka_unit_test(extint_messages),
        cmocka_unit_test(init_and_reset),
        cmocka_unit_test(saves_and_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
