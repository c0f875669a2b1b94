// Paging outside long mode: plain 32-bit paging with 4 KiB and 4 MiB pages,
// and PAE paging with 4 KiB and 2 MiB pages.
// (SDM vol. 3, 4.3 and 4.4.) What is the same as with four levels is only sampled; the paging guest has it in full.
#include "lib/probe.h"

#define P 1u
#define W 2u
#define U 4u
#define A 0x20u
#define D 0x40u
#define LARGE 0x80u
#define G 0x100u
#define NX (1ull << 63)

#define PF_P 1
#define PF_W 2
#define PF_U 4
#define PF_RSVD 8
#define PF_I 16

#define V 0xc0200000ul
#define V2 (V + 0x1000)
#define USER_PAGE 0x400000ul

static u32 directory[1024] __attribute__((aligned(4096)));
static u32 table[1024] __attribute__((aligned(4096)));
static u64 pdpt[4] __attribute__((aligned(32)));
static u64 directories[4][512] __attribute__((aligned(4096)));
static u64 pae_table[512] __attribute__((aligned(4096)));
static u8 page_a[4096] __attribute__((aligned(4096)));
static u8 between[4096] __attribute__((aligned(4096), used));
static u8 page_b[4096] __attribute__((aligned(4096)));

static u8 peek(ulong va)
{
    return *(volatile u8 *)va;
}

static void paging_off(void)
{
    write_cr0(read_cr0() & ~CR0_PG);
}

static void nothing(struct trap *t)
{
    (void)t;
}

#define CODE(name, text)                                                                                               \
    asm(".pushsection .text; .balign 16; " #name ": " text "; int $0x80; .popsection");                                \
    extern const u8 name[]
CODE(cross_read, "mov (%esi), %eax");
CODE(cross_write, "mov %eax, (%esi)");
CODE(load_cr3, "mov %esi, %cr3");
CODE(load_cr0, "mov %esi, %cr0");

static void run_with(const u8 *code, ulong esi, ulong eax)
{
    run_at(&(struct start){(ulong)code, KCODE, 2, (ulong)case_stack_top, KDATA, .rax = eax, .rsi = esi});
}

// ---- plain ----

static volatile u32 *const pde = &directory[V >> 22], *const pte = &table[V >> 12 & 1023];

static void apply_pte(u64 rights)
{
    *pte = (u32)(ulong)page_a | P | (u32)rights;
    invlpg(V);
}

static void apply_pde(u64 rights)
{
    *pde = (u32)(ulong)table | P | (u32)rights;
    invlpg(V);
}

static void plain_rights(const char *at_pte, const char *at_pde)
{
    check_rights(at_pte, V, W | U, apply_pte, page_a, 0);
    apply_pte(W | U);
    check_rights(at_pde, V, W | U, apply_pde, page_a, 0);
    apply_pde(W | U);
}

static void plain(void)
{
    for (unsigned i = 0; i < 1024; i++)
        directory[i] = i << 22 | P | W | LARGE;
    directory[USER_PAGE >> 22] |= U;
    *pde = (u32)(ulong)table | P | W | U;
    *pte = (u32)(ulong)page_a | P | W | U;
    table[(V2 >> 12) & 1023] = (u32)(ulong)page_b | P | W;
    write_cr4(read_cr4() | CR4_PSE);
    write_cr3((ulong)directory);
    write_cr0(read_cr0() | CR0_PG | CR0_WP);

    page_a[0] = 0xaa;
    page_b[0] = 0xbb;
    check("plain, two pages", (u64)peek(V) << 8 | peek(V2), 0xaabb);
    check("plain, bits after reads", (*pde & A) | (*pte & (A | D)), A);
    *(volatile u8 *)(V + 1) = 1;
    check("plain, bits after a write", (*pde & A) | (*pte & (A | D)), A | D);
    check("plain, 4 MiB page, bits", directory[0] & (A | D | LARGE), A | D | LARGE);

    plain_rights("plain, rights in the PTE", "plain, rights in the PDE");
    write_cr0(read_cr0() & ~CR0_WP);
    plain_rights("plain, rights in the PTE, WP off", "plain, rights in the PDE, WP off");
    write_cr0(read_cr0() | CR0_WP);
    if (cpu_has(7, 0, 1, 7)) {
        write_cr4(read_cr4() | CR4_SMEP);
        plain_rights("plain, rights in the PTE, SMEP", "plain, rights in the PDE, SMEP");
        write_cr4(read_cr4() & ~CR4_SMEP);
    } else {
        skip("plain, rights in the PTE, SMEP", "no SMEP");
    }
    if (cpu_has(7, 0, 1, 20)) {
        write_cr4(read_cr4() | CR4_SMAP);
        plain_rights("plain, rights in the PTE, SMAP", "plain, rights in the PDE, SMAP");
        write_cr4(read_cr4() & ~CR4_SMAP);
    } else {
        skip("plain, rights in the PTE, SMAP", "no SMAP");
    }

    *pte = 0;
    invlpg(V);
    check_probe("plain, not present", WRITE, USER, V, PF_W | PF_U);
    check_probe("plain, no fetch bit", EXECUTE, KERNEL, V, 0);
    *pde = 0;
    invlpg(V);
    check_probe("plain, not present in the PDE", READ, USER, V, PF_U);
    *pde = 1u << 21 | P | W | LARGE; // PSE-36 gives bits 13 to 20 a meaning, not 21
    invlpg(V);
    check_probe("plain, reserved bit of a 4 MiB page", READ, KERNEL, V, PF_P | PF_RSVD);
    *(volatile u32 *)0x812344 = 0x11223344;
    *pde = 0x800000 | P | W | LARGE;
    invlpg(V);
    check("plain, 4 MiB page", *(volatile u32 *)((V & ~0x3ffffful) + 0x12344), 0x11223344);

    // Without PSE the bit for large pages means nothing. The guest's own directory needs small pages then: here is one
    // table for the first 4 MiB, one for the user page, and nothing else.
    static u32 small_directory[1024] __attribute__((aligned(4096))), low[1024] __attribute__((aligned(4096))),
        users[1024] __attribute__((aligned(4096)));
    for (unsigned i = 0; i < 1024; i++) {
        low[i] = i << 12 | P | W;
        users[i] = (USER_PAGE + (i << 12)) | P | W | U;
    }
    small_directory[0] = (u32)(ulong)low | P | W;
    small_directory[USER_PAGE >> 22] = (u32)(ulong)users | P | W | U;
    small_directory[V >> 22] = (u32)(ulong)table | P | W | LARGE;
    *pte = (u32)(ulong)page_a | P | W;
    page_a[0] = 0xaa;
    write_cr3((ulong)small_directory);
    write_cr4(read_cr4() & ~CR4_PSE);
    check("plain, without PSE bit 7 of a PDE is ignored", peek(V), 0xaa);
    write_cr4(read_cr4() | CR4_PSE);
    write_cr3((ulong)directory);

    // A 32-bit linear address wraps: no page beyond 4 GiB.
    *pde = (u32)(ulong)table | P | W;
    directory[1023] = (u32)(ulong)table | P | W; // 0xffc00000: the last page is page_a
    table[1023] = (u32)(ulong)page_a | P | W;
    write_cr3((ulong)directory);
    *(u16 *)(page_a + 4094) = 0x4433;
    u16 low_word = *(volatile u16 *)0;
    *(volatile u16 *)0 = 0x6655;
    run_with(cross_read, 0xfffffffe, 0);
    check("plain, a read wraps around 4 GiB", last.rax, 0x66554433);
    *(volatile u16 *)0 = low_word;
    paging_off();
}

// ---- PAE ----

static volatile u64 *const pae_pde = &directories[3][V >> 21 & 511], *const pae_pte = &pae_table[V >> 12 & 511];

static void apply_pae_pte(u64 rights)
{
    *pae_pte = (ulong)page_a | P | rights;
    invlpg(V);
}

static void apply_pae_pde(u64 rights)
{
    *pae_pde = (ulong)pae_table | P | rights;
    invlpg(V);
}

static void pae_rights(const char *at_pte, const char *at_pde)
{
    check_rights(at_pte, V, W | U | NX, apply_pae_pte, page_a, 0);
    apply_pae_pte(W | U);
    check_rights(at_pde, V, W | U | NX, apply_pae_pde, page_a, 0);
    apply_pae_pde(W | U);
}

static void pae(void)
{
    for (unsigned i = 0; i < 4; i++) {
        pdpt[i] = (ulong)directories[i] | P;
        for (unsigned j = 0; j < 512; j++)
            directories[i][j] = (u32)(i << 30 | j << 21) | P | W | LARGE;
    }
    directories[0][USER_PAGE >> 21] |= U;
    *pae_pde = (ulong)pae_table | P | W | U;
    *pae_pte = (ulong)page_a | P | W | U;
    pae_table[V2 >> 12 & 511] = (ulong)page_b | P | W;
    write_cr4(read_cr4() | CR4_PAE);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    write_cr3((ulong)pdpt);
    write_cr0(read_cr0() | CR0_PG | CR0_WP);

    page_a[0] = 0xaa;
    page_b[0] = 0xbb;
    check("PAE, two pages", (u64)peek(V) << 8 | peek(V2), 0xaabb);
    check("PAE, bits after reads", (*pae_pde & A) | (*pae_pte & (A | D)), A);
    *(volatile u8 *)(V + 1) = 1;
    check("PAE, bits after a write", (*pae_pde & A) | (*pae_pte & (A | D)), A | D);
    check("PAE, bits of a 2 MiB page", directories[0][0] & (A | D | LARGE), A | D | LARGE);
    check("PAE, PDPTEs have none", pdpt[3] - (ulong)directories[3], P);

    pae_rights("PAE, rights in the PTE", "PAE, rights in the PDE");
    write_cr0(read_cr0() & ~CR0_WP);
    pae_rights("PAE, rights in the PTE, WP off", "PAE, rights in the PDE, WP off");
    write_cr0(read_cr0() | CR0_WP);
    if (cpu_has(7, 0, 1, 7)) {
        write_cr4(read_cr4() | CR4_SMEP);
        pae_rights("PAE, rights in the PTE, SMEP", "PAE, rights in the PDE, SMEP");
        write_cr4(read_cr4() & ~CR4_SMEP);
    } else {
        skip("PAE, rights in the PTE, SMEP", "no SMEP");
    }

    *pae_pte = 0;
    invlpg(V);
    check_probe("PAE, not present", WRITE, USER, V, PF_W | PF_U);
    check_probe("PAE, fetch bit", EXECUTE, KERNEL, V, PF_I);
    *pae_pte = (ulong)page_a | P | W | 1ull << 62;
    invlpg(V);
    check_probe("PAE, bit 62 of a PTE is reserved", READ, KERNEL, V, PF_P | PF_RSVD);
    *pae_pte = (ulong)page_a | P | W;
    *pae_pde = P | W | LARGE | 1u << 13;
    invlpg(V);
    check_probe("PAE, reserved address bit of a 2 MiB page", READ, KERNEL, V, PF_P | PF_RSVD);
    *pae_pde = 0x800000 | P | W | LARGE;
    invlpg(V);
    check("PAE, 2 MiB page", *(volatile u32 *)(V + 0x12344), 0x11223344);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_NXE);
    *pae_pde = (ulong)pae_table | P | W | NX;
    invlpg(V);
    check_probe("PAE, NX is reserved without NXE", READ, KERNEL, V, PF_P | PF_RSVD);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    *pae_pde = (ulong)pae_table | P | W;
    invlpg(V);

    // The four PDPTEs are loaded and checked with CR3 (4.4.1): reserved bits fault there, not at the access.
    ulong cr3 = read_cr3();
    static u64 other[4] __attribute__((aligned(32)));
    memcpy(other, pdpt, sizeof other);
    other[2] |= W;
    run_with(load_cr3, (ulong)other, 0);
    check_trap("PAE, PDPTE with W", GP, 0, (ulong)load_cr3, (ulong)load_cr3, -1);
    other[2] ^= W | A;
    run_with(load_cr3, (ulong)other, 0);
    check_trap("PAE, PDPTE with bit 5", GP, 0, (ulong)load_cr3, (ulong)load_cr3, -1);
    other[2] ^= A | 1ull << 63;
    run_with(load_cr3, (ulong)other, 0);
    check_trap("PAE, PDPTE with bit 63", GP, 0, (ulong)load_cr3, (ulong)load_cr3, -1);
    check("PAE, CR3 is as before", read_cr3() - cr3, 0);
    other[2] = W | A; // not present: nothing is reserved
    run_with(load_cr3, (ulong)other, 0);
    check_trap("PAE, PDPTE not present", NONE, NOERR, 0, 0, -1);
    check_probe("PAE, access through it", WRITE, USER, 0x80000000, PF_W | PF_U);
    check("PAE, the others are loaded", peek(V), page_a[0]);
    write_cr3(cr3);
    // Bits 5 to 11 of CR3 are part of the table's address or ignored: 32-byte alignment is enough.
    run_with(load_cr3, cr3 | 0x18, 0);
    check_trap("PAE, PCD and PWT in CR3", NONE, NOERR, 0, 0, -1);
    write_cr3(cr3);

    // Turning paging on loads them, too.
    paging_off();
    pdpt[1] |= 0x100;
    run_with(load_cr0, read_cr0() | CR0_PG, 0);
    check_trap("PAE, PG on with a bad PDPTE", GP, 0, (ulong)load_cr0, (ulong)load_cr0, -1);
    check("PAE, PG stays off", read_cr0() & CR0_PG, 0);
    pdpt[1] &= ~0x100ull;
    write_cr0(read_cr0() | CR0_PG);
    check("PAE, on again", peek(V), page_a[0]);

    unsigned wrong = 0;
    page_a[0] = 0xaa;
    write_cr4(read_cr4() | CR4_PGE);
    for (unsigned i = 0; i < 100; i++) {
        *pae_pte = (ulong)(i & 1 ? page_b : page_a) | P | W | (i & 2 ? G : 0);
        invlpg(V);
        wrong += peek(V) != (i & 1 ? 0xbb : 0xaa);
    }
    check("PAE, INVLPG, stale reads in 100", wrong, 0);
    invlpg(V); // CR3 leaves global pages
    for (unsigned i = 0; i < 100; i++) {
        *pae_pte = (ulong)(i & 1 ? page_b : page_a) | P | W;
        write_cr3(cr3);
        wrong += peek(V) != (i & 1 ? 0xbb : 0xaa);
    }
    check("PAE, CR3, stale reads in 100", wrong, 0);

    *pae_pte = (ulong)page_a | P | W;
    pae_table[V2 >> 12 & 511] = 0;
    invlpg(V);
    invlpg(V2);
    *(u32 *)(page_a + 4092) = 0x77777777;
    run_with(cross_write, V2 - 2, 0);
    check_trap("PAE, crossing write, second page missing", PF, PF_W, (ulong)cross_write, (ulong)cross_write, V2);
    check("PAE, nothing was written", *(u32 *)(page_a + 4092), 0x77777777);
    paging_off();
}

int main(void)
{
    trap_handlers[BP] = nothing;
    plain();
    pae();
    return 0;
}
