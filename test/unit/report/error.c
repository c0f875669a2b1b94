// Error texts: they name the thing, survive a NULL and never overflow.
#include "report/error.h"
#include "unit.h"

static void sets_and_prefixes(void **state)
{
    (void)state;
    struct error e;
    assert_int_equal(error_set(&e, 2, "kernel %s: missing", "vmlinuz"), -2);
    assert_string_equal(e.text, "kernel vmlinuz: missing");
    error_prefix(&e, "machine %d", 7);
    assert_string_equal(e.text, "machine 7: kernel vmlinuz: missing");
}

static void cuts_long_texts(void **state)
{
    (void)state;
    struct error e;
    char longer[2 * sizeof e.text];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    error_set(&e, 1, "%s", longer);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    error_prefix(&e, "%s", longer);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    error_prefix(&e, "ab");
    assert_memory_equal(e.text, "ab: xxx", 7);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
}

static void takes_null(void **state)
{
    (void)state;
    assert_int_equal(error_set(NULL, 5, "nobody listens"), -5);
    error_prefix(NULL, "nobody");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_and_prefixes),
        cmocka_unit_test(cuts_long_texts),
        cmocka_unit_test(takes_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
