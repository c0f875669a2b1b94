// Messages over sockets, in the clear and by TLS: they arrive, silence and drops end the wait, and who has not the key
// gets nowhere.
#include "migrate/wire.h"
#include "host/clock.h"
#include "migrate/address.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char key_file[64], other_key_file[64];

static void pair(struct wire *a, struct wire *b)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    wire_init(a, fd[0], NULL);
    wire_init(b, fd[1], NULL);
}

struct secured {
    struct wire *c;
    const struct tls_options *o;
    const char *host;
    int result;
    struct error err;
};

static void *secure(void *ctx)
{
    struct secured *s = ctx;
    s->result = wire_secure(s->c, s->o, s->host, &s->err);
    return NULL;
}

// Both ends at once, as two processes do it. Results: *client, *server.
static void handshake(struct wire *a, struct wire *b, const char *client_key, const char *server_key, int *client,
                      int *server)
{
    const struct tls_options mine = {.psk = client_key}, theirs = {.psk = server_key};
    struct secured s = {.c = b, .o = &theirs};
    struct error err = {.text = ""};
    pthread_t t;
    a->patience_ms = b->patience_ms = 2000;
    pthread_create(&t, NULL, secure, &s);
    *client = wire_secure(a, &mine, "host", &err);
    pthread_join(t, NULL);
    *server = s.result;
}

static void talk(struct wire *a, struct wire *b)
{
    struct message m;
    struct error err = {.text = ""};
    for (unsigned i = 0; i < 100; i++) {
        char text[32];
        snprintf(text, sizeof text, "message %u", i);
        assert_int_equal(wire_send_small(a, MESSAGE_CANCEL, text, strlen(text), &err), 0);
        assert_int_equal(wire_receive(b, &m, &err), 0);
        assert_int_equal(m.type, MESSAGE_CANCEL);
        assert_int_equal(m.size, strlen(text));
        assert_memory_equal(m.data, text, m.size);
    }
    assert_false(wire_readable(b));
    assert_int_equal(wire_send_small(b, MESSAGE_READY, NULL, 0, &err), 0);
    assert_int_equal(wire_receive(a, &m, &err), 0);
    assert_int_equal(m.type, MESSAGE_READY);
}

static void in_the_clear(void **state)
{
    struct wire a, b;
    struct message m;
    struct error err = {.text = ""};
    (void)state;
    pair(&a, &b);
    talk(&a, &b);
    a.patience_ms = 100;
    assert_int_equal(wire_receive(&a, &m, &err), -ETIMEDOUT);
    wire_close(&b);
    assert_int_equal(wire_receive(&a, &m, &err), -ECONNRESET);
    wire_close(&a);
}

static void by_key(void **state)
{
    struct wire a, b;
    int client, server;
    (void)state;
    pair(&a, &b);
    handshake(&a, &b, key_file, key_file, &client, &server);
    assert_int_equal(client, 0);
    assert_int_equal(server, 0);
    talk(&a, &b);
    wire_close(&a);
    wire_close(&b);
}

static void by_wrong_key(void **state)
{
    struct wire a, b;
    int client, server;
    (void)state;
    pair(&a, &b);
    handshake(&a, &b, key_file, other_key_file, &client, &server);
    assert_true(client < 0 || server < 0);
    assert_true(server < 0); // who receives never goes on
    wire_close(&a);
    wire_close(&b);
}

static void in_the_clear_to_tls(void **state)
{
    struct wire a, b;
    struct error err = {.text = ""};
    const struct tls_options o = {.psk = key_file};
    (void)state;
    pair(&a, &b);
    assert_int_equal(wire_send_small(&a, MESSAGE_CANCEL, "hello hello hello", 17, &err), 0);
    b.patience_ms = 1000;
    assert_int_equal(wire_secure(&b, &o, NULL, &err), -EPROTO);
    wire_close(&a);
    wire_close(&b);
}

static void bad_key_file(void **state)
{
    struct wire a, b;
    struct error err = {.text = ""};
    const struct tls_options o = {.psk = "/dev/null"}, none = {0};
    (void)state;
    pair(&a, &b);
    assert_int_equal(wire_secure(&b, &o, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "/dev/null"));
    wire_close(&b);
    wire_close(&a);
    pair(&a, &b);
    assert_int_equal(wire_secure(&b, &none, NULL, &err), -EINVAL);
    wire_close(&a);
    wire_close(&b);
}

// A peer that gives one byte now and then is patient, too; a deadline ends it.
static void *drip(void *ctx)
{
    const int *fd = ctx;
    for (unsigned i = 0; i < 100 && send(*fd, "", 1, MSG_NOSIGNAL) == 1; i++)
        usleep(20000);
    return NULL;
}

static void dripping(void **state)
{
    struct wire a;
    struct message m;
    struct error err = {.text = ""};
    pthread_t t;
    int fd[2];
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    wire_init(&a, fd[0], NULL);
    pthread_create(&t, NULL, drip, &fd[1]);
    uint64_t begin = host_monotonic_ns();
    a.deadline_ns = begin + 200000000;
    assert_int_equal(wire_receive(&a, &m, &err), -ETIMEDOUT);
    wire_close(&a);
    pthread_join(t, NULL);
    close(fd[1]);
}

static void addresses(void **state)
{
    struct address a;
    struct error err = {.text = ""};
    char text[100], path[64] = "/tmp/trapeze-test-XXXXXX";
    (void)state;
    assert_int_equal(address_parse(&a, "unix:/a/b", &err), 0);
    assert_string_equal(a.path, "/a/b");
    assert_int_equal(address_parse(&a, "tcp:[::1]:80", &err), 0);
    assert_string_equal(a.host, "::1");
    assert_string_equal(a.port, "80");
    static const char *const bad[] = {"", "unix:", "tcp:", "tcp:host", "tcp:host:", "tcp:host:x", "host:80"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(address_parse(&a, bad[i], &err), -EINVAL);
    // Two listen at one place: the second is told. What a dead one left is no hindrance.
    assert_non_null(mkdtemp(path));
    snprintf(text, sizeof text, "unix:%s/socket", path);
    assert_int_equal(address_parse(&a, text, &err), 0);
    assert_true(address_connect(&a, NULL, &err) < 0);
    int l = address_listen(&a, &err);
    assert_true(l >= 0);
    assert_true(address_listen(&a, &err) < 0);
    int fd = address_connect(&a, NULL, &err);
    assert_true(fd >= 0);
    close(fd);
    close(l);
    l = address_listen(&a, &err);
    assert_true(l >= 0);
    close(l);
    unlink(a.path);
    rmdir(path);
}

static void write_file(char *name, const char *text)
{
    strcpy(name, "/tmp/trapeze-test-XXXXXX");
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static int make_keys(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    write_file(key_file, "me:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
    write_file(other_key_file, "me:ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
    return 0;
}

static int remove_keys(void **state)
{
    (void)state;
    unlink(other_key_file);
    return unlink(key_file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_the_clear),        cmocka_unit_test(by_key),       cmocka_unit_test(by_wrong_key),
        cmocka_unit_test(in_the_clear_to_tls), cmocka_unit_test(bad_key_file), cmocka_unit_test(dripping),
        cmocka_unit_test(addresses),
    };
    return cmocka_run_group_tests(tests, make_keys, remove_keys);
}
