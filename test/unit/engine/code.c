// Code that changes under the engine: by itself, through another mapping, by a device, by another table entry; and
// where a fetch can fail.
#include "bed.h"
#include "window.h"
#include <stdlib.h>

#define RUN(b, code) (bed_load(b, code, code##_end), bed_go(b))

// Overwrites the immediate of the very next instruction, in the same block.
GUEST(next, 64, "movb $7, 1f+1(%rip); 1: mov $1, %eax; hlt");

static void next_instruction(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    RUN(&b, next);
    assert_int_equal(b.s.gpr[CPU_RAX], 7);
    assert_true(bed_stat(&b, "instructions") < 10);
    bed_close(&b);
}

// The same through another linear address of the page, and by REP MOVSB.
GUEST(alias, 64, "movb $7, (%rcx); 1: mov $1, %eax; hlt");
GUEST(copied, 64, "mov $6, %ecx; rep movsb; mov $1, %eax; hlt; mov $9, %eax; hlt");

static void other_ways_to_write(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_window(&b);
    bed_map(&b, 0, BED_CODE | 3);
    b.s.gpr[CPU_RCX] = WINDOW + 4;
    RUN(&b, alias);
    assert_int_equal(b.s.gpr[CPU_RAX], 7);
    bed_close(&b);
    bed_open(&b, BED_LONG);
    bed_window(&b);
    bed_map(&b, 0, BED_CODE | 3);
    b.s.gpr[CPU_RSI] = BED_CODE + 13; // the second MOV over the first
    b.s.gpr[CPU_RDI] = WINDOW + 7;
    RUN(&b, copied);
    assert_int_equal(b.s.gpr[CPU_RAX], 9);
    bed_close(&b);
}

// A loop that changes one of its own instructions each time around, a thousand times.
GUEST(loops, 64,
      "xor %eax, %eax; mov $1000, %ecx; 1: mov %ecx, 2f+1(%rip); 2: mov $0, %edx; add %rdx, %rax; dec %ecx; "
      "jnz 1b; hlt");

static void again_and_again(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    RUN(&b, loops);
    assert_int_equal(b.s.gpr[CPU_RAX], 500500);
    bed_close(&b);
}

// Data beside code: writing it drops no code.
GUEST(beside, 64, "mov $10000, %ecx; 1: mov %ecx, 0x800+next0(%rip); dec %ecx; jnz 1b; hlt; next0: nop");

static void data_on_the_page(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    RUN(&b, beside);
    assert_int_equal(bed_stat(&b, "code_invalidated"), 0);
    assert_true(bed_stat(&b, "blocks_decoded") < 10);
    bed_close(&b);
}

// --- instructions that cross pages

// `mov $0x55443322, %eax; hlt`, so placed that the immediate begins in the second page of the window.
static void put_crossing(struct bed *b)
{
    static const uint8_t code[] = {0xb8, 0x22, 0x33, 0x44, 0x55, 0xf4};
    bed_window(b);
    bed_map(b, 0, 0x30000 | 3);
    bed_map(b, 1, 0x28000 | 3);
    for (unsigned n = 0; n < sizeof code; n++)
        bed_write(b, n < 2 ? 0x30ffe + n : 0x28000 + n - 2, code[n], 1);
    b->s.rip = WINDOW + 0xffe;
}

static void crossing(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    put_crossing(&b);
    bed_go(&b);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x55443322);
    assert_int_equal(b.s.rip, WINDOW + 0x1004);
    // Changed in the first page, in the second, and by mapping another second page.
    bed_write(&b, 0x30fff, 0x99, 1);
    b.s.rip = WINDOW + 0xffe;
    bed_go(&b);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x55443399);
    bed_write(&b, 0x28000, 0x88, 1);
    b.s.rip = WINDOW + 0xffe;
    bed_go(&b);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x55448899);
    memcpy(b.ram + 0x29000, b.ram + 0x28000, 4096);
    bed_write(&b, 0x29000, 0x77, 1);
    bed_map(&b, 1, 0x29000 | 3);
    b.s.rip = WINDOW + 0xffe;
    bed_go(&b);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x55447799);
    bed_close(&b);
}

// Changes the second page's mapping itself, then jumps to the instruction again.
GUEST(turns, 64, "call *%rbx; mov %rsi, (%rcx); invlpg (%rdi); mov %eax, %edx; call *%rbx; hlt");

static void crossing_into_another_page(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    put_crossing(&b);
    bed_write(&b, 0x28003, 0xc3, 1); // RET
    bed_write(&b, 0x29000, 0xc3665544, 4);
    b.s.gpr[CPU_RBX] = WINDOW + 0xffe;
    b.s.gpr[CPU_RCX] = WINDOW_TABLE + 8;
    b.s.gpr[CPU_RSI] = 0x29000 | 3;
    b.s.gpr[CPU_RDI] = WINDOW + 0x1000;
    RUN(&b, turns);
    assert_int_equal(b.s.gpr[CPU_RDX], 0x55443322);
    assert_int_equal(b.s.gpr[CPU_RAX], 0x66554422);
    bed_close(&b);
}

static void fetch_faults(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    put_crossing(&b);
    bed_map(&b, 1, 0);
    b.s.efer |= EFER_NXE;
    bed_go(&b);
    assert_int_equal(bed_vector(&b), EXC_PF);
    assert_int_equal(b.s.cr2, WINDOW + 0x1000);
    assert_int_equal(bed_stack(&b, 0, 8), PF_I);
    assert_int_equal(bed_stack(&b, 1, 8), WINDOW + 0xffe);
    bed_close(&b);
    // The same once it is cached, the page being taken away by its NX bit.
    bed_open(&b, BED_LONG);
    put_crossing(&b);
    bed_write(&b, 0x28003, 0xc3, 1);
    b.s.efer |= EFER_NXE;
    b.s.gpr[CPU_RBX] = WINDOW + 0xffe;
    b.s.gpr[CPU_RCX] = WINDOW_TABLE + 8;
    b.s.gpr[CPU_RSI] = 0x28000 | 3 | 1ull << 63;
    b.s.gpr[CPU_RDI] = WINDOW + 0x1000;
    RUN(&b, turns);
    assert_int_equal(bed_vector(&b), EXC_PF);
    assert_int_equal(bed_stack(&b, 0, 8), PF_I | PF_P);
    assert_int_equal(b.s.gpr[CPU_RDX], 0x55443322);
    bed_close(&b);
}

// A complete instruction at the end of a page needs nothing of the next one.
static void last_bytes_of_a_page(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_window(&b);
    bed_map(&b, 0, 0x30000 | 3);
    bed_write(&b, 0x30ffe, 0xf490, 2); // NOP, HLT
    b.s.rip = WINDOW + 0xffe;
    bed_go(&b);
    assert_int_equal(bed_vector(&b), -1);
    assert_int_equal(b.s.rip, WINDOW + 0x1000);
    bed_close(&b);
}

static void too_long(void **state)
{
    (void)state;
    for (unsigned prefixes = 12; prefixes < 17; prefixes++) {
        struct bed b;
        bed_open(&b, BED_LONG);
        memset(b.ram + BED_CODE, 0x66, prefixes); // then ADD AX, AX: 2 bytes
        bed_write(&b, BED_CODE + prefixes, 0xf4c001, 3);
        b.s.gpr[CPU_RAX] = 3;
        b.s.rip = BED_CODE;
        bed_go(&b);
        assert_int_equal(bed_vector(&b), prefixes + 2 > 15 ? EXC_GP : -1);
        assert_int_equal(b.s.gpr[CPU_RAX], prefixes + 2 > 15 ? 3 : 6);
        bed_close(&b);
    }
}

// --- what is not memory, and limits

static void no_memory(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    b.s.rip = BED_RAM + 0x100; // reads as all ones: FF FF is no instruction
    bed_go(&b);
    assert_int_equal(bed_vector(&b), EXC_UD);
    assert_true(b.events > 0 && b.log[0].what == 'r');
    bed_close(&b);
}

GUEST(nops, 32, "nop; nop; nop; nop; nop; nop; nop; mov $1, %eax; hlt");

static void code_segment_limit(void **state)
{
    (void)state;
    for (unsigned length = 6; length < 14; length++) {
        struct bed b;
        bed_open(&b, BED_PROT32);
        bed_load(&b, nops, nops_end);
        b.s.seg[CPU_CS].attr &= ~CPU_SEG_G;
        b.s.seg[CPU_CS].limit = BED_CODE + length - 1;
        bed_go(&b);
        // 7 NOPs, MOV up to 12, HLT is the 13th byte.
        unsigned faults_at = length < 7 ? length : length < 12 ? 7 : 12;
        assert_int_equal(bed_vector(&b), length < 13 ? EXC_GP : -1);
        if (length < 13)
            assert_int_equal(bed_stack(&b, 1, 4), BED_CODE + faults_at);
        bed_close(&b);
    }
}

// Decodes more than the cache can hold: each turn writes a new instruction into one of 4000 places and calls it.
GUEST(floods, 64,
      "mov $300000, %ecx; xor %eax, %eax; mov $0x30000, %ebx; 1: movb $0x05, (%rbx); mov %ecx, 1(%rbx); "
      "movb $0xc3, 5(%rbx); call *%rbx; add $32, %rbx; cmp $0x50000, %ebx; jb 2f; mov $0x30000, %ebx; "
      "2: dec %ecx; jnz 1b; hlt");

static void more_than_the_cache_holds(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    RUN(&b, floods);
    assert_int_equal(b.s.gpr[CPU_RAX], (uint32_t)(300000ull * 300001 / 2));
    assert_true(bed_stat(&b, "blocks_decoded") >= 300000);
    bed_close(&b);
}

// A device writes while the guest waits for it in a loop, and what it writes is the loop's own exit.
GUEST(waits, 64, "xor %eax, %eax; 1: out %al, $0x80; nop; mov $1, %edx; inc %eax; cmp $5, %eax; jb 1b; hlt");

static void device_writes(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_load(&b, waits, waits_end);
    bed_step(&b, 9);
    assert_int_equal(b.s.gpr[CPU_RDX], 1);
    bed_write(&b, BED_CODE + 6, 42, 1);
    bed_go(&b);
    assert_int_equal(b.s.gpr[CPU_RDX], 42);
    bed_close(&b);
}

// What is no instruction can become one by any of its bytes.
static void undefined_becomes_defined(void **state)
{
    (void)state;
    static const uint8_t code[] = {0x40, 0xff, 0xff, 0xf4}; // ff /7 does not exist
    struct bed b;
    bed_open(&b, BED_LONG);
    bed_load(&b, code, code + sizeof code);
    bed_run(&b);
    assert_int_equal(bed_vector(&b), EXC_UD);
    bed_write(&b, BED_CODE + 1, 0x90f4, 2); // rex hlt
    b.s.rip = BED_CODE;
    bed_run(&b);
    assert_int_equal(bed_vector(&b), -1);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(undefined_becomes_defined),
        cmocka_unit_test(next_instruction),
        cmocka_unit_test(other_ways_to_write),
        cmocka_unit_test(again_and_again),
        cmocka_unit_test(data_on_the_page),
        cmocka_unit_test(crossing),
        cmocka_unit_test(crossing_into_another_page),
        cmocka_unit_test(fetch_faults),
        cmocka_unit_test(last_bytes_of_a_page),
        cmocka_unit_test(too_long),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(code_segment_limit),
        cmocka_unit_test(more_than_the_cache_holds),
        cmocka_unit_test(device_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
