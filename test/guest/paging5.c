// Five levels of paging: 57-bit addresses. (SDM vol. 3, 4.5; the canonical form then has 57 bits.)
#include "lib/page.h"
#include "lib/probe.h"

#define V 0x00ab123456600000ul // needs five levels
#define LOW 0x123456600000ul   // is the same with four
#define HIGH 0xff00000000000000ul

static u64 pml5[512] __attribute__((aligned(4096)));
static u8 *page_a, *page_b;

static u64 *entry5(u64 va, unsigned level)
{
    u64 *table = pml5;
    for (unsigned l = 5; l > level; l--) {
        u64 *e = &table[va >> (12 + 9 * (l - 1)) & 511];
        if (!*e)
            *e = (u64)(ulong)new_page() | P | W | U;
        table = (u64 *)(ulong)(*e & ADDRESS);
    }
    return &table[va >> (12 + 9 * (level - 1)) & 511];
}

static u8 peek(ulong va)
{
    return *(volatile u8 *)va;
}

#define CODE(name, text)                                                                                               \
    asm(".pushsection .text; .balign 16; " #name ": " text "; int $0x80; .popsection");                                \
    extern const u8 name[]
CODE(load, "mov (%rsi), %al");
CODE(jump, "jmp *%rsi");
CODE(load_cr4, "mov %rsi, %cr4");

static void check_load(const char *name, const u8 *code, ulong va, ulong vector, long error)
{
    run_at(&(struct start){(ulong)code, KCODE64, 2, (ulong)case_stack_top, KDATA, .rsi = va});
    check_trap(name, vector, error, 0, 0, -1);
}

static void apply(u64 rights)
{
    u64 *e = entry5(V, 5);
    *(volatile u64 *)e = (*e & ~(W | U | NX)) | rights;
    invlpg(V);
}

int main(void)
{
    if (!cpu_has(7, 0, 2, 16)) {
        skip("five levels", "no LA57");
        return 0;
    }
    page_a = new_page();
    page_b = new_page();
    page_a[0] = 0xaa;
    page_b[0] = 0xbb;
    pml5[0] = (u64)(ulong)pml4 | P | W | U;
    map(LOW, (ulong)page_b, P | W);
    *entry5(V, 1) = (ulong)page_a | P | W | U;
    *entry5(HIGH, 1) = (ulong)page_b | P | W;

    check_load("four levels, a 57-bit address", load, V, GP, 0);
    reenter_long_mode((u32)(ulong)pml5, (u32)read_cr4() | CR4_LA57);
    check("LA57 on", read_cr4() & CR4_LA57, CR4_LA57);
    check_load("LA57 cannot be cleared in long mode", load_cr4, read_cr4() & ~(ulong)CR4_LA57, GP, 0);
    check("five levels", peek(V), 0xaa);
    check("the lower 47 bits are as before", peek(LOW), 0xbb);
    check("the upper half", peek(HIGH), 0xbb);
    check("A in the PML5E", *entry5(V, 5) & (A | D), A);

    check_load("bit 47 alone is canonical now", load, 0x800000000000, PF, 0);
    check_load("not present at level 5", load, 0x00cd000000000000, PF, 0);
    check_load("bit 56 alone is not canonical", load, 1ul << 56, GP, 0);
    check_load("ones above bit 56 alone neither", load, 0xfeff000000000000, GP, 0);
    check_load("jump to a 57-bit address", jump, 0x00cd000000000000, PF, 0x10);
    check_load("jump to a non-canonical address", jump, 1ul << 56, GP, 0);
    check_rights("rights in the PML5E", V, W | U | NX, apply, page_a, 0);
    apply(W | U);
    *entry5(V, 5) |= LARGE;
    invlpg(V);
    check_probe("PS in the PML5E is reserved", READ, KERNEL, V, PF_P | PF_RSVD);
    *entry5(V, 5) &= ~LARGE;
    invlpg(V);

    wrmsr(MSR_GS_BASE, V);
    check("GS base of 57 bits", rdmsr(MSR_GS_BASE), V);
    u8 seen;
    page_a[0] = 0xaa;
    asm volatile("movb %%gs:0, %0" : "=r"(seen));
    check("read through it", seen, 0xaa);
    wrmsr(MSR_GS_BASE, 0);

    unsigned stale = 0;
    for (unsigned i = 0; i < 100; i++) {
        *(volatile u64 *)entry5(V, 1) = (ulong)(i & 1 ? page_b : page_a) | P | W;
        invlpg(V);
        stale += peek(V) != (i & 1 ? 0xbb : 0xaa);
    }
    check("INVLPG, stale reads in 100", stale, 0);

    reenter_long_mode((u32)(ulong)pml4, (u32)read_cr4() & ~CR4_LA57);
    check("four levels again", peek(LOW), 0xbb);
    check_load("and the old canonical form", load, V, GP, 0);
    return 0;
}
