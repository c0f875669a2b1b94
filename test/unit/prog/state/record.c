// How a machine was started and how it ended: what is written is read, and what makes no sense is refused by name.
#include "prog/state/record.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char home[64];
static struct state_dir d;
static struct error err;

static int setup(void **state)
{
    (void)state;
    strcpy(home, "/tmp/trapeze-record-XXXXXX");
    assert_non_null(mkdtemp(home));
    setenv("XDG_STATE_HOME", home, 1);
    return state_dir_create(&d, "web", false, &err);
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(state_dir_remove(&d, &err), 0);
    state_dir_close(&d);
    char path[80];
    snprintf(path, sizeof path, "%s/trapeze", home);
    return rmdir(path) || rmdir(home);
}

static void there_and_back(void **state)
{
    (void)state;
    char *words[] = {"--kernel", "v m\n\"linux\"", "", "grün"}, cwd[4096];
    struct record *r = record_new(4, words, true, &err), *back;
    assert_non_null(r);
    r->restored = true;
    assert_int_equal(record_write(&d, r, &err), 0);
    record_free(r);
    assert_int_equal(record_read(&d, &back, &err), 0);
    assert_int_equal(back->count, 4);
    for (int i = 0; i < 4; i++)
        assert_string_equal(back->arguments[i], words[i]);
    assert_null(back->arguments[4]);
    assert_string_equal(back->directory, getcwd(cwd, sizeof cwd));
    assert_true(back->detached && back->restored);
    record_free(back);
}

static void no_utf8(void **state)
{
    (void)state;
    char *words[] = {"--kernel", "v\xff"};
    struct record *r = record_new(2, words, false, &err), *back;
    assert_int_equal(record_write(&d, r, &err), 0); // it may run
    record_free(r);
    assert_int_equal(record_read(&d, &back, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "UTF-8"));
}

static void nonsense(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "{",
        "null",
        "[]",
        "{}",
        "{\"version\": 1}",
        "{\"version\": \"1\", \"directory\": \"/\", \"arguments\": []}",
        "{\"version\": 2, \"directory\": \"/\", \"arguments\": []}",
        "{\"version\": 1, \"directory\": 5, \"arguments\": []}",
        "{\"version\": 1, \"directory\": \"/\", \"arguments\": [\"a\", 1]}",
        "{\"version\": 1, \"directory\": \"/\", \"arguments\": {\"a\": 1}}",
        "{\"version\": 1, \"directory\": \"/\", \"arguments\": \"--kernel\"}",
    };
    struct record *r;
    assert_int_equal(record_read(&d, &r, &err), -ENOENT);
    for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(state_dir_write(&d, "config.json", texts[i], &err), 0);
        assert_int_equal(record_read(&d, &r, &err), -EINVAL);
        assert_non_null(strstr(err.text, "web/config.json: "));
    }
}

static void ends(void **state)
{
    (void)state;
    assert_null(record_end_read(&d));
    record_end(&d, "crash", 3, "vCPU 0: triple \xff fault"); // no UTF-8: the text is left out
    json_t *j = record_end_read(&d);
    assert_string_equal(json_string_value(json_object_get(j, "end")), "crash");
    assert_int_equal(json_integer_value(json_object_get(j, "status")), 3);
    json_decref(j);
    record_end(&d, "poweroff", 0, "the guest powered off");
    j = record_end_read(&d);
    assert_string_equal(json_string_value(json_object_get(j, "text")), "the guest powered off");
    json_decref(j);
    assert_int_equal(state_dir_write(&d, "exit.json", "[1]", &err), 0);
    assert_null(record_end_read(&d));
}

int main(void)
{
#define RECORD_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        RECORD_TEST(there_and_back),
        RECORD_TEST(no_utf8),
        RECORD_TEST(nonsense),
        RECORD_TEST(ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
