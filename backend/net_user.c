// The user network, by libslirp: see net.h. libslirp is a TCP/IP stack that turns the guest's connections into sockets
// of this process. It is not thread-safe, and is touched by the worker's thread alone once that runs.
//
// Large packets. Its stack takes TCP segments as large as IP packets can be, so a frame that is to be cut into segments
// goes in whole; each byte then costs a fraction of what 1500 would make it cost. Its own segments are a quarter of a
// window at most, whatever MTU the guest is told: it does not scale windows, so they are 64 KiB, and it does not send
// what fills neither a segment nor half a window. A receiver, in its turn, does not tell of a window that has less than
// doubled. With segments of half a window and more, both can wait for each other.
//
// Checksums that libslirp made need no checking, so frames say DATA_VALID.
#include "backend/net.h"
#include "backend/net_checksum.h"
#include "backend/net_worker.h"
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct user_timer {
    SlirpTimerCb fn;
    void *ctx;
    int64_t due; // ms; -1: not set
    struct user_timer *next;
};

struct net_user {
    struct net_worker worker;
    Slirp *slirp;
    struct user_timer *timers;
    uint8_t buffer[NET_FRAME_MAX];
};

// ---- what libslirp asks of us

static int64_t clock_ns(void *ctx)
{
    (void)ctx;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static ssize_t to_guest(const void *frame, size_t size, void *ctx)
{
    struct net_user *u = ctx;
    const struct net_header h = {.flags = NET_HEADER_DATA_VALID};
    if (u->worker.net.receive) // not while it starts
        net_worker_receive(&u->worker, &h, frame, size);
    return (ssize_t)size;
}

static void *timer_new(SlirpTimerCb fn, void *fn_ctx, void *ctx)
{
    struct net_user *u = ctx;
    struct user_timer *t = malloc(sizeof *t);
    if (!t)
        return NULL;
    *t = (struct user_timer){.fn = fn, .ctx = fn_ctx, .due = -1, .next = u->timers};
    u->timers = t;
    return t;
}

static void timer_free(void *timer, void *ctx)
{
    struct net_user *u = ctx;
    struct user_timer **link = &u->timers;
    while (*link && *link != timer)
        link = &(*link)->next;
    if (*link)
        *link = (*link)->next;
    free(timer);
}

static void timer_mod(void *timer, int64_t due_ms, void *ctx)
{
    (void)ctx;
    if (timer)
        ((struct user_timer *)timer)->due = due_ms;
}

static void no_error(const char *text, void *ctx)
{
    (void)text, (void)ctx; // what a guest sends is its own business
}

static void no_fd(int fd, void *ctx)
{
    (void)fd, (void)ctx; // we ask for all of them in each round
}

static void no_notify(void *ctx)
{
    (void)ctx; // it is called on our own thread, before the next round
}

static const SlirpCb callbacks = {
    .send_packet = to_guest,
    .guest_error = no_error,
    .clock_get_ns = clock_ns,
    .timer_new = timer_new,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = no_fd,
    .unregister_poll_fd = no_fd,
    .notify = no_notify,
};

// ---- the worker's rounds

static int add_poll(int fd, int events, void *ctx)
{
    short e = (short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
                      (events & SLIRP_POLL_PRI ? POLLPRI : 0) | (events & SLIRP_POLL_ERR ? POLLERR : 0) |
                      (events & SLIRP_POLL_HUP ? POLLHUP : 0));
    return (int)net_worker_poll(ctx, fd, e);
}

static int revents(int index, void *ctx)
{
    struct net_worker *w = ctx;
    short e = index > 0 ? w->fds[index].revents : 0; // 0 is the worker's own
    return (e & POLLIN ? SLIRP_POLL_IN : 0) | (e & POLLOUT ? SLIRP_POLL_OUT : 0) | (e & POLLPRI ? SLIRP_POLL_PRI : 0) |
           (e & (POLLERR | POLLNVAL) ? SLIRP_POLL_ERR : 0) | (e & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static void user_fill(struct net_worker *w, int *timeout_ms)
{
    struct net_user *u = (struct net_user *)w;
    uint32_t timeout = 60000;
    slirp_pollfds_fill(u->slirp, &timeout, add_poll, w);
    int64_t now = clock_ns(NULL) / 1000000;
    for (struct user_timer *t = u->timers; t; t = t->next)
        if (t->due >= 0 && t->due - now < timeout)
            timeout = t->due > now ? (uint32_t)(t->due - now) : 0;
    *timeout_ms = (int)timeout;
}

static void user_ready(struct net_worker *w)
{
    struct net_user *u = (struct net_user *)w;
    slirp_pollfds_poll(u->slirp, 0, revents, w);
    int64_t now = clock_ns(NULL) / 1000000;
    for (struct user_timer *t = u->timers, *next; t; t = next) {
        next = t->next;
        if (t->due < 0 || t->due > now)
            continue;
        t->due = -1; // the function may set it again
        t->fn(t->ctx);
    }
}

static bool user_send(struct net *n, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct net_user *u = (struct net_user *)n;
    if (!(h->flags & NET_HEADER_NEEDS_CSUM)) {
        slirp_input(u->slirp, frame, (int)size);
        return true;
    }
    memcpy(u->buffer, frame, size);
    if (h->gso_type == NET_GSO_NONE)
        net_complete_checksum(h, u->buffer, size);
    else if (!net_unite_segments(u->buffer, size))
        return true; // no TCP: dropped
    slirp_input(u->slirp, u->buffer, (int)size);
    return true;
}

static void user_accept(struct net *n, unsigned offloads)
{
    (void)n, (void)offloads; // frames from here never need any
}

static void user_destroy(struct net_worker *w)
{
    struct net_user *u = (struct net_user *)w;
    w->net.receive = NULL; // it may say goodbye
    if (u->slirp)
        slirp_cleanup(u->slirp);
    while (u->timers)
        timer_free(u->timers, u);
    net_worker_end(w);
    free(u);
}

static int publish(struct net_user *u, const struct net_user_options *o, struct error *err)
{
    for (unsigned i = 0; i < o->publishes; i++) {
        const struct net_publish *p = &o->publish[i];
        const struct in_addr guest = {0}; // the first address that DHCP gives
        if (slirp_add_hostfwd(u->slirp, p->udp, p->address, p->host, guest, p->guest) < 0)
            return error_set(err, errno, "--publish %s: %s", p->text, strerror(errno));
    }
    return 0;
}

static struct in_addr address(unsigned last)
{
    return (struct in_addr){htonl(0x0a000200u | last)}; // 10.0.2.x
}

int net_user_open(const struct net_user_options *o, struct net **out, struct error *err)
{
    static const struct net_worker_ops worker_ops = {user_fill, user_ready, user_destroy};
    static const struct net_ops net_ops = {.start = net_worker_start,
                                           .stop = net_worker_stop,
                                           .wake = net_worker_wake,
                                           .send = user_send,
                                           .accept = user_accept,
                                           .close = net_worker_close};
    struct net_user *u = calloc(1, sizeof *u);
    if (!u)
        return error_set(err, ENOMEM, "network user: out of memory");
    int e = net_worker_init(&u->worker, &worker_ops, &net_ops, err);
    if (e) {
        free(u);
        return e;
    }
    struct net *n = &u->worker.net;
    n->mtu = o->mtu ? o->mtu : NET_USER_MTU;
    n->takes = NET_CSUM | NET_TSO4 | NET_TSO6;
    n->gives = NET_CSUM;
    SlirpConfig c = {.version = 1,
                     .in_enabled = true,
                     .vnetwork = address(0),
                     .vnetmask = {htonl(0xffffff00u)},
                     .vhost = address(2),
                     .vnameserver = address(3),
                     .vdhcp_start = address(15),
                     .in6_enabled = true,
                     .vprefix_len = 64,
                     .vhostname = o->hostname,
                     .if_mtu = n->mtu < NET_USER_MTU ? n->mtu : NET_USER_MTU,
                     .if_mru = n->mtu};
    inet_pton(AF_INET6, "fec0::", &c.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &c.vhost6);
    inet_pton(AF_INET6, "fec0::3", &c.vnameserver6);
    u->slirp = slirp_new(&c, &callbacks, u);
    e = u->slirp ? publish(u, o, err) : error_set(err, EIO, "network user: libslirp cannot start");
    if (e) {
        net_worker_close(n);
        return e;
    }
    *out = n;
    return 0;
}
