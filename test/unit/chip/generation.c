// The generation: in memory when it is published, another after each renewal, told by one edge, and saved.
#include "chip/generation.h"
#include "fake_vm.h"
#include "unit.h"

enum { GSI = 5, ADDRESS = 0xff000 };

static void renewed(void **state)
{
    (void)state;
    struct fake_vm f;
    struct generation *g;
    struct error err;
    uint8_t first[GENERATION_BYTES], second[GENERATION_BYTES], zero[GENERATION_BYTES] = {0};
    fake_vm_init(&f, 1);
    assert_int_equal(generation_create(&f.vm, GSI, ADDRESS, &g, &err), 0);
    assert_memory_equal(f.ram + ADDRESS, zero, sizeof zero);
    generation_publish(g);
    memcpy(first, f.ram + ADDRESS, sizeof first);
    assert_memory_not_equal(first, zero, sizeof zero);
    assert_int_equal(f.rises[GSI], 0);
    fake_vm_reset(&f);
    generation_publish(g);
    assert_memory_equal(f.ram + ADDRESS, first, sizeof first); // a reset is no new machine
    generation_renew(g);
    memcpy(second, f.ram + ADDRESS, sizeof second);
    assert_memory_not_equal(first, second, sizeof first);
    assert_int_equal(f.rises[GSI], 1);
    assert_false(f.line[GSI]);
    assert_int_equal(f.written[f.writes - 1].gpa, ADDRESS);
    fake_vm_destroy(&f);
}

static void saved(void **state)
{
    (void)state;
    struct fake_vm f, other;
    struct generation *g, *h;
    struct error err;
    fake_vm_init(&f, 1);
    fake_vm_init(&other, 1);
    assert_int_equal(generation_create(&f.vm, GSI, ADDRESS, &g, &err), 0);
    assert_int_equal(generation_create(&other.vm, GSI, ADDRESS, &h, &err), 0);
    assert_memory_not_equal(g->id, h->id, sizeof g->id);
    assert_int_equal(fake_vm_copy_state(&g->dev, &h->dev), 0);
    assert_memory_equal(g->id, h->id, sizeof g->id);
    fake_vm_destroy(&f);
    fake_vm_destroy(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(renewed), cmocka_unit_test(saved)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
