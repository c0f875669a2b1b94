// Routes: what is found, what is refused, and that a handler sees nothing but a JSON object.
#include "control/route.h"
#include "unit.h"
#include <errno.h>

static unsigned calls;

static void echo(void *ctx, const struct control_request *q, struct control_reply *r)
{
    calls++;
    r->body = json_pack("{s:s, s:O}", "table", ctx, "body", q->body);
}

static void nothing(void *ctx, const struct control_request *q, struct control_reply *r)
{
    (void)ctx, (void)q, (void)r;
    calls++;
}

static const struct control_route first[] = {
    {"GET", "/echo", echo, false, "says it again"}, {"POST", "/echo", echo}, {0}};
static const struct control_route second[] = {{"POST", "/slow", echo, true}, {"PUT", "/nothing", nothing}, {0}};
static const struct control_table tables[] = {{first, (void *)"first"}, {second, (void *)"second"}, {0}};

static int status_of(const char *method, const char *path, const char *body, bool *slow)
{
    struct control_reply r;
    control_dispatch(tables, method, path, body, strlen(body), slow, &r);
    assert_true((r.body != NULL) == !(slow && *slow));
    if (r.status >= 300)
        assert_true(json_is_string(json_object_get(r.body, "error")));
    json_decref(r.body);
    return r.status;
}

static void found_and_not_found(void **state)
{
    (void)state;
    assert_int_equal(status_of("GET", "/echo", "", NULL), 200);
    assert_int_equal(status_of("POST", "/echo", "{\"a\": 1}", NULL), 200);
    assert_int_equal(status_of("PUT", "/nothing", "", NULL), 200);
    assert_int_equal(status_of("GET", "/nothing", "", NULL), 405);
    assert_int_equal(status_of("GET", "/ech", "", NULL), 404);
    assert_int_equal(status_of("GET", "/echo/", "", NULL), 404);
    assert_int_equal(status_of("", "", "", NULL), 404);
    assert_int_equal(status_of("GET", "/", "", NULL), 200);
    assert_int_equal(status_of("POST", "/", "", NULL), 405);
}

static void bodies(void **state)
{
    (void)state;
    char deep[200];
    calls = 0;
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    static const char *const bad[] = {"{",   "[]", "1", "null", "\"x\"", "{\"a\":1,\"a\":2}", "{} {}", "{\"a\": \xff}",
                                      "\x01"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(status_of("POST", "/echo", bad[i], NULL), 400);
    assert_int_equal(status_of("POST", "/echo", deep, NULL), 400);
    assert_int_equal(calls, 0);
}

static void slow_ones_are_told(void **state)
{
    (void)state;
    bool slow;
    calls = 0;
    status_of("POST", "/slow", "{}", &slow);
    assert_true(slow);
    assert_int_equal(calls, 0);
    status_of("POST", "/echo", "{}", &slow);
    assert_false(slow);
    assert_int_equal(status_of("POST", "/slow", "{}", NULL), 200);
    assert_int_equal(calls, 2);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        int error, status;
    } cases[] = {{EINVAL, 400}, {ENOENT, 404}, {EBUSY, 409}, {EEXIST, 409}, {EIO, 500}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct control_reply r = {.status = 200, .body = json_object()};
        struct error err = {"the \xff reason"}; // no UTF-8
        control_refuse(&r, -cases[i].error, &err);
        assert_int_equal(r.status, cases[i].status);
        assert_true(json_is_string(json_object_get(r.body, "error")));
        json_decref(r.body);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_and_not_found),
        cmocka_unit_test(bodies),
        cmocka_unit_test(slow_ones_are_told),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
