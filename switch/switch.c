// The switch itself: its socket, who comes, and when it has nothing left to do. See switch.h.
//
// One file lies beside the socket, SOCKET.lock, which is locked as long as a switch runs: so it is known whether a
// socket that is already there belongs to a switch or was left behind, and two that start at once cannot both win.
#include "host/clock.h"
#include "switch/parts.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 128, NS_PER_S = 1000000000 };

static void check_idle(void *ctx)
{
    struct lan_switch *s = ctx;
    uint64_t now = host_monotonic_ns();
    if (s->count)
        s->idle_since_ns = now;
    uint64_t end = s->idle_since_ns + (uint64_t)s->o.idle_s * NS_PER_S;
    if (now >= end)
        s->o.idle(s->o.ctx);
    else
        loop_timer(s->loop, s->count ? now + NS_PER_S : end, check_idle, s);
}

// Sockets in folders that others may enter: only their owner, and root, are let in all the same.
static bool welcome(int fd)
{
    struct ucred who;
    socklen_t size = sizeof who;
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) && (who.uid == geteuid() || who.uid == 0);
}

static void on_connection(void *ctx, unsigned events)
{
    struct lan_switch *s = ctx;
    (void)events;
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (s->count >= LAN_PORTS_MAX || !welcome(fd))
        close(fd);
    else
        port_new(s, fd);
}

static int take_lock(struct lan_switch *s, struct error *err)
{
    char path[sizeof(struct sockaddr_un) + 8];
    snprintf(path, sizeof path, "%s.lock", s->o.socket);
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock < 0)
        return error_set(err, errno, "switch %s: %s: %s", s->o.socket, path, strerror(errno));
    if (!flock(s->lock, LOCK_EX | LOCK_NB))
        return 0;
    return error_set(err, errno == EWOULDBLOCK ? EBUSY : errno, "switch %s: %s", s->o.socket,
                     errno == EWOULDBLOCK ? "another switch has this socket" : strerror(errno));
}

static int take_socket(struct lan_switch *s, struct error *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;
    strcpy(a.sun_path, s->o.socket);
    if (!lstat(a.sun_path, &st) && S_ISSOCK(st.st_mode)) {
        // Left behind by a switch that was killed; or somebody else's, who does not know of our lock.
        int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool alive = probe >= 0 && !connect(probe, (struct sockaddr *)&a, sizeof a);
        if (probe >= 0)
            close(probe);
        if (alive)
            return error_set(err, EBUSY, "switch %s: another program has this socket", s->o.socket);
        unlink(a.sun_path);
    }
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listener < 0)
        return error_set(err, errno, "switch: %s", strerror(errno));
    mode_t before = umask(0177); // nobody else's from the start
    int e = bind(s->listener, (struct sockaddr *)&a, sizeof a) ? errno : 0;
    umask(before);
    if (e || listen(s->listener, BACKLOG)) {
        e = e ? e : errno;
        close(s->listener);
        s->listener = -1;
        return error_set(err, e, "switch %s: %s", s->o.socket, strerror(e));
    }
    return 0;
}

int lan_switch_open(struct loop *loop, const struct lan_switch_options *o, struct lan_switch **out, struct error *err)
{
    const size_t most = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    if (!*o->socket || strlen(o->socket) > most)
        return error_set(err, EINVAL, "switch %.120s: the path must have 1 to %zu characters", o->socket, most);
    struct lan_switch *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ENOMEM, "switch: out of memory");
    s->loop = loop;
    s->o = *o;
    s->lock = s->listener = -1;
    s->started_ns = s->idle_since_ns = host_monotonic_ns();
    int e = take_lock(s, err);
    if (!e)
        e = take_socket(s, err);
    if (!e && !(s->listening = loop_fd(loop, s->listener, LOOP_READ, on_connection, s)))
        e = error_set(err, errno, "switch: %s", strerror(errno));
    if (e) {
        lan_switch_close(s);
        return e;
    }
    if (o->idle_s)
        check_idle(s);
    *out = s;
    return 0;
}

void lan_switch_close(struct lan_switch *s)
{
    if (s->listener >= 0) {
        unlink(s->o.socket);
        if (s->listening)
            loop_remove(s->listening);
        close(s->listener);
    }
    while (s->ports)
        port_end(s->ports);
    port_sweep(s);
    if (s->o.idle_s)
        loop_timer(s->loop, HOST_NEVER, check_idle, s);
    if (s->lock >= 0)
        close(s->lock);
    free(s);
}
