// Memory as instructions see it: accesses that cross pages, devices, ROM, alignment, the TLB and its invalidation.
#include "bed.h"
#include "window.h"

GUEST(store8, 64, "mov %rbx, (%rax); hlt");
GUEST(load8, 64, "mov (%rax), %rbx; hlt");
GUEST(add8, 64, "add %rbx, (%rax); hlt");
GUEST(xchg8, 64, "xchg %rbx, (%rax); hlt");
GUEST(load_user, 64, "mov (%rax), %ebx; int3");
GUEST(load32, 32, "mov (%eax), %ebx; hlt");

#define RUN(b, code) (bed_load(b, code, code##_end), bed_go(b))

static void crossing(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_window(&b);
    bed_map(&b, 0, 0x30000 | 3); // the pages lie apart and in the other order
    bed_map(&b, 1, 0x28000 | 3);
    b.s.gpr[CPU_RAX] = WINDOW + 0xffd;
    b.s.gpr[CPU_RBX] = 0x1122334455667788;
    RUN(&b, store8);
    assert_int_equal(bed_vector(&b), -1);
    assert_int_equal(bed_read(&b, 0x30ffd, 3), 0x667788);
    assert_int_equal(bed_read(&b, 0x28000, 8), 0x1122334455);
    b.s.gpr[CPU_RBX] = 0;
    RUN(&b, load8);
    assert_int_equal(b.s.gpr[CPU_RBX], 0x1122334455667788);
    b.s.gpr[CPU_RBX] = 1ull << 56 | 1;
    RUN(&b, add8);
    assert_int_equal(bed_read(&b, 0x30ffd, 3), 0x667789);
    assert_int_equal(bed_read(&b, 0x28000, 8), 0x1222334455);
    b.s.gpr[CPU_RBX] = 0; // locked by itself: the slow way
    RUN(&b, xchg8);
    assert_int_equal(b.s.gpr[CPU_RBX], 0x1222334455667789);
    assert_int_equal(bed_read(&b, 0x30ffd, 3), 0);
    bed_close(&b);
}

// The second page can't be written: the first one must not have been.
static void crossing_is_all_or_nothing(void **state)
{
    (void)state;
    static const struct {
        uint64_t second;
        uint32_t error;
    } cases[] = {{0, PF_W}, {0x28000 | 1, PF_W | PF_P}};
    for (unsigned n = 0; n < 2; n++) {
        struct bed b;
        bed_open(&b, BED_LONG);
        bed_window(&b);
        bed_map(&b, 0, 0x30000 | 3);
        bed_map(&b, 1, cases[n].second);
        b.s.cr0 |= CR0_WP;
        bed_write(&b, 0x30ff8, 0x5555555555555555, 8);
        for (unsigned kind = 0; kind < 3; kind++) {
            b.s.gpr[CPU_RAX] = WINDOW + 0xffc;
            b.s.gpr[CPU_RBX] = 0x77;
            b.s.rflags = RFLAGS_FIXED;
            if (kind == 0)
                RUN(&b, store8);
            else if (kind == 1)
                RUN(&b, add8);
            else
                RUN(&b, xchg8);
            assert_int_equal(bed_vector(&b), EXC_PF);
            assert_int_equal(b.s.cr2, WINDOW + 0x1000);
            assert_int_equal(bed_stack(&b, 0, 8), cases[n].error);
            assert_int_equal(bed_stack(&b, 1, 8), BED_CODE);
            assert_int_equal(b.s.gpr[CPU_RBX], 0x77);
            assert_int_equal(bed_read(&b, 0x30ff8, 8), 0x5555555555555555);
        }
        bed_close(&b);
    }
}

// 4 GiB is not the end of a flat 32-bit segment: accesses wrap.
static void wraps_in_32_bits(void **state)
{
    (void)state;
    struct bed b;
    struct error e;
    bed_open(&b, BED_PROT32);
    void *top = aligned_alloc(4096, 4096);
    memset(top, 0xab, 4096);
    assert_int_equal(b.vm->ops->map(b.vm, 0xfffff000, 4096, top, 0, &e), 0);
    bed_write(&b, 0, 0x12345678, 4);
    b.s.gpr[CPU_RAX] = 0xfffffffe;
    RUN(&b, load32);
    assert_int_equal(b.s.gpr[CPU_RBX], 0x5678abab);
    assert_int_equal(b.vm->ops->unmap(b.vm, 0xfffff000, 4096, &e), 0);
    bed_close(&b);
    free(top);
}

static void expect(const struct bed *b, unsigned n, char what, uint64_t address, unsigned size, uint64_t value)
{
    assert_true(n < b->events);
    assert_int_equal(b->log[n].what, what);
    assert_int_equal(b->log[n].address, address);
    assert_int_equal(b->log[n].size, size);
    assert_int_equal(b->log[n].value, value);
}

// Devices are asked in naturally aligned pieces.
static void devices(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.gpr[CPU_RAX] = BED_RAM + 0x100;
    b.s.gpr[CPU_RBX] = 0x8877665544332211;
    RUN(&b, store8);
    expect(&b, 0, 'w', BED_RAM + 0x100, 8, 0x8877665544332211);
    b.events = 0;
    b.s.gpr[CPU_RAX] = BED_RAM + 0x101;
    RUN(&b, store8);
    expect(&b, 0, 'w', BED_RAM + 0x101, 1, 0x11);
    expect(&b, 1, 'w', BED_RAM + 0x102, 2, 0x3322);
    expect(&b, 2, 'w', BED_RAM + 0x104, 4, 0x77665544);
    expect(&b, 3, 'w', BED_RAM + 0x108, 1, 0x88);
    b.events = 0;
    b.s.gpr[CPU_RAX] = BED_RAM - 4; // half memory, half device
    bed_write(&b, BED_RAM - 4, 0x12345678, 4);
    RUN(&b, load8);
    expect(&b, 0, 'r', BED_RAM, 4, 0);
    assert_int_equal(b.s.gpr[CPU_RBX], 0xffffffff12345678);
    b.events = 0;
    b.s.gpr[CPU_RBX] = 1;
    RUN(&b, add8); // reads, then writes
    expect(&b, 0, 'r', BED_RAM, 4, 0);
    expect(&b, 1, 'w', BED_RAM, 4, 0xffffffff);
    assert_int_equal(bed_read(&b, BED_RAM - 4, 4), 0x12345679);
    b.events = 0;
    b.s.gpr[CPU_RAX] = BED_RAM + 8;
    b.s.gpr[CPU_RBX] = 7;
    RUN(&b, xchg8);
    expect(&b, 0, 'r', BED_RAM + 8, 8, 0);
    expect(&b, 1, 'w', BED_RAM + 8, 8, 7);
    assert_int_equal(b.s.gpr[CPU_RBX], ~0ull);
    bed_close(&b);
}

static void rom(void **state)
{
    (void)state;
    struct bed b;
    struct error e;
    bed_open(&b, BED_LONG);
    uint64_t *page = aligned_alloc(4096, 4096);
    page[0] = 41;
    assert_int_equal(b.vm->ops->map(b.vm, BED_RAM, 4096, page, ENGINE_MAP_READONLY, &e), 0);
    b.s.gpr[CPU_RAX] = BED_RAM;
    RUN(&b, load8);
    assert_int_equal(b.s.gpr[CPU_RBX], 41);
    assert_int_equal(b.events, 0);
    b.s.gpr[CPU_RBX] = 1;
    RUN(&b, add8); // read from memory, written to whoever listens
    expect(&b, 0, 'w', BED_RAM, 8, 42);
    assert_int_equal(page[0], 41);
    assert_int_equal(b.vm->ops->unmap(b.vm, BED_RAM, 4096, &e), 0);
    b.events = 0;
    RUN(&b, load8);
    expect(&b, 0, 'r', BED_RAM, 8, 0);
    bed_close(&b);
    free(page);
}

static void mapping_errors(void **state)
{
    (void)state;
    struct bed b;
    struct error e;
    bed_open(&b, BED_LONG);
    assert_int_equal(b.vm->ops->map(b.vm, BED_RAM - 4096, 8192, b.ram, 0, &e), -17); // EEXIST
    assert_int_equal(b.vm->ops->map(b.vm, BED_RAM + 1, 4096, b.ram, 0, &e), -22);    // EINVAL
    assert_int_equal(b.vm->ops->map(b.vm, -4096ull, 8192, b.ram, 0, &e), -22);
    assert_int_equal(b.vm->ops->unmap(b.vm, 0, 4096, &e), -2); // ENOENT: not the whole region
    bed_close(&b);
}

static void alignment(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 4; n++) {
        struct bed b;
        bed_open(&b, BED_LONG);
        bed_write(&b, BED_IDT + 16 * EXC_BP + 5, 0xee, 1); // INT3 is for anybody
        if (n != 1)
            b.s.cr0 |= CR0_AM;
        if (n != 2)
            b.s.rflags |= RFLAGS_AC;
        b.s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, 0xafb, 0xffffffff, 0};
        b.s.seg[CPU_SS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
        b.s.gpr[CPU_RAX] = n == 3 ? BED_DATA : BED_DATA + 2;
        RUN(&b, load_user);
        assert_int_equal(bed_vector(&b), n == 0 ? EXC_AC : EXC_BP);
        if (n == 0)
            assert_int_equal(bed_stack(&b, 0, 8), 0);
        bed_close(&b);
    }
}

// FXSAVE asks for alignment by #GP, or by #AC where that is on; but then an address that is not canonical comes first.
GUEST(fxsave_user, 64, "fxsave (%rax); int3");

static void alignment_of_fxsave(void **state)
{
    (void)state;
    static const struct {
        uint64_t address;
        bool ac;
        int vector;
    } cases[] = {{BED_DATA + 2, true, EXC_AC},
                 {BED_DATA + 2, false, EXC_GP},
                 {0x800000000026, true, EXC_GP},
                 {0x800000000026, false, EXC_GP},
                 {BED_DATA, true, EXC_BP}};
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct bed b;
        bed_open(&b, BED_LONG);
        bed_write(&b, BED_IDT + 16 * EXC_BP + 5, 0xee, 1);
        b.s.cr0 |= CR0_AM;
        b.s.cr4 |= CR4_OSFXSR;
        if (cases[n].ac)
            b.s.rflags |= RFLAGS_AC;
        b.s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, 0xafb, 0xffffffff, 0};
        b.s.seg[CPU_SS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
        b.s.gpr[CPU_RAX] = cases[n].address;
        RUN(&b, fxsave_user);
        assert_int_equal(bed_vector(&b), cases[n].vector);
        bed_close(&b);
    }
}

// --- the TLB

// Adds a right, and nobody says so: the store must see it. (Rights may be added without INVLPG.)
GUEST(upgrade, 64, "mov (%rax), %rbx; movq $0x28003, (%rcx); mov %rdx, (%rax); hlt");

static void rights_are_added(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_window(&b);
    b.s.cr0 |= CR0_WP;
    bed_map(&b, 0, 0x28000 | 1);
    b.s.gpr[CPU_RAX] = WINDOW;
    b.s.gpr[CPU_RCX] = WINDOW_TABLE;
    b.s.gpr[CPU_RDX] = 77;
    RUN(&b, upgrade);
    assert_int_equal(bed_vector(&b), -1);
    assert_int_equal(bed_read(&b, 0x28000, 8), 77);
    bed_close(&b);
}

// [RAX] is 1, and 2 once the entry at RCX is RSI.
static void open_remap(struct bed *b)
{
    bed_open(b, BED_LONG);
    bed_window(b);
    bed_map(b, 3, 0x28000 | 3);
    bed_write(b, 0x28010, 1, 8);
    bed_write(b, 0x29010, 2, 8);
    b->s.gpr[CPU_RAX] = WINDOW + 0x3010;
    b->s.gpr[CPU_RCX] = WINDOW_TABLE + 8 * 3;
    b->s.gpr[CPU_RSI] = 0x29000 | 3;
}

// RBX, RDX: before and after the entry has changed and INVLPG named another address of the page.
GUEST(remap, 64, "mov (%rax), %rbx; mov %rsi, (%rcx); invlpg (%rdi); mov (%rax), %rdx; hlt");

static void invlpg(void **state)
{
    (void)state;
    struct bed b;
    open_remap(&b);
    b.s.gpr[CPU_RDI] = WINDOW + 0x3fff;
    RUN(&b, remap);
    assert_int_equal(b.s.gpr[CPU_RBX], 1);
    assert_int_equal(b.s.gpr[CPU_RDX], 2);
    bed_close(&b);
}

// The owner asks for a flush while the CPU is in HLT, and ends that.
GUEST(remap_asleep, 64, "mov (%rax), %rbx; mov %rsi, (%rcx); hlt; mov (%rax), %rdx; hlt");

static void flush_asleep(void **state)
{
    (void)state;
    struct bed b;
    open_remap(&b);
    b.wake = ENGINE_UNHALT | ENGINE_TLB_FLUSH;
    RUN(&b, remap_asleep);
    assert_int_equal(b.halts, 2);
    assert_int_equal(b.s.gpr[CPU_RBX], 1);
    assert_int_equal(b.s.gpr[CPU_RDX], 2);
    bed_close(&b);
}

static void invlpg_of_a_large_page(void **state)
{
    (void)state;
    for (unsigned giant = 0; giant < 2; giant++) {
        struct bed b;
        bed_open(&b, BED_LONG);
        // 2 MiB at PD 100, or 1 GiB at PDPT 3; first to 0, then to 2 MiB (or 1 GiB, where nothing is).
        uint64_t table = giant ? BED_TABLES + 0x1000 + 8 * 3 : BED_TABLES + 0x2000 + 8 * 100;
        uint64_t la = giant ? 3ull << 30 : 100ull << 21;
        bed_write(&b, table, 0x83, 8);
        bed_write(&b, BED_DATA, 1, 8);
        bed_write(&b, (2 << 20) + BED_DATA, 2, 8);
        b.s.gpr[CPU_RAX] = la + BED_DATA;
        b.s.gpr[CPU_RCX] = table;
        b.s.gpr[CPU_RSI] = (giant ? 1 << 30 : 2 << 20) | 0x83;
        b.s.gpr[CPU_RDI] = la + (giant ? 0x12345678 : 0x1ffff8); // far from what was used
        RUN(&b, remap);
        assert_int_equal(b.s.gpr[CPU_RBX], 1);
        assert_int_equal(b.s.gpr[CPU_RDX], giant ? ~0ull : 2);
        bed_close(&b);
    }
}

// Loads a page, switches CR3 to RDX and back a hundred times, loads it each time.
GUEST(switches, 64,
      "mov %cr3, %rsi; mov $100, %ecx; 1: mov (%rax), %rbx; mov %rdx, %cr3; mov %rsi, %cr3; dec %ecx; jnz 1b; hlt");

// Counts walks: global pages outlive a write of CR3, others don't; and PCIDs keep theirs.
static void what_cr3_leaves(void **state)
{
    (void)state;
    uint64_t fills[3];
    for (unsigned n = 0; n < 3; n++) {
        struct bed b;
        bed_open(&b, BED_LONG);
        b.s.cr4 |= CR4_PGE | (n == 2 ? CR4_PCIDE : 0);
        for (unsigned i = 0; n == 1 && i < 512; i++)
            bed_write(&b, BED_TABLES + 0x2000 + 8 * i, (uint64_t)i << 21 | 0x187, 8);
        b.s.gpr[CPU_RAX] = BED_DATA;
        b.s.gpr[CPU_RDX] = b.s.cr3 | (n == 2 ? 5 | 1ull << 63 : 0);
        if (n == 2)
            b.s.cr3 |= 7;
        RUN(&b, switches);
        assert_int_equal(bed_vector(&b), -1);
        fills[n] = bed_stat(&b, "tlb_fills");
        bed_close(&b);
    }
    assert_true(fills[0] >= 200); // code and data, each time
    assert_true(fills[1] < 10);
    // Reading CR3 does not give bit 63: the way back flushes, but PCID 5's stay.
    assert_true(fills[2] >= 100 && fills[2] < 320);
}

// Many pages that fall on the same places of the tables, read twice, each with its own value.
GUEST(stride, 64,
      "mov %rax, %rsi; mov $512, %ecx; xor %ebx, %ebx; 1: add (%rsi), %rbx; add $0x1000, %rsi; dec %ecx; "
      "jnz 1b; dec %edx; jnz stride; hlt");

static void more_pages_than_places(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_window(&b);
    uint64_t sum = 0;
    for (unsigned n = 0; n < 512; n++) {
        bed_map(&b, n, 0x100000 + 0x1000 * ((n * 7) % 512) + 3);
        bed_write(&b, 0x100000 + 0x1000 * ((n * 7) % 512), n * n, 8);
        sum += n * n;
    }
    b.s.gpr[CPU_RAX] = WINDOW;
    b.s.gpr[CPU_RDX] = 3;
    RUN(&b, stride);
    assert_int_equal(b.s.gpr[CPU_RBX], sum);
    assert_true(bed_stat(&b, "tlb_fills") < 512 * 2); // the far table holds them
    bed_close(&b);
}

// SMAP with AC: each of the near tables has its own rights.
GUEST(smap, 64, "stac; mov (%rax), %rbx; clac; mov %cs:(%rax), %rdx; hlt");

static void smap_and_ac(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_window(&b);
    bed_map(&b, 0, 0x28000 | 7);
    for (unsigned i = 0; i < 2; i++) // the bed's own pages become the supervisor's
        bed_write(&b, BED_TABLES + 0x2000 + 8 * i, (uint64_t)i << 21 | 0x83, 8);
    b.s.cr4 |= CR4_SMAP;
    bed_write(&b, 0x28000, 9, 8);
    b.s.gpr[CPU_RAX] = WINDOW;
    RUN(&b, smap);
    assert_int_equal(bed_vector(&b), EXC_PF);
    assert_int_equal(b.s.gpr[CPU_RBX], 9);
    assert_int_equal(bed_stack(&b, 0, 8), PF_P);
    bed_close(&b);
}

GUEST(invlpg_load, 64, "invlpg (%rax); mov (%rax), %rbx; hlt");
GUEST(push_there, 64, "lea 8(%rax), %rsp; push %rbx; hlt");

// No address is so strange that an empty entry of a TLB could be taken for its translation: all kinds of them, after
// all entries were in use, and after they were emptied.
static void strange_addresses(void **state)
{
    (void)state;
    static const uint64_t strange[] = {0x7ffffffffffff000, 0x7fffffffffffffe0, 0x8000000000000000, 0x8000000000000ff0,
                                       0x800000000000,     0xffff7ffffffffff0, 0x0123456789abc000, 0xff00000000000000};
    static const struct engine_ops *const engines[] = {&engine_interp, &engine_dbt};
    for (unsigned e = 0; e < 2; e++) {
        struct bed b;
        bed_open_engine(&b, BED_LONG, NULL, engines[e]);
        bed_gate(&b, EXC_SS, BED_CS, BED_HANDLERS + 16 * EXC_SS, 0x8e, 1);
        for (unsigned round = 0; round < 2; round++) {
            for (unsigned n = 0; n < sizeof strange / sizeof *strange; n++) {
                b.s.gpr[CPU_RAX] = strange[n];
                b.s.gpr[CPU_RSP] = BED_STACK;
                RUN(&b, load8);
                assert_int_equal(bed_vector(&b), EXC_GP);
                b.s.gpr[CPU_RSP] = BED_STACK;
                RUN(&b, store8);
                assert_int_equal(bed_vector(&b), EXC_GP);
                b.s.gpr[CPU_RSP] = BED_STACK;
                RUN(&b, invlpg_load);
                assert_int_equal(bed_vector(&b), EXC_GP);
                RUN(&b, push_there);
                assert_int_equal(bed_vector(&b), EXC_SS);
            }
            for (unsigned n = 0; n < 600; n++) {
                b.s.gpr[CPU_RAX] = BED_DATA + (uint64_t)n * 4096;
                RUN(&b, load8);
                assert_int_equal(bed_vector(&b), -1);
            }
        }
        bed_close(&b);
    }
}

// A page of code that has become hot goes back to the host: from then on it is zeroes, which are ADD [RAX], AL up to
// its end, and then comes the next page.
GUEST(calls, 64, "mov $0x30000, %edx; mov $500, %ecx; 1: call *%rdx; dec %ecx; jnz 1b; hlt");
GUEST(gives_1, 64, "mov $1, %ebx; ret");
GUEST(gives_2, 64, "mov $2, %ebx; ret");

static void discarded_code(void **state)
{
    (void)state;
    static const struct engine_ops *const engines[] = {&engine_interp, &engine_dbt};
    for (unsigned e = 0; e < 2; e++) {
        struct bed b;
        bed_open_engine(&b, BED_LONG, NULL, engines[e]);
        memcpy(b.ram + 0x30000, gives_1, (size_t)(gives_1_end - gives_1));
        memcpy(b.ram + 0x31000, gives_2, (size_t)(gives_2_end - gives_2));
        b.s.gpr[CPU_RAX] = BED_DATA;
        b.free = true;
        RUN(&b, calls);
        assert_int_equal(b.s.gpr[CPU_RBX], 1);
        memset(b.ram + 0x30000, 0, 4096);
        b.vm->ops->discarded(b.vm, 0x30000, 4096);
        b.s.rip = BED_CODE;
        bed_go(&b);
        assert_int_equal(b.s.gpr[CPU_RBX], 2);
        bed_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crossing),
        cmocka_unit_test(crossing_is_all_or_nothing),
        cmocka_unit_test(wraps_in_32_bits),
        cmocka_unit_test(strange_addresses),
        cmocka_unit_test(devices),
        cmocka_unit_test(rom),
        cmocka_unit_test(mapping_errors),
        cmocka_unit_test(alignment),
        cmocka_unit_test(alignment_of_fxsave),
        cmocka_unit_test(rights_are_added),
        cmocka_unit_test(invlpg),
        cmocka_unit_test(flush_asleep),
        cmocka_unit_test(invlpg_of_a_large_page),
        cmocka_unit_test(what_cr3_leaves),
        cmocka_unit_test(more_pages_than_places),
        cmocka_unit_test(smap_and_ac),
        cmocka_unit_test(discarded_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
