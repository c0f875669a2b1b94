// KVM's hypercalls: IPIs for a set of CPUs and the kick out of HLT. On request only, and by software engines only.
// (Linux, Documentation/virt/kvm/x86/hypercalls.rst.)
#include "lib/ap.h"

#define FEATURES 0x40000001u

enum { PV_UNHALT = 7, SEND_IPI = 11 };
enum { HC_KICK_CPU = 5, HC_SEND_IPI = 10 };
enum { ROUNDS = 1000, VECTOR = 0x61 };

static ulong hypercall(ulong nr, ulong a, ulong b, ulong c, ulong d)
{
    asm volatile("vmmcall" : "+a"(nr) : "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return nr;
}

static void wait_until(volatile unsigned *at, unsigned value)
{
    for (u64 until = rdtsc() + 100000000000; *at != value;) {
        pause();
        if (rdtsc() > until)
            panic("waited too long for %u, still %u", value, *at);
    }
}

static volatile unsigned came[2], task, finished, kicked;

static void on_ipi(struct trap *t)
{
    (void)t;
    came[apic_read(APIC_ID) >> 24]++;
    apic_eoi();
}

static void other(unsigned cpu)
{
    (void)cpu;
    wait_until(&task, 1);
    for (unsigned i = 0; i < ROUNDS; i++)
        while (came[1] == i)
            sti_hlt_cli();
    finished = 1;
    wait_until(&task, 2);
    for (unsigned i = 0; i < ROUNDS; i++) {
        while (kicked == i)
            asm volatile("hlt" ::: "memory"); // interrupts are off
        finished = 2 + i;
    }
}

static void check_ipis(void)
{
    task = 1;
    for (unsigned i = 0; i < ROUNDS; i++) {
        ulong taken = hypercall(HC_SEND_IPI, 3, 0, 0, ICR_ASSERT | VECTOR);
        if (taken != 2)
            panic("%u of 2 took the interrupt", (unsigned)taken);
        sti_nop_cli();
        wait_until(&came[1], i + 1);
    }
    wait_until(&finished, 1);
    check("IPIs to both, here", came[0], ROUNDS);
    check("IPIs to both, there", came[1], ROUNDS);
    check("IPI to none", hypercall(HC_SEND_IPI, 0, 0, 0, ICR_ASSERT | VECTOR), 0);
    check("IPI to CPUs that are not there", hypercall(HC_SEND_IPI, ~0ul << 2, ~0ul, 0, ICR_ASSERT | VECTOR), 0);
    check("IPI from a high APIC id on", hypercall(HC_SEND_IPI, ~0ul, ~0ul, 0xffffffff, ICR_ASSERT | VECTOR), 0);
    check("IPI to a logical destination", hypercall(HC_SEND_IPI, 1, 0, 0, ICR_LOGICAL | VECTOR), (ulong)-22);
    check("IPI with a shorthand", hypercall(HC_SEND_IPI, 1, 0, 0, ICR_ALL | VECTOR), (ulong)-22);
}

static void check_kicks(void)
{
    task = 2;
    for (unsigned i = 0; i < ROUNDS; i++) {
        kicked = i + 1;
        if (hypercall(HC_KICK_CPU, 0, 1, 0, 0))
            panic("a kick failed");
        wait_until(&finished, 2 + i);
    }
    check("kicks out of HLT", finished, 1 + ROUNDS);
    check("a kick to nobody", hypercall(HC_KICK_CPU, 0, 1000, 0, 0), 0);
}

int main(void)
{
    u32 r[4], wanted = 1u << PV_UNHALT | 1u << SEND_IPI;
    cpuid(FEATURES, 0, r);
    if ((r[0] & wanted) != wanted) {
        skip("hypercalls", "not offered");
        return 0;
    }
    trap_handlers[VECTOR] = on_ipi;
    apic_enable();
    if (!ap_start(1, other, NULL))
        panic("the other CPU does not start");
    check_ipis();
    check_kicks();
    return 0;
}
