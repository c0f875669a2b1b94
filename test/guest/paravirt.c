// KVM's paravirtual interface as every engine offers it: what CPUID says, steal time, EOIs noted in memory, and that
// there are no hypercalls. (Linux, Documentation/virt/kvm/x86/cpuid.rst, msr.rst.)
//
// What a hypervisor may do but need not (offer to skip an EOI, say that a CPU is away) is used here if it does it, and
// not demanded.
#include "lib/apic.h"

#define LEAF 0x40000000u
#define FEATURES 0x40000001u
#define MSR_STEAL_TIME 0x4b564d03u
#define MSR_PV_EOI 0x4b564d04u

enum { STEAL_TIME = 5, PV_EOI = 6, PV_UNHALT = 7, SEND_IPI = 11 };
enum { ROUNDS = 1000, VECTOR = 0x61 };

#define CODE(name, section, text)                                                                                      \
    asm(".pushsection " section "; .balign 16; " #name ": " text "; int $0x80; .popsection");                          \
    extern const u8 name[]
CODE(try_wrmsr, ".text", "wrmsr");
CODE(user_vmmcall, ".user.text", "mov $5, %eax; vmmcall");

static bool write_faults(u32 msr, u64 v)
{
    run_at(&(struct start){(ulong)try_wrmsr, KCODE64, 2, (ulong)case_stack_top, KDATA, (u32)v, msr, v >> 32});
    return last.vector == GP && last.error == 0;
}

static ulong hypercall(ulong nr, ulong a, ulong b, ulong c, ulong d)
{
    asm volatile("vmmcall" : "+a"(nr) : "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return nr;
}

// ---- EOI ----

static volatile u32 eoi;
static volatile unsigned came;

static void on_ipi(struct trap *t)
{
    bool offered;
    (void)t;
    asm volatile("btrl $0, %0" : "+m"(eoi), "=@ccc"(offered)::"memory");
    if (!offered)
        apic_eoi();
    came++;
}

static void check_eoi(void)
{
    ulong at = (ulong)&eoi;
    check_true("EOI word, reserved bit", write_faults(MSR_PV_EOI, at | 3));
    check_true("EOI word, no RAM there", write_faults(MSR_PV_EOI, 1ul << 38 | 1));
    wrmsr(MSR_PV_EOI, at | 1);
    check("EOI word, reads back", rdmsr(MSR_PV_EOI) - at, 1);
    for (unsigned i = 0; i < ROUNDS; i++) {
        apic_make_pending(VECTOR);
        sti_nop_cli();
    }
    check("EOI word, every interrupt comes", came, ROUNDS);
    // One more of a lower class, sent from within the handler's time: it must not get lost.
    apic_make_pending(VECTOR);
    apic_make_pending(VECTOR - 0x10);
    sti_nop_cli();
    sti_nop_cli();
    check("EOI word, two at once", came, ROUNDS + 2);
    check("nothing stays in service", apic_bit(APIC_ISR, VECTOR) || apic_bit(APIC_ISR, VECTOR - 0x10), 0);
}

// ---- steal time ----

static struct {
    u64 ns;
    u32 version, flags;
    u8 away, rest[47];
} __attribute__((aligned(64))) steal;

static void check_steal_time(void)
{
    check_true("steal time, reserved bits",
               write_faults(MSR_STEAL_TIME, (ulong)&steal | 3) && write_faults(MSR_STEAL_TIME, (ulong)&steal | 0x21));
    wrmsr(MSR_STEAL_TIME, 1ul << 38 | 1); // no RAM: nothing happens
    check("steal time, takes any address", rdmsr(MSR_STEAL_TIME), 1ul << 38 | 1);
    wrmsr(MSR_STEAL_TIME, (ulong)&steal | 1);
    for (u64 until = rdtsc() + 10000000; rdtsc() < until;) {
        apic_make_pending(VECTOR);
        sti_nop_cli();
    }
    check_true("steal time, written", *(volatile u32 *)&steal.version >= 2);
    check("steal time, complete", *(volatile u32 *)&steal.version & 1, 0);
    check("steal time, here", *(volatile u8 *)&steal.away, 0);
    wrmsr(MSR_STEAL_TIME, 0);
}

int main(void)
{
    u32 r[4];
    cpuid(LEAF, 0, r);
    if (r[0] < FEATURES || r[1] != 0x4b4d564b || r[2] != 0x564b4d56 || r[3] != 0x4d) {
        skip("KVM's interface", "another hypervisor, or none");
        return 0;
    }
    cpuid(FEATURES, 0, r);
    u32 known = 1u << STEAL_TIME | 1u << PV_EOI | 1u << PV_UNHALT | 1u << SEND_IPI;
    check("what is offered", r[0] & known, 1u << STEAL_TIME | 1u << PV_EOI);
    check("a hypercall that there is not", hypercall(12345, 0, 0, 0, 0), (ulong)-1000);
    run_user(user_vmmcall);
    check("a hypercall by a program", last.rax, (ulong)-1);

    trap_handlers[VECTOR] = trap_handlers[VECTOR - 0x10] = on_ipi;
    apic_enable();
    check_eoi();
    check_steal_time();
    return 0;
}
