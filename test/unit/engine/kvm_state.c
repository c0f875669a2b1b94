// The KVM engine's state: what is set is what is got, whatever it is; and a guest that has begun under KVM goes on
// under the interpreter.
//
// States are random but legal: KVM refuses others, as it should. What cannot come back as it was is compared by what it
// means: of an unusable segment only base and selector count, and a vector component in its initial state may be told
// either way.
#include "bed.h"
#include <stdlib.h>

enum { ROUNDS = 300, FXSAVE_ST = 32, FXSAVE_XMM = 160, XSTATE_BV_AT = 512, YMM_AT = 576 };

static uint64_t seed;

static uint64_t dice(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint64_t canonical(void)
{
    return (uint64_t)((int64_t)(dice() << 16) >> 16);
}

static void random_bytes(uint8_t *to, size_t size)
{
    for (size_t n = 0; n < size; n++)
        to[n] = (uint8_t)dice();
}

static struct cpu_segment data_segment(unsigned dpl)
{
    struct cpu_segment g = {.selector = (uint16_t)((dice() & 0xfff8) | dpl), .limit = 0xffffffff};
    g.attr = (uint16_t)(CPU_SEG_P | CPU_SEG_S | CPU_SEG_WRITE | CPU_SEG_ACCESSED | CPU_SEG_G | CPU_SEG_DB |
                        dpl << CPU_SEG_DPL_SHIFT | (dice() & CPU_SEG_AVL));
    return g;
}

static void random_segments(struct cpu_state *s, enum bed_mode mode)
{
    unsigned dpl = mode == BED_REAL ? 0 : dice() & 1 ? 3 : 0;
    for (unsigned n = 0; n < CPU_SEG_COUNT; n++) {
        struct cpu_segment *g = &s->seg[n];
        *g = data_segment(dpl);
        if (mode == BED_REAL) {
            g->base = (uint64_t)g->selector << 4;
            g->limit = 0xffff;
            g->attr &= (uint16_t) ~(CPU_SEG_G | CPU_SEG_DB | CPU_SEG_AVL);
        } else if (n == CPU_CS) {
            g->attr = (uint16_t)((g->attr & ~CPU_SEG_DB) | CPU_SEG_CODE | (mode == BED_LONG ? CPU_SEG_L : CPU_SEG_DB));
        } else if (n != CPU_SS && dice() % 4 == 0) {
            *g = (struct cpu_segment){.selector = (uint16_t)(dice() & 3)};
        }
        if (mode == BED_LONG && (n == CPU_FS || n == CPU_GS))
            g->base = canonical();
    }
    s->tr = (struct cpu_segment){
        .selector = (uint16_t)(dice() & 0xfff8), .attr = CPU_SEG_P | 0xb, .limit = 0x67, .base = dice() & 0xffffffff};
    s->ldtr = (struct cpu_segment){
        .selector = (uint16_t)(dice() & 0xfff8), .attr = CPU_SEG_P | 2, .limit = 0xfff, .base = dice() & 0xffffffff};
    s->gdtr =
        (struct cpu_table){.base = mode == BED_LONG ? canonical() : dice() & 0xffffffff, .limit = (uint16_t)dice()};
    s->idtr =
        (struct cpu_table){.base = mode == BED_LONG ? canonical() : dice() & 0xffffffff, .limit = (uint16_t)dice()};
}

static void random_control(struct cpu_state *s, const struct cpu_model *m, enum bed_mode mode)
{
    const uint64_t any_cr4 =
        CR4_TSD | CR4_DE | CR4_PSE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_OSXSAVE;
    s->cr0 = CR0_ET | CR0_NE | (dice() & (CR0_MP | CR0_TS | CR0_AM | CR0_WP));
    s->cr2 = dice();
    s->cr3 = dice() & 0xfffff000;
    s->cr4 = dice() & any_cr4 & m->cr4_mask;
    s->efer = dice() & EFER_SCE;
    if (mode != BED_REAL)
        s->cr0 |= CR0_PE;
    if (mode == BED_LONG) {
        s->cr0 |= CR0_PG;
        s->cr4 |= CR4_PAE;
        s->efer |= EFER_LME | EFER_LMA | (dice() & (EFER_NXE | EFER_AIBRSE) & m->efer_mask);
    }
}

static void random_vectors(struct cpu_state *s, const struct cpu_model *m)
{
    bool xsave = cpu_model_has(m, 1, 0, 2, 26);
    uint64_t bv = dice() & m->xcr0_mask & (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX);
    s->xcr0 = XSTATE_X87 | (xsave ? dice() & m->xcr0_mask & XSTATE_SSE : 0);
    memset(s->xsave, 0, sizeof s->xsave);
    if (bv & XSTATE_X87) {
        uint16_t control = 0x40 | (dice() & 0xf3f), status = dice() & 0x3f7f;
        memcpy(s->xsave, &control, 2);
        memcpy(s->xsave + 2, &status, 2);
        s->xsave[4] = (uint8_t)dice();
        for (unsigned n = 0; n < 8; n++)
            random_bytes(s->xsave + FXSAVE_ST + 16 * n, 10);
    }
    uint32_t mxcsr = dice() & 0xffbf;
    memcpy(s->xsave + 24, &mxcsr, 4);
    if (bv & XSTATE_SSE)
        random_bytes(s->xsave + FXSAVE_XMM, 256);
    if (bv & XSTATE_AVX)
        random_bytes(s->xsave + YMM_AT, 256);
    memcpy(s->xsave + XSTATE_BV_AT, &bv, 8);
}

static void random_msrs(struct cpu_msrs *m)
{
    m->star = dice();
    m->lstar = canonical();
    m->cstar = canonical();
    m->sfmask = dice() & 0xffffffff;
    m->kernel_gs_base = canonical();
    m->sysenter_cs = dice() & 0xffff;
    m->sysenter_esp = canonical();
    m->sysenter_eip = canonical();
    m->tsc_aux = dice() & 0xffffffff;
    m->tsc_adjust = dice();
    m->mtrr_def_type = 0x806;
    for (unsigned n = 0; n < CPU_MTRR_VARIABLE; n++) {
        m->mtrr_base[n] = dice() & 0xffff000;
        m->mtrr_mask[n] = dice() & 0xffff800;
    }
    m->mcg_status = dice() & 7;
}

static void random_events(struct cpu_events *ev)
{
    memset(ev, 0, sizeof *ev);
    ev->nmi_masked = dice() & 1;
    ev->nmi_pending = dice() & 1;
    switch (dice() % 4) {
    case 0:
        ev->exception_pending = true;
        ev->exception_vector = EXC_GP;
        ev->exception_has_error = true;
        ev->exception_error = dice() & 0xfff8;
        break;
    case 1:
        ev->exception_pending = true;
        ev->exception_vector = EXC_UD;
        break;
    case 2: // an interrupt that was acknowledged
        ev->exception_pending = true;
        ev->exception_vector = (uint8_t)(32 + dice() % 224);
        break;
    default:
        ev->shadow = dice() & 1 ? CPU_SHADOW_STI : CPU_SHADOW_NONE;
    }
}

static void random_state(struct cpu_state *s, const struct cpu_model *m)
{
    static const enum bed_mode modes[] = {BED_REAL, BED_PROT32, BED_LONG};
    enum bed_mode mode = modes[dice() % 3];
    cpu_reset(s, true);
    for (unsigned n = 0; n < CPU_GPR_COUNT; n++)
        s->gpr[n] = dice();
    s->rip = mode == BED_LONG ? canonical() : dice() & 0xffff;
    s->rflags = (dice() & (RFLAGS_STATUS | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID | RFLAGS_IOPL)) |
                RFLAGS_FIXED | (dice() & RFLAGS_IF);
    random_segments(s, mode);
    random_control(s, m, mode);
    random_vectors(s, m);
    random_msrs(&s->msr);
    for (unsigned n = 0; n < 4; n++)
        s->dr[n] = canonical();
    s->dr6 = 0xffff0ff0 | (dice() & 0xe00f);
    s->dr7 = 0x400 | (dice() & 0x3ff);
    random_events(&s->ev);
}

static void same_segment(const char *name, const struct cpu_segment *a, const struct cpu_segment *b)
{
    bool same = a->base == b->base && a->selector == b->selector && !((a->attr ^ b->attr) & CPU_SEG_P);
    if (same && a->attr & CPU_SEG_P)
        same = a->attr == b->attr && a->limit == b->limit;
    if (!same)
        fail_msg("%s: set %04x %03x %x %llx, got %04x %03x %x %llx", name, a->selector, a->attr, a->limit,
                 (unsigned long long)a->base, b->selector, b->attr, b->limit, (unsigned long long)b->base);
}

#define SAME(field) assert_memory_equal(&a->field, &b->field, sizeof a->field)

// Components spelt out: those that are not in XSTATE_BV as they are initially.
static void spelt_out(const struct cpu_state *s, uint8_t area[YMM_AT + 256])
{
    uint64_t bv;
    memcpy(area, s->xsave, YMM_AT + 256);
    memcpy(&bv, area + XSTATE_BV_AT, 8);
    if (!(bv & XSTATE_X87)) {
        memset(area, 0, 24);
        memcpy(area, &(uint16_t){0x37f}, 2);
        memset(area + FXSAVE_ST, 0, 128);
    }
    for (unsigned n = 0; n < 8; n++)
        memset(area + FXSAVE_ST + 16 * n + 10, 0, 6);
    memset(area + 28, 0, 4); // MXCSR_MASK is the host's
    if (!(bv & XSTATE_SSE))
        memset(area + FXSAVE_XMM, 0, 256);
    if (!(bv & XSTATE_AVX))
        memset(area + YMM_AT, 0, 256);
    memset(area + FXSAVE_XMM + 256, 0, YMM_AT - FXSAVE_XMM - 256);
}

static void same(const struct cpu_state *a, const struct cpu_state *b)
{
    static const char *const names[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
    static uint8_t area_a[YMM_AT + 256], area_b[YMM_AT + 256];
    SAME(gpr);
    assert_int_equal(a->rip, b->rip);
    assert_int_equal(a->rflags, b->rflags);
    for (unsigned n = 0; n < CPU_SEG_COUNT; n++)
        same_segment(names[n], &a->seg[n], &b->seg[n]);
    same_segment("TR", &a->tr, &b->tr);
    same_segment("LDTR", &a->ldtr, &b->ldtr);
    assert_int_equal(a->gdtr.base, b->gdtr.base);
    assert_int_equal(a->gdtr.limit, b->gdtr.limit);
    assert_int_equal(a->idtr.base, b->idtr.base);
    assert_int_equal(a->idtr.limit, b->idtr.limit);
    assert_int_equal(a->cr0, b->cr0);
    assert_int_equal(a->cr2, b->cr2);
    assert_int_equal(a->cr3, b->cr3);
    assert_int_equal(a->cr4, b->cr4);
    assert_int_equal(a->efer, b->efer);
    SAME(dr);
    assert_int_equal(a->dr6, b->dr6);
    assert_int_equal(a->dr7, b->dr7);
    SAME(msr);
    assert_int_equal(a->xcr0, b->xcr0);
    spelt_out(a, area_a);
    spelt_out(b, area_b);
    assert_memory_equal(area_a, area_b, sizeof area_a);
    assert_int_equal(a->ev.activity, b->ev.activity);
    assert_int_equal(a->ev.shadow, b->ev.shadow);
    assert_int_equal(a->ev.nmi_masked, b->ev.nmi_masked);
    assert_int_equal(a->ev.nmi_pending, b->ev.nmi_pending);
    assert_int_equal(a->ev.exception_pending, b->ev.exception_pending);
    assert_int_equal(a->ev.exception_vector, b->ev.exception_vector);
    assert_int_equal(a->ev.exception_has_error, b->ev.exception_has_error);
    assert_int_equal(a->ev.exception_error, b->ev.exception_error);
}

static void what_is_set_is_got(void **state)
{
    (void)state;
    struct bed b;
    bed_open_engine(&b, BED_LONG, NULL, &engine_kvm);
    seed = 0x9e3779b97f4a7c15;
    for (unsigned round = 0; round < ROUNDS; round++) {
        static struct cpu_state set, got;
        struct error err = {""};
        random_state(&set, &b.model);
        if (b.vm->ops->set_state(b.cpu, &set, CPU_GROUP_ALL, &err))
            fail_msg("round %u: %s", round, err.text);
        memset(&got, 0xa5, sizeof got);
        b.vm->ops->get_state(b.cpu, &got, CPU_GROUP_ALL);
        same(&set, &got);
    }
    bed_close(&b);
}

// One group at a time leaves the others alone.
static void groups_are_apart(void **state)
{
    (void)state;
    struct bed b;
    bed_open_engine(&b, BED_LONG, NULL, &engine_kvm);
    static struct cpu_state one, got;
    struct error err = {""};
    one = b.s;
    one.gpr[CPU_RBX] = 0x1111;
    one.cr2 = 0x2222;
    one.msr.star = 0x3333;
    one.dr[0] = 0x4444;
    assert_int_equal(b.vm->ops->set_state(b.cpu, &one, CPU_GROUP_ALL, &err), 0);
    for (unsigned group = 1; group <= CPU_GROUP_ALL; group <<= 1) {
        assert_int_equal(b.vm->ops->set_state(b.cpu, &one, group, &err), 0);
        b.vm->ops->get_state(b.cpu, &got, CPU_GROUP_ALL);
        same(&one, &got);
    }
    static struct cpu_state two;
    two = one;
    two.gpr[CPU_RBX] = 5;
    two.cr2 = 6;
    assert_int_equal(b.vm->ops->set_state(b.cpu, &two, CPU_GROUP_CR, &err), 0);
    b.vm->ops->get_state(b.cpu, &got, CPU_GROUP_ALL);
    assert_int_equal(got.gpr[CPU_RBX], 0x1111);
    assert_int_equal(got.cr2, 6);
    bed_close(&b);
}

static void an_illegal_state_is_refused(void **state)
{
    (void)state;
    struct bed b;
    bed_open_engine(&b, BED_LONG, NULL, &engine_kvm);
    struct error err = {""};
    static struct cpu_state s;
    s = b.s;
    s.cr4 |= 1ull << 40;
    assert_true(b.vm->ops->set_state(b.cpu, &s, CPU_GROUP_ALL, &err) < 0);
    assert_non_null(strstr(err.text, "system registers"));
    bed_close(&b);
}

GUEST(begin, 64, "mov $5, %eax; mov %eax, (0x8000); hlt; add (0x8000), %eax; hlt");

static void begun_here_ended_there(void **state)
{
    (void)state;
    struct bed k, i;
    bed_open_engine(&k, BED_LONG, NULL, &engine_kvm);
    bed_open(&i, BED_LONG);
    bed_load(&k, begin, begin_end);
    bed_run(&k);
    assert_int_equal(k.s.gpr[CPU_RAX], 5);
    memcpy(i.ram, k.ram, BED_RAM);
    i.s = k.s;
    bed_run(&i);
    assert_int_equal(i.s.gpr[CPU_RAX], 10);
    assert_int_equal(i.s.rip, BED_CODE + (begin_end - begin));
    bed_close(&k);
    bed_close(&i);
}

int main(void)
{
    struct error err;
    if (engine_kvm.probe(&err)) {
        print_message("%s\n", err.text);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_set_is_got),
        cmocka_unit_test(groups_are_apart),
        cmocka_unit_test(an_illegal_state_is_refused),
        cmocka_unit_test(begun_here_ended_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
