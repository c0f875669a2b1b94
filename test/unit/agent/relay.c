// Bytes between descriptors and streams: a relay against frames that the test writes and reads itself.
#include "agent/relay.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct bed {
    struct relay r;
    struct channel peer;
    int in[2], out[2]; // pipes: what the relay reads is written to in[1]; what it writes is read from out[0]
    unsigned other;    // frames of no stream
};

static struct bed b;

static int on_frame(struct relay *r, const struct channel_frame *f)
{
    (void)r, (void)f;
    b.other++;
    return 0;
}

static int begin(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    assert_int_equal(pipe2(b.in, O_CLOEXEC | O_NONBLOCK), 0);
    assert_int_equal(pipe2(b.out, O_CLOEXEC | O_NONBLOCK), 0);
    relay_init(&b.r, fds[0]);
    channel_init(&b.peer, fds[1]);
    b.r.frame = on_frame;
    b.r.end = NULL;
    b.other = 0;
    relay_source(&b.r, 0, b.in[0]);
    relay_sink(&b.r, 1, b.out[1], false);
    return 0;
}

static int end(void **state)
{
    (void)state;
    const int fds[] = {b.r.channel.fd, b.peer.fd, b.in[0], b.in[1], b.out[0]};
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
        close(fds[i]);
    if (b.r.sink[1].fd >= 0)
        close(b.out[1]);
    return 0;
}

// One round, which does not wait: the test's extra descriptor can always be read.
static int turn(void)
{
    static int always[2] = {-1, -1};
    if (always[0] < 0) {
        assert_int_equal(pipe2(always, O_CLOEXEC), 0);
        assert_int_equal(write(always[1], "x", 1), 1);
    }
    bool ready = false;
    int e = relay_round(&b.r, always[0], &ready);
    assert_true(e || ready);
    return e;
}

static int turns(unsigned n)
{
    int e = 0;
    while (n-- && !e) {
        channel_flush(&b.peer);
        e = turn();
    }
    return e;
}

static void put(enum agent_frame type, unsigned stream, const void *data, size_t size)
{
    assert_true(channel_put(&b.peer, type, stream, data, size));
    channel_flush(&b.peer);
}

static void put_window(unsigned stream, uint32_t more)
{
    uint8_t n[4];
    put_le(n, more, 4);
    put(AGENT_WINDOW_MORE, stream, n, 4);
}

// Bytes of data that came for the peer, and whether an end of the stream did; they must count up from *next.
static size_t heard(uint8_t *next, bool *ended)
{
    struct channel_frame f;
    size_t size = 0;
    *ended = false;
    for (unsigned idle = 0; idle < 4; idle++) {
        turn();
        while (channel_fill(&b.peer) > 0) {
            idle = 0;
            while (channel_next(&b.peer, &f) > 0) {
                assert_int_equal(f.stream, 0);
                *ended |= f.type == AGENT_EOF;
                for (uint32_t i = 0; i < f.size && f.type == AGENT_DATA; i++)
                    if (f.data[i] != (*next)++)
                        fail_msg("wrong byte");
                size += f.type == AGENT_DATA ? f.size : 0;
            }
        }
    }
    return size;
}

static void sources_keep_to_the_window(void **state)
{
    (void)state;
    uint8_t data[4096], value = 0, next = 0;
    size_t sent = 0, got = 0;
    bool ended;
    while (sent < AGENT_WINDOW + 4 * sizeof data) {
        for (unsigned i = 0; i < sizeof data; i++)
            data[i] = value++;
        while (write(b.in[1], data, sizeof data) < 0) {
            assert_int_equal(errno, EAGAIN);
            got += heard(&next, &ended);
        }
        sent += sizeof data;
        if (sent % (1 << 16) == 0)
            got += heard(&next, &ended);
    }
    got += heard(&next, &ended);
    assert_int_equal(got, AGENT_WINDOW); // more was there
    assert_false(ended);
    put_window(0, 10);
    assert_int_equal(heard(&next, &ended), 10);
    put_window(0, 1 << 20);
    close(b.in[1]);
    b.in[1] = open("/dev/null", O_WRONLY | O_CLOEXEC);
    got += 10 + heard(&next, &ended);
    assert_int_equal(got, sent);
    assert_true(ended);
    assert_true(relay_sources_ended(&b.r));
}

static void sinks_grant_what_they_hand_on(void **state)
{
    (void)state;
    static uint8_t data[AGENT_PAYLOAD], back[AGENT_WINDOW];
    for (unsigned i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 3);
    for (unsigned i = 0; i < AGENT_WINDOW / AGENT_PAYLOAD; i++) { // the whole window
        put(AGENT_DATA, 1, data, sizeof data);
        assert_int_equal(turns(4), 0);
    }
    assert_false(relay_idle(&b.r)); // the pipe does not take all of it
    struct channel_frame f;
    size_t got = 0, granted = 0;
    while (got < AGENT_WINDOW) {
        ssize_t n = read(b.out[0], back + got, sizeof back - got);
        got += n > 0 ? (size_t)n : 0;
        assert_int_equal(turns(2), 0);
        channel_fill(&b.peer);
        while (channel_next(&b.peer, &f) > 0) {
            assert_int_equal(f.type, AGENT_WINDOW_MORE);
            granted += get_le(f.data, 4);
            assert_true(granted <= got + 65536); // what the pipe holds was handed on
        }
    }
    for (size_t i = 0; i < AGENT_WINDOW; i++)
        if (back[i] != (uint8_t)(i % AGENT_PAYLOAD * 3))
            fail_msg("byte %zu is wrong", i);
    assert_true(granted >= AGENT_WINDOW / 2);
    put(AGENT_EOF, 1, NULL, 0);
    assert_int_equal(turns(2), 0);
    assert_int_equal(b.r.sink[1].fd, -1);
    assert_int_equal(read(b.out[0], back, 1), 0); // closed
}

static void nobody_reads(void **state)
{
    (void)state;
    static uint8_t data[AGENT_PAYLOAD];
    close(b.out[0]);
    b.out[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    struct channel_frame f;
    size_t window = AGENT_WINDOW;
    for (unsigned i = 0; i < 64; i++) { // far more than the window, as it is granted
        for (unsigned wait = 0; window < sizeof data; wait++) {
            assert_true(wait < 100);
            assert_int_equal(turns(1), 0);
            channel_fill(&b.peer);
            while (channel_next(&b.peer, &f) > 0)
                window += get_le(f.data, 4);
        }
        window -= sizeof data;
        put(AGENT_DATA, 1, data, sizeof data);
        assert_int_equal(turns(2), 0);
    }
    assert_int_equal(b.r.sink[1].broken, EPIPE);
}

static void wrong_frames(void **state)
{
    static uint8_t data[AGENT_PAYLOAD];
    int e = 0;
    for (unsigned i = 0; i < 2 * AGENT_WINDOW / AGENT_PAYLOAD && !e; i++) { // more than is granted, read by nobody
        put(AGENT_DATA, 1, data, sizeof data);
        e = turns(2);
    }
    assert_int_equal(e, -EPROTO);
    end(state), begin(state);
    put(AGENT_EOF, 1, NULL, 0);
    put(AGENT_DATA, 1, data, 1);
    assert_int_equal(turns(3), -EPROTO);
    end(state), begin(state);
    put_window(0, 1u << 30);
    assert_int_equal(turns(3), -EPROTO);
    end(state), begin(state);
    put(AGENT_WINDOW_MORE, 0, data, 3);
    assert_int_equal(turns(3), -EPROTO);
    end(state), begin(state);
    put(99, 0, data, 3);
    assert_int_equal(turns(3), 0);
    assert_int_equal(b.other, 1);
    b.r.frame = NULL;
    put(99, 0, data, 3);
    assert_int_equal(turns(3), -EPROTO);
}

static void what_came_before_the_end(void **state)
{
    (void)state;
    char back[8];
    put(AGENT_DATA, 1, "last", 4);
    close(b.peer.fd);
    b.peer.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int e = 0;
    for (unsigned i = 0; i < 10 && !e; i++)
        e = turn();
    assert_int_equal(e, -ECONNRESET);
    assert_int_equal(read(b.out[0], back, sizeof back), 4);
    assert_memory_equal(back, "last", 4);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sources_keep_to_the_window, begin, end),
        cmocka_unit_test_setup_teardown(sinks_grant_what_they_hand_on, begin, end),
        cmocka_unit_test_setup_teardown(nobody_reads, begin, end),
        cmocka_unit_test_setup_teardown(wrong_frames, begin, end),
        cmocka_unit_test_setup_teardown(what_came_before_the_end, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
