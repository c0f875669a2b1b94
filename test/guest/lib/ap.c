// See ap.h.
#include "ap.h"

#define TRAMPOLINE 0x8000ul

extern u8 ap_trampoline[], ap_trampoline_end[], ap_seen_cs[], ap_seen_cr0[];
u64 ap_stack;
_Noreturn void ap_main(void);

static u8 stacks[AP_MAX][16384] __attribute__((aligned(16)));
static struct tss ap_tss[AP_MAX];
static volatile unsigned starting, up;
static void (*volatile start_entry)(unsigned);

// Called by ap.S, on the new CPU.
_Noreturn void ap_main(void)
{
    unsigned cpu = starting;
    void (*entry)(unsigned) = start_entry;
    asm volatile("ltr %w0" ::"r"(TSS_SEL(cpu)));
    apic_enable();
    __atomic_store_n(&up, cpu, __ATOMIC_RELEASE);
    entry(cpu);
    for (;;)
        asm volatile("cli; hlt");
}

bool ap_start(unsigned cpu, void (*entry)(unsigned), struct ap_seen *seen)
{
    ulong tss_at = (ulong)&ap_tss[cpu];
    ap_tss[cpu].rsp[0] = ap_tss[cpu].ist[0] = (ulong)stacks[cpu] + 8192;
    ap_tss[cpu].io_bitmap = TSS_BYTES;
    gdt[TSS_SEL(cpu) / 8] = segment((u32)tss_at, TSS_BYTES - 1, 0x89, 0);
    gdt[TSS_SEL(cpu) / 8 + 1] = tss_at >> 32;
    ap_stack = (ulong)stacks[cpu] + sizeof stacks[cpu];
    for (u8 *p = ap_trampoline; p < ap_trampoline_end; p++)
        *(volatile u8 *)(TRAMPOLINE + (ulong)(p - ap_trampoline)) = *p;
    start_entry = entry;
    starting = cpu;
    up = 0;

    apic_ipi(cpu, ICR_INIT | ICR_LEVEL | ICR_ASSERT);
    apic_ipi(cpu, ICR_INIT | ICR_LEVEL);
    // A real CPU wants 10 ms after INIT, and the SIPI again if nothing happens for 200 us. We wait for less: emulators.
    for (unsigned i = 0; i < 100000; i++)
        pause();
    for (unsigned attempt = 0; attempt < 2 && !up; attempt++) {
        apic_ipi(cpu, ICR_STARTUP | ICR_ASSERT | TRAMPOLINE >> 12);
        for (u64 until = rdtsc() + 3000000000; !up && rdtsc() < until;)
            pause();
    }
    if (seen) {
        seen->cs = *(volatile u32 *)(TRAMPOLINE + (ulong)(ap_seen_cs - ap_trampoline));
        seen->cr0 = *(volatile u32 *)(TRAMPOLINE + (ulong)(ap_seen_cr0 - ap_trampoline));
    }
    return up == cpu;
}
