// Paging with four levels: 4 KiB, 2 MiB and 1 GiB pages; who may do what; accessed and dirty bits; when a changed entry
// must be seen; accesses that cross a page; error codes and CR2. (SDM vol. 3, 4.5 to 4.10.)
//
// What the architecture leaves open is not asked here: whether an old translation is still used before INVLPG, whether
// the accessed bit is set by an access that faults.
#include "lib/page.h"
#include "lib/probe.h"

// The window for our mappings: its own PML4 entry, so that every level's bits are ours to play with.
#define V 0x123456600000ul
#define V2 (V + 0x1000)
#define ONE_GIB_WINDOW 0x223400000000ul

#define CODE(name, text)                                                                                               \
    asm(".pushsection .text; .balign 16; " #name ": " text "; int $0x80; .popsection");                                \
    extern const u8 name[]

CODE(load_from_ldt, "pushq $0x40002; popfq; mov $4, %eax; mov %eax, %fs");

static u8 *page_a, *page_b; // two pages with different first bytes

static void set(u64 *entry, u64 value)
{
    *(volatile u64 *)entry = value;
}

static u64 get(u64 *entry)
{
    return *(volatile u64 *)entry;
}

static u8 peek(ulong va)
{
    return *(volatile u8 *)va;
}

// ---- permissions ----

static unsigned level_under_test;
static u64 entry_under_test;

static void apply(u64 rights)
{
    set(entry_of(V, level_under_test), (entry_under_test & ~(W | U | NX)) | rights);
    invlpg(V);
}

static void permissions_at(unsigned level, const char *name, ulong flags)
{
    level_under_test = level;
    entry_under_test = get(entry_of(V, level));
    check_rights(name, V, W | U | NX, apply, page_a, flags);
    set(entry_of(V, level), entry_under_test);
    invlpg(V);
}

static void permissions(void)
{
    static const char *names[4][5] = {
        {"rights in the PTE, WP off", "rights in the PTE", "rights in the PTE, SMEP", "rights in the PTE, SMAP",
         "rights in the PTE, SMAP, AC set"},
        {"rights in the PDE, WP off", "rights in the PDE", "rights in the PDE, SMEP", "rights in the PDE, SMAP",
         "rights in the PDE, SMAP, AC set"},
        {"rights in the PDPTE, WP off", "rights in the PDPTE", "rights in the PDPTE, SMEP", "rights in the PDPTE, SMAP",
         "rights in the PDPTE, SMAP, AC set"},
        {"rights in the PML4E, WP off", "rights in the PML4E", "rights in the PML4E, SMEP", "rights in the PML4E, SMAP",
         "rights in the PML4E, SMAP, AC set"},
    };
    bool smep = cpu_has(7, 0, 1, 7), smap = cpu_has(7, 0, 1, 20);
    ulong cr0 = read_cr0(), cr4 = read_cr4();

    map(V, (ulong)page_a, P | W | U);
    for (unsigned level = 1; level <= 4; level++) {
        const char **name = names[level - 1];
        write_cr0(cr0 & ~(ulong)CR0_WP);
        permissions_at(level, name[0], 0);
        write_cr0(cr0);
        permissions_at(level, name[1], 0);
        if (smep) {
            write_cr4(cr4 | CR4_SMEP);
            permissions_at(level, name[2], 0);
        } else {
            skip(name[2], "no SMEP");
        }
        if (smap) {
            write_cr4(cr4 | CR4_SMAP);
            permissions_at(level, name[3], 0);
            permissions_at(level, name[4], FLAG_AC);
        } else {
            skip(name[3], "no SMAP");
            skip(name[4], "no SMAP");
        }
        write_cr4(cr4);
    }
}

// SMAP forbids the CPU's own reads of tables in user pages whatever AC says; here of an LDT.
#define LDT_SEL (FREE_SEL + 16)
static void implicit_access(void)
{
    const char *name = "SMAP, descriptor in a user page";
    if (!cpu_has(7, 0, 1, 20)) {
        skip(name, "no SMAP");
        return;
    }
    u8 *table = new_page();
    *(u64 *)table = segment(0, 0xfffff, 0x93, 0xc);
    map(V, (ulong)table, P | W | U);
    invlpg(V);
    gdt[LDT_SEL / 8] = segment((u32)V, 0xfff, 0x82, 0);
    gdt[LDT_SEL / 8 + 1] = V >> 32;
    asm volatile("lldt %w0" ::"r"(LDT_SEL));
    run_kernel(load_from_ldt);
    check_trap("descriptor in a user page without SMAP", NONE, NOERR, 0, 0, -1);
    write_cr4(read_cr4() | CR4_SMAP);
    run_kernel(load_from_ldt);
    check_trap(name, PF, PF_P, 0, (ulong)load_from_ldt, V);
    write_cr4(read_cr4() & ~(ulong)CR4_SMAP);
    asm volatile("lldt %w0" ::"r"(0));
}

static void stac_clac(void)
{
    if (!cpu_has(7, 0, 1, 20)) {
        skip("STAC and CLAC", "no SMAP");
        return;
    }
    asm volatile("stac");
    ulong on = read_flags();
    asm volatile("clac");
    check("STAC and CLAC", (on & FLAG_AC ? 1 : 0) | (read_flags() & FLAG_AC ? 2 : 0), 1);
}

// ---- entries that are not there or malformed ----

static void reserved_bits(void)
{
    u64 *pte = entry_of(V, 1), *pde = entry_of(V, 2), *pdpte = entry_of(V, 3), *pml4e = entry_of(V, 4);
    u64 old_pde = get(pde), old_pdpte = get(pdpte), old_pml4e = get(pml4e);

    map(V, (ulong)page_a, W | U);
    invlpg(V);
    check_probe("not present, read", READ, KERNEL, V, 0);
    check_probe("not present, write", WRITE, KERNEL, V, PF_W);
    check_probe("not present, rmw", RMW, KERNEL, V, PF_W);
    check_probe("not present, fetch", EXECUTE, KERNEL, V, PF_I);
    check_probe("not present, ring 3 read", READ, USER, V, PF_U);
    check_probe("not present, ring 3 write", WRITE, USER, V, PF_U | PF_W);
    check_probe("not present, ring 3 fetch", EXECUTE, USER, V, PF_U | PF_I);
    set(pde, old_pde & ~P);
    invlpg(V);
    check_probe("not present in the PDE", READ, KERNEL, V, 0);
    set(pde, old_pde);
    set(pdpte, old_pdpte & ~P);
    invlpg(V);
    check_probe("not present in the PDPTE", WRITE, USER, V, PF_U | PF_W);
    set(pdpte, old_pdpte);
    set(pml4e, old_pml4e & ~P);
    invlpg(V);
    check_probe("not present in the PML4E", READ, USER, V, PF_U);
    set(pml4e, old_pml4e);

    set(pte, ((u64)(ulong)page_a | NX | 1ull << 51) & ~P);
    invlpg(V);
    check_probe("an entry not present has no reserved bits", READ, KERNEL, V, 0);

    u32 r[4];
    cpuid(0x80000008, 0, r);
    if ((r[0] & 0xff) < 52) {
        set(pte, (u64)(ulong)page_a | P | W | U | 1ull << 51);
        invlpg(V);
        check_probe("reserved address bit in the PTE", READ, KERNEL, V, PF_P | PF_RSVD);
        check_probe("reserved address bit in the PTE, write", WRITE, KERNEL, V, PF_P | PF_RSVD | PF_W);
        check_probe("reserved address bit in the PTE, fetch", EXECUTE, USER, V, PF_P | PF_RSVD | PF_U | PF_I);
        set(pte, (u64)(ulong)page_a | P | 1ull << 51);
        invlpg(V);
        check_probe("reserved bit comes before rights", WRITE, USER, V, PF_P | PF_RSVD | PF_U | PF_W);
        set(pte, (u64)(ulong)page_a | P | W | U);
        set(pde, old_pde | 1ull << 51);
        invlpg(V);
        check_probe("reserved address bit in the PDE", READ, KERNEL, V, PF_P | PF_RSVD);
        set(pde, old_pde);
        set(pml4e, old_pml4e | 1ull << 51);
        invlpg(V);
        check_probe("reserved address bit in the PML4E", READ, KERNEL, V, PF_P | PF_RSVD);
        set(pml4e, old_pml4e);
        set(pde, (old_pde & ~P) | 1ull << 51);
        set(pte, 0);
        invlpg(V);
        check_probe("reserved bit in an entry not present", READ, KERNEL, V, 0);
        set(pde, old_pde);
    } else {
        skip("reserved address bit in the PTE", "52 address bits: none is reserved");
    }

    set(pte, (u64)(ulong)page_a | P | W | U);
    set(pde, 0x600000 | P | W | U | LARGE | 1ull << 13);
    invlpg(V);
    check_probe("reserved address bit of a 2 MiB page", READ, KERNEL, V, PF_P | PF_RSVD);
    set(pde, 0x600000 | P | W | U | LARGE | 1ull << 20);
    invlpg(V);
    check_probe("reserved address bit 20 of a 2 MiB page", WRITE, USER, V, PF_P | PF_RSVD | PF_U | PF_W);
    set(pde, old_pde);
    if (cpu_has(0x80000001, 0, 3, 26)) {
        set(pdpte, P | W | U | LARGE | 1ull << 29);
        invlpg(V);
        check_probe("reserved address bit of a 1 GiB page", READ, KERNEL, V, PF_P | PF_RSVD);
        set(pdpte, old_pdpte);
    } else {
        skip("reserved address bit of a 1 GiB page", "no 1 GiB pages");
    }
    set(pml4e, old_pml4e | LARGE);
    invlpg(V);
    check_probe("PS in the PML4E is reserved", READ, KERNEL, V, PF_P | PF_RSVD);
    set(pml4e, old_pml4e);
    invlpg(V);

    // Without EFER.NXE bit 63 is reserved, and without SMEP too the fetch bit of the error code is not used.
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_NXE);
    set(pte, (u64)(ulong)page_a | P | W | U | NX);
    invlpg(V);
    check_probe("NX is reserved without NXE", READ, KERNEL, V, PF_P | PF_RSVD);
    set(pte, 0);
    invlpg(V);
    check_probe("no fetch bit without NXE", EXECUTE, KERNEL, V, 0);
    if (cpu_has(7, 0, 1, 7)) {
        write_cr4(read_cr4() | CR4_SMEP);
        check_probe("fetch bit with SMEP alone", EXECUTE, KERNEL, V, PF_I);
        write_cr4(read_cr4() & ~(ulong)CR4_SMEP);
    } else {
        skip("fetch bit with SMEP alone", "no SMEP");
    }
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    set(pte, (u64)(ulong)page_a | P | W | U | 0x0e00 | 0x07f0000000000000); // bits for software's use
    invlpg(V);
    check_probe("the ignored bits are ignored", READ, USER, V, NO_FAULT);
}

// ---- accessed and dirty ----

static void clear_bits(void)
{
    for (unsigned level = 1; level <= 4; level++)
        set(entry_of(V, level), get(entry_of(V, level)) & ~(A | D));
    invlpg(V);
}

// Accessed bits of levels 4 to 1 in bits 7 to 4, dirty bits in 3 to 0.
static ulong bits_seen(void)
{
    ulong seen = 0;
    for (unsigned level = 1; level <= 4; level++) {
        u64 e = get(entry_of(V, level));
        seen |= (e & A ? 0x10ul : 0) << (level - 1) | (e & D ? 1ul : 0) << (level - 1);
    }
    return seen;
}

static void accessed_dirty(void)
{
    map(V, (ulong)page_a, P | W | U);
    clear_bits();
    check("A D before", bits_seen(), 0);
    peek(V);
    check("A D after a read", bits_seen(), 0xf0);
    clear_bits();
    *(volatile u8 *)V = 1;
    check("A D after a write", bits_seen(), 0xf1);
    clear_bits();
    peek(V);
    *(volatile u8 *)V = 1;
    check("A D after a read, then a write", bits_seen(), 0xf1);
    clear_bits();
    *(volatile u16 *)page_a = 0x80cd;
    probe(EXECUTE, USER, V, 0);
    check("A D after a fetch", bits_seen(), 0xf0);
    clear_bits();
    u32 expected = 1;
    *(u32 *)page_a = 0;
    asm volatile("lock cmpxchgl %2, (%1)" : "+a"(expected) : "r"(V), "r"(7) : "memory", "cc");
    check("A D after cmpxchg that fails", bits_seen(), 0xf1);
    clear_bits();
    asm volatile("btl $3, (%0)" ::"r"(V) : "memory", "cc");
    check("A D after bt", bits_seen(), 0xf0);
    clear_bits();
    asm volatile("testb $3, (%0); cmpb $3, (%0)" ::"r"(V) : "memory", "cc");
    check("A D after test and cmp", bits_seen(), 0xf0);
    clear_bits();
    ulong count = 0, to = V;
    asm volatile("rep stosb" : "+c"(count), "+D"(to) : "a"(0) : "memory");
    check("A D after rep stos of nothing", bits_seen(), 0);
    asm volatile("invlpg (%0); lea (%0), %%rax" ::"r"(V) : "memory", "rax");
    check("A D after invlpg and lea", bits_seen(), 0);
    asm volatile("xor %%eax, %%eax; cmovnz (%0), %%eax" ::"r"(V) : "memory", "rax", "cc");
    check("A D after cmov that does not move", bits_seen(), 0xf0);

    // A write that may not be must not leave a dirty bit; with WP off it may, and does.
    clear_bits();
    set(entry_of(V, 1), get(entry_of(V, 1)) & ~W);
    invlpg(V);
    probe(WRITE, KERNEL, V, 0);
    check("D after a write that faults", bits_seen() & 1, 0);
    write_cr0(read_cr0() & ~(ulong)CR0_WP);
    probe(WRITE, KERNEL, V, 0);
    check("A D after a write with WP off", bits_seen(), 0xf1);
    write_cr0(read_cr0() | CR0_WP);

    // Large pages carry their own dirty bit.
    u64 *pde = entry_of(V, 2), old = get(pde);
    set(pde, 0x600000 | P | W | U | LARGE);
    invlpg(V);
    peek(V + 0x1fffff);
    check("A D of a 2 MiB page after a read", get(pde) & (A | D), A);
    *(volatile u8 *)(V + 0x1ffffe) = 0x77;
    check("A D of a 2 MiB page after a write", get(pde) & (A | D), A | D);
    check("the write went to its end", *(volatile u8 *)0x7ffffe, 0x77);
    set(pde, old);
    invlpg(V);
}

// ---- large pages ----

static void large_pages(void)
{
    u64 *pde = entry_of(V, 2), old = get(pde);
    *(volatile u32 *)0x7ffff8 = 0x11223344;
    *(volatile u32 *)0x812340 = 0x55667788;
    set(pde, 0x600000 | P | W | LARGE);
    invlpg(V);
    check("2 MiB page", *(volatile u32 *)(V + 0x1ffff8), 0x11223344);
    check_probe("2 MiB page of the supervisor, ring 3", READ, USER, V, PF_P | PF_U);
    set(pde, 0x800000 | P | W | LARGE | 1 << 12); // bit 12 is PAT here
    invlpg(V + 0x1000);
    check("2 MiB page with the PAT bit", *(volatile u32 *)(V + 0x12340), 0x55667788);
    // Back to a table: the small pages must be seen at once for any address of the large one.
    set(pde, old);
    map(V, (ulong)page_a, P | W);
    map(V2, (ulong)page_b, P | W);
    page_a[0] = 0xaa;
    page_b[0] = 0xbb;
    invlpg(V + 0x1ff000);
    check("small pages in place of a large one", (u64)peek(V) << 8 | peek(V2), 0xaabb);

    if (!cpu_has(0x80000001, 0, 3, 26)) {
        skip("1 GiB page", "no 1 GiB pages");
        return;
    }
    u64 *pdpte = entry_of(ONE_GIB_WINDOW, 3);
    set(pdpte, P | W | LARGE);
    invlpg(ONE_GIB_WINDOW);
    check("1 GiB page", *(volatile u32 *)(ONE_GIB_WINDOW + 0x7ffff8), 0x11223344);
    check("1 GiB page, A D after a read", get(pdpte) & (A | D), A);
    *(volatile u32 *)(ONE_GIB_WINDOW + 0x812340) = 1;
    check("1 GiB page, A D after a write", get(pdpte) & (A | D), A | D);
    check("1 GiB page, written", *(volatile u32 *)0x812340, 1);
    check_probe("1 GiB page of the supervisor, ring 3", WRITE, USER, ONE_GIB_WINDOW + 0x800000, PF_P | PF_U | PF_W);
}

// ---- what must be seen after which kind of flush ----

static void flushes(void)
{
    page_a[0] = 0xaa;
    page_b[0] = 0xbb;
    u64 *pte = entry_of(V, 1);

    // An entry that was not present is not cached: no flush is needed to make it present.
    set(pte, 0);
    invlpg(V);
    probe(READ, KERNEL, V, 0);
    set(pte, (u64)(ulong)page_a | P);
    check_probe("made present, no flush", READ, KERNEL, V, NO_FAULT);
    // Nor is more than one spurious fault allowed after rights grew (4.10.4.3).
    probe(WRITE, KERNEL, V, 0);
    set(pte, (u64)(ulong)page_a | P | W);
    probe(WRITE, KERNEL, V, 0);
    check_probe("made writable, no flush, second try", WRITE, KERNEL, V, NO_FAULT);

    page_a[0] = 0xaa;
    unsigned wrong = 0;
    for (unsigned i = 0; i < 1000; i++) {
        set(pte, (u64)(ulong)(i & 1 ? page_b : page_a) | P | W);
        invlpg(V + (i & 0xfff));
        wrong += peek(V) != (i & 1 ? 0xbb : 0xaa);
    }
    check("INVLPG, stale reads in 1000", wrong, 0);
    for (unsigned i = 0; i < 1000; i++) {
        set(pte, (u64)(ulong)(i & 1 ? page_b : page_a) | P | W);
        write_cr3(read_cr3());
        wrong += peek(V) != (i & 1 ? 0xbb : 0xaa);
    }
    check("CR3, stale reads in 1000", wrong, 0);

    ulong cr4 = read_cr4();
    write_cr4(cr4 | CR4_PGE);
    for (unsigned i = 0; i < 100; i++) {
        set(pte, (u64)(ulong)(i & 1 ? page_b : page_a) | P | W | G);
        invlpg(V);
        wrong += peek(V) != (i & 1 ? 0xbb : 0xaa);
    }
    check("INVLPG of a global page, stale reads in 100", wrong, 0);
    for (unsigned i = 0; i < 100; i++) {
        set(pte, (u64)(ulong)(i & 1 ? page_b : page_a) | P | W | G);
        write_cr4(cr4);
        write_cr4(cr4 | CR4_PGE);
        wrong += peek(V) != (i & 1 ? 0xbb : 0xaa);
    }
    check("PGE toggled, stale reads of a global page in 100", wrong, 0);
    write_cr4(cr4);

    // Upper levels: INVLPG of one address drops what was cached of its tables.
    u64 *pde = entry_of(V, 2), old = get(pde);
    u64 *table = new_page();
    table[0] = (u64)(ulong)page_b | P | W;
    set(pte, (u64)(ulong)page_a | P | W);
    invlpg(V);
    for (unsigned i = 0; i < 100; i++) {
        set(pde, i & 1 ? (u64)(ulong)table | P | W : old);
        invlpg(V);
        wrong += peek(V) != (i & 1 ? 0xbb : 0xaa);
    }
    set(pde, old);
    invlpg(V);
    check("INVLPG after a change of the PDE, stale reads in 100", wrong, 0);

    // Two address spaces that differ in one page.
    u64 *other = new_page();
    memcpy(other, pml4, 4096);
    u64 *pdpt2 = new_page(), *pd2 = new_page();
    other[V >> 39 & 511] = (u64)(ulong)pdpt2 | P | W;
    pdpt2[V >> 30 & 511] = (u64)(ulong)pd2 | P | W;
    pd2[V >> 21 & 511] = (u64)(ulong)table | P | W;
    ulong cr3 = read_cr3();
    for (unsigned i = 0; i < 1000; i++) {
        write_cr3(i & 1 ? (ulong)other : cr3);
        wrong += peek(V) != (i & 1 ? 0xbb : 0xaa);
    }
    write_cr3(cr3);
    check("two address spaces, stale reads in 1000", wrong, 0);

    // CR0.WP is looked at by each access, whatever the TLB holds.
    set(pte, (u64)(ulong)page_a | P);
    invlpg(V);
    peek(V);
    ulong cr0 = read_cr0();
    write_cr0(cr0 & ~(ulong)CR0_WP);
    int off = probe(WRITE, KERNEL, V, 0);
    write_cr0(cr0);
    int on = probe(WRITE, KERNEL, V, 0);
    check("WP switched", (u64)(off == NO_FAULT) << 1 | (on == (PF_P | PF_W)), 3);

    // Rights taken away, flushed.
    set(pte, (u64)(ulong)page_a | P | W | U);
    invlpg(V);
    probe(WRITE, USER, V, 0);
    set(pte, (u64)(ulong)page_a | P | U);
    invlpg(V);
    check_probe("made read-only", WRITE, USER, V, PF_P | PF_U | PF_W);
    set(pte, (u64)(ulong)page_a | P);
    invlpg(V);
    check_probe("made the supervisor's", READ, USER, V, PF_P | PF_U);
    set(pte, (u64)(ulong)page_a | P | U | NX);
    invlpg(V);
    check_probe("made not executable", EXECUTE, USER, V, PF_P | PF_U | PF_I);
    set(pte, 0);
    invlpg(V);
    check_probe("made not present", READ, USER, V, PF_U);
}

// ---- accesses that cross from one page to the next ----

CODE(cross_read, "mov (%rsi), %rax");
CODE(cross_write, "mov %rax, (%rsi)");
CODE(cross_rmw, "add %rax, (%rsi)");
CODE(cross_xchg, "xchg %rax, (%rsi)");
CODE(cross_sse, "movups %xmm0, (%rsi)");
CODE(cross_push, "lea 8(%rsi), %rsp; push %rax; mov $case_stack_top, %esp");
CODE(cross_pop, "mov %rsi, %rsp; pop %rax; mov $case_stack_top, %esp");

static void run_with(const u8 *code, ulong rsi, ulong rax)
{
    run_at(&(struct start){(ulong)code, KCODE, 2, (ulong)case_stack_top, KDATA, .rax = rax, .rsi = rsi});
}

static void check_cross_fault(const char *name, const u8 *code, ulong va, int error, ulong cr2)
{
    default_gate(PF, 1);
    run_with(code, va, 0x1111111111111111);
    default_gate(PF, 0);
    check_trap(name, PF, error, 0, (ulong)code, cr2);
}

static void crossing(void)
{
    // page_b follows page_a in linear, not in physical memory: the page between them shall not be touched.
    map(V, (ulong)page_a, P | W);
    map(V2, (ulong)page_b, P | W);
    invlpg(V);
    invlpg(V2);
    unsigned wrong = 0;
    for (unsigned split = 1; split < 8; split++) {
        ulong va = V2 - split;
        for (unsigned i = 0; i < 8; i++)
            *(i < split ? page_a + 4096 - split + i : page_b + i - split) = (u8)(0x10 + i);
        run_with(cross_read, va, 0);
        wrong += last.rax != 0x1716151413121110;
        run_with(cross_write, va, 0x2726252423222120);
        run_with(cross_rmw, va, 0x1010101010101010);
        run_with(cross_pop, va, 0);
        wrong += last.rax != 0x3736353433323130;
        run_with(cross_push, va, 0x4746454443424140);
        run_with(cross_xchg, va, 0x5756555453525150);
        wrong += last.rax != 0x4746454443424140;
        for (unsigned i = 0; i < 8; i++)
            wrong += *(i < split ? page_a + 4096 - split + i : page_b + i - split) != 0x50 + i;
    }
    check("page crossing, wrong values", wrong, 0);

    set(entry_of(V2, 1), 0);
    invlpg(V2);
    memset(page_a + 4088, 0x77, 8);
    check_cross_fault("crossing read, second page missing", cross_read, V2 - 3, 0, V2);
    check_cross_fault("crossing write, second page missing", cross_write, V2 - 3, PF_W, V2);
    check_cross_fault("crossing rmw, second page missing", cross_rmw, V2 - 3, PF_W, V2);
    check_cross_fault("crossing xchg, second page missing", cross_xchg, V2 - 7, PF_W, V2);
    check_cross_fault("crossing movups, second page missing", cross_sse, V2 - 15, PF_W, V2);
    check_cross_fault("crossing push, second page missing", cross_push, V2 - 4, PF_W, V2);
    check_cross_fault("crossing pop, second page missing", cross_pop, V2 - 4, 0, V2);
    set(entry_of(V2, 1), (u64)(ulong)page_b | P);
    invlpg(V2);
    check_cross_fault("crossing write, second page read-only", cross_write, V2 - 3, PF_P | PF_W, V2);
    check_cross_fault("crossing rmw, second page read-only", cross_rmw, V2 - 3, PF_P | PF_W, V2);
    check("nothing was written to the first page", *(u64 *)(page_a + 4088), 0x7777777777777777);
    set(entry_of(V2, 1), (u64)(ulong)page_b | P | W);
    set(entry_of(V, 1), 0);
    invlpg(V);
    invlpg(V2);
    memset(page_b, 0x66, 8);
    check_cross_fault("crossing read, first page missing", cross_read, V2 - 3, 0, V2 - 3);
    check_cross_fault("crossing write, first page missing", cross_write, V2 - 3, PF_W, V2 - 3);
    check("nothing was written to the second page", *(u64 *)page_b, 0x6666666666666666);
    set(entry_of(V2, 1), 0);
    invlpg(V2);
    check_cross_fault("crossing read, both missing", cross_read, V2 - 3, 0, V2 - 3);
}

// ---- CR2 ----

static void cr2(void)
{
    write_cr2(0x123456789abcdef0);
    check("CR2 holds any value", read_cr2(), 0x123456789abcdef0);
    peek((ulong)page_a);
    asm volatile("int3" ::: "memory");
    check("CR2 is left alone by other exceptions", read_cr2(), 0x123456789abcdef0);
}

static void nothing(struct trap *t)
{
    (void)t;
}

int main(void)
{
    trap_handlers[BP] = nothing;
    page_a = new_page();
    new_page();
    page_b = new_page();
    permissions();
    implicit_access();
    stac_clac();
    reserved_bits();
    accessed_dirty();
    large_pages();
    flushes();
    crossing();
    cr2();
    return 0;
}
