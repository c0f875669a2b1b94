// Network backends before a card that records: the socket's format and its peers, the user network's answers,
// checksums.
#include "backend/net.h"
#include "backend/net_checksum.h"
#include "unit.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { FRAMES = 64, LIMIT_MS = 10000 };

// The card. `lock` guards it: the backend has a thread of its own.
struct card {
    struct net *net;
    pthread_mutex_t lock;
    bool full; // refuses what comes
    bool up;
    unsigned links, received, refused, sending, sent;
    size_t size[FRAMES];
    uint8_t first[FRAMES][64];
    struct net_header header; // of what is to be sent
    uint8_t frame[NET_FRAME_MAX];
    size_t frame_size;
};

static bool card_receive(void *ctx, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct card *c = ctx;
    (void)h;
    pthread_mutex_lock(&c->lock);
    bool taken = !c->full && c->received < FRAMES;
    if (taken) {
        c->size[c->received] = size;
        memcpy(c->first[c->received++], frame, size < 64 ? size : 64);
    } else {
        c->refused++;
    }
    pthread_mutex_unlock(&c->lock);
    return taken;
}

static void card_transmit(void *ctx)
{
    struct card *c = ctx;
    pthread_mutex_lock(&c->lock);
    bool more = true;
    while (more && c->sent < c->sending) {
        pthread_mutex_unlock(&c->lock); // an answer may come before send() returns
        more = c->net->ops->send(c->net, &c->header, c->frame, c->frame_size);
        pthread_mutex_lock(&c->lock);
        c->sent += more;
    }
    pthread_mutex_unlock(&c->lock);
}

static void card_link(void *ctx, bool up)
{
    struct card *c = ctx;
    pthread_mutex_lock(&c->lock);
    c->up = up;
    c->links++;
    pthread_mutex_unlock(&c->lock);
}

static void plug(struct card *c, struct net *net)
{
    memset(c, 0, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    c->net = net;
    c->up = true;
    net->ctx = c;
    net->receive = card_receive;
    net->transmit = card_transmit;
    net->link = card_link;
    assert_int_equal(net->ops->start(net, NULL), 0);
}

static void card_send(struct card *c, unsigned frames, size_t size)
{
    pthread_mutex_lock(&c->lock);
    c->frame_size = size;
    c->sending += frames;
    pthread_mutex_unlock(&c->lock);
    c->net->ops->wake(c->net);
}

#define UNTIL(c, condition)                                                                                            \
    do {                                                                                                               \
        bool met = false;                                                                                              \
        for (unsigned ms = 0; !met && ms < LIMIT_MS; ms++) {                                                           \
            pthread_mutex_lock(&(c)->lock);                                                                            \
            met = (condition);                                                                                         \
            pthread_mutex_unlock(&(c)->lock);                                                                          \
            if (!met)                                                                                                  \
                usleep(1000);                                                                                          \
        }                                                                                                              \
        assert_true(met);                                                                                              \
    } while (0)

static char folder[] = "/tmp/trapeze-net-XXXXXX";
static char path[64];

static int connect_raw(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void read_all(int fd, uint8_t *to, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, to + done, size - done);
        assert_true(n > 0);
        done += (size_t)n;
    }
}

static void socket_speaks_its_format(void **state)
{
    (void)state;
    struct net *net;
    struct error err;
    struct card *c = malloc(sizeof *c);
    assert_int_equal(net_socket_open(path, 0, &net, &err), 0);
    plug(c, net);
    UNTIL(c, !c->up);
    int peer = connect_raw();
    UNTIL(c, c->up);
    // Two frames in pieces that don't fit them.
    uint8_t two[4 + 60 + 4 + 100] = {0, 0, 0, 60, 1, [64] = 0, 0, 0, 100, 2};
    assert_int_equal(write(peer, two, 2), 2);
    usleep(20000);
    assert_int_equal(write(peer, two + 2, 65), 65);
    UNTIL(c, c->received == 1);
    assert_int_equal(write(peer, two + 67, sizeof two - 67), (ssize_t)sizeof two - 67);
    UNTIL(c, c->received == 2);
    assert_int_equal(c->size[0], 60);
    assert_int_equal(c->first[0][0], 1);
    assert_int_equal(c->size[1], 100);
    assert_int_equal(c->first[1][0], 2);
    // More than the socket holds goes out, when it is read.
    card_send(c, 40, NET_FRAME_MAX);
    usleep(50000);
    pthread_mutex_lock(&c->lock);
    assert_true(c->sent < 40);
    pthread_mutex_unlock(&c->lock);
    uint8_t *frame = malloc(NET_FRAME_MAX + 4);
    for (unsigned i = 0; i < 40; i++) {
        read_all(peer, frame, NET_FRAME_MAX + 4);
        assert_int_equal(frame[1] << 16 | frame[2] << 8 | frame[3], NET_FRAME_MAX);
    }
    free(frame);
    UNTIL(c, c->sent == 40);
    // A card without room gets the frame when it has some.
    pthread_mutex_lock(&c->lock);
    c->full = true;
    pthread_mutex_unlock(&c->lock);
    assert_int_equal(write(peer, two, sizeof two), (ssize_t)sizeof two);
    UNTIL(c, c->refused);
    pthread_mutex_lock(&c->lock);
    c->full = false;
    pthread_mutex_unlock(&c->lock);
    net->ops->wake(net);
    UNTIL(c, c->received == 4);
    // A cable has two ends: a third party is turned away.
    int third = connect_raw();
    uint8_t byte;
    assert_int_equal(read(third, &byte, 1), 0);
    close(third);
    // What is no frame ends it; the next peer may come.
    assert_int_equal(write(peer, "\xff\xff\xff\xff", 4), 4);
    UNTIL(c, !c->up);
    assert_int_equal(read(peer, &byte, 1), 0);
    close(peer);
    peer = connect_raw();
    UNTIL(c, c->up);
    close(peer);
    UNTIL(c, !c->up);
    card_send(c, 3, 100); // nobody is there: it is gone, and nobody waits
    UNTIL(c, c->sent == 43);
    net->ops->close(net);
    struct stat st;
    assert_int_equal(stat(path, &st), -1);
    free(c);
}

static void sockets_find_each_other_again(void **state)
{
    (void)state;
    struct net *net[2];
    struct card *c = malloc(2 * sizeof *c);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(net_socket_open(path, 0, &net[i], NULL), 0);
        plug(&c[i], net[i]);
    }
    UNTIL(&c[0], c[0].links == 2); // down at first, then up
    card_send(&c[0], 5, 80);
    UNTIL(&c[1], c[1].received == 5);
    // The one that listens goes; the other one takes its place, and finds who comes next.
    net[0]->ops->close(net[0]);
    UNTIL(&c[1], !c[1].up);
    struct stat st;
    for (unsigned ms = 0; stat(path, &st) && ms < LIMIT_MS; ms++)
        usleep(1000);
    assert_int_equal(net_socket_open(path, 0, &net[0], NULL), 0);
    plug(&c[0], net[0]);
    UNTIL(&c[1], c[1].up);
    card_send(&c[1], 3, 80);
    UNTIL(&c[0], c[0].received == 3);
    net[0]->ops->close(net[0]);
    net[1]->ops->close(net[1]);
    free(c);
}

static void socket_refusals(void **state)
{
    (void)state;
    struct net *net;
    struct error err;
    char long_path[200];
    memset(long_path, 'x', sizeof long_path);
    long_path[199] = 0;
    assert_int_equal(net_socket_open(long_path, 0, &net, &err), -EINVAL);
    assert_non_null(strstr(err.text, "1 to 107 characters"));
    assert_int_equal(net_socket_open("/nowhere/socket", 0, &net, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nowhere/socket: No such file"));
    // A file that is none of ours stays.
    FILE *f = fopen(path, "w");
    fclose(f);
    assert_int_equal(net_socket_open(path, 0, &net, &err), -ECONNREFUSED);
    assert_int_equal(unlink(path), 0);
}

static void user_network_answers(void **state)
{
    (void)state;
    struct net *net;
    struct error err;
    struct card *c = malloc(sizeof *c);
    if (net_user_open(&(struct net_user_options){.hostname = "vm"}, &net, &err))
        fail_msg("%s", err.text);
    assert_int_equal(net->mtu, NET_USER_MTU);
    plug(c, net);
    // Who has 10.0.2.2? Tell 10.0.2.15.
    static const uint8_t ask[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0,  0, 0, 0,  9, 8, 6, 0, 1, 8, 0,  6, 4, 0,
                                    1,    2,    0,    0,    0,    0,    9, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2};
    memcpy(c->frame, ask, sizeof ask);
    card_send(c, 1, sizeof ask);
    static const uint8_t answer[] = {10, 0, 2, 2};
    UNTIL(c, c->received && c->first[c->received - 1][13] == 6 && !memcmp(c->first[c->received - 1] + 28, answer, 4));
    // Noise does no harm.
    for (unsigned i = 0; i < 200; i++) {
        pthread_mutex_lock(&c->lock);
        for (unsigned k = 12; k < 200; k++)
            c->frame[k] = (uint8_t)(rand() >> 8);
        if (i & 1)
            memcpy(c->frame + 12, "\x08\x00\x45\x00", 4);
        c->header = (struct net_header){.flags = i & 2 ? 1 : 0, .gso_type = i & 4 ? 1 : 0, .csum_start = 34};
        c->received = 0;
        pthread_mutex_unlock(&c->lock);
        card_send(c, 1, 60 + i % 100);
        UNTIL(c, c->sent == c->sending);
    }
    net->ops->close(net);
    free(c);
}

static void a_port_is_published_once(void **state)
{
    (void)state;
    int taken = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof a;
    assert_int_equal(bind(taken, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(taken, 1), 0);
    assert_int_equal(getsockname(taken, (struct sockaddr *)&a, &length), 0);
    const struct net_publish p = {.text = "X:80", .address = a.sin_addr, .host = ntohs(a.sin_port), .guest = 80};
    struct net *net;
    struct error err;
    assert_true(net_user_open(&(struct net_user_options){.publish = &p, .publishes = 1}, &net, &err) < 0);
    assert_string_equal(err.text, "--publish X:80: Address already in use");
    close(taken);
}

// The plain definition: 16-bit words in network order.
static unsigned sum16(const uint8_t *p, size_t size, unsigned sum)
{
    for (size_t i = 0; i < size; i++)
        sum += i & 1 ? p[i] : (unsigned)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void checksums(void **state)
{
    (void)state;
    uint8_t frame[3000];
    for (size_t size = 60; size < 3000; size += 97) {
        for (size_t i = 0; i < size; i++)
            frame[i] = (uint8_t)rand();
        const struct net_header h = {.flags = 1, .csum_start = 34, .csum_offset = 16};
        net_complete_checksum(&h, frame, size);
        // What stood in the field was part of the sum: so the whole is 0xffff only after taking it out again.
        unsigned field = (unsigned)frame[50] << 8 | frame[51];
        frame[50] = frame[51] = 0;
        net_complete_checksum(&h, frame, size);
        field = (unsigned)frame[50] << 8 | frame[51];
        frame[50] = frame[51] = 0;
        assert_int_equal(field, ~sum16(frame + 34, size - 34, 0) & 0xffff);
    }
    // A TCP packet whose lengths and checksums are all wrong.
    memcpy(frame + 12, "\x08\x00\x45\x00", 4);
    frame[23] = 6;
    assert_true(net_unite_segments(frame, 3000));
    assert_int_equal(frame[16] << 8 | frame[17], 2986);
    assert_int_equal(sum16(frame + 14, 20, 0), 0xffff);
    assert_int_equal(sum16(frame + 34, 2966, sum16(frame + 26, 8, 6 + 2966)), 0xffff);
    memcpy(frame + 12, "\x86\xdd\x60", 3);
    frame[20] = 6;
    assert_true(net_unite_segments(frame, 3000));
    assert_int_equal(frame[18] << 8 | frame[19], 2946);
    assert_int_equal(sum16(frame + 54, 2946, sum16(frame + 22, 32, 6 + 2946)), 0xffff);
    // No TCP; too short; a header longer than all.
    frame[20] = 17;
    assert_false(net_unite_segments(frame, 3000));
    frame[20] = 6;
    assert_false(net_unite_segments(frame, 73));
    memcpy(frame + 12, "\x08\x00\x4f\x00", 4);
    frame[23] = 6;
    assert_false(net_unite_segments(frame, 90));
    frame[12] = 9;
    assert_false(net_unite_segments(frame, 3000));
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/cable", folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums),
        cmocka_unit_test(socket_speaks_its_format),
        cmocka_unit_test(sockets_find_each_other_again),
        cmocka_unit_test(socket_refusals),
        cmocka_unit_test(user_network_answers),
        cmocka_unit_test(a_port_is_published_once),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
