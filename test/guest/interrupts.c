// When an interrupt is taken, and what the CPU does then: the IF flag and the shadows of STI and MOV SS, gates and
// stacks, HLT, NMI; and the old way in, PIC and PIT. (SDM vol. 3, chapter 6.)
//
// The interrupts are IPIs to ourselves, made pending while IF = 0: so the moment when the CPU may take one is exactly
// the instruction under test, and the saved RIP tells where it took it.
#include "lib/apic.h"

#define VECTOR 0x51

// ---- which instruction lets it in ----

#define CODE(name, text)                                                                                               \
    asm(".pushsection .text; .balign 16; " #name ": " text "; cli; int $0x80; .popsection");                           \
    extern const u8 name[]

// Every instruction is one byte long but where the comment says otherwise: RIP counts instructions.
CODE(after_sti, "sti; nop; nop; nop");
CODE(sti_cli, "sti; cli; nop; nop");
CODE(sti_sti, "sti; sti; nop; nop");
CODE(after_popf, "push $0x202; popf; nop; nop");                 // 5 + 1
CODE(sti_mov_ss, "mov %ss, %eax; sti; mov %eax, %ss; nop; nop"); // 2 + 1 + 2
CODE(sti_hlt, "sti; hlt; nop");
CODE(mov_ss_popf, "push $0x202; mov %ss, %eax; mov %eax, %ss; popf; nop; nop"); // 5 + 2 + 2 + 1
CODE(rep_string, "sti; nop; mov $100, %ecx; lea 0x7000, %rsi; mov %rsi, %rdi; rep movsb");
CODE(to_user, "nop; nop");

static void pending_then(const char *name, const u8 *code, long want)
{
    apic_make_pending(VECTOR);
    run_kernel(code);
    bool taken = last.vector == VECTOR;
    long at = taken ? (long)(last.rip - (ulong)code) : -1;
    if (verdict(name, at == want))
        say("%s", "");
    if (taken)
        say("at +%x", (ulong)at);
    else
        say("not taken");
    if (at != want)
        say(", want +%x", (ulong)want);
    say("\n");
    if (!taken)
        run_kernel(after_sti);
    apic_eoi();
}

static void shadows(void)
{
    pending_then("STI, one more instruction", after_sti, 2);
    pending_then("STI, CLI", sti_cli, -1);
    pending_then("STI, STI, only the first has a shadow", sti_sti, 2);
    pending_then("POPF has none", after_popf, 6);
    pending_then("STI, MOV SS, a shadow of its own", sti_mov_ss, 6);
    pending_then("MOV SS, POPF", mov_ss_popf, 10);
    pending_then("STI, HLT", sti_hlt, 2);
    pending_then("IF = 0", (const u8 *)(ulong)to_user, -1);

    // IRET to code with IF = 1: before its first instruction.
    apic_make_pending(VECTOR);
    run_at(&(struct start){(ulong)to_user, KCODE64, 0x202, (ulong)case_stack_top, KDATA});
    check_trap("IRET has none", VECTOR, NOERR, (ulong)to_user, (ulong)to_user, -1);
    check("it saw IF", last.flags & FLAG_IF, FLAG_IF);
    apic_eoi();

    // MOV to CR8 that uncovers it: before the next instruction.
    write_cr8(15);
    apic_make_pending(VECTOR);
    run_kernel(after_sti);
    check("TPR above it", last.vector, NONE);
    write_cr8(0);
    run_kernel(after_sti);
    check("TPR lowered", last.vector, VECTOR);
    apic_eoi();
}

// ---- gates and stacks ----

static struct trap seen;
static ulong seen_flags, seen_ss, seen_frame;

static void look(struct trap *t)
{
    seen = *t;
    seen_flags = read_flags();
    seen_frame = (ulong)&t->rip;
    asm volatile("mov %%ss, %0" : "=r"(seen_ss));
    if (t->vector == VECTOR)
        apic_eoi();
}

CODE(odd_stack, "lea -5(%rsp), %rsp; int $0x60; lea 5(%rsp), %rsp");
CODE(with_flags, "pushq $0x247ed7 & ~0x100; popfq; int $0x60; pushq $2; popfq");

asm(".pushsection .user.text; user_int60: int $0x60; int $0x80; .popsection");
extern const u8 user_int60[];

static void gates(void)
{
    trap_handlers[0x60] = look;
    run_kernel(odd_stack);
    // run_kernel's CALL has pushed 8 bytes; then -5; aligned down to 16; then SS, RSP, RFLAGS, CS and RIP.
    check("the frame is aligned to 16", (ulong)case_stack_top - seen_frame, 16 + 40);
    check("the saved RSP is not", (ulong)case_stack_top - seen.rsp, 13);
    check("SS stays in the same ring", seen_ss, KDATA);

    run_kernel(with_flags);
    check("flags saved", seen.flags, 0x247ed7 & ~FLAG_TF);
    check("interrupt gate clears IF and NT, nothing of DF, AC, IOPL",
          seen_flags & (FLAG_IF | FLAG_NT | FLAG_TF | FLAG_AC | FLAG_IOPL3), FLAG_AC | FLAG_IOPL3);
    set_gate(0x60, (ulong)trap_stubs + 16 * 0x60, KCODE64, GATE_TRAP, 0);
    run_kernel(with_flags);
    check("trap gate leaves IF", seen_flags & (FLAG_IF | FLAG_NT), FLAG_IF);

    set_gate(0x60, (ulong)trap_stubs + 16 * 0x60, KCODE64, GATE_INTERRUPT | GATE_DPL3, 0);
    run_user(user_int60);
    check("from ring 3, stack of the TSS", tss.rsp[0] - seen_frame, 40);
    check("from ring 3, SS is null", seen_ss, 0);
    check("from ring 3, SS saved", seen.ss, UDATA | 3);
    check("from ring 3, CS saved", seen.cs, UCODE64 | 3);
    check("from ring 3, RSP saved", seen.rsp, (ulong)user_stack_top);

    set_gate(0x60, (ulong)trap_stubs + 16 * 0x60, KCODE64, GATE_INTERRUPT, 3);
    run_kernel(odd_stack);
    check("IST 3, its stack", tss.ist[2] - seen_frame, 40);
    check("IST 3, SS stays in the same ring", seen_ss, KDATA);
    tss.ist[2] -= 3;
    run_kernel(odd_stack);
    check("IST, misaligned, is aligned down", tss.ist[2] + 3 - seen_frame, 56);
    tss.ist[2] += 3;
    default_gate(0x60, 0);

    // A conforming kernel code segment: the handler runs in the caller's ring. DPL 0 conforming, from ring 3: ring 3.
    // (Then CPL does not change, no stack switch.) A gate to it is checked in the segmentation guest.
    trap_handlers[0x60] = 0;
}

// ---- HLT ----

static unsigned count;

static void count_it(struct trap *t)
{
    (void)t;
    count++;
    apic_eoi();
}

static void halting(void)
{
    trap_handlers[VECTOR] = count_it;
    count = 0;
    apic_make_pending(VECTOR);
    sti_hlt_cli();
    check("HLT with an interrupt pending", count, 1);

    // A timer interrupt wakes; the one after HLT is the next instruction.
    apic_write(APIC_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, VECTOR);
    apic_write(APIC_INITIAL_COUNT, 100000);
    sti_hlt_cli();
    check("HLT until the timer", count, 2);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    trap_handlers[VECTOR] = 0;
}

// ---- NMI ----

static unsigned nmis, depth, deepest;
static void (*in_nmi)(void);

static void on_nmi(struct trap *t)
{
    (void)t;
    nmis++;
    depth++;
    if (depth > deepest)
        deepest = depth;
    if (nmis == 1 && in_nmi)
        in_nmi();
    depth--;
}

static u32 own_id;

static void send_nmi(void)
{
    apic_ipi(own_id, ICR_NMI | ICR_ASSERT);
    for (unsigned i = 0; i < 1000; i++)
        pause();
}

static void nothing(struct trap *t)
{
    (void)t;
}

static void nmi_then_int3(void)
{
    send_nmi();
    asm volatile("int3" ::: "memory");
    pause();
}

static void nmi(void)
{
    trap_handlers[NMI] = on_nmi;
    trap_handlers[BP] = nothing;
    send_nmi();
    check("NMI with IF = 0", nmis, 1);
    nmis = deepest = 0;
    in_nmi = send_nmi;
    send_nmi();
    check("NMI in an NMI handler waits for IRET", nmis << 4 | deepest, 0x21);
    nmis = deepest = 0;
    in_nmi = nmi_then_int3;
    send_nmi();
    check("any IRET lets it in", nmis << 4 | deepest, 0x22);
    nmis = deepest = 0;
    in_nmi = 0;
    ioapic_route(2, ICR_NMI, (u8)own_id); // the PIT is at pin 2
    pit_start(0, 2, 2000);                // again and again: one NMI alone might come before the HLT
    asm volatile("hlt");
    check_true("HLT with IF = 0 until an NMI", nmis);
    ioapic_route(2, LVT_MASKED, 0);
    trap_handlers[NMI] = trap_handlers[BP] = 0;
}

// ---- PIC and PIT ----

static unsigned ticks;
static u16 isr_seen;

static void on_tick(struct trap *t)
{
    ticks++;
    isr_seen = pic_read(true);
    if (t->vector >= 0x28) {
        cmos_read(0x0c); // or the RTC keeps its line up
        outb(0xa0, 0x20);
    }
    outb(0x20, 0x20);
}

static void pic(void)
{
    apic_write(APIC_LVT_LINT0, LVT_EXTINT);
    pic_init(0x20);
    trap_handlers[0x20] = trap_handlers[0x28] = on_tick;
    check("PIC mask reads back", inb(0x21) | inb(0xa1) << 8, 0xffff);

    pit_start(0, 0, 1000);
    while (!(pic_read(false) & 1))
        pause();
    sti_nop_cli();
    check("PIT reaches the PIC, masked", ticks, 0);
    pic_mask(0xfffe);
    sti_nop_cli();
    check("unmasked", ticks, 1);
    check("in service then", isr_seen, 1);
    check("not any more after EOI", pic_read(true) | pic_read(false), 0);

    pit_start(0, 0, 1000);
    sti_hlt_cli();
    check("HLT until the PIT", ticks, 2);

    pit_start(0, 2, 2000);
    while (ticks < 7)
        sti_hlt_cli();
    check("PIT in mode 2 goes on", ticks < 7 ? ticks : 7, 7); // on a busy host two come together
    pit_start(0, 0, 0);
    pic_mask(0xffff);
    sti_nop_cli();
    sti_nop_cli();

    // The RTC's periodic interrupt comes through the second chip.
    ticks = 0;
    cmos_write(0x0a, 0x26);                            // 1024 a second
    cmos_write(0x0b, (cmos_read(0x0b) & 0x0f) | 0x40); // periodic interrupt
    cmos_read(0x0c);
    pic_mask(0xfefb);
    while (ticks < 3)
        sti_hlt_cli();
    check("RTC through the cascade", isr_seen, 0x104);
    cmos_write(0x0b, cmos_read(0x0b) & 0x0f);
    cmos_read(0x0c);
    pic_mask(0xffff);

    // Channel 2 counts while port 0x61 opens its gate; its output shows in bit 5.
    outb(0x61, (inb(0x61) & 0xfc) | 1);
    pit_start(2, 0, 1000);
    check("PIT channel 2 counting", inb(0x61) & 0x21, 1);
    while (!(inb(0x61) & 0x20))
        pause();
    check("PIT channel 2 done", inb(0x61) & 0x21, 0x21);
    outb(0x61, inb(0x61) & 0xfc);
    apic_write(APIC_LVT_LINT0, LVT_MASKED);
}

int main(void)
{
    apic_enable();
    own_id = apic_read(APIC_ID) >> 24;
    shadows();
    gates();
    halting();
    nmi();
    pic();
    check_true("no interrupt between STI and HLT", !sti_shadow_failed);
    return 0;
}
