// The table of a CPU's state holds every byte of struct cpu_state but its padding: what is saved from one and loaded
// into two that differ everywhere makes them the same.
#include "cpu/state.h"
#include "unit.h"
#include "vm/save_cpu.h"

static size_t bytes_of(const struct state_table *t)
{
    size_t n = 0;
    for (const struct state_field *f = t->fields; f->name; f++)
        n += (size_t)f->size * f->count;
    return n;
}

static void whole_cpu(void **state)
{
    (void)state;
    struct cpu_state from, a, b;
    struct state_buffer s = {0};
    struct error err = {.text = ""};
    memset(&from, 1, sizeof from);
    memset(&a, 0, sizeof a);
    memset(&b, 2, sizeof b);
    assert_int_equal(state_save(&s, &cpu_state_table, &from, &err), 0);
    assert_int_equal(state_load(&s, &cpu_state_table, &a, &err), 0);
    s.at = 0;
    assert_int_equal(state_load(&s, &cpu_state_table, &b, &err), 0);
    state_free(&s);
    // The padding of struct cpu_state: behind both tables' limits, in and behind the events, before the XSAVE area.
    const size_t padding =
        2 * (sizeof(struct cpu_table) - 10) + (sizeof(struct cpu_events) - 19) +
        (offsetof(struct cpu_state, xsave) - offsetof(struct cpu_state, ev) - sizeof(struct cpu_events));
    assert_int_equal(bytes_of(&cpu_state_table), sizeof(struct cpu_state) - padding);
    size_t differ = 0;
    for (size_t i = 0; i < sizeof a; i++)
        differ += ((const uint8_t *)&a)[i] != ((const uint8_t *)&b)[i];
    assert_int_equal(differ, padding);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_cpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
