// Process-context identifiers: TLB entries that outlive a change of CR3, and what must still be flushed.
// (SDM vol. 3, 4.10; vol. 2, INVPCID.)
//
// A stale entry is allowed wherever nothing has flushed it, so only the opposite can be demanded: after each kind of
// flush the new mapping is seen, and under another PCID always.
#include "lib/page.h"

#define V 0x123456600000ul
#define NO_FLUSH (1ull << 63)

static u8 *page_a, *page_b;
static u64 *pte;
static ulong root;

#define CODE(name, text)                                                                                               \
    asm(".pushsection .text; .balign 16; " #name ": " text "; int $0x80; .popsection");                                \
    extern const u8 name[]
CODE(load_cr3, "mov %rsi, %cr3");
CODE(load_cr4, "mov %rsi, %cr4");
CODE(load_cr0, "mov %rsi, %cr0");
CODE(do_invpcid, "invpcid (%rsi), %rax");

static bool faults(const u8 *code, ulong rsi, ulong rax)
{
    run_at(&(struct start){(ulong)code, KCODE64, 2, (ulong)case_stack_top, KDATA, .rax = rax, .rsi = rsi});
    return last.vector == GP && last.error == 0;
}

static void invpcid(ulong type, u64 pcid, u64 address)
{
    u64 descriptor[2] = {pcid, address};
    asm volatile("invpcid (%0), %1" ::"r"(descriptor), "r"(type) : "memory");
}

static bool invpcid_faults(ulong type, u64 pcid, u64 address)
{
    static u64 descriptor[2];
    descriptor[0] = pcid;
    descriptor[1] = address;
    return faults(do_invpcid, (ulong)descriptor, type);
}

static void point_to(const u8 *page, u64 more)
{
    *(volatile u64 *)pte = (u64)(ulong)page | P | W | more;
}

static u8 peek(void)
{
    return *(volatile u8 *)V;
}

// Fills the TLB with page a under PCIDs 1 and 2, points the entry to page b, lets flush() do what it does, and counts
// stale reads under `pcid`.
static void check_flush(const char *name, u64 more, unsigned pcid, void (*flush)(void))
{
    unsigned stale = 0;
    for (unsigned i = 0; i < 100; i++) {
        point_to(page_a, more);
        invpcid(2, 0, 0);
        write_cr3(root | 1);
        stale += peek() != 0xaa;
        write_cr3(root | 2);
        stale += peek() != 0xaa;
        point_to(page_b, more);
        flush();
        write_cr3(root | pcid | NO_FLUSH);
        stale += peek() != 0xbb;
    }
    check(name, stale, 0);
}

static void by_cr3(void)
{
    write_cr3(root | 1);
}

static void by_address(void)
{
    invpcid(0, 1, V);
}

static void by_context(void)
{
    invpcid(1, 1, 0);
}

static void by_all_with_global(void)
{
    invpcid(2, 0, 0);
}

static void by_all(void)
{
    invpcid(3, 0, 0);
}

static void by_invlpg(void)
{
    write_cr3(root | 1 | NO_FLUSH);
    invlpg(V);
}

static void by_pge(void)
{
    write_cr4(read_cr4() ^ CR4_PGE);
    write_cr4(read_cr4() ^ CR4_PGE);
}

static void by_pcide(void)
{
    write_cr3(root);
    write_cr4(read_cr4() & ~(ulong)CR4_PCIDE);
    write_cr4(read_cr4() | CR4_PCIDE);
}

static void nothing(void)
{
}

int main(void)
{
    if (!cpu_has(1, 0, 2, 17) || !cpu_has(7, 0, 1, 10)) {
        skip("PCID", "no PCID or no INVPCID");
        return 0;
    }
    page_a = new_page();
    page_b = new_page();
    page_a[0] = 0xaa;
    page_b[0] = 0xbb;
    pte = entry_of(V, 1);
    root = read_cr3();

    check_true("CR3 bit 63 without PCIDE", faults(load_cr3, root | NO_FLUSH, 0));
    check_true("INVPCID of PCID 1 without PCIDE", invpcid_faults(1, 1, 0));
    check_true("INVPCID of PCID 0 without PCIDE", !invpcid_faults(1, 0, 0) && last.vector == NONE);
    write_cr3(root | 0x18);
    check_true("PCIDE on with CR3[11:0] not 0", faults(load_cr4, read_cr4() | CR4_PCIDE, 0));
    write_cr3(root);
    write_cr4(read_cr4() | CR4_PCIDE);
    check("PCIDE on", read_cr4() & CR4_PCIDE, CR4_PCIDE);
    check_true("paging off with PCIDE", faults(load_cr0, read_cr0() & ~(ulong)CR0_PG, 0));

    write_cr3(root | 0xfff | NO_FLUSH);
    check("CR3 reads back the PCID, not bit 63", read_cr3() - root, 0xfff);
    check_true("CR3 bit 62", faults(load_cr3, root | 1ull << 62, 0));
    check("CR3 is as before", read_cr3() - root, 0xfff);

    check_true("INVPCID type 4", invpcid_faults(4, 0, 0));
    check_true("INVPCID reserved bits of the descriptor", invpcid_faults(1, 0x1000, 0));
    check_true("INVPCID type 0, non-canonical address", invpcid_faults(0, 1, 0x800000000000));
    check_true("INVPCID type 1 ignores the address", !invpcid_faults(1, 1, 0x800000000000) && last.vector == NONE);
    check_true("INVPCID type 3 ignores the PCID", !invpcid_faults(3, 0, 0x800000000000) && last.vector == NONE);

    check_flush("another PCID, stale reads in 100", 0, 3, nothing);
    check_flush("CR3 without bit 63 flushes its PCID", 0, 1, by_cr3);
    check_flush("INVPCID of an address", 0, 1, by_address);
    check_flush("INVPCID of a context", 0, 1, by_context);
    check_flush("INVPCID of all, PCID 1", 0, 1, by_all);
    check_flush("INVPCID of all, PCID 2", 0, 2, by_all);
    check_flush("INVLPG in its PCID", 0, 1, by_invlpg);
    check_flush("toggling PGE flushes all PCIDs", 0, 1, by_pge);
    check_flush("clearing PCIDE flushes all PCIDs", 0, 2, by_pcide);
    write_cr4(read_cr4() | CR4_PGE);
    check_flush("INVPCID of all with global, a global page", G, 2, by_all_with_global);
    check_flush("INVLPG of a global page, in any PCID", G, 2, by_invlpg);
    check_flush("toggling PGE, a global page", G, 2, by_pge);
    check_flush("clearing PCIDE, a global page", G, 1, by_pcide);

    // Two PCIDs, two sets of tables, never flushed: each sees its own.
    u64 *other = new_page();
    memcpy(other, pml4, 4096);
    other[V >> 39 & 511] = 0;
    u64 *pdpt2 = new_page(), *pd2 = new_page(), *pt2 = new_page();
    other[V >> 39 & 511] = (u64)(ulong)pdpt2 | P | W;
    pdpt2[V >> 30 & 511] = (u64)(ulong)pd2 | P | W;
    pd2[V >> 21 & 511] = (u64)(ulong)pt2 | P | W;
    pt2[V >> 12 & 511] = (u64)(ulong)page_b | P | W;
    point_to(page_a, 0);
    invpcid(2, 0, 0);
    unsigned stale = 0;
    for (unsigned i = 0; i < 1000; i++) {
        write_cr3((i & 1 ? (ulong)other | 2 : root | 1) | NO_FLUSH);
        stale += peek() != (i & 1 ? 0xbb : 0xaa);
    }
    check("two address spaces, stale reads in 1000", stale, 0);
    write_cr3(root);
    write_cr4(read_cr4() & ~(ulong)(CR4_PCIDE | CR4_PGE));
    return 0;
}
