// Loading segment registers, LDTR and TR, and asking about descriptors.
#include "bed.h"

enum { T = BED_FREE, T2 = BED_FREE + 16, HLT = 0xf4 };

GUEST(mov_ds, 64, "mov %eax, %ds; hlt");
GUEST(mov_ss, 64, "mov %eax, %ss; hlt");
GUEST(pop_ss, 32, "pop %ss; hlt");
GUEST(les, 32, "les 0x8000, %ecx; hlt");
GUEST(lss64, 64, ".byte 0x48, 0x0f, 0xb2, 0x0c, 0x25, 0x00, 0x80, 0, 0; hlt");
GUEST(lldt, 64, "lldt %ax; hlt");
GUEST(ltr, 64, "ltr %ax; hlt");
GUEST(lar, 64, "lar %eax, %ecx; hlt");
GUEST(lsl, 64, "lsl %eax, %ecx; hlt");
GUEST(verr, 64, "verr %ax; hlt");
GUEST(verw, 64, "verw %ax; hlt");
GUEST(arpl, 32, "arpl %cx, %ax; hlt");
GUEST(sgdt, 64, "sgdt 0x8000; hlt");
GUEST(lgdt, 64, "lgdt 0x8000; hlt");
GUEST(sgdt32, 32, "sgdt 0x8000; hlt");
GUEST(lgdt32, 32, "data16 lgdt 0x8000; hlt");
GUEST(smsw, 64, "smsw %rax; hlt");
GUEST(sldt, 64, "sldt %rax; hlt");
GUEST(real_mov, 16, "mov %ax, %ds; hlt");

static void user(struct bed *b)
{
    b->s.seg[CPU_CS] = (struct cpu_segment){BED_CS3, b->s.efer ? 0xafb : 0xcfb, 0xffffffff, 0};
    b->s.seg[CPU_SS] = (struct cpu_segment){BED_DS3, 0xcf3, 0xffffffff, 0};
}

static void data(void **state)
{
    (void)state;
    static const struct {
        uint16_t sel, attr; // attr of T
        bool user;
        int vector; // -1: loads
        uint32_t error;
    } cases[] = {
        {T, 0xc92, false, -1, 0},
        {T | 3, 0xc92, false, EXC_GP, T}, // RPL above DPL
        {T, 0xc92, true, EXC_GP, T},      // CPL above DPL
        {T | 3, 0xcf2, true, -1, 0},
        {T, 0xcf2, false, -1, 0},     // DPL above both
        {T, 0xc90, false, -1, 0},     // read-only
        {T, 0xc98, false, EXC_GP, T}, // execute-only
        {T, 0xc9a, false, -1, 0},     // readable code
        {T | 3, 0xc9a, true, EXC_GP, T},
        {T | 3, 0xc9e, true, -1, 0},  // conforming: no rights asked
        {T, 0xc12, false, EXC_NP, T}, // not present
        {T, 0x89, false, EXC_GP, T},  // a TSS
        {0, 0, false, -1, 0},
        {3, 0, true, -1, 0},
        {0x2004, 0, false, EXC_GP, 0x2004}, // beyond the LDT
        {0x2000, 0, false, EXC_GP, 0x2000},
    };
    struct bed b;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bed_open(&b, BED_PROT32);
        if (cases[i].user)
            user(&b);
        bed_gdt(&b, T, bed_descriptor(0x12345678, 0x54321, cases[i].attr));
        bed_load(&b, mov_ds, mov_ds_end);
        b.s.gpr[CPU_RAX] = cases[i].sel;
        struct cpu_segment old = b.s.seg[CPU_DS], *ds = &b.s.seg[CPU_DS];
        bed_step(&b, 1);
        if (cases[i].vector >= 0) {
            assert_int_equal(bed_vector(&b), cases[i].vector);
            assert_int_equal(bed_stack(&b, 0, 4), cases[i].error);
            assert_int_equal(ds->selector, old.selector);
            assert_int_equal(ds->limit, old.limit);
        } else if (cases[i].sel & ~3) {
            assert_int_equal(b.s.rip, BED_CODE + 2);
            assert_int_equal(ds->selector, cases[i].sel);
            assert_int_equal(ds->base, 0x12345678);
            assert_int_equal(ds->limit, 0x54321fff);
            assert_int_equal(ds->attr, cases[i].attr | 1);
            assert_int_equal(bed_read(&b, BED_GDT + T + 5, 1) & 1, 1);
        } else {
            assert_int_equal(ds->selector, cases[i].sel);
            assert_int_equal(ds->attr & CPU_SEG_P, 0);
        }
        bed_close(&b);
    }
}

static void stack(void **state)
{
    (void)state;
    static const struct {
        uint16_t sel, attr;
        bool user, wide;
        int vector;
        uint32_t error;
    } cases[] = {
        {T, 0xc92, false, false, -1, 0},
        {0, 0, false, false, EXC_GP, 0},
        {0, 0, false, true, -1, 0}, // a 64-bit kernel may do without
        {1, 0, false, true, EXC_GP, 0},
        {3, 0, true, true, EXC_GP, 0},
        {T | 1, 0xc92, false, false, EXC_GP, T},
        {T, 0xcf2, false, false, EXC_GP, T},
        {T, 0xc90, false, false, EXC_GP, T},
        {T, 0xc9a, false, false, EXC_GP, T},
        {T, 0xc12, false, false, EXC_SS, T},
    };
    struct bed b;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bed_open(&b, cases[i].wide ? BED_LONG : BED_PROT32);
        if (cases[i].user)
            user(&b);
        bed_gdt(&b, T, bed_descriptor(0, 0xfffff, cases[i].attr));
        bed_load(&b, mov_ss, mov_ss_end);
        b.s.gpr[CPU_RAX] = cases[i].sel;
        bed_step(&b, 1);
        if (cases[i].vector >= 0) {
            assert_int_equal(bed_vector(&b), cases[i].vector);
            assert_int_equal(bed_stack(&b, 0, cases[i].wide ? 8 : 4), cases[i].error);
        } else {
            assert_int_equal(b.s.rip, BED_CODE + 2);
            assert_int_equal(b.s.seg[CPU_SS].selector, cases[i].sel);
            assert_int_equal(b.s.ev.shadow, CPU_SHADOW_MOV_SS);
        }
        bed_close(&b);
    }
    bed_open(&b, BED_PROT32); // POP SS that faults leaves ESP
    b.s.gpr[CPU_RSP] -= 4;
    bed_write(&b, b.s.gpr[CPU_RSP], 0x2000, 4);
    bed_load(&b, pop_ss, pop_ss_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(b.s.gpr[CPU_RSP], BED_STACK - 4 - 16);
    bed_close(&b);
}

static void far_pointers(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_PROT32);
    bed_write(&b, BED_DATA, 0xcafebabe, 4);
    bed_write(&b, BED_DATA + 4, BED_DS3, 2);
    bed_load(&b, les, les_end);
    bed_run(&b);
    assert_int_equal(b.s.gpr[CPU_RCX], 0xcafebabe);
    assert_int_equal(b.s.seg[CPU_ES].selector, BED_DS3);
    bed_close(&b);

    bed_open(&b, BED_LONG); // our models are AMD's: REX.W does not make the offset wider
    bed_write(&b, BED_DATA, 0x12345678, 4);
    bed_write(&b, BED_DATA + 4, BED_DS, 2);
    b.s.gpr[CPU_RCX] = ~0ull;
    bed_load(&b, lss64, lss64_end);
    bed_run(&b);
    assert_int_equal(b.s.gpr[CPU_RCX], 0x12345678);
    assert_int_equal(b.s.seg[CPU_SS].selector, BED_DS);
    bed_close(&b);

    bed_open(&b, BED_PROT32); // a bad selector: ECX stays
    bed_write(&b, BED_DATA + 4, 0x2000, 2);
    b.s.gpr[CPU_RCX] = 7;
    bed_load(&b, les, les_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(b.s.gpr[CPU_RCX], 7);
    bed_close(&b);
}

static void system_segments(void **state)
{
    (void)state;
    static const struct {
        bool tr, wide;
        uint16_t sel, attr;
        uint64_t high;
        int vector;
        uint32_t error;
    } cases[] = {
        {false, false, T, 0x82, 0, -1, 0},
        {false, true, T, 0x82, 0xffff8000, -1, 0},
        {false, false, 0, 0, 0, -1, 0},
        {false, false, T, 0x89, 0, EXC_GP, T},
        {false, false, T, 0x02, 0, EXC_NP, T},
        {false, false, T | 4, 0x82, 0, EXC_GP, T | 4},
        {false, true, T, 0x82, 0x00008000, EXC_GP, T},    // base is not canonical
        {false, true, T, 0x82, 0x10000000000, EXC_GP, T}, // reserved type bits
        {true, false, T, 0x89, 0, -1, 0},
        {true, false, T, 0x81, 0, -1, 0},
        {true, true, T, 0x89, 0, -1, 0},
        {true, true, T, 0x81, 0, EXC_GP, T},  // 16-bit: not in long mode
        {true, false, T, 0x8b, 0, EXC_GP, T}, // busy
        {true, false, T, 0x09, 0, EXC_NP, T},
        {true, false, 0, 0, 0, EXC_GP, 0},
        {true, false, T | 4, 0x89, 0, EXC_GP, T | 4},
    };
    struct bed b;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bed_open(&b, cases[i].wide ? BED_LONG : BED_PROT32);
        bed_gdt(&b, T, bed_descriptor(0x6000, 0x777, cases[i].attr));
        bed_gdt(&b, T + 8, cases[i].high);
        bed_load(&b, cases[i].tr ? ltr : lldt, cases[i].tr ? ltr_end : lldt_end);
        b.s.gpr[CPU_RAX] = cases[i].sel;
        bed_run(&b);
        const struct cpu_segment *g = cases[i].tr ? &b.s.tr : &b.s.ldtr;
        if (cases[i].vector >= 0) {
            assert_int_equal(bed_vector(&b), cases[i].vector);
            assert_int_equal(bed_stack(&b, 0, cases[i].wide ? 8 : 4), cases[i].error);
            assert_int_equal(g->selector, cases[i].tr ? BED_TR : BED_LDTR);
        } else if (cases[i].sel) {
            assert_int_equal(g->selector, T);
            assert_int_equal(g->limit, 0x777);
            assert_int_equal(g->base, 0x6000 | cases[i].high << 32);
            assert_int_equal(g->attr, cases[i].attr | (cases[i].tr ? 2 : 0));
            assert_int_equal(bed_read(&b, BED_GDT + T + 5, 1), g->attr);
        } else {
            assert_int_equal(g->attr & CPU_SEG_P, 0);
        }
        bed_close(&b);
    }
}

static void questions(void **state)
{
    (void)state;
    static const struct {
        uint16_t sel, attr;
        bool user, wide;
        bool can_lar, can_lsl, can_read, can_write;
    } cases[] = {
        {T, 0xc92, false, false, true, true, true, true},
        {T, 0xc90, false, false, true, true, true, false},
        {T, 0xc98, false, false, true, true, false, false},
        {T, 0xc9a, false, false, true, true, true, false},
        {T, 0xc92, true, false, false, false, false, false},
        {T | 3, 0xc92, false, false, false, false, false, false},
        {T | 3, 0xc9e, true, false, true, true, true, false},
        {T, 0x12, false, false, true, true, true, true},   // present or not
        {T, 0x82, false, false, true, true, false, false}, // LDT
        {T, 0x81, false, false, true, true, false, false}, // 16-bit TSS
        {T, 0x81, false, true, false, false, false, false},
        {T, 0x84, false, false, true, false, false, false}, // call gates
        {T, 0x8c, false, false, true, false, false, false},
        {T, 0x8c, false, true, true, false, false, false},
        {T, 0x85, false, false, true, false, false, false}, // task gate
        {T, 0x85, false, true, false, false, false, false},
        {T, 0x8e, false, false, false, false, false, false}, // interrupt gate
        {0, 0, false, false, false, false, false, false},
        {0x2000, 0, false, false, false, false, false, false},
    };
    static const struct {
        const uint8_t *code, *end;
    } ask[] = {{lar, lar_end}, {lsl, lsl_end}, {verr, verr_end}, {verw, verw_end}};
    struct bed b;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (unsigned q = 0; q < 4; q++) {
            const bool want[] = {cases[i].can_lar, cases[i].can_lsl, cases[i].can_read, cases[i].can_write};
            bed_open(&b, cases[i].wide ? BED_LONG : BED_PROT32);
            if (cases[i].user)
                user(&b);
            uint64_t d = bed_descriptor(0x12345678, 0x54321, cases[i].attr);
            bed_gdt(&b, T, d);
            bed_load(&b, ask[q].code, ask[q].end);
            b.s.gpr[CPU_RAX] = cases[i].sel;
            b.s.gpr[CPU_RCX] = 0x99;
            b.s.rflags |= RFLAGS_CF | (want[q] ? 0 : RFLAGS_ZF);
            bed_step(&b, 1);
            assert_int_equal(bed_vector(&b), -1);
            assert_int_equal(b.s.rflags & (RFLAGS_ZF | RFLAGS_CF), RFLAGS_CF | (want[q] ? RFLAGS_ZF : 0));
            uint64_t rights = d >> 32 & 0xffff00, limit = cases[i].attr & CPU_SEG_G ? 0x54321fff : 0x54321;
            uint64_t rcx = q > 1 || !want[q] ? 0x99 : q ? limit : rights;
            assert_int_equal(b.s.gpr[CPU_RCX], rcx);
            bed_close(&b);
        }
}

static void tables(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.gdtr.base = 0xffff800012345678;
    bed_load(&b, sgdt, sgdt_end);
    bed_run(&b);
    assert_int_equal(bed_read(&b, BED_DATA, 2), BED_GDT_LIMIT);
    assert_int_equal(bed_read(&b, BED_DATA + 2, 8), 0xffff800012345678);
    bed_close(&b);

    bed_open(&b, BED_PROT32);
    bed_write(&b, BED_DATA + 6, 0x5555, 2);
    bed_load(&b, sgdt32, sgdt32_end);
    bed_run(&b);
    assert_int_equal(bed_read(&b, BED_DATA + 2, 4), BED_GDT);
    assert_int_equal(bed_read(&b, BED_DATA + 6, 2), 0x5555); // six bytes
    bed_close(&b);

    bed_open(&b, BED_PROT32); // 16-bit operand size: 24 bits of base
    bed_write(&b, BED_DATA, 0x1fff, 2);
    bed_write(&b, BED_DATA + 2, 0xff001000, 4);
    bed_load(&b, lgdt32, lgdt32_end);
    bed_run(&b);
    assert_int_equal(b.s.gdtr.base, 0x1000);
    assert_int_equal(b.s.gdtr.limit, 0x1fff);
    bed_close(&b);

    bed_open(&b, BED_LONG); // a base that is not canonical
    bed_write(&b, BED_DATA + 2, 0x800000000000, 8);
    bed_load(&b, lgdt, lgdt_end);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_GP);
    assert_int_equal(b.s.gdtr.base, BED_GDT);
    bed_close(&b);

    static const struct {
        const uint8_t *code, *end;
    } leaks[] = {{sgdt, sgdt_end}, {smsw, smsw_end}, {sldt, sldt_end}};
    for (unsigned i = 0; i < 3; i++)
        for (unsigned umip = 0; umip < 2; umip++) {
            bed_open(&b, BED_LONG);
            user(&b);
            b.s.cr4 |= umip ? CR4_UMIP : 0;
            bed_load(&b, leaks[i].code, leaks[i].end);
            bed_step(&b, 1);
            assert_int_equal(bed_vector(&b), umip ? EXC_GP : -1);
            if (i == 1 && !umip)
                assert_int_equal(b.s.gpr[CPU_RAX], b.s.cr0);
            if (i == 2 && !umip)
                assert_int_equal(b.s.gpr[CPU_RAX], BED_LDTR);
            bed_close(&b);
        }
}

static void adjust_rpl(void **state)
{
    (void)state;
    static const struct {
        uint16_t to, from, result;
        bool raised;
    } cases[] = {{0x10, 0x1b, 0x13, true}, {0x13, 0x18, 0x13, false}, {0x12, 0x1a, 0x12, false}};
    struct bed b;
    for (unsigned i = 0; i < 3; i++) {
        bed_open(&b, BED_PROT32);
        bed_load(&b, arpl, arpl_end);
        b.s.gpr[CPU_RAX] = cases[i].to;
        b.s.gpr[CPU_RCX] = cases[i].from;
        bed_run(&b);
        assert_int_equal(b.s.gpr[CPU_RAX], cases[i].result);
        assert_int_equal(!!(b.s.rflags & RFLAGS_ZF), cases[i].raised);
        bed_close(&b);
    }
}

static void unreal(void **state)
{
    (void)state;
    struct bed b; // real mode keeps the limit that protected mode has left
    bed_open(&b, BED_REAL);
    b.s.seg[CPU_DS].limit = 0xffffffff;
    b.s.gpr[CPU_RAX] = 0x1234;
    bed_load(&b, real_mov, real_mov_end);
    bed_run(&b);
    assert_int_equal(b.s.seg[CPU_DS].base, 0x12340);
    assert_int_equal(b.s.seg[CPU_DS].limit, 0xffffffff);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data),         cmocka_unit_test(stack),
        cmocka_unit_test(far_pointers), cmocka_unit_test(system_segments),
        cmocka_unit_test(questions),    cmocka_unit_test(tables),
        cmocka_unit_test(adjust_rpl),   cmocka_unit_test(unreal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
