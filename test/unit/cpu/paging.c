// The page-table walk in every paging mode: translation, rights, error codes, reserved bits, accessed and dirty bits.
#include "cpu/paging.h"
#include "cpu/exception.h"
#include "unit.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100, PHYS_BITS = 40 };
#define NX (1ull << 63)

// 64 KiB of page tables at guest-physical 0.
struct tables {
    _Alignas(8) uint8_t mem[0x10000];
    unsigned cas_to_fail; // so many compare-and-exchanges find that somebody else was faster
    unsigned cas_calls;
};

static uint64_t tables_read(void *ctx, uint64_t gpa, unsigned size)
{
    struct tables *t = ctx;
    uint64_t val = ~0ull;
    if (gpa + size <= sizeof t->mem) {
        val = 0;
        memcpy(&val, t->mem + gpa, size);
    }
    return val;
}

static bool tables_cas(void *ctx, uint64_t gpa, unsigned size, uint64_t old, uint64_t val)
{
    struct tables *t = ctx;
    t->cas_calls++;
    if (t->cas_to_fail) {
        t->cas_to_fail--;
        return false;
    }
    if (tables_read(t, gpa, size) != old)
        return false;
    if (gpa + size <= sizeof t->mem)
        memcpy(t->mem + gpa, &val, size);
    return true;
}

static const struct cpu_phys_ops ops = {tables_read, tables_cas};

static void put8(struct tables *t, uint64_t table, unsigned index, uint64_t e)
{
    memcpy(t->mem + table + index * 8, &e, 8);
}

static uint64_t get8(struct tables *t, uint64_t table, unsigned index)
{
    return tables_read(t, table + index * 8, 8);
}

static void put4(struct tables *t, uint64_t table, unsigned index, uint32_t e)
{
    memcpy(t->mem + table + index * 4, &e, 4);
}

// Long mode; la 0x401000 (PML4 0, PDPT 0, PD 2, PT 1) is the page at 0x7777000. Tables at 0x1000, 0x2000, 0x3000,
// 0x4000.
static const uint64_t page_la = 0x401000;

static void long_mode(struct cpu_state *s, struct tables *t)
{
    memset(s, 0, sizeof *s);
    memset(t, 0, sizeof *t);
    s->cr0 = CR0_PE | CR0_PG | CR0_WP;
    s->cr4 = CR4_PAE | CR4_PGE;
    s->efer = EFER_LME | EFER_LMA | EFER_NXE;
    s->cr3 = 0x1000;
    put8(t, 0x1000, 0, 0x2000 | P | W | U);
    put8(t, 0x2000, 0, 0x3000 | P | W | U);
    put8(t, 0x3000, 2, 0x4000 | P | W | U);
    put8(t, 0x4000, 1, 0x7777000 | P | W | U);
}

static int walk(struct cpu_state *s, struct tables *t, struct cpu_walk *w, uint64_t la, enum cpu_access access,
                bool user)
{
    *w = (struct cpu_walk){.la = la, .access = access, .user = user};
    return cpu_walk(s, PHYS_BITS, &ops, t, w);
}

static void off_is_identity(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    memset(&s, 0, sizeof s);
    assert_int_equal(walk(&s, &t, &w, 0xfffffff0, CPU_EXEC, false), 0);
    assert_int_equal(w.gpa, 0xfffffff0);
    assert_true(w.user_page && w.writable && w.executable && w.dirty);
    s.cr4 = CR4_SMAP | CR4_SMEP;
    assert_true(cpu_page_allows(&s, true, false, false, CPU_EXEC, false, true));
}

static void four_levels(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    long_mode(&s, &t);
    assert_int_equal(walk(&s, &t, &w, page_la + 0x123, CPU_READ, true), 0);
    assert_int_equal(w.gpa, 0x7777123);
    assert_int_equal(w.page_shift, 12);
    assert_false(w.dirty);
    assert_false(w.global);
    assert_int_equal(get8(&t, 0x4000, 1), 0x7777000 | P | W | U | A);
    assert_int_equal(get8(&t, 0x1000, 0), 0x2000 | P | W | U | A);
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_WRITE, true), 0);
    assert_true(w.dirty);
    assert_int_equal(get8(&t, 0x4000, 1), 0x7777000 | P | W | U | A | D);
    assert_int_equal(get8(&t, 0x3000, 2), 0x4000 | P | W | U | A);
    unsigned calls = t.cas_calls;
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_WRITE, true), 0);
    assert_int_equal(t.cas_calls, calls); // nothing left to set
    put8(&t, 0x4000, 1, 0x7777000 | P | W | U | G);
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_READ, true), 0);
    assert_true(w.global);
    s.cr4 &= ~CR4_PGE;
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_READ, true), 0);
    assert_false(w.global);
}

static void large_pages(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    long_mode(&s, &t);
    put8(&t, 0x3000, 2, 0x12200000 | P | W | U | PS);
    assert_int_equal(walk(&s, &t, &w, 0x5abcde, CPU_WRITE, false), 0);
    assert_int_equal(w.gpa, 0x123abcde);
    assert_int_equal(w.page_shift, 21);
    assert_int_equal(get8(&t, 0x3000, 2), 0x12200000 | P | W | U | PS | A | D);
    put8(&t, 0x3000, 2, 0x12201000 | P | W | U | PS | 0x1000); // PAT bit is not an address bit
    assert_int_equal(walk(&s, &t, &w, 0x5abcde, CPU_READ, false), 0);
    assert_int_equal(w.gpa, 0x123abcde);
    put8(&t, 0x2000, 0, 0x80000000ull | P | W | U | PS);
    assert_int_equal(walk(&s, &t, &w, 0x3badcafe, CPU_READ, false), 0);
    assert_int_equal(w.gpa, 0xbbadcafe);
    assert_int_equal(w.page_shift, 30);
}

static void five_levels(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    long_mode(&s, &t);
    s.cr4 |= CR4_LA57;
    s.cr3 = 0x5000;
    put8(&t, 0x5000, 0x100, 0x1000 | P | W | U);
    assert_int_equal(walk(&s, &t, &w, 0xff00000000000000 | page_la, CPU_READ, false), 0);
    assert_int_equal(w.gpa, 0x7777000);
    put8(&t, 0x5000, 0x100, 0x1000 | P | W | U | PS);
    assert_int_equal(walk(&s, &t, &w, 0xff00000000000000 | page_la, CPU_READ, false), -1);
    assert_int_equal(w.error, PF_P | PF_RSVD);
}

static void pae(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    long_mode(&s, &t);
    s.efer = EFER_NXE;
    s.pdpte[3] = 0x3000 | P;
    assert_int_equal(walk(&s, &t, &w, 0xc0401234, CPU_WRITE, true), 0);
    assert_int_equal(w.gpa, 0x7777234);
    assert_int_equal(walk(&s, &t, &w, 0x80401234, CPU_WRITE, true), -1);
    assert_int_equal(w.error, PF_W | PF_U);
    put8(&t, 0x3000, 2, 0x12200000 | P | W | U | PS | NX);
    assert_int_equal(walk(&s, &t, &w, 0xc05abcde, CPU_READ, true), 0);
    assert_int_equal(w.gpa, 0x123abcde);
    assert_int_equal(walk(&s, &t, &w, 0xc05abcde, CPU_EXEC, true), -1);
    assert_int_equal(w.error, PF_P | PF_U | PF_I);
    put8(&t, 0x3000, 2, 0x12200000 | P | W | U | PS | 1ull << 55); // ignored in long mode, reserved here
    assert_int_equal(walk(&s, &t, &w, 0xc05abcde, CPU_READ, true), -1);
    assert_int_equal(w.error, PF_P | PF_U | PF_RSVD);
}

static void legacy_32(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    memset(&s, 0, sizeof s);
    memset(&t, 0, sizeof t);
    s.cr0 = CR0_PE | CR0_PG;
    s.cr3 = 0x1018; // PWT and PCD are no address bits
    put4(&t, 0x1000, 0x300, 0x2000 | P | W | U);
    put4(&t, 0x2000, 5, 0xfeed0000 | P | U);
    assert_int_equal(walk(&s, &t, &w, 0xc0005678, CPU_READ, true), 0);
    assert_int_equal(w.gpa, 0xfeed0678);
    assert_true(w.executable);
    assert_int_equal(walk(&s, &t, &w, 0xc0005678, CPU_WRITE, true), -1);
    assert_int_equal(w.error, PF_P | PF_U | PF_W);
    assert_int_equal(walk(&s, &t, &w, 0xc0005678, CPU_EXEC, true), 0); // no NX in this mode
    // PS counts only with CR4.PSE.
    put4(&t, 0x1000, 1, 0x2000 | P | W | U | PS);
    assert_int_equal(walk(&s, &t, &w, 0x405678, CPU_READ, true), 0);
    assert_int_equal(w.gpa, 0xfeed0678);
    s.cr4 = CR4_PSE;
    put4(&t, 0x1000, 1, 0x00c00000 | 0x24 << 13 | P | W | U | PS);
    assert_int_equal(walk(&s, &t, &w, 0x7fedcb, CPU_WRITE, false), 0);
    assert_int_equal(w.gpa, 0x2400ffedcb);
    assert_int_equal(w.page_shift, 22);
    put4(&t, 0x1000, 1, 0x00c00000 | 1 << 21 | P | W | U | PS);
    assert_int_equal(walk(&s, &t, &w, 0x7fedcb, CPU_READ, false), -1);
    assert_int_equal(w.error, PF_P | PF_RSVD);
    // With 36 physical bits, PDE bits 17..20 have nowhere to go.
    put4(&t, 0x1000, 1, 0x00c00000 | 0x10 << 13 | P | W | U | PS);
    w = (struct cpu_walk){.la = 0x7fedcb};
    assert_int_equal(cpu_walk(&s, 36, &ops, &t, &w), -1);
    put4(&t, 0x1000, 1, 0x00c00000 | 0xf << 13 | P | W | U | PS);
    assert_int_equal(cpu_walk(&s, 36, &ops, &t, &w), 0);
    assert_int_equal(w.gpa, 0xf00ffedcb);
}

static void reserved_bits(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    static const struct {
        uint64_t table, entry;
        unsigned index;
        bool nxe;
    } bad[] = {
        {0x1000, 0x2000 | P | W | U | PS, 0, true},
        {0x1000, 0x2000 | P | W | U | 1ull << 40, 0, true},
        {0x2000, P | W | U | PS | 1 << 29, 0, true},
        {0x2000, P | W | U | PS | 1 << 13, 0, true},
        {0x3000, P | W | U | PS | 1 << 20, 2, true},
        {0x4000, 0x7777000 | P | 1ull << 51, 1, true},
        {0x4000, 0x7777000 | P | W | U | 1ull << 63, 1, false},
    };
    for (unsigned n = 0; n < sizeof bad / sizeof bad[0]; n++) {
        long_mode(&s, &t);
        if (!bad[n].nxe)
            s.efer &= ~EFER_NXE;
        put8(&t, bad[n].table, bad[n].index, bad[n].entry);
        assert_int_equal(walk(&s, &t, &w, page_la, CPU_READ, true), -1);
        assert_int_equal(w.error, PF_P | PF_U | PF_RSVD);
        assert_int_equal(get8(&t, bad[n].table, bad[n].index), bad[n].entry);
    }
    long_mode(&s, &t); // bits 52..62 are free for software
    put8(&t, 0x4000, 1, 0x7777000 | P | W | U | 0x7ffull << 52);
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_READ, true), 0);
    assert_int_equal(w.gpa, 0x7777000);
}

static void not_present(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    for (unsigned level = 0; level < 4; level++) {
        long_mode(&s, &t);
        put8(&t, 0x1000 * (level + 1), level == 2 ? 2 : level == 3, 1ull << 45); // reserved bits don't matter
        assert_int_equal(walk(&s, &t, &w, page_la, CPU_WRITE, false), -1);
        assert_int_equal(w.error, PF_W);
        assert_int_equal(walk(&s, &t, &w, page_la, CPU_EXEC, true), -1);
        assert_int_equal(w.error, PF_U | PF_I);
    }
    s.efer &= ~EFER_NXE;
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_EXEC, true), -1);
    assert_int_equal(w.error, PF_U);
    s.cr4 |= CR4_SMEP;
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_EXEC, true), -1);
    assert_int_equal(w.error, PF_U | PF_I);
}

// Every combination of page rights, control bits and kind of access against the rules of Intel SDM vol. 3, 4.6.1,
// written out a second time, rule by rule.
static bool manual_allows(const struct cpu_state *s, bool up, bool w, bool x, enum cpu_access a, bool user,
                          bool implicit)
{
    if (user) {
        if (!up)
            return false;
        if (a == CPU_WRITE)
            return w;
        if (a == CPU_EXEC)
            return x;
        return true;
    }
    if (a == CPU_EXEC) {
        if (up && (s->cr4 & CR4_SMEP))
            return false;
        return x;
    }
    if (up && (s->cr4 & CR4_SMAP)) {
        if (implicit)
            return false;
        if (!(s->rflags & RFLAGS_AC))
            return false;
    }
    if (a == CPU_WRITE && (s->cr0 & CR0_WP) && !w)
        return false;
    return true;
}

static void rights(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    for (unsigned n = 0; n < 1u << 11; n++) {
        bool up = n & 1, w = n & 2, x = n & 4, user = n & 8, implicit = !user && (n & 16);
        enum cpu_access access = n >> 9 > 2 ? CPU_READ : n >> 9;
        long_mode(&s, &t);
        s.cr0 = CR0_PE | CR0_PG | (n & 32 ? CR0_WP : 0);
        s.cr4 |= (n & 64 ? CR4_SMEP : 0) | (n & 128 ? CR4_SMAP : 0);
        s.rflags = n & 256 ? RFLAGS_AC : 0;
        // A right is missing if any level lacks it: spread them.
        put8(&t, 0x1000, 0, 0x2000 | P | W | (up ? U : 0));
        put8(&t, 0x2000, 0, 0x3000 | P | U | (w ? W : 0));
        put8(&t, 0x3000, 2, 0x4000 | P | U | W | (x ? 0 : NX));
        uint64_t leaf = get8(&t, 0x4000, 1);
        struct cpu_walk k = {.la = page_la, .access = access, .user = user, .implicit = implicit};
        bool ok = cpu_walk(&s, PHYS_BITS, &ops, &t, &k) == 0;
        assert_int_equal(ok, manual_allows(&s, up, w, x, access, user, implicit));
        assert_int_equal(ok, cpu_page_allows(&s, up, w, x, access, user, implicit));
        if (ok) {
            assert_true(k.user_page == up && k.writable == w && k.executable == x);
        } else {
            assert_int_equal(k.error, PF_P | (user ? PF_U : 0) |
                                          (access == CPU_WRITE  ? PF_W
                                           : access == CPU_EXEC ? PF_I
                                                                : 0));
            assert_int_equal(get8(&t, 0x4000, 1), leaf); // refused: neither accessed nor dirty
        }
    }
}

static void probe_touches_nothing(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    long_mode(&s, &t);
    struct cpu_walk w = {.la = page_la, .access = CPU_WRITE, .probe = true};
    assert_int_equal(cpu_walk(&s, PHYS_BITS, &ops, &t, &w), 0);
    assert_int_equal(t.cas_calls, 0);
    assert_false(w.dirty);
}

static void races(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    long_mode(&s, &t);
    t.cas_to_fail = 5;
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_WRITE, false), 0);
    assert_int_equal(get8(&t, 0x4000, 1), 0x7777000 | P | W | U | A | D);
    long_mode(&s, &t);
    t.cas_to_fail = ~0u; // a guest that never lets us
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_WRITE, false), -1);
    assert_true(t.cas_calls < 1000);
}

static void tables_outside_of_memory(void **state)
{
    (void)state;
    static struct cpu_state s;
    static struct tables t;
    struct cpu_walk w;
    long_mode(&s, &t);
    s.cr3 = 0x8000000; // reads as all ones: present with reserved bits
    assert_int_equal(walk(&s, &t, &w, page_la, CPU_READ, false), -1);
    assert_int_equal(w.error, PF_P | PF_RSVD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off_is_identity),
        cmocka_unit_test(four_levels),
        cmocka_unit_test(large_pages),
        cmocka_unit_test(five_levels),
        cmocka_unit_test(pae),
        cmocka_unit_test(legacy_32),
        cmocka_unit_test(reserved_bits),
        cmocka_unit_test(not_present),
        cmocka_unit_test(rights),
        cmocka_unit_test(probe_touches_nothing),
        cmocka_unit_test(races),
        cmocka_unit_test(tables_outside_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
