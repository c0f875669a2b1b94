// A network that keeps to a rate, in each direction by itself: it stands between a card and another backend.
//
// Nothing is dropped here. A frame that comes too early is refused, as a card or a backend without room would refuse
// it: the card holds one that goes out, and the rest stays in the driver's ring; the backend keeps those that come in,
// and stops reading or drops by its own rules. When it is time, an alarm wakes the backend, and both are offered again.
//
// A frame that is still to be cut into segments counts as that many packets.
#include "backend/net.h"
#include "host/alarm.h"
#include "host/clock.h"
#include <errno.h>
#include <stdlib.h>

enum { IN, OUT };

struct limited_net {
    struct net net;
    struct net *inner;
    struct rate_limits limits;
    struct alarm *alarm;
    // The backend's thread's, but for the counters, which others read.
    struct rate_pair rate[2];
    _Atomic uint64_t delayed[2];
    bool waiting[2];
};

static bool due(struct limited_net *l, unsigned way, uint64_t now)
{
    uint64_t ready = rate_pair_ready(&l->rate[way], now);
    if (ready <= now)
        return true;
    if (!l->waiting[way])
        l->delayed[way]++;
    l->waiting[way] = true;
    alarm_by(l->alarm, ready);
    return false;
}

static void charge(struct limited_net *l, unsigned way, uint64_t now, const struct net_header *h, size_t size)
{
    uint64_t packets = h->gso_type && h->gso_size ? (size + h->gso_size - 1) / h->gso_size : 1;
    l->waiting[way] = false;
    rate_pair_take(&l->rate[way], now, packets, size);
}

static bool limit_receive(void *ctx, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct limited_net *l = ctx;
    uint64_t now = host_monotonic_ns();
    if (!due(l, IN, now) || !l->net.receive(l->net.ctx, h, frame, size))
        return false;
    charge(l, IN, now, h, size);
    return true;
}

static bool limit_send(struct net *n, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct limited_net *l = (struct limited_net *)n;
    uint64_t now = host_monotonic_ns();
    if (!due(l, OUT, now) || !l->inner->ops->send(l->inner, h, frame, size))
        return false;
    charge(l, OUT, now, h, size);
    return true;
}

static void limit_transmit(void *ctx)
{
    struct limited_net *l = ctx;
    l->net.transmit(l->net.ctx);
}

static void limit_link(void *ctx, bool up)
{
    struct limited_net *l = ctx;
    l->net.link(l->net.ctx, up);
}

static int limit_start(struct net *n, struct error *err)
{
    struct limited_net *l = (struct limited_net *)n;
    l->inner->ctx = l;
    l->inner->receive = limit_receive;
    l->inner->transmit = limit_transmit;
    l->inner->link = limit_link;
    return l->inner->ops->start(l->inner, err);
}

static void limit_stop(struct net *n)
{
    struct limited_net *l = (struct limited_net *)n;
    l->inner->ops->stop(l->inner);
}

static void limit_wake(struct net *n)
{
    struct limited_net *l = (struct limited_net *)n;
    l->inner->ops->wake(l->inner);
}

static void on_alarm(void *ctx)
{
    limit_wake(ctx);
}

static void limit_accept(struct net *n, unsigned offloads)
{
    struct limited_net *l = (struct limited_net *)n;
    l->inner->ops->accept(l->inner, offloads);
}

static void limit_stats(struct net *n, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    struct limited_net *l = (struct limited_net *)n;
    emit(ctx, "limit_pps", l->limits.operations);
    emit(ctx, "limit_bps", l->limits.bytes);
    emit(ctx, "rx_delayed", l->delayed[IN]);
    emit(ctx, "tx_delayed", l->delayed[OUT]);
    if (l->inner->ops->stats)
        l->inner->ops->stats(l->inner, emit, ctx);
}

static void limit_close(struct net *n)
{
    struct limited_net *l = (struct limited_net *)n;
    l->inner->ops->stop(l->inner);
    if (l->alarm)
        alarm_destroy(l->alarm); // before what it wakes
    l->inner->ops->close(l->inner);
    free(l);
}

int net_limit(struct net **net, const struct rate_limits *limits, struct error *err)
{
    static const struct net_ops ops = {.start = limit_start,
                                       .stop = limit_stop,
                                       .wake = limit_wake,
                                       .send = limit_send,
                                       .accept = limit_accept,
                                       .stats = limit_stats,
                                       .close = limit_close};
    if (!limits->operations && !limits->bytes)
        return 0;
    struct limited_net *l = calloc(1, sizeof *l);
    if (!l)
        return error_set(err, ENOMEM, "limits of a network: out of memory");
    l->net = **net;
    l->net.ops = &ops;
    l->inner = *net;
    l->limits = *limits;
    rate_pair_init(&l->rate[IN], limits);
    rate_pair_init(&l->rate[OUT], limits);
    *net = &l->net;
    return alarm_create(&l->alarm, "net limit", on_alarm, l, err);
}
