// A guest's socket device on unix sockets: a device that is made of a table, as the real one's, and programs that
// connect to it. The backend has its own thread; the test waits for what that does.
#include "backend/vsock.h"
#include "backend/unix_address.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PEERS = 8, WAIT_MS = 20000 };

// What the device would keep: here the connection is the place in the test's own table.
struct vsock_connection {
    struct vsock_peer *peer;
    uint32_t port;
    bool accept, connect, hung_up;
    unsigned heard;
    char got[64];
    size_t size;
    bool ended;
};

struct device {
    pthread_mutex_t lock;
    pthread_cond_t news;
    struct vsock *v;
    struct vsock_connection c[PEERS];
    unsigned count;
    bool refuse;
    uint32_t connect; // to do in work(): connect to this port of the host
    bool connected;   // the answer
    bool close;       // to do: close all
    const char *say;  // to do: to all
};

static void work(void *ctx)
{
    struct device *d = ctx;
    const struct vsock_ops *ops = d->v->ops;
    pthread_mutex_lock(&d->lock);
    if (d->connect) {
        struct vsock_connection *c = &d->c[d->count];
        c->peer = ops->connect(d->v, d->connect, c);
        c->port = d->connect;
        d->connected = c->peer;
        d->connect = 0;
        if (c->peer) {
            d->count++;
            ops->want(c->peer, VSOCK_READ);
        }
    }
    for (unsigned i = 0; i < d->count; i++) {
        struct vsock_connection *c = &d->c[i];
        if (!c->peer)
            continue;
        if (c->accept) {
            ops->opened(c->peer, 77);
            ops->want(c->peer, VSOCK_READ);
            c->accept = false;
        }
        if (d->say)
            assert_int_equal(ops->write(c->peer, d->say, strlen(d->say)), strlen(d->say));
        if (d->close) {
            ops->close_peer(c->peer);
            c->peer = NULL;
        }
    }
    d->say = NULL;
    d->close = false;
    pthread_cond_broadcast(&d->news);
    pthread_mutex_unlock(&d->lock);
}

static struct vsock_connection *call(void *ctx, uint32_t port, struct vsock_peer *p)
{
    struct device *d = ctx;
    struct vsock_connection *c = NULL;
    pthread_mutex_lock(&d->lock);
    if (!d->refuse) {
        c = &d->c[d->count++];
        *c = (struct vsock_connection){.peer = p, .port = port, .accept = true};
    }
    pthread_mutex_unlock(&d->lock);
    return c;
}

static void ready(void *ctx, struct vsock_connection *c, unsigned what)
{
    struct device *d = ctx;
    pthread_mutex_lock(&d->lock);
    c->heard++;
    c->hung_up |= (what & VSOCK_HANGUP) != 0;
    if ((what & VSOCK_READ) && !c->ended) {
        int64_t n = d->v->ops->read(c->peer, c->got + c->size, sizeof c->got - c->size);
        c->ended = n == 0;
        c->size += n > 0 ? (size_t)n : 0;
        if (c->ended)
            d->v->ops->want(c->peer, 0);
    }
    pthread_cond_broadcast(&d->news);
    pthread_mutex_unlock(&d->lock);
}

struct vsock_test {
    char folder[64], path[160];
    struct device d;
};

static int begin(void **state)
{
    struct vsock_test *t = calloc(1, sizeof *t);
    struct error err;
    strcpy(t->folder, "/tmp/trapeze-vsock-XXXXXX");
    assert_non_null(mkdtemp(t->folder));
    snprintf(t->path, sizeof t->path, "%s/vsock.sock", t->folder);
    pthread_mutex_init(&t->d.lock, NULL);
    pthread_cond_init(&t->d.news, NULL);
    if (vsock_unix_open(t->path, &t->d.v, &err))
        fail_msg("%s", err.text);
    t->d.v->ctx = &t->d;
    t->d.v->work = work;
    t->d.v->call = call;
    t->d.v->ready = ready;
    assert_int_equal(t->d.v->ops->start(t->d.v, &err), 0);
    *state = t;
    return 0;
}

static int end(void **state)
{
    struct vsock_test *t = *state;
    t->d.v->ops->close(t->d.v);
    assert_int_equal(access(t->path, F_OK), -1);
    assert_int_equal(rmdir(t->folder), 0);
    free(t);
    return 0;
}

// Waits, with the lock, until the condition holds.
#define UNTIL(d, condition)                                                                                            \
    do {                                                                                                               \
        struct timespec until;                                                                                         \
        clock_gettime(CLOCK_REALTIME, &until);                                                                         \
        until.tv_sec += WAIT_MS / 1000;                                                                                \
        pthread_mutex_lock(&(d)->lock);                                                                                \
        while (!(condition))                                                                                           \
            if (pthread_cond_timedwait(&(d)->news, &(d)->lock, &until))                                                \
                fail_msg("did not come: %s", #condition);                                                              \
        pthread_mutex_unlock(&(d)->lock);                                                                              \
    } while (0)

// Has the backend's thread do what was put down.
static void ask(struct device *d)
{
    d->v->ops->wake(d->v);
}

static int connect_to(const char *path)
{
    struct unix_address a;
    assert_int_equal(unix_address_open(&a, path, NULL), 0);
    int fd = unix_address_connect(&a, 0);
    assert_true(fd >= 0);
    unix_address_close(&a);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

// Reads exactly what is expected; "": the end.
static void hear(int fd, const char *text)
{
    char got[64] = "";
    size_t size = 0, wanted = strlen(text);
    do {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        ssize_t n = read(fd, got + size, wanted ? wanted - size : 1);
        if (n <= 0)
            break;
        size += (size_t)n;
    } while (size < wanted);
    assert_string_equal(got, text);
}

static void calls_from_the_host(void **state)
{
    struct vsock_test *t = *state;
    struct device *d = &t->d;
    struct stat st;
    assert_int_equal(stat(t->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    int fd = connect_to(t->path);
    say(fd, "CONNECT 55");
    say(fd, "55\nhello"); // what follows the line is the stream's already
    hear(fd, "OK 77\n");
    UNTIL(d, d->count == 1 && d->c[0].size == 5);
    assert_int_equal(d->c[0].port, 5555);
    assert_memory_equal(d->c[0].got, "hello", 5);
    d->say = "welcome";
    ask(d);
    hear(fd, "welcome");
    // The end of one way is no end of the other.
    shutdown(fd, SHUT_WR);
    UNTIL(d, d->c[0].ended);
    assert_false(d->c[0].hung_up);
    d->say = "still there";
    ask(d);
    hear(fd, "still there");
    close(fd);
    UNTIL(d, d->c[0].hung_up);
    // A hang-up is told once, not in a busy loop.
    unsigned heard = d->c[0].heard;
    usleep(50000);
    assert_int_equal(d->c[0].heard, heard);
    d->close = true;
    ask(d);
    UNTIL(d, !d->close);
}

static void wrong_callers(void **state)
{
    struct vsock_test *t = *state;
    static const char *const wrong[] = {"\n",
                                        "CONNECT\n",
                                        "CONNECT \n",
                                        "CONNECT 4294967296\n",
                                        "CONNECT -1\n",
                                        "CONNECT 1x\n",
                                        "connect 1\n",
                                        "GET / HTTP/1.1\r\nHost: x\r\n",
                                        "CONNECT 00000000000001\n"};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int fd = connect_to(t->path);
        say(fd, wrong[i]);
        char c;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        assert_true(read(fd, &c, 1) <= 0); // the end, or a reset if it had said more than was read
        close(fd);
    }
    assert_int_equal(t->d.count, 0);
    t->d.refuse = true;
    int fd = connect_to(t->path);
    say(fd, "CONNECT 5555\n");
    hear(fd, "");
    close(fd);
    t->d.refuse = false;
    // Those who say nothing are not waited for when others come.
    enum { MANY = 100 };
    int silent[MANY];
    for (unsigned i = 0; i < MANY; i++)
        silent[i] = connect_to(t->path);
    hear(silent[0], "");
    fd = connect_to(t->path);
    say(fd, "CONNECT 4294967295\n");
    hear(fd, "OK 77\n");
    assert_int_equal(t->d.c[0].port, UINT32_MAX);
    close(fd);
    for (unsigned i = 0; i < MANY; i++)
        close(silent[i]);
    t->d.close = true;
    ask(&t->d);
    UNTIL(&t->d, !t->d.close);
}

static void calls_from_the_guest(void **state)
{
    struct vsock_test *t = *state;
    struct device *d = &t->d;
    d->connect = 80;
    d->connected = true;
    ask(d);
    UNTIL(d, !d->connect);
    assert_false(d->connected); // nobody listens
    char path[200];
    snprintf(path, sizeof path, "%s_80", t->path);
    struct unix_address a;
    assert_int_equal(unix_address_open(&a, path, NULL), 0);
    int listener = unix_address_listen(&a, 1);
    assert_true(listener >= 0);
    d->connect = 80;
    ask(d);
    UNTIL(d, d->connected);
    struct pollfd p = {.fd = listener, .events = POLLIN};
    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
    int fd = accept(listener, NULL, NULL);
    say(fd, "abc");
    UNTIL(d, d->c[0].size == 3);
    d->say = "xyz";
    ask(d);
    hear(fd, "xyz");
    d->close = true;
    ask(d);
    hear(fd, "");
    close(fd);
    close(listener);
    unlink(path);
}

static void paths(void **state)
{
    struct vsock_test *t = *state;
    struct error err;
    struct vsock *v;
    assert_int_equal(vsock_unix_open(t->path, &v, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "another machine listens there"));
    char path[400];
    snprintf(path, sizeof path, "%s/file", t->folder);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(vsock_unix_open(path, &v, &err), -EEXIST);
    assert_int_equal(access(path, F_OK), 0);
    unlink(path);
    assert_int_equal(vsock_unix_open("/nowhere/at/all", &v, &err), -ENOENT);
    assert_int_equal(vsock_unix_open("", &v, &err), -EINVAL);
    // Deeper than an address can say.
    char folder[200];
    snprintf(folder, sizeof folder, "%s/%0120d", t->folder, 0);
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s/vsock.sock", folder);
    assert_int_equal(vsock_unix_open(path, &v, &err), 0);
    int fd = connect_to(path);
    close(fd);
    v->ops->close(v);
    assert_int_equal(access(path, F_OK), -1);
    // One that a machine left behind when it was killed.
    struct unix_address a;
    assert_int_equal(unix_address_open(&a, path, NULL), 0);
    close(unix_address_listen(&a, 1));
    unix_address_close(&a);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(vsock_unix_open(path, &v, &err), 0);
    v->ops->close(v);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(calls_from_the_host, begin, end),
        cmocka_unit_test_setup_teardown(wrong_callers, begin, end),
        cmocka_unit_test_setup_teardown(calls_from_the_guest, begin, end),
        cmocka_unit_test_setup_teardown(paths, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
