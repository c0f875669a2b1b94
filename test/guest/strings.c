// String instructions: how far they get when a page is missing, both directions, overlaps, 32-bit addresses, ports,
// interrupts in the middle. (SDM vol. 2, REP; vol. 1, 7.3.9.)
#include "lib/apic.h"
#include "lib/page.h"

#define SRC 0x123456600000ul
#define DST 0x123456800000ul
// Each window: two pages that are there and one that is not, above and below.

static u8 *source, *target; // the same pages, identity mapped; two each, not adjacent in physical memory

#define CODE(name, text)                                                                                               \
    asm(".pushsection .text; .balign 16; " #name ": " text "; int $0x80; .popsection");                                \
    extern const u8 name[]
CODE(rep_movsb, "rep movsb");
CODE(rep_movsw, "rep movsw");
CODE(rep_movsq, "rep movsq");
CODE(rep_stosb, "rep stosb");
CODE(rep_stosq, "rep stosq");
CODE(rep_lodsb, "rep lodsb");
CODE(repe_cmpsb, "repe cmpsb");
CODE(repne_scasb, "repne scasb");
CODE(repne_scasl, "repne scasl");
CODE(movsb, "movsb");
CODE(cmpsb, "cmpsb");
CODE(addr32_movsb, "addr32 rep movsb");
CODE(addr32_lodsb, "addr32 lodsb; addr32 lodsb");
CODE(fs_movsb, "fs rep movsb");
CODE(rep_outsb, "rep outsb");
CODE(rep_insb, "rep insb");
CODE(insb, "insb");
CODE(outsb, "outsb");

static void run(const u8 *code, ulong rcx, ulong rsi, ulong rdi, ulong flags, ulong rax, ulong rdx)
{
    run_at(&(struct start){(ulong)code, KCODE64, flags | 2, (ulong)case_stack_top, KDATA, rax, rcx, rdx, 0, rsi, rdi});
}

// One line: how it ended, and RCX, RSI, RDI, as distances from the windows.
static void check_end(const char *name, ulong vector, ulong error, ulong cr2, ulong rcx, ulong rsi, ulong rdi)
{
    bool good = last.vector == vector && (vector != PF || (last.error == error && last.cr2 == cr2)) &&
                last.rcx == rcx && last.rsi == rsi && last.rdi == rdi;
    if (verdict(name, good))
        say("%t rcx=%x rsi=%x rdi=%x\n", last.vector, vector == PF ? (long)last.error : NOERR, last.rcx, last.rsi,
            last.rdi);
    else
        say("got %t cr2=%x rcx=%x rsi=%x rdi=%x, want %t cr2=%x rcx=%x rsi=%x rdi=%x\n", last.vector, (long)last.error,
            last.cr2, last.rcx, last.rsi, last.rdi, vector, (long)error, cr2, rcx, rsi, rdi);
}

static void fill(void)
{
    for (unsigned i = 0; i < 8192; i++) {
        *(volatile u8 *)(SRC + i) = (u8)(i * 7 + (i >> 8));
        *(volatile u8 *)(DST + i) = 0xee;
    }
}

static bool copied(ulong from, ulong to, ulong n)
{
    for (ulong i = 0; i < n; i++)
        if (*(volatile u8 *)(from + i) != *(volatile u8 *)(to + i))
            return false;
    return true;
}

static bool untouched(ulong at, ulong n)
{
    for (ulong i = 0; i < n; i++)
        if (*(volatile u8 *)(at + i) != 0xee)
            return false;
    return true;
}

// ---- faults in the middle ----

static void faults(void)
{
    fill();
    run(rep_movsb, 100, SRC + 10, DST + 8192 - 30, 0, 0, 0);
    check_end("REP MOVSB, target page missing", PF, 2, DST + 8192, 70, SRC + 40, DST + 8192);
    check_true("what was copied until then", copied(SRC + 10, DST + 8192 - 30, 30) && untouched(DST, 8192 - 30));
    fill();
    run(rep_movsb, 5000, SRC + 8192 - 4500, DST + 100, 0, 0, 0);
    check_end("REP MOVSB, source page missing", PF, 0, SRC + 8192, 500, SRC + 8192, DST + 4600);
    check_true("what was copied over three pages",
               copied(SRC + 8192 - 4500, DST + 100, 4500) && untouched(DST + 4600, 3592));
    fill();
    run(rep_movsq, 10, SRC, DST + 8192 - 20, 0, 0, 0);
    check_end("REP MOVSQ, an element across the end", PF, 2, DST + 8192, 8, SRC + 16, DST + 8192 - 4);
    check_true("no part of it is written", copied(SRC, DST + 8192 - 20, 16) && untouched(DST + 8192 - 4, 4));
    run(rep_movsw, 10, SRC + 8192 - 5, DST, 0, 0, 0);
    check_end("REP MOVSW, an element across the end of the source", PF, 0, SRC + 8192, 8, SRC + 8192 - 1, DST + 4);
    run(rep_movsb, 10, SRC + 8192, DST + 8192, 0, 0, 0);
    check_end("REP MOVSB, both missing, the source comes first", PF, 0, SRC + 8192, 10, SRC + 8192, DST + 8192);
    run(rep_stosb, 10000, 0, DST, 0, 0x55, 0);
    check_end("REP STOSB over two pages", PF, 2, DST + 8192, 10000 - 8192, 0, DST + 8192);
    check_true("all of it", *(u8 *)DST == 0x55 && *(u8 *)(DST + 8191) == 0x55);
    run(rep_stosq, 3, 0, DST - 8, 0, 0, 0);
    check_end("REP STOSQ, first element missing", PF, 2, DST - 8, 3, 0, DST - 8);
    run(rep_lodsb, 100, SRC + 8192 - 10, 0, 0, 0, 0);
    check_end("REP LODSB", PF, 0, SRC + 8192, 90, SRC + 8192, 0);
    fill();
    for (unsigned i = 100; i < 8192; i++)
        *(u8 *)(DST + i - 100) = *(u8 *)(SRC + i);
    run(repe_cmpsb, 9000, SRC + 100, DST, 0, 0, 0);
    check_end("REPE CMPSB", PF, 0, SRC + 8192, 9000 - 8092, SRC + 8192, DST + 8092);
    *(u8 *)(DST + 5000) ^= 1;
    run(repe_cmpsb, 9000, SRC + 100, DST, 0, 0, 0);
    check_end("REPE CMPSB that ends before", NONE, 0, 0, 9000 - 5001, SRC + 5101, DST + 5001);
    check("REPE CMPSB, ZF", last.flags & FLAG_ZF, 0);
    for (unsigned i = 0; i < 8192; i++)
        *(u8 *)(DST + i) = 0xee;
    run(repne_scasb, 9000, 0, DST + 3, 0, 0x33, 0);
    check_end("REPNE SCASB", PF, 0, DST + 8192, 9000 - 8189, 0, DST + 8192);
    *(u32 *)(DST + 4094) = 0x12345678; // lies across the two pages
    run(repne_scasl, 9000, 0, DST + 2, 0, 0x12345678, 0);
    check_end("REPNE SCASD finds it across pages", NONE, 0, 0, 9000 - 1024, 0, DST + 4098);
    check("REPNE SCASD, ZF", last.flags & FLAG_ZF, FLAG_ZF);

    *entry_of(DST + 4096, 1) &= ~W;
    invlpg(DST + 4096);
    run(rep_stosb, 8192, 0, DST, 0, 0x66, 0);
    check_end("REP STOSB into a read-only page", PF, 3, DST + 4096, 4096, 0, DST + 4096);
    *entry_of(DST + 4096, 1) |= W;
    invlpg(DST + 4096);

    // A fault is no end: with the page there it goes on where it was.
    fill();
    map(DST + 8192, (ulong)new_page(), P | W);
    run(rep_movsb, 4096, SRC + 100, DST + 8192 - 100, 0, 0, 0);
    check_end("REP MOVSB, the page is there", NONE, 0, 0, 0, SRC + 4196, DST + 8192 + 3996);
    map(DST + 8192, 0, 0);
    invlpg(DST + 8192);
}

// ---- nothing to do ----

static void nothing_to_do(void)
{
    run(rep_movsb, 0, SRC - 1, DST - 1, 0, 0, 0);
    check_end("REP MOVSB of nothing", NONE, 0, 0, 0, SRC - 1, DST - 1);
    run(repe_cmpsb, 0, SRC - 1, DST - 1, FLAG_CF, 0, 0);
    check_end("REPE CMPSB of nothing", NONE, 0, 0, 0, SRC - 1, DST - 1);
    check("its flags stay", last.flags & (FLAG_CF | FLAG_ZF), FLAG_CF);
    run(rep_insb, 0, 0, DST - 1, 0, 0, 0x80);
    check_end("REP INSB of nothing", NONE, 0, 0, 0, 0, DST - 1);
}

// ---- downwards ----

static void downwards(void)
{
    fill();
    run(rep_movsb, 100, SRC + 8191, DST + 49, FLAG_DF, 0, 0);
    check_end("REP MOVSB downwards, page below missing", PF, 2, DST - 1, 50, SRC + 8141, DST - 1);
    check_true("what was copied downwards", copied(SRC + 8142, DST, 50) && untouched(DST + 50, 100));
    fill();
    run(rep_movsq, 100, SRC + 4096 + 20, DST + 4096, FLAG_DF, 0, 0);
    check_end("REP MOVSQ downwards over a page", NONE, 0, 0, 0, SRC + 4116 - 800, DST + 4096 - 800);
    check_true("copied in full", copied(SRC + 4116 - 792, DST + 4096 - 792, 800));
    run(rep_stosq, 2, 0, DST + 4, FLAG_DF, 0, 0);
    check_end("REP STOSQ downwards, an element across the beginning", PF, 2, DST - 4, 1, 0, DST - 4);
    run(repne_scasb, 9000, 0, DST + 100, FLAG_DF, 0x33, 0);
    check_end("REPNE SCASB downwards", PF, 0, DST - 1, 9000 - 101, 0, DST - 1);
}

// ---- overlaps: element by element, so a pattern spreads ----

static void overlaps(void)
{
    bool good = true;
    for (unsigned i = 0; i < 8192; i++)
        *(u8 *)(DST + i) = (u8)i;
    run(rep_movsb, 5000, DST, DST + 3, 0, 0, 0);
    for (unsigned i = 0; i < 5003; i++)
        good &= *(u8 *)(DST + i) == i % 3;
    check_true("REP MOVSB to 3 above spreads 3 bytes", good);
    for (unsigned i = 0; i < 8192; i++)
        *(u8 *)(DST + i) = (u8)(i * 31 >> 3);
    // The model, by hand.
    static u8 model[8192];
    for (unsigned i = 0; i < 8192; i++)
        model[i] = (u8)(i * 31 >> 3);
    for (unsigned i = 0; i < 600; i++)
        for (unsigned j = 0, v[8]; j < 16; j++) {
            if (j < 8)
                v[j] = model[8 * i + j];
            else
                model[8 * i + j - 8 + 5] = (u8)v[j - 8];
        }
    run(rep_movsq, 600, DST, DST + 5, 0, 0, 0);
    good = true;
    for (unsigned i = 0; i < 8192; i++)
        good &= *(u8 *)(DST + i) == model[i];
    check_true("REP MOVSQ to 5 above", good);
    for (unsigned i = 0; i < 8192; i++)
        *(u8 *)(DST + i) = (u8)(i ^ i >> 8);
    run(rep_movsb, 5000, DST + 7, DST, 0, 0, 0);
    good = true;
    for (unsigned i = 0; i < 5000; i++)
        good &= *(u8 *)(DST + i) == (u8)((i + 7) ^ (i + 7) >> 8);
    check_true("REP MOVSB to 7 below moves", good);
    for (unsigned i = 0; i < 8192; i++)
        *(u8 *)(DST + i) = (u8)i;
    run(rep_movsb, 5000, DST + 8000, DST + 8000 - 2, FLAG_DF, 0, 0);
    good = true;
    for (unsigned i = 0; i < 5000; i++)
        good &= *(u8 *)(DST + 7998 - i) == (u8)(i & 1 ? 7999 : 8000);
    check_true("REP MOVSB downwards spreads 2 bytes", good);
    // The same page under two addresses: they overlap though the addresses don't.
    map(SRC + 0x10000, *entry_of(DST, 1) & ADDRESS, P | W);
    invlpg(SRC + 0x10000);
    for (unsigned i = 0; i < 4096; i++)
        *(u8 *)(DST + i) = (u8)i;
    run(rep_movsb, 4000, SRC + 0x10000, DST + 1, 0, 0, 0);
    good = true;
    for (unsigned i = 0; i < 4001; i++)
        good &= *(u8 *)(DST + i) == 0;
    check_true("REP MOVSB overlapping through another address", good);
}

// ---- addresses ----

static void addresses(void)
{
    *(volatile u32 *)0x700000 = 0x44332211;
    *(volatile u32 *)0x700100 = 0;
    run(addr32_movsb, 0xabcd00000002, 0x123400700000, 0x567800700100, 0, 0, 0);
    check_end("32-bit addresses, upper halves do not count, and are cleared", NONE, 0, 0, 0, 0x700002, 0x700102);
    check("32-bit addresses, copied", *(volatile u32 *)0x700100, 0x2211);
    run(addr32_lodsb, 0, 0xffffffff, 0, 0, 0, 0);
    check_end("32-bit addresses wrap", NONE, 0, 0, 0, 1, 0);
    run(addr32_lodsb, 0, 0, 0, FLAG_DF, 0, 0);
    check_end("32-bit addresses wrap downwards", NONE, 0, 0, 0, 0xfffffffe, 0);
    wrmsr(MSR_FS_BASE, 0x600000);
    run(fs_movsb, 2, 0x100002, 0x700100, 0, 0, 0);
    check("FS prefix is for the source alone", *(volatile u32 *)0x700100, 0x4433);
    wrmsr(MSR_FS_BASE, 0);
    run(movsb, 5, 0x700000, 0x700100, 0, 0, 0);
    check_end("MOVSB without REP leaves RCX", NONE, 0, 0, 5, 0x700001, 0x700101);
    run(cmpsb, 5, 0x700001, 0x700101, 0, 0, 0);
    check_end("CMPSB without REP", NONE, 0, 0, 5, 0x700002, 0x700102);
}

// ---- ports ----

static void ports(void)
{
    static const char text[] = "ok   REP OUTSB: prints this\n";
    run(rep_outsb, sizeof text - 1, (ulong)text, 0, 0, 0, 0xe9);
    check("REP OUTSB, RCX", last.rcx, 0);
    *(u32 *)DST = 0;
    run(rep_insb, 3, 0, DST, 0, 0, 0x0eb); // a port of nobody
    check_end("REP INSB", NONE, 0, 0, 0, 0, DST + 3);
    check("REP INSB, what it read", *(u32 *)DST, 0xffffff);
    run(rep_insb, 10, 0, DST + 8192 - 4, 0, 0, 0x0eb);
    check_end("REP INSB, page missing", PF, 2, DST + 8192, 6, 0, DST + 8192);
    run(outsb, 0, SRC + 8192, 0, 0, 0, 0xe9);
    check_end("OUTSB, page missing", PF, 0, SRC + 8192, 0, SRC + 8192, 0);

    // A fault must come before the port is read. The PIC answers one read after a poll command by the number of the
    // pending input, the next by its IRR.
    pic_init(0x20);
    pit_start(0, 0, 10);
    while (!(pic_read(false) & 1))
        pause();
    pic_mask(0xfffe);
    outb(0x20, 0x0c);
    run(insb, 0, 0, DST + 8192, 0, 0, 0x20);
    check("INSB, page missing, the port is not read", last.vector << 8 | inb(0x20), PF << 8 | 0x80);
    outb(0x20, 0x20);
    pic_mask(0xffff);
}

// ---- interrupts ----

static unsigned ticks;
static struct trap seen;

static void on_tick(struct trap *t)
{
    ticks++;
    seen = *t;
    apic_eoi();
}

CODE(long_stos, "sti; rep stosb; nop; cli");

static void interrupts(void)
{
    trap_handlers[0x51] = on_tick;
    apic_enable();
    apic_write(APIC_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, 0x51);
    // The timer is set for a time in which some of the bytes are done, but hardly all. If it does fall into the
    // instruction, RIP points to it, RF is set, and the registers say how far it is.
    bool consistent = true, resumable = true;
    for (unsigned i = 0; i < 20; i++) {
        memset((void *)0x800000, 0, 0x400000);
        ticks = 0;
        apic_write(APIC_INITIAL_COUNT, 1000 << (i / 2));
        run(long_stos, 0x400000, 0, 0x800000, 0, 0x77, 0);
        consistent &= last.vector == NONE && last.rcx == 0 && last.rdi == 0xc00000;
        if (ticks && seen.rip == (ulong)long_stos + 1 && seen.rcx != 0x400000) {
            consistent &= seen.rdi == 0xc00000 - seen.rcx;
            resumable &= !!(seen.flags & FLAG_RF);
        }
        apic_write(APIC_INITIAL_COUNT, 0);
        sti_nop_cli();
        for (ulong at = 0x800000; at < 0xc00000; at += 8)
            consistent &= *(u64 *)at == 0x7777777777777777;
    }
    check_true("REP STOSB of 4 MiB, interrupted", consistent);
    check_true("RF is set if it was in the middle", resumable);
}

int main(void)
{
    source = new_page();
    new_page();
    target = new_page();
    new_page();
    map(SRC, (ulong)source, P | W);
    map(SRC + 4096, (ulong)new_page(), P | W);
    map(DST, (ulong)new_page(), P | W);
    map(DST + 4096, (ulong)target, P | W);
    faults();
    nothing_to_do();
    downwards();
    overlaps();
    addresses();
    ports();
    interrupts();
    return 0;
}
