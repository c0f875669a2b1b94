// A cable to a switch: see net.h for what a switch is, switch_messages.h for what is said.
//
// Opening waits for the switch's answer, so that what is wrong is told at once. Later, when the switch goes, the link
// is down until it is back: we ask again every RETRY_MS, and start it if we may. Frames that the card sends meanwhile
// are lost, as with a cable that is pulled out.
#include "backend/net.h"
#include "backend/net_stream.h"
#include "backend/net_worker.h"
#include "backend/switch_messages.h"
#include "host/clock.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { RETRY_MS = 500, START_EVERY_MS = 5000, ANSWER_MS = 5000, READS_PER_ROUND = 8, NS_PER_MS = 1000000 };

struct net_switch {
    struct net_worker worker;
    struct sockaddr_un address;
    struct switch_hello hello;
    int (*start)(void *ctx, const char *socket);
    void *start_ctx;
    int fd;            // -1: none
    bool answered;     // and not refused: frames flow
    bool link;         // what the card was told
    unsigned index;    // of fd in worker.fds; 0: not polled
    unsigned offloads; // that the driver takes
    uint64_t retry_ns, start_ns;
    struct switch_answer answer; // the last one
    struct net_stream stream;
};

bool switch_name_good(const char *name)
{
    size_t n = strlen(name);
    return n && n <= SWITCH_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static void hang_up(struct net_switch *s)
{
    if (s->fd < 0)
        return;
    close(s->fd);
    net_stream_free(&s->stream);
    s->fd = -1;
    s->answered = false;
    s->retry_ns = host_monotonic_ns() + (uint64_t)RETRY_MS * NS_PER_MS;
}

// Connects and says hello.
static int plug_in(struct net_switch *s)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&s->address, sizeof s->address)) {
        int e = errno;
        close(fd);
        return -e;
    }
    s->fd = fd;
    net_stream_init(&s->stream, fd, 0);
    net_stream_put(&s->stream, NET_MESSAGE_CONTROL, NULL, &s->hello, sizeof s->hello);
    int e = net_stream_flush(&s->stream);
    if (e)
        hang_up(s);
    return e;
}

static bool nobody(int e)
{
    return e == -ENOENT || e == -ECONNREFUSED;
}

// The same, and starts the switch if there is none.
static int plug_in_or_start(struct net_switch *s)
{
    int e = plug_in(s);
    uint64_t now = host_monotonic_ns();
    if (!nobody(e) || !s->start || now < s->start_ns)
        return e;
    s->start_ns = now + (uint64_t)START_EVERY_MS * NS_PER_MS;
    return s->start(s->start_ctx, s->address.sun_path) ? e : plug_in(s);
}

static void tell_offloads(struct net_switch *s)
{
    const struct switch_offloads o = {SWITCH_OFFLOADS, (uint8_t)s->offloads};
    net_stream_put(&s->stream, NET_MESSAGE_CONTROL, NULL, &o, sizeof o);
    if (net_stream_flush(&s->stream))
        hang_up(s);
}

// One that we can't use; false.
static bool on_control(struct net_switch *s, const struct net_message *m)
{
    if (!m->size || m->data[0] != SWITCH_ANSWER)
        return true; // of a newer switch
    if (m->size != sizeof s->answer || s->answered)
        return false;
    memcpy(&s->answer, m->data, sizeof s->answer);
    s->answer.text[sizeof s->answer.text - 1] = 0;
    if (s->answer.refused)
        return false;
    s->answered = true;
    return true;
}

// Reads what has come; hangs up on who speaks another language.
static void read_messages(struct net_switch *s)
{
    for (unsigned i = 0; i < READS_PER_ROUND && !s->worker.kept; i++) {
        int e = net_stream_fill(&s->stream);
        if (!e)
            return;
        struct net_message m;
        while (e > 0 && (e = net_stream_next(&s->stream, &m)) > 0) {
            if (m.kind == NET_MESSAGE_CONTROL)
                e = on_control(s, &m) ? 1 : -EPROTO;
            else if (s->answered)
                net_worker_receive(&s->worker, &m.header, m.data, m.size);
        }
        if (e < 0) {
            hang_up(s);
            return;
        }
    }
}

static void switch_fill(struct net_worker *w, int *timeout_ms)
{
    struct net_switch *s = (struct net_switch *)w;
    uint64_t now = host_monotonic_ns();
    if (s->fd < 0 && now >= s->retry_ns && plug_in_or_start(s))
        s->retry_ns = now + (uint64_t)RETRY_MS * NS_PER_MS;
    if (s->fd < 0)
        *timeout_ms = RETRY_MS;
    if (s->link != s->answered) {
        s->link = s->answered;
        if (s->link)
            tell_offloads(s);
        w->net.link(w->net.ctx, s->link);
        w->resume = true;
        *timeout_ms = 0;
    }
    short events = (short)((w->kept ? 0 : POLLIN) | (net_stream_waits(&s->stream) ? POLLOUT : 0));
    s->index = s->fd >= 0 ? net_worker_poll(w, s->fd, events) : 0;
}

static void switch_ready(struct net_worker *w)
{
    struct net_switch *s = (struct net_switch *)w;
    short events = s->index ? w->fds[s->index].revents : 0;
    if (s->fd >= 0 && (events & POLLOUT)) {
        if (net_stream_flush(&s->stream))
            hang_up(s);
        w->resume = true;
    }
    if (s->fd >= 0 && (events & (POLLIN | POLLHUP | POLLERR))) {
        if ((events & (POLLHUP | POLLERR)) && w->kept)
            hang_up(s); // nothing more is coming that we could take
        else
            read_messages(s);
    }
}

static bool switch_send(struct net *n, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct net_switch *s = (struct net_switch *)n;
    if (s->fd >= 0 && net_stream_flush(&s->stream))
        hang_up(s);
    if (!s->answered)
        return true; // nobody is at the other end
    if (net_stream_waits(&s->stream))
        return false;
    net_stream_put(&s->stream, NET_MESSAGE_HEADED, h, frame, size);
    if (net_stream_flush(&s->stream))
        hang_up(s);
    return true;
}

static void switch_accept(struct net *n, unsigned offloads)
{
    struct net_switch *s = (struct net_switch *)n;
    s->offloads = offloads;
    if (s->answered)
        tell_offloads(s);
}

static void switch_destroy(struct net_worker *w)
{
    struct net_switch *s = (struct net_switch *)w;
    hang_up(s);
    net_worker_end(w);
    free(s);
}

// Waits for the answer to hello.
static int await(struct net_switch *s)
{
    uint64_t deadline = host_monotonic_ns() + (uint64_t)ANSWER_MS * NS_PER_MS;
    s->answer.refused = 0;
    while (s->fd >= 0 && !s->answered) {
        struct pollfd p = {s->fd, POLLIN, 0};
        uint64_t now = host_monotonic_ns();
        if (now >= deadline)
            return -ETIMEDOUT;
        poll(&p, 1, (int)((deadline - now) / NS_PER_MS + 1));
        read_messages(s);
    }
    return s->answered ? 0 : s->answer.refused ? -EACCES : -ECONNRESET;
}

static int reach(struct net_switch *s)
{
    int e = -ECONNRESET;
    // A switch that nobody used may be just going.
    for (unsigned i = 0; i < 3 && (nobody(e) || e == -ECONNRESET); i++) {
        s->start_ns = 0;
        e = plug_in_or_start(s);
        if (!e)
            e = await(s);
    }
    return e;
}

int net_switch_open(const struct net_switch_options *o, struct net **out, struct error *err)
{
    static const struct net_worker_ops worker_ops = {switch_fill, switch_ready, switch_destroy};
    static const struct net_ops net_ops = {.start = net_worker_start,
                                           .stop = net_worker_stop,
                                           .wake = net_worker_wake,
                                           .send = switch_send,
                                           .accept = switch_accept,
                                           .close = net_worker_close};
    struct net_switch *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ENOMEM, "network switch: out of memory");
    s->fd = -1;
    s->link = true; // as a card's is at first
    s->start = o->start;
    s->start_ctx = o->start_ctx;
    s->address.sun_family = AF_UNIX;
    int e = 0;
    if (!switch_name_good(o->network) || !switch_name_good(o->name))
        e = error_set(err, EINVAL,
                      "--net switch:%.40s: a name must be 1 to %d letters, digits, dots, dashes, underscores",
                      o->network, SWITCH_NAME_MAX);
    else if (!*o->socket || strlen(o->socket) >= sizeof s->address.sun_path)
        e = error_set(err, EINVAL, "--net switch:%s@%.120s: the path must have 1 to %zu characters", o->network,
                      o->socket, sizeof s->address.sun_path - 1);
    if (!e)
        e = net_worker_init(&s->worker, &worker_ops, &net_ops, err);
    if (e) {
        free(s);
        return e;
    }
    strcpy(s->address.sun_path, o->socket);
    s->hello = (struct switch_hello){
        .type = SWITCH_HELLO,
        .version = SWITCH_VERSION,
        .want = SWITCH_WANT_PORT,
        .flags = (uint8_t)((o->any_mac ? SWITCH_ANY_MAC : 0) | (o->uplink_user ? SWITCH_UPLINK_USER : 0)),
        .magic = SWITCH_MAGIC};
    memcpy(s->hello.mac, o->mac, 6);
    strcpy(s->hello.network, o->network);
    strcpy(s->hello.name, o->name);
    s->worker.net.takes = s->worker.net.gives = NET_CSUM | NET_TSO4 | NET_TSO6;
    e = reach(s);
    if (e) {
        if (s->answer.refused)
            error_set(err, -e, "--net switch:%s: the switch refuses: %.150s", o->network, s->answer.text);
        else
            error_set(err, -e, "--net switch:%s: no switch at %.110s: %s", o->network, o->socket, strerror(-e));
        net_worker_close(&s->worker.net);
        return e;
    }
    s->worker.net.mtu = o->mtu ? o->mtu : s->answer.mtu;
    *out = &s->worker.net;
    return 0;
}
