// What a client makes of what comes: heads of responses and WebSocket frames, whole, in pieces, and wrong.
#include "control/client.h"
#include "control/websocket.h"
#include "unit.h"
#include <errno.h>

static void heads(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int result; // -1: its size
        int status;
        long long length;
        bool upgraded;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", -1, 200, 12, false},
        {"HTTP/1.1 404 Not Found\r\ncontent-length:\t7\r\nX: y\r\n\r\n", -1, 404, 7, false},
        {"HTTP/1.0 200 \r\n\r\n", -1, 200, -1, false},
        {"HTTP/1.1 101 Switching\r\nUpgrade: WebSocket\r\n\r\n", -1, 101, -1, true},
        {"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\n\r\n", -1, 200, -1, false},
        {"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n", 0, 0, 0, false},
        {"", 0, 0, 0, false},
        {"SSH-2.0-OpenSSH\r\n\r\n", -EPROTO, 0, 0, false},
        {"HTTP/1.1 2x0 OK\r\n\r\n", -EPROTO, 0, 0, false},
        {"HTTP/1.1\r\n\r\n", -EPROTO, 0, 0, false},
        {"\r\n\r\n", -EPROTO, 0, 0, false},
        {"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", -EPROTO, 0, 0, false},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct control_head h;
        int size = (int)strlen(cases[i].text);
        int result = control_head_parse(cases[i].text, (size_t)size, &h);
        assert_int_equal(result, cases[i].result == -1 ? size : cases[i].result);
        if (result <= 0)
            continue;
        assert_int_equal(h.status, cases[i].status);
        assert_int_equal(h.length, cases[i].length);
        assert_int_equal(h.upgraded, cases[i].upgraded);
    }
    struct control_head h;
    static const char much[] = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n";
    assert_true(control_head_parse(much, sizeof much - 1, &h) > 0);
    assert_true(h.length > CONTROL_REPLY_MAX);
    static char endless[CONTROL_HEAD_MAX];
    memset(endless, 'a', sizeof endless);
    assert_int_equal(control_head_parse(endless, sizeof endless, &h), -EPROTO);
}

static char got[70000];
static size_t size;

static void take(void *ctx, const void *data, size_t n)
{
    (void)ctx;
    memcpy(got + size, data, n);
    size += n;
}

static void frames(void **state)
{
    (void)state;
    static const char text[] = "\x02\x03"
                               "abc"
                               "\x89\x02"
                               "hi"
                               "\x80\x7e\x00\x02"
                               "de"
                               "\x82\x00"
                               "\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x01"
                               "f"
                               "\x88\x02\x03\xe8";
    for (size_t step = 1; step < sizeof text; step++) {
        struct websocket w = {0};
        size = 0;
        for (size_t at = 0; at < sizeof text - 1; at += step)
            assert_int_equal(
                websocket_feed(&w, text + at, at + step < sizeof text ? step : sizeof text - 1 - at, take, NULL), 0);
        assert_int_equal(size, 6);
        assert_memory_equal(got, "abcdef", 6);
        assert_true(w.closed && w.pinged);
    }
}

static void wrong_frames(void **state)
{
    (void)state;
    static const char *const wrong[] = {"\x82\x81", // masked
                                        "\xc2\x01", // an extension's bit
                                        "\x83\x01", // no such opcode
                                        "\x8b\x01",
                                        "\x89\x7e\x01\x00",                          // a long ping
                                        "\x09\x01",                                  // a ping in pieces
                                        "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff"}; // beyond 63 bits
    static const size_t sizes[] = {2, 2, 2, 2, 4, 2, 10};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct websocket w = {0};
        assert_int_equal(websocket_feed(&w, wrong[i], sizes[i], take, NULL), -EPROTO);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads),
        cmocka_unit_test(frames),
        cmocka_unit_test(wrong_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
