// Frames over a connection: complete ones come out as they went in, and whatever else comes is refused.
#include "agent/channel.h"
#include "unit.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct ends {
    struct channel c;
    int peer;
};

static struct ends e; // too large for a stack

static void begin(void)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    channel_init(&e.c, fds[0]);
    e.peer = fds[1];
}

static void end(void)
{
    close(e.c.fd);
    if (e.peer >= 0)
        close(e.peer);
}

static void say(const void *data, size_t size)
{
    assert_int_equal(write(e.peer, data, size), size);
}

static void frames_come_whole(void **state)
{
    (void)state;
    begin();
    static const uint8_t bytes[] = {32, 1, 0, 0, 3, 0, 0, 0, 'a', 'b', 'c', 33, 2, 0, 0, 0, 0, 0, 0};
    struct channel_frame f;
    for (unsigned i = 0; i < sizeof bytes; i++) { // byte by byte
        say(bytes + i, 1);
        assert_int_equal(channel_fill(&e.c), 1);
        int got = channel_next(&e.c, &f);
        assert_int_equal(got, i == 10 || i == 18);
        if (i == 10) {
            assert_int_equal(f.type, AGENT_DATA);
            assert_int_equal(f.stream, 1);
            assert_int_equal(f.size, 3);
            assert_memory_equal(f.data, "abc", 3);
        }
    }
    assert_int_equal(f.type, AGENT_EOF);
    assert_int_equal(channel_fill(&e.c), 0);
    // What had come before the end is still handed out.
    say(bytes, sizeof bytes);
    close(e.peer);
    e.peer = -1;
    assert_int_equal(channel_fill(&e.c), sizeof bytes);
    assert_int_equal(channel_fill(&e.c), -ECONNRESET);
    assert_int_equal(channel_next(&e.c, &f), 1);
    assert_int_equal(channel_next(&e.c, &f), 1);
    assert_int_equal(channel_next(&e.c, &f), 0);
    end();
}

static void wrong_frames(void **state)
{
    (void)state;
    static const uint8_t wrong[][8] = {
        {32, 1, 0, 0, 1, 0x80, 0, 0},          // one byte more than may be
        {32, 1, 0, 0, 0xff, 0xff, 0xff, 0xff}, // much more
        {32, 3, 0, 0, 0, 0, 0, 0},             // no such stream
        {32, 1, 1, 0, 0, 0, 0, 0},             // what must be 0
    };
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        begin();
        struct channel_frame f;
        say(wrong[i], sizeof wrong[i]);
        assert_int_equal(channel_fill(&e.c), 8);
        assert_int_equal(channel_next(&e.c, &f), -EPROTO);
        end();
    }
}

static void room_for_what_has_no_data(void **state)
{
    (void)state;
    begin();
    static uint8_t data[AGENT_PAYLOAD];
    unsigned frames = 0;
    while (channel_takes(&e.c, sizeof data)) {
        assert_true(channel_put(&e.c, AGENT_DATA, 0, data, sizeof data));
        frames++;
    }
    assert_true(frames >= 3);
    for (unsigned i = 0; i < CHANNEL_RESERVE / (AGENT_HEAD + 4); i++)
        assert_true(channel_put(&e.c, AGENT_SIGNAL, 0, data, 4));
    assert_false(channel_put(&e.c, AGENT_DATA, 0, data, sizeof data));
    assert_false(channel_put(&e.c, AGENT_DATA, 0, data, sizeof data + 1));
    // All of it comes out at the other end.
    static struct channel other;
    channel_init(&other, e.peer);
    struct channel_frame f;
    unsigned got = 0;
    for (int idle = 0; idle < 3; idle++) {
        assert_int_equal(channel_flush(&e.c), 0);
        while (channel_fill(&other) > 0) {
            idle = 0;
            while (channel_next(&other, &f) > 0)
                got++;
        }
    }
    assert_int_equal(got, frames + CHANNEL_RESERVE / (AGENT_HEAD + 4));
    assert_false(channel_waits(&e.c));
    end();
}

static void greetings(void **state)
{
    (void)state;
    begin();
    struct channel_frame f;
    assert_true(channel_hello(&e.c));
    assert_int_equal(channel_await(&e.c, &f, 10), -ETIMEDOUT); // and ours has gone out
    uint8_t hello[14];
    assert_int_equal(read(e.peer, hello, sizeof hello), sizeof hello);
    say(hello, sizeof hello);
    assert_int_equal(channel_await(&e.c, &f, 1000), 1);
    assert_int_equal(channel_check_hello(&f), 0);
    hello[12]++; // the version
    say(hello, sizeof hello);
    assert_int_equal(channel_await(&e.c, &f, 1000), 1);
    assert_int_equal(channel_check_hello(&f), -ENOTSUP);
    hello[8] = 'x';
    say(hello, sizeof hello);
    assert_int_equal(channel_await(&e.c, &f, 1000), 1);
    assert_int_equal(channel_check_hello(&f), -EPROTO);
    close(e.peer);
    e.peer = -1;
    assert_int_equal(channel_await(&e.c, &f, 1000), -ECONNRESET);
    end();
}

static void requests(void **state)
{
    (void)state;
    static struct channel_request r;
    assert_true(request_add_text(&r, AGENT_ITEM_ARGUMENT, "ls"));
    assert_true(request_add_text(&r, AGENT_ITEM_FOLDER, ""));
    struct channel_frame f = {.size = (uint32_t)r.size, .data = r.data};
    enum agent_item tag;
    const uint8_t *data;
    size_t at = 0, size;
    assert_int_equal(request_next(&f, &at, &tag, &data, &size), 1);
    assert_int_equal(tag, AGENT_ITEM_ARGUMENT);
    assert_int_equal(size, 2);
    assert_memory_equal(data, "ls", 2);
    assert_int_equal(request_next(&f, &at, &tag, &data, &size), 1);
    assert_int_equal(size, 0);
    assert_int_equal(request_next(&f, &at, &tag, &data, &size), 0);
    for (f.size = 1; f.size < r.size; f.size++) { // cut anywhere but between items
        at = 0;
        int got;
        while ((got = request_next(&f, &at, &tag, &data, &size)) > 0)
            assert_true(at <= f.size);
        assert_int_equal(got, f.size == 7 ? 0 : -EPROTO);
    }
    static char large[AGENT_PAYLOAD];
    memset(large, 'x', sizeof large - 1);
    assert_false(request_add_text(&r, AGENT_ITEM_PATH, large));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_come_whole),
        cmocka_unit_test(wrong_frames),
        cmocka_unit_test(room_for_what_has_no_data),
        cmocka_unit_test(greetings),
        cmocka_unit_test(requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
