// x2APIC: the local APIC behind MSRs, and the timer's TSC-deadline mode. (SDM vol. 3, 11.12 and 11.5.4.1.)
#include "lib/apic.h"

#define X2APIC_MSR 0x800u
#define X2APIC_ENABLE 0x400u
#define APIC_ENABLE 0x800u

#define X(reg) (X2APIC_MSR + (reg) / 16)

// MSR accesses that may fault: RCX is the MSR, EDX:EAX the value.
#define CODE(name, text)                                                                                               \
    asm(".pushsection .text; .balign 16; " #name ": " text "; int $0x80; .popsection");                                \
    extern const u8 name[]
CODE(try_rdmsr, "rdmsr");
CODE(try_wrmsr, "wrmsr");

static bool read_faults(u32 msr)
{
    run_at(&(struct start){(ulong)try_rdmsr, KCODE64, 2, (ulong)case_stack_top, KDATA, .rcx = msr});
    return last.vector == GP && last.error == 0;
}

static bool write_faults(u32 msr, u64 v)
{
    run_at(&(struct start){(ulong)try_wrmsr, KCODE64, 2, (ulong)case_stack_top, KDATA, (u32)v, msr, v >> 32});
    return last.vector == GP && last.error == 0;
}

static u8 order[64];
static volatile unsigned count;

static void note(struct trap *t)
{
    if (count < sizeof order)
        order[count] = (u8)t->vector;
    count++;
    wrmsr(X(APIC_EOI), 0);
}

static ulong came(void)
{
    ulong v = 0;
    for (unsigned i = 0; i < count && i < 8; i++)
        v = v << 8 | order[i];
    count = 0;
    return v;
}

static void take(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        sti_nop_cli();
}

static void modes(void)
{
    u64 base = rdmsr(MSR_APIC_BASE);
    check_true("x2APIC MSRs do not exist in xAPIC mode", read_faults(X(APIC_ID)) && write_faults(X(APIC_EOI), 0));
    check_true("APIC base, x2APIC without enable",
               write_faults(MSR_APIC_BASE, (base & ~(u64)APIC_ENABLE) | X2APIC_ENABLE));
    check_true("APIC base, reserved bits",
               write_faults(MSR_APIC_BASE, base | 1) && write_faults(MSR_APIC_BASE, base | 1ull << 60));
    check("nothing has changed", rdmsr(MSR_APIC_BASE), base);
    wrmsr(MSR_APIC_BASE, base | X2APIC_ENABLE);
    check("x2APIC on", rdmsr(MSR_APIC_BASE) & (APIC_ENABLE | X2APIC_ENABLE), APIC_ENABLE | X2APIC_ENABLE);
    check_true("no way back to xAPIC", write_faults(MSR_APIC_BASE, base));
    wrmsr(X(APIC_SVR), 0x1ff);
}

static void registers(void)
{
    u32 id = (u32)rdmsr(X(APIC_ID)), r[4];
    cpuid(11, 0, r);
    check_true("ID is CPUID's x2APIC ID", id == r[3]);
    check("LDR is made of the ID", rdmsr(X(APIC_LDR)), (u64)(id & 0xffff0) << 12 | 1u << (id & 15));
    check_true("ID, LDR, version, PPR are read-only", write_faults(X(APIC_ID), 0) && write_faults(X(APIC_LDR), 0) &&
                                                          write_faults(X(APIC_VERSION), 0) &&
                                                          write_faults(X(APIC_PPR), 0));
    check_true("IRR, ISR, TMR, current count are read-only",
               write_faults(X(APIC_IRR), 0) && write_faults(X(APIC_ISR), 0) && write_faults(X(APIC_TMR), 0) &&
                   write_faults(X(APIC_CURRENT_COUNT), 0));
    check_true("DFR and the upper ICR do not exist",
               read_faults(X(APIC_DFR)) && read_faults(X(APIC_ICR_HIGH)) && write_faults(X(APIC_DFR), 0));
    check_true("EOI cannot be read, takes nothing but 0", read_faults(X(APIC_EOI)) && write_faults(X(APIC_EOI), 1));
    check_true("ESR takes nothing but 0", write_faults(X(APIC_ESR), 1) && !write_faults(X(APIC_ESR), 0));
    check_true("TPR, reserved bits", write_faults(X(APIC_TPR), 0x100));
    check_true("SVR, upper half", write_faults(X(APIC_SVR), 1ull << 32));
    check_true("LVT timer, reserved bits", write_faults(X(APIC_LVT_TIMER), 1u << 20));
    check_true("MSRs of no register fault", read_faults(X(0x10)) && read_faults(X2APIC_MSR + 0x40));
    wrmsr(X(APIC_TPR), 0x70);
    check("CR8 follows TPR", read_cr8(), 7);
    write_cr8(0);
    check("TPR follows CR8", rdmsr(X(APIC_TPR)), 0);
}

static void ipis(void)
{
    wrmsr(0x83f, 0x41); // SELF IPI
    check("SELF IPI is pending", rdmsr(X(APIC_IRR) + 2) >> 1 & 1, 1);
    wrmsr(0x83f, 0x61);
    take(2);
    check("SELF IPI, highest first", came(), 0x6141);
    check_true("SELF IPI cannot be read", read_faults(0x83f));
    wrmsr(X(APIC_ICR), rdmsr(X(APIC_ID)) << 32 | ICR_ASSERT | 0x51);
    take(1);
    check("ICR to our own ID", came(), 0x51);
    wrmsr(X(APIC_ICR), ICR_SELF | ICR_ASSERT | 0x52);
    take(1);
    check("ICR to self", came(), 0x52);
    wrmsr(X(APIC_ICR), rdmsr(X(APIC_LDR)) << 32 | ICR_LOGICAL | ICR_ASSERT | 0x53);
    take(1);
    check("ICR to our own logical ID", came(), 0x53);
    wrmsr(X(APIC_ICR), 0xffffffffull << 32 | ICR_ASSERT | 0x54);
    take(1);
    check("ICR to everybody", came(), 0x54);
    wrmsr(X(APIC_ICR), 0x00fedcbaull << 32 | ICR_ASSERT | 0x55);
    take(1);
    check("ICR to nobody", came(), 0);
    check("ICR reads back", rdmsr(X(APIC_ICR)) & ~(u64)ICR_PENDING, 0x00fedcba00004055);
}

static void timer(void)
{
    wrmsr(X(APIC_DIVIDE), 0xb);
    wrmsr(X(APIC_LVT_TIMER), 0x51);
    wrmsr(X(APIC_INITIAL_COUNT), 10000);
    sti_hlt_cli();
    check("one-shot", came(), 0x51);

    if (!cpu_has(1, 0, 2, 24)) {
        skip("TSC deadline", "no such mode");
        return;
    }
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000);
    check("deadline is nothing outside its mode", rdmsr(MSR_TSC_DEADLINE), 0);
    wrmsr(X(APIC_LVT_TIMER), LVT_TSC_DEADLINE | 0x52);
    asm volatile("mfence" ::: "memory");
    wrmsr(X(APIC_INITIAL_COUNT), 10);
    check("initial count is nothing in deadline mode", rdmsr(X(APIC_CURRENT_COUNT)), 0);
    u64 deadline = rdtsc() + 1000000;
    wrmsr(MSR_TSC_DEADLINE, deadline);
    sti_hlt_cli();
    u64 now = rdtsc();
    check("deadline", came(), 0x52);
    check_true("not before its time", now >= deadline);
    check("then it is disarmed", rdmsr(MSR_TSC_DEADLINE), 0);
    take(100);
    check("and comes once", came(), 0);
    wrmsr(MSR_TSC_DEADLINE, 1);
    take(100);
    check("a deadline in the past comes at once", came(), 0x52);
    deadline = rdtsc() + 1000000000000;
    wrmsr(MSR_TSC_DEADLINE, deadline);
    check_true("a deadline far away reads back", rdmsr(MSR_TSC_DEADLINE) == deadline);
    do { // a host that is busy may keep us from disarming in time: then once more
        take(100);
        came();
        deadline = rdtsc() + 1000000;
        wrmsr(MSR_TSC_DEADLINE, deadline);
        wrmsr(MSR_TSC_DEADLINE, 0);
    } while (rdtsc() >= deadline);
    u64 until = deadline + 1000000;
    while (rdtsc() < until)
        sti_nop_cli();
    check("0 disarms", came(), 0);
    wrmsr(X(APIC_LVT_TIMER), LVT_MASKED | LVT_TSC_DEADLINE | 0x52);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000);
    until = rdtsc() + 1000000;
    while (rdtsc() < until)
        pause();
    take(10);
    check("masked, it passes silently", came(), 0);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000000000);
    wrmsr(X(APIC_LVT_TIMER), 0x51);
    check("leaving the mode disarms", rdmsr(MSR_TSC_DEADLINE), 0);
}

// The APIC goes off and on again, which only reset could do in the days of the P6.
static void off_and_on(void)
{
    if (left_out("APIC off")) {
        skip("from off straight to x2APIC", "nor this");
        skip("off, xAPIC, x2APIC", "nor this");
        return;
    }
    u64 base = rdmsr(MSR_APIC_BASE) & ~(u64)X2APIC_ENABLE;
    wrmsr(MSR_APIC_BASE, base & ~(u64)APIC_ENABLE);
    check("APIC off", rdmsr(MSR_APIC_BASE) & (APIC_ENABLE | X2APIC_ENABLE), 0);
    check_true("from off straight to x2APIC", write_faults(MSR_APIC_BASE, base | APIC_ENABLE | X2APIC_ENABLE));
    wrmsr(MSR_APIC_BASE, base);
    wrmsr(MSR_APIC_BASE, base | X2APIC_ENABLE);
    check("off, xAPIC, x2APIC", rdmsr(MSR_APIC_BASE) & (APIC_ENABLE | X2APIC_ENABLE), APIC_ENABLE | X2APIC_ENABLE);
}

static void spurious(struct trap *t)
{
    (void)t;
}

int main(void)
{
    for (unsigned v = 0x40; v < 0x80; v++)
        trap_handlers[v] = note;
    trap_handlers[0xff] = spurious;
    if (!cpu_has(1, 0, 2, 21)) {
        skip("x2APIC", "no such mode");
        return 0;
    }
    modes();
    registers();
    ipis();
    timer();
    off_and_on();
    check_true("no interrupt between STI and HLT", !sti_shadow_failed);
    return 0;
}
