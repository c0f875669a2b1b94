// A cable to another machine, by a unix socket: see net.h for the format and who listens.
//
// What goes out is written at once; if the socket takes only a part, the rest waits, and no other frame is accepted
// before it is gone. A peer that sends anything but plain frames of a possible size is hung up on.
#include "backend/net.h"
#include "backend/net_checksum.h"
#include "backend/net_stream.h"
#include "backend/net_worker.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { RETRY_MS = 500, READS_PER_ROUND = 8 };

struct net_socket {
    struct net_worker worker;
    struct sockaddr_un address;
    int listener, peer;                  // -1: none
    struct net_stream stream;            // of peer
    unsigned listener_index, peer_index; // in worker.fds; 0: not polled
    bool link;                           // what the card was told
    uint8_t buffer[NET_FRAME_MAX];
};

static void hang_on(struct net_socket *s, int fd)
{
    s->peer = fd;
    net_stream_init(&s->stream, fd, 0);
}

static void hang_up(struct net_socket *s)
{
    close(s->peer);
    s->peer = -1;
    net_stream_free(&s->stream);
}

// Connects; failing that, listens. Neither may work just now: somebody else may be in between.
static int plug_in(struct net_socket *s)
{
    const struct sockaddr *a = (const struct sockaddr *)&s->address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (!connect(fd, a, sizeof s->address)) {
        hang_on(s, fd);
        return 0;
    }
    int e = errno;
    // A socket that a machine left behind when it was killed refuses connections: it may go. Anything else stays.
    struct stat st;
    if (e == ECONNREFUSED && !lstat(s->address.sun_path, &st) && S_ISSOCK(st.st_mode))
        unlink(s->address.sun_path);
    else if (e != ENOENT) {
        close(fd);
        return -e;
    }
    if (bind(fd, a, sizeof s->address) || listen(fd, 1)) {
        e = errno;
        close(fd);
        return -e;
    }
    s->listener = fd;
    return 0;
}

static void socket_fill(struct net_worker *w, int *timeout_ms)
{
    struct net_socket *s = (struct net_socket *)w;
    if (s->peer < 0 && s->listener < 0)
        plug_in(s);
    if (s->peer < 0 && s->listener < 0)
        *timeout_ms = RETRY_MS;
    if (s->link != (s->peer >= 0)) {
        s->link = s->peer >= 0;
        w->net.link(w->net.ctx, s->link);
        w->resume = true;
        *timeout_ms = 0;
    }
    s->listener_index = s->listener >= 0 ? net_worker_poll(w, s->listener, POLLIN) : 0;
    short events = (short)((w->kept ? 0 : POLLIN) | (net_stream_waits(&s->stream) ? POLLOUT : 0));
    s->peer_index = s->peer >= 0 ? net_worker_poll(w, s->peer, events) : 0;
}

// Hands up every frame that is complete. False: what came is not our format.
static bool deliver(struct net_socket *s)
{
    struct net_message m;
    int e;
    while ((e = net_stream_next(&s->stream, &m)) > 0 && m.kind == NET_MESSAGE_FRAME)
        net_worker_receive(&s->worker, &m.header, m.data, m.size);
    return !e;
}

static void read_frames(struct net_socket *s)
{
    for (unsigned i = 0; i < READS_PER_ROUND && !s->worker.kept; i++) {
        int n = net_stream_fill(&s->stream);
        if (!n)
            return;
        if (n < 0 || !deliver(s)) {
            hang_up(s);
            return;
        }
    }
}

// Writes what is left of the last frame; true if nothing is.
static bool flush(struct net_socket *s)
{
    if (net_stream_flush(&s->stream)) {
        hang_up(s);
        return true;
    }
    return !net_stream_waits(&s->stream);
}

static void socket_ready(struct net_worker *w)
{
    struct net_socket *s = (struct net_socket *)w;
    short events = s->peer_index ? w->fds[s->peer_index].revents : 0;
    if (s->listener_index && (w->fds[s->listener_index].revents & POLLIN)) {
        int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0 && s->peer >= 0)
            close(fd); // a cable has two ends
        else if (fd >= 0)
            hang_on(s, fd);
    }
    if (s->peer >= 0 && (events & POLLOUT) && flush(s))
        w->resume = true;
    if (s->peer >= 0 && (events & (POLLIN | POLLHUP | POLLERR))) {
        if ((events & (POLLHUP | POLLERR)) && w->kept)
            hang_up(s); // nothing more is coming that we could take
        else
            read_frames(s);
    }
}

static bool socket_send(struct net *n, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct net_socket *s = (struct net_socket *)n;
    if (s->peer < 0)
        return true; // nobody is at the other end
    if (!flush(s))
        return false;
    if (s->peer < 0)
        return true;
    if (h->flags & NET_HEADER_NEEDS_CSUM) {
        memcpy(s->buffer, frame, size);
        net_complete_checksum(h, s->buffer, size);
        frame = s->buffer;
    }
    net_stream_put(&s->stream, NET_MESSAGE_FRAME, NULL, frame, size);
    flush(s);
    return true;
}

static void socket_accept(struct net *n, unsigned offloads)
{
    (void)n, (void)offloads; // frames from here never need any
}

static void socket_destroy(struct net_worker *w)
{
    struct net_socket *s = (struct net_socket *)w;
    // The name first: as soon as nobody listens behind it, the other end takes it for its own listener.
    if (s->listener >= 0) {
        unlink(s->address.sun_path);
        close(s->listener);
    }
    if (s->peer >= 0)
        hang_up(s);
    net_worker_end(w);
    free(s);
}

int net_socket_open(const char *path, uint16_t mtu, struct net **out, struct error *err)
{
    static const struct net_worker_ops worker_ops = {socket_fill, socket_ready, socket_destroy};
    static const struct net_ops net_ops = {.start = net_worker_start,
                                           .stop = net_worker_stop,
                                           .wake = net_worker_wake,
                                           .send = socket_send,
                                           .accept = socket_accept,
                                           .close = net_worker_close};
    struct net_socket *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ENOMEM, "network socket: out of memory");
    s->listener = s->peer = -1;
    s->link = true; // as a card's is at first
    s->address.sun_family = AF_UNIX;
    if (!*path || strlen(path) >= sizeof s->address.sun_path) {
        free(s);
        return error_set(err, EINVAL, "--net socket:%.120s: the path must have 1 to %zu characters", path,
                         sizeof s->address.sun_path - 1);
    }
    strcpy(s->address.sun_path, path);
    int e = net_worker_init(&s->worker, &worker_ops, &net_ops, err);
    if (e) {
        free(s);
        return e;
    }
    s->worker.net.takes = NET_CSUM;
    s->worker.net.mtu = mtu;
    int plugged = plug_in(s);
    if (plugged && plugged != -EADDRINUSE && plugged != -EAGAIN) { // those pass: another machine is just starting
        net_worker_close(&s->worker.net);
        return error_set(err, -plugged, "--net socket:%s: %s", path, strerror(-plugged));
    }
    *out = &s->worker.net;
    return 0;
}
