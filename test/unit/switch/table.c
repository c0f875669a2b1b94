// The table of addresses: who announces, who is learnt, what ages, and that it stays small.
#include "switch/table.h"
#include "unit.h"

static void mac_of(uint8_t mac[6], unsigned n)
{
    const uint8_t m[6] = {2, 0, 0, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    memcpy(mac, m, 6);
}

static void announced_addresses_stay(void **state)
{
    (void)state;
    struct table t;
    int a, b;
    unsigned learnt = 0;
    uint8_t m[6];
    table_init(&t);
    mac_of(m, 1);
    assert_null(table_find(&t, m, 0));
    assert_true(table_announce(&t, m, &a));
    assert_false(table_announce(&t, m, &b));
    assert_ptr_equal(table_find(&t, m, 1000000), &a);
    table_learn(&t, m, &b, &learnt, 5); // nobody takes it away by sending
    assert_ptr_equal(table_find(&t, m, 5), &a);
    assert_int_equal(learnt, 0);
    table_remove_port(&t, &a);
    assert_null(table_find(&t, m, 5));
    assert_true(table_announce(&t, m, &b));
    table_free(&t);
}

static void learnt_addresses_age_and_move(void **state)
{
    (void)state;
    struct table t;
    int a, b;
    unsigned of_a = 0, of_b = 0;
    uint8_t m[6];
    table_init(&t);
    mac_of(m, 7);
    table_learn(&t, m, &a, &of_a, 100);
    assert_ptr_equal(table_find(&t, m, 100 + TABLE_AGE_S - 1), &a);
    assert_null(table_find(&t, m, 100 + TABLE_AGE_S));
    table_learn(&t, m, &a, &of_a, 200); // heard of again
    assert_ptr_equal(table_find(&t, m, 200 + TABLE_AGE_S - 1), &a);
    table_learn(&t, m, &b, &of_b, 210);
    assert_ptr_equal(table_find(&t, m, 211), &b);
    assert_int_equal(of_a, 0);
    assert_int_equal(of_b, 1);
    assert_true(table_announce(&t, m, &a)); // what was learnt gives way
    assert_ptr_equal(table_find(&t, m, 211), &a);
    assert_int_equal(of_b, 0);
    table_free(&t);
}

static void it_is_bounded(void **state)
{
    (void)state;
    struct table t;
    int port[20];
    unsigned learnt[20] = {0}, all = 0;
    uint8_t m[6];
    table_init(&t);
    for (unsigned p = 0; p < 20; p++)
        for (unsigned i = 0; i < 2 * TABLE_LEARNT_MAX; i++) {
            mac_of(m, p << 16 | i);
            table_learn(&t, m, &port[p], &learnt[p], 1);
        }
    for (unsigned p = 0; p < 20; p++) {
        assert_true(learnt[p] <= TABLE_LEARNT_MAX);
        all += learnt[p];
    }
    assert_int_equal(all, TABLE_MAX);
    assert_int_equal(t.entries, TABLE_MAX);
    // Those who announce always have room.
    mac_of(m, 99 << 16);
    assert_true(table_announce(&t, m, &port[0]));
    // When they have aged, there is room for others.
    for (unsigned i = 0; i < 20000; i++) {
        mac_of(m, 100 << 16 | (i & 0xffff));
        table_learn(&t, m, &port[19], &learnt[19], 1 + TABLE_AGE_S);
    }
    assert_int_equal(learnt[19], TABLE_LEARNT_MAX);
    for (unsigned p = 0; p < 20; p++)
        table_remove_port(&t, &port[p]);
    assert_int_equal(t.entries, 0);
    table_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(announced_addresses_stay),
        cmocka_unit_test(learnt_addresses_age_and_move),
        cmocka_unit_test(it_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
