// Traps: the IDT, the TSS, and what happens with an exception.
//
// An exception or interrupt goes, in this order, to the handler that the guest set for its vector; to the end of the
// run that is under way; or it is unexpected and ends the guest with a panic line that says where.
#include "guest.h"

struct trap last;
trap_handler trap_handlers[256];

u64 idt[256 * IDT_WORDS] __attribute__((aligned(16)));
struct table_pointer idt_pointer = {sizeof idt - 1, (ulong)idt};

struct tss tss __attribute__((aligned(4096)));

static u8 trap_stack[8192] __attribute__((aligned(16)));
static u8 ist_stack[4][4096] __attribute__((aligned(16)));

static bool running;
_Noreturn void run_end(void); // trap.S
void trap_dispatch(struct trap *t);

bool sti_shadow_failed;

// An interrupt that comes between the STI and the HLT of sti_hlt_cli() comes one instruction early, and the HLT would
// wait for it in vain: it is stepped over, so that this is told and not a guest that hangs.
static void look_for_early_interrupt(struct trap *t)
{
    enum { STI = 0xfb, HLT = 0xf4 };
    if (t->vector < 32 || t->cs != KCODE || ((u8 *)t->rip)[0] != HLT || ((u8 *)t->rip)[-1] != STI)
        return;
    sti_shadow_failed = true;
    t->rip++;
}

void trap_dispatch(struct trap *t)
{
    if (trap_handlers[t->vector]) {
        look_for_early_interrupt(t);
        trap_handlers[t->vector](t);
        return;
    }
#ifdef __x86_64__
    ulong rsp = t->rsp, ss = t->ss;
#else
    bool outer = (t->cs & 3) || (t->flags & 0x20000);
    ulong rsp = outer ? t->rsp : (ulong)&t->rsp, ss = outer ? t->ss : KDATA;
#endif
    // Runs are the first CPU's business: a trap of another one never ends them.
    u16 task;
    asm("str %0" : "=r"(task));
    if (!running || (task >= TSS_SEL(1) && task < FREE_SEL))
        panic("unexpected %t at %x:%x, flags %x, rsp %x:%x, cr2 %x", t->vector, (long)t->error, t->cs, t->rip, t->flags,
              ss, rsp, read_cr2());
    running = false;
    memcpy(&last, t, offsetof(struct trap, rsp));
    last.rsp = rsp;
    last.ss = ss;
    last.cr2 = t->vector == PF ? read_cr2() : 0;
    if (t->vector == DONE)
        last.vector = NONE;
    run_end();
}

void set_gate(unsigned vector, ulong target, u16 selector, u8 type, u8 ist)
{
    u64 low =
        (target & 0xffff) | (u64)selector << 16 | (u64)ist << 32 | (u64)type << 40 | (u64)(target >> 16 & 0xffff) << 48;
    idt[vector * IDT_WORDS] = low;
#ifdef __x86_64__
    idt[vector * IDT_WORDS + 1] = target >> 32;
#endif
}

void default_gate(unsigned vector, u8 ist)
{
    set_gate(vector, (ulong)trap_stubs + 16 * vector, KCODE,
             vector == DONE ? GATE_INTERRUPT | GATE_DPL3 : GATE_INTERRUPT, ist);
}

u64 segment(u32 base, u32 limit, u8 access, u8 flags)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 |
           (u64)(flags & 15) << 52 | (u64)(base >> 24) << 56;
}

void traps_init(void)
{
    outb(0x21, 0xff); // the firmware may have left the PIC open
    outb(0xa1, 0xff);
    for (unsigned v = 0; v < 256; v++)
        default_gate(v, 0);
#ifdef __x86_64__
    tss.rsp[0] = (ulong)trap_stack + sizeof trap_stack;
    for (unsigned i = 0; i < 4; i++)
        tss.ist[i] = (ulong)ist_stack[i] + sizeof ist_stack[i];
    default_gate(DF, 1);
    asm volatile("lidt %0" ::"m"(idt_pointer));
#else
    tss.esp0 = (ulong)trap_stack + sizeof trap_stack;
    tss.ss0 = KDATA;
    (void)ist_stack;
    asm volatile("lidt %0" ::"m"(idt_pointer));
#endif
    tss.io_bitmap = TSS_BYTES; // beyond the limit: no port is allowed to ring 3
}

bool vendor_is_intel(void)
{
    u32 r[4];
    cpuid(0, 0, r);
    return r[1] == 0x756e6547; // "Genu"
}

void enter_kernel(const void *code); // trap.S
void enter_at(const struct start *s);

void run_kernel(const void *code)
{
    running = true;
    enter_kernel(code);
}

void run_at(const struct start *s)
{
    running = true;
    enter_at(s);
}

void run_user(const void *code)
{
    run_at(&(struct start){(ulong)code, UCODE | 3, 2, (ulong)user_stack_top, UDATA | 3});
}

void run_cases(void (*prepare)(void))
{
    for (const struct fault_case *c = cases_begin; c < cases_end; c++) {
        if (left_out(c->name))
            continue;
        if (prepare)
            prepare();
        if (c->in & CASE_IST)
            for (unsigned v = 0; v < 32; v++)
                default_gate(v, 1);
        switch (c->in & 0xff) {
        case CASE_KERNEL:
            run_kernel(c->code);
            break;
        case CASE_USER:
            run_user(c->code);
            break;
        case CASE_USER32:
            run_at(&(struct start){(ulong)c->code, UCODE32 | 3, 2, (ulong)user_stack_top, UDATA | 3});
            break;
        }
        if (c->in & CASE_IST)
            for (unsigned v = 0; v < 32; v++)
                default_gate(v, v == DF);
        check_trap(c->name, c->vector, c->error, c->rip, c->in & CASE_ANYRIP ? c->rip : (ulong)c->code, c->cr2);
    }
}
