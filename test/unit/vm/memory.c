// The guest-physical memory map: what is RAM and what is not, at every edge.
#include "fake_vm.h"
#include "unit.h"
#include <errno.h>

enum { LOW = FAKE_VM_RAM, PAGE = 4096 };

#define HIGH 0x100000000ull

struct bed {
    struct fake_vm f;
    _Alignas(PAGE) uint8_t next[2 * PAGE]; // right above the low RAM
    _Alignas(PAGE) uint8_t high[2 * PAGE];
    _Alignas(PAGE) uint8_t rom[PAGE];
};

static int setup(void **state)
{
    static struct bed bed;
    struct error err;
    memset(&bed, 0, sizeof bed);
    fake_vm_init(&bed.f, 1);
    // Not in order of addresses.
    assert_int_equal(vm_memory_add(&bed.f.vm, HIGH - PAGE, PAGE, bed.rom, true, &err), 0);
    assert_int_equal(vm_memory_add(&bed.f.vm, HIGH, sizeof bed.high, bed.high, false, &err), 0);
    assert_int_equal(vm_memory_add(&bed.f.vm, LOW, sizeof bed.next, bed.next, false, &err), 0);
    *state = &bed;
    return 0;
}

static int teardown(void **state)
{
    fake_vm_destroy(&((struct bed *)*state)->f);
    return 0;
}

static void finds_ram(void **state)
{
    struct bed *bed = *state;
    struct vm *vm = &bed->f.vm;
    assert_ptr_equal(vm_ram(vm, 0, 1, true), bed->f.ram);
    assert_ptr_equal(vm_ram(vm, LOW - 1, 1, true), bed->f.ram + LOW - 1);
    assert_ptr_equal(vm_ram(vm, LOW, 2 * PAGE, true), bed->next);
    assert_ptr_equal(vm_ram(vm, HIGH + 5, 2 * PAGE - 5, true), bed->high + 5);
    assert_ptr_equal(vm_ram(vm, HIGH - PAGE, PAGE, false), bed->rom);
    assert_null(vm_ram(vm, HIGH - PAGE, PAGE, true)); // ROM
    assert_null(vm_ram(vm, LOW - 1, 2, false));       // two regions
    assert_null(vm_ram(vm, LOW + 2 * PAGE, 1, false));
    assert_null(vm_ram(vm, HIGH + 2 * PAGE - 1, 2, false));
    assert_null(vm_ram(vm, HIGH, UINT64_MAX, false));
    assert_null(vm_ram(vm, UINT64_MAX, 1, false));
    assert_null(vm_ram(vm, UINT64_MAX, UINT64_MAX, false));
}

static void spans_end_with_the_region(void **state)
{
    struct bed *bed = *state;
    uint64_t len = 0;
    assert_ptr_equal(vm_ram_span(&bed->f.vm, LOW - 10, 100, true, &len), bed->f.ram + LOW - 10);
    assert_int_equal(len, 10);
    assert_ptr_equal(vm_ram_span(&bed->f.vm, HIGH + 1, UINT64_MAX, true, &len), bed->high + 1);
    assert_int_equal(len, 2 * PAGE - 1);
    assert_null(vm_ram_span(&bed->f.vm, HIGH - PAGE, 1, true, &len));
}

static void reads_and_writes_across_regions_or_not_at_all(void **state)
{
    struct bed *bed = *state;
    struct vm *vm = &bed->f.vm;
    uint8_t in[256], out[256] = {0};
    for (unsigned i = 0; i < sizeof in; i++)
        in[i] = (uint8_t)(i + 1);
    assert_true(vm_write(vm, LOW - 100, in, sizeof in));
    assert_true(vm_read(vm, LOW - 100, out, sizeof out));
    assert_memory_equal(in, out, sizeof in);
    assert_memory_equal(bed->f.ram + LOW - 100, in, 100);
    assert_memory_equal(bed->next, in + 100, 156);
    // The engine was told of both pieces.
    assert_int_equal(bed->f.writes, 2);
    assert_int_equal(bed->f.written[0].gpa, LOW - 100);
    assert_int_equal(bed->f.written[0].size, 100);
    assert_int_equal(bed->f.written[1].gpa, LOW);
    assert_int_equal(bed->f.written[1].size, 156);
    // Half of it is no RAM: nothing is written, nobody told.
    assert_false(vm_write(vm, LOW + 2 * PAGE - 100, in, sizeof in));
    assert_int_equal(bed->next[2 * PAGE - 1], 0);
    assert_false(vm_write(vm, HIGH - 10, in, sizeof in)); // begins in ROM
    assert_true(vm_read(vm, HIGH - 10, out, sizeof out));
    assert_false(vm_read(vm, UINT64_MAX - 10, out, sizeof out)); // would wrap to address 0
    assert_int_equal(bed->f.writes, 2);
    assert_true(vm_write(vm, UINT64_MAX, in, 0));
}

static void refuses_bad_regions(void **state)
{
    struct bed *bed = *state;
    struct vm *vm = &bed->f.vm;
    struct error err;
    static _Alignas(PAGE) uint8_t memory[2 * PAGE];
    assert_int_equal(vm_memory_add(vm, 0, PAGE, memory, false, &err), -EEXIST);
    assert_int_equal(vm_memory_add(vm, LOW + PAGE, PAGE, memory, false, &err), -EEXIST);
    assert_int_equal(vm_memory_add(vm, HIGH - 2 * PAGE, 2 * PAGE, memory, false, &err), -EEXIST);
    assert_string_equal(err.text, "guest memory 0xffffe000+0x2000: overlaps other memory");
    assert_int_equal(vm_memory_add(vm, 0x10000001, PAGE, memory, false, &err), -EINVAL);
    assert_int_equal(vm_memory_add(vm, 0x10000000, 0, memory, false, &err), -EINVAL);
    assert_int_equal(vm_memory_add(vm, 0x10000000, PAGE, memory + 1, false, &err), -EINVAL);
    assert_int_equal(vm_memory_add(vm, -4096ull, 2 * PAGE, memory, false, &err), -EINVAL);
    for (unsigned i = vm->memory.count; i < VM_REGIONS; i++)
        assert_int_equal(vm_memory_add(vm, 0x20000000 + i * PAGE, PAGE, memory, false, &err), 0);
    assert_int_equal(vm_memory_add(vm, 0x10000000, PAGE, memory, false, &err), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(finds_ram, setup, teardown),
        cmocka_unit_test_setup_teardown(spans_end_with_the_region, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_and_writes_across_regions_or_not_at_all, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_bad_regions, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
