// The control server: requests, slow ones, streams; and peers that are broken, greedy or silent, after each of which it
// must answer as before.
#include "control/server.h"
#include "control/client.h"
#include "control/websocket.h"
#include "unit.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static struct control_server *server;
static struct sockaddr_un address;
static struct error err;
static _Atomic bool slow_may_end, slow_began;

static void hello(void *ctx, const struct control_request *q, struct control_reply *r)
{
    (void)ctx, (void)q;
    r->body = json_pack("{s:s}", "say", "hello");
}

static void echo(void *ctx, const struct control_request *q, struct control_reply *r)
{
    (void)ctx;
    r->body = json_pack("{s:O}", "got", q->body);
}

static void large(void *ctx, const struct control_request *q, struct control_reply *r)
{
    (void)ctx, (void)q;
    r->body = json_array();
    for (int i = 0; i < 100000; i++)
        json_array_append_new(r->body, json_integer(i));
}

static void slow(void *ctx, const struct control_request *q, struct control_reply *r)
{
    (void)ctx, (void)q, (void)r;
    slow_began = true;
    while (!slow_may_end)
        usleep(1000);
}

static const struct control_route routes[] = {
    {"GET", "/hello", hello}, {"POST", "/echo", echo}, {"GET", "/large", large}, {"POST", "/slow", slow, true}, {0}};
static const struct control_table tables[] = {{routes, NULL}, {0}};

// A stream that gives back what it gets, from a buffer that can be full.
static struct {
    pthread_mutex_t lock;
    char data[1 << 20];
    size_t size, room;
} loop = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t loop_begin(void *ctx)
{
    (void)ctx;
    return 0;
}

static size_t loop_read(void *ctx, uint64_t *position, void *data, size_t size)
{
    (void)ctx;
    pthread_mutex_lock(&loop.lock);
    size_t n = loop.size - *position < size ? loop.size - (size_t)*position : size;
    memcpy(data, loop.data + *position, n);
    *position += n;
    pthread_mutex_unlock(&loop.lock);
    return n;
}

static size_t loop_write(void *ctx, const void *data, size_t size)
{
    (void)ctx;
    pthread_mutex_lock(&loop.lock);
    size_t n = size < loop.room - loop.size ? size : loop.room - loop.size;
    memcpy(loop.data + loop.size, data, n);
    loop.size += n;
    pthread_mutex_unlock(&loop.lock);
    if (n)
        control_server_wake(server);
    return n;
}

static void loop_room(size_t room)
{
    pthread_mutex_lock(&loop.lock);
    loop.room = room;
    pthread_mutex_unlock(&loop.lock);
    control_server_wake(server);
}

static const struct control_stream streams[] = {{"/loop", NULL, loop_begin, loop_read, loop_write}, {0}};

static int start(void **state)
{
    (void)state;
    slow_may_end = slow_began = false;
    loop.size = 0;
    loop.room = sizeof loop.data;
    address = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(address.sun_path, "/tmp/trapeze-control-XXXXXX");
    assert_non_null(mkdtemp(address.sun_path));
    strcat(address.sun_path, "/s");
    return control_server_start(&server, &address, tables, streams, &err);
}

static int stop(void **state)
{
    (void)state;
    slow_may_end = true;
    control_server_stop(server);
    unlink(address.sun_path);
    *strrchr(address.sun_path, '/') = 0;
    return rmdir(address.sun_path);
}

static void answers(void)
{
    json_t *j;
    if (control_ask(&address, "GET", "/hello", NULL, 10000, &j, &err))
        fail_msg("no answer: %s", err.text);
    assert_string_equal(json_string_value(json_object_get(j, "say")), "hello");
    json_decref(j);
}

static void requests(void **state)
{
    (void)state;
    json_t *j, *body = json_pack("{s:s}", "text", "grün");
    struct stat st;
    answers();
    assert_int_equal(stat(address.sun_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(control_ask(&address, "POST", "/echo", body, 10000, &j, &err), 0);
    assert_true(json_equal(json_object_get(j, "got"), body));
    json_decref(j);
    json_decref(body);
    assert_int_equal(control_ask(&address, "GET", "/large", NULL, 10000, &j, &err), 0);
    assert_int_equal(json_array_size(j), 100000);
    json_decref(j);
    assert_int_equal(control_ask(&address, "GET", "/nope", NULL, 10000, &j, &err), -ENOENT);
    assert_string_equal(err.text, "GET /nope: not found");
    assert_int_equal(control_ask(&address, "DELETE", "/hello", NULL, 10000, &j, &err), -EIO);
}

static void *ask_slow(void *ctx)
{
    json_t *j = NULL;
    *(int *)ctx = control_ask(&address, "POST", "/slow", NULL, -1, &j, NULL);
    json_decref(j);
    return NULL;
}

static void slow_ones_hold_nobody_up(void **state)
{
    (void)state;
    pthread_t thread;
    int result = 1;
    json_t *j;
    assert_int_equal(pthread_create(&thread, NULL, ask_slow, &result), 0);
    while (!slow_began)
        usleep(1000);
    answers();
    assert_int_equal(control_ask(&address, "POST", "/slow", NULL, 10000, &j, &err), -EAGAIN);
    slow_may_end = true;
    pthread_join(thread, NULL);
    assert_int_equal(result, 0);
    assert_int_equal(control_ask(&address, "POST", "/slow", NULL, 10000, &j, &err), 0);
    json_decref(j);
}

static int raw(const char *text, size_t size)
{
    int fd = control_connect(&address, 10000, &err);
    assert_true(fd >= 0);
    while (size) {
        ssize_t n = send(fd, text, size, MSG_NOSIGNAL);
        if (n <= 0)
            break; // it has closed: that is an answer, too
        text += n;
        size -= (size_t)n;
    }
    return fd;
}

// What comes back until the server closes, or has been silent for a moment.
static size_t heard(int fd, char *text, size_t room)
{
    size_t size = 0;
    struct pollfd p = {fd, POLLIN, 0};
    while (size < room - 1 && poll(&p, 1, 200) > 0) {
        ssize_t n = recv(fd, text + size, room - 1 - size, 0);
        if (n <= 0)
            break;
        size += (size_t)n;
    }
    text[size] = 0;
    return size;
}

static void who_leaves_before_the_end(void **state)
{
    (void)state;
    static const char request[] = "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    int fd = raw(request, sizeof request - 1);
    while (!slow_began)
        usleep(1000);
    close(fd);
    answers();
    slow_may_end = true;
    for (int tries = 0; tries < 1000; tries++) { // until the result that nobody wants is put away
        json_t *j;
        int e = control_ask(&address, "POST", "/slow", NULL, 10000, &j, &err);
        if (!e) {
            json_decref(j);
            return;
        }
        assert_int_equal(e, -EAGAIN);
        usleep(1000);
    }
    fail_msg("it waits for a peer that has left");
}

static void nonsense(void **state)
{
    (void)state;
    static const struct {
        const char *text, *answer; // the start of it; NULL: whatever, or nothing
    } cases[] = {
        {"", NULL},
        {"\r\n\r\n", NULL},
        {"HELLO\r\n\r\n", NULL},
        {"GET\r\n\r\n", NULL},
        {"GET /hello\r\n\r\n", NULL},
        {"\x16\x03\x01\x02\x01\x01\xfc\x03\x03", NULL},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{[}", "HTTP/1.1 400"},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}", "HTTP/1.1 413"},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n{}", "HTTP/1.1 413"},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}", NULL},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0x10\r\n\r\n{}", NULL},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "HTTP/1.1 411"},
        {"PATCH /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 405"},
        {"GET /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", NULL},
        {"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", NULL},
        {"GET /loop HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", NULL},
        {"GET /nope HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
         "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
         NULL},
        {"GET /hello HTTP/1.1\r\nHost: x\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[4096];
        int fd = raw(cases[i].text, strlen(cases[i].text));
        if (!cases[i].answer) // the library takes the end of input for the end of all
            shutdown(fd, SHUT_WR);
        heard(fd, text, sizeof text);
        close(fd);
        if (cases[i].answer && strncmp(text, cases[i].answer, strlen(cases[i].answer)))
            fail_msg("%s: got %s", cases[i].text, text);
        answers();
    }
}

static void endless_headers_and_bodies(void **state)
{
    (void)state;
    size_t size = 1 << 20;
    char *text = malloc(size), answer[256];
    memset(text, 'a', size);
    memcpy(text, "GET /", 5);
    int fd = raw(text, size);
    heard(fd, answer, sizeof answer);
    close(fd);
    answers();
    static const char head[] = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n";
    memcpy(text, head, sizeof head - 1);
    fd = raw(text, size);
    heard(fd, answer, sizeof answer);
    close(fd);
    answers();
    free(text);
}

static void many_that_are_silent(void **state)
{
    (void)state;
    enum { MANY = 200 };
    static int fd[MANY];
    for (int i = 0; i < MANY; i++)
        fd[i] = i % 2 ? raw("GET /hel", 8) : raw("", 0);
    char text[16];
    unsigned closed = 0;
    for (int i = 0; i < MANY; i++) {
        struct pollfd p = {fd[i], POLLIN, 0};
        closed += poll(&p, 1, i < MANY / 2 ? 0 : 50) > 0 && recv(fd[i], text, sizeof text, 0) <= 0;
    }
    assert_true(closed >= MANY - 64);
    for (int i = 0; i < MANY; i++)
        close(fd[i]);
    for (int tries = 0;; tries++) { // until it has noticed
        json_t *j;
        if (control_ask(&address, "GET", "/hello", NULL, 10000, &j, &err) == 0) {
            json_decref(j);
            break;
        }
        assert_true(tries < 1000);
        usleep(1000);
    }
}

// --- streams

static char back[1 << 20];
static size_t back_size;

static void take(void *ctx, const void *data, size_t size)
{
    (void)ctx;
    assert_true(back_size + size <= sizeof back);
    memcpy(back + back_size, data, size);
    back_size += size;
}

static bool listen_to(int fd, struct websocket *w, size_t until)
{
    char data[5000];
    struct pollfd p = {fd, POLLIN, 0};
    while (back_size < until) {
        if (poll(&p, 1, 10000) <= 0)
            return false;
        ssize_t n = recv(fd, data, sizeof data, 0);
        if (n <= 0 || websocket_feed(w, data, (size_t)n, take, NULL))
            return false;
    }
    return true;
}

static void a_stream(void **state)
{
    (void)state;
    struct websocket w;
    static char data[200000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)(i * 7 + i / 251);
    back_size = 0;
    int fd = websocket_open(&address, "/loop", &w, &err);
    assert_true(fd >= 0);
    assert_int_equal(websocket_feed(&w, w.rest, w.rest_size, take, NULL), 0);
    assert_int_equal(websocket_send(fd, WEBSOCKET_BINARY, data, sizeof data), 0);
    assert_true(listen_to(fd, &w, sizeof data));
    assert_memory_equal(back, data, sizeof data);
    // Another one hears it from the beginning.
    struct websocket w2;
    back_size = 0;
    int other = websocket_open(&address, "/loop", &w2, &err);
    assert_true(other >= 0);
    assert_int_equal(websocket_feed(&w2, w2.rest, w2.rest_size, take, NULL), 0);
    assert_true(listen_to(other, &w2, sizeof data));
    assert_memory_equal(back, data, sizeof data);
    close(other);
    answers();
    websocket_send(fd, WEBSOCKET_CLOSE, NULL, 0);
    close(fd);
    assert_int_equal(websocket_open(&address, "/none", &w, &err), -ENOENT);
}

// A guest that reads nothing: the peer is held up, nothing is lost, and others are served.
static void no_room(void **state)
{
    (void)state;
    struct websocket w;
    static char data[3000];
    memset(data, 'x', sizeof data);
    loop_room(100);
    back_size = 0;
    int fd = websocket_open(&address, "/loop", &w, &err);
    assert_true(fd >= 0);
    assert_int_equal(websocket_feed(&w, w.rest, w.rest_size, take, NULL), 0);
    for (int i = 0; i < 5; i++)
        assert_int_equal(websocket_send(fd, WEBSOCKET_BINARY, data, sizeof data), 0);
    assert_true(listen_to(fd, &w, 100));
    answers();
    assert_int_equal(back_size, 100);
    loop_room(sizeof loop.data);
    assert_true(listen_to(fd, &w, 5 * sizeof data));
    close(fd);
}

static void frames_that_make_no_sense(void **state)
{
    (void)state;
    static const char frames[][16] = {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x82\x05hello",
                                      "\x89\xfe\x10\x00\x00\x00\x00\x00", "\x83\x80\x00\x00\x00\x00"};
    for (unsigned i = 0; i < sizeof frames / sizeof *frames; i++) {
        struct websocket w;
        char text[256];
        int fd = websocket_open(&address, "/loop", &w, &err);
        assert_true(fd >= 0);
        if (send(fd, frames[i], 14, MSG_NOSIGNAL) < 0)
            fail();
        heard(fd, text, sizeof text);
        close(fd);
        answers();
    }
}

static void stopping_with_peers(void **state)
{
    // The teardown stops it, while these are here.
    (void)state;
    struct websocket w;
    assert_true(websocket_open(&address, "/loop", &w, &err) >= 0);
    raw("GET /hello HTT", 14);
    raw("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", 52);
}

int main(void)
{
#define SERVER_TEST(fn) cmocka_unit_test_setup_teardown(fn, start, stop)
    const struct CMUnitTest tests[] = {
        SERVER_TEST(requests),
        SERVER_TEST(slow_ones_hold_nobody_up),
        SERVER_TEST(who_leaves_before_the_end),
        SERVER_TEST(nonsense),
        SERVER_TEST(endless_headers_and_bodies),
        SERVER_TEST(many_that_are_silent),
        SERVER_TEST(a_stream),
        SERVER_TEST(no_room),
        SERVER_TEST(frames_that_make_no_sense),
        SERVER_TEST(stopping_with_peers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
