// Limits: rates in virtual time, then a disk and a network that keep to them, before backends that answer at once.
#include "backend/disk.h"
#include "backend/net.h"
#include "host/clock.h"
#include "unit.h"
#include "wait.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define MS 1000000ull
#define S 1000000000ull

// ---- rates

// How many things of this size go in [from, to), each as soon as it may.
static unsigned go(struct rate *r, uint64_t from, uint64_t to, uint64_t amount)
{
    unsigned n = 0;
    for (uint64_t now = from; (now = rate_ready(r, now)) < to; n++)
        rate_take(r, now, amount);
    return n;
}

static void a_rate_is_kept_in_the_long_run(void **state)
{
    (void)state;
    static const uint64_t rates[] = {1, 3, 7, 100, 999, 12345, 1000003};
    for (unsigned i = 0; i < sizeof rates / sizeof *rates; i++) {
        struct rate r;
        rate_init(&r, rates[i], 1);
        uint64_t seconds = rates[i] > 10000 ? 2 : 1000;
        unsigned n = go(&r, 5 * S, (5 + seconds) * S, 1);
        // The burst (1 ms, and the one that may go while the bucket is just not empty) and nothing more.
        assert_in_range(n, rates[i] * seconds, rates[i] * seconds + rates[i] / 1000 + 1);
    }
}

static void a_burst_goes_at_once(void **state)
{
    (void)state;
    struct rate r;
    rate_init(&r, 100, 20);
    assert_int_equal(go(&r, S, S + 1, 1), 3);
    assert_int_equal(rate_ready(&r, S), S + 10 * MS);
    // A long quiet time saves up no more than that.
    assert_int_equal(go(&r, 100 * S, 100 * S + 1, 1), 3);
    // By default 100 ms worth.
    rate_init(&r, 1000, 0);
    assert_int_equal(go(&r, S, S + 1, 1), 101);
}

static void what_is_larger_than_the_bucket_goes_too(void **state)
{
    (void)state;
    struct rate r;
    rate_init(&r, 1 << 20, 10);
    assert_int_equal(rate_ready(&r, S), S);
    rate_take(&r, S, 8 << 20); // eight seconds' worth
    assert_int_equal(rate_ready(&r, S), 9 * S - 10 * MS);
    // Amounts beyond all time do not come round again.
    rate_init(&r, 1, 10);
    rate_take(&r, S, UINT64_MAX);
    rate_take(&r, S, UINT64_MAX);
    assert_true(rate_ready(&r, S) > UINT64_MAX / 2);
}

static void no_limit(void **state)
{
    (void)state;
    struct rate_pair p;
    rate_pair_init(&p, &(struct rate_limits){.bytes = 1000, .burst_ms = 1});
    for (unsigned i = 0; i < 1000; i++)
        rate_pair_take(&p, S, 1000000, 0);
    assert_int_equal(rate_pair_ready(&p, S), S); // requests without bytes are not limited
    rate_pair_take(&p, S, 1, 2000);
    assert_int_equal(rate_pair_ready(&p, S), 3 * S - MS);
}

// ---- a disk

struct fake_disk {
    struct disk disk;
    _Atomic unsigned submitted, order_broken;
    uint64_t next;
    bool closed;
};

static void fake_submit(struct disk *d, struct disk_request *r)
{
    struct fake_disk *f = (struct fake_disk *)d;
    f->submitted++;
    f->order_broken += r->offset != f->next;
    f->next = r->offset + r->length;
    r->done(r, 0);
}

static void fake_drain(struct disk *d)
{
    (void)d;
}

static void fake_close(struct disk *d)
{
    ((struct fake_disk *)d)->closed = true;
}

static const struct disk_ops fake_ops = {.submit = fake_submit, .drain = fake_drain, .close = fake_close};

enum { REQUESTS = 30 };

static void start_requests(struct disk *d, struct disk_request *r, struct wait *w, unsigned n, uint64_t length)
{
    for (unsigned i = 0; i < n; i++) {
        r[i] = (struct disk_request){
            .op = DISK_WRITE, .offset = i * length, .length = length, .done = wait_done, .owner = w};
        d->ops->submit(d, &r[i]);
    }
}

static void wait_for(struct wait *w, int n)
{
    pthread_mutex_lock(&w->lock);
    while (w->done < n)
        pthread_cond_wait(&w->cond, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static void a_disk_delays(void **state)
{
    (void)state;
    static const struct rate_limits limits[] = {{.operations = 100, .burst_ms = 1},
                                                {.bytes = 100 * 512, .burst_ms = 1}};
    for (unsigned i = 0; i < 2; i++) {
        struct fake_disk f = {.disk = {.ops = &fake_ops, .size = 1 << 20, .block_size = 4096, .serial = "s"}};
        struct disk *d = &f.disk;
        struct disk_request r[REQUESTS];
        struct wait w = WAIT_INIT;
        assert_int_equal(disk_limit(&d, &limits[i], NULL), 0);
        assert_ptr_not_equal(d, &f.disk);
        assert_int_equal(d->size, 1 << 20);
        assert_string_equal(d->serial, "s");
        uint64_t start = host_monotonic_ns();
        start_requests(d, r, &w, REQUESTS, 512);
        assert_true(f.submitted < REQUESTS); // submitting does not wait
        wait_for(&w, REQUESTS);
        uint64_t took = host_monotonic_ns() - start;
        assert_true(took >= (REQUESTS - 2) * 10 * MS);
        assert_int_equal(f.order_broken, 0);
        assert_int_equal(submit(d, DISK_FLUSH, 0, 0, NULL, 0), 0);
        assert_int_equal(f.submitted, REQUESTS + 1);
        d->ops->close(d);
        assert_true(f.closed);
    }
}

static void emit(void *ctx, const char *name, uint64_t value)
{
    uint64_t *seen = ctx;
    seen[0] += strcmp(name, "limit_iops") ? 0 : value;
    seen[1] += strcmp(name, "delayed") ? 0 : value;
}

static void draining_does_not_wait_for_limits(void **state)
{
    (void)state;
    struct fake_disk f = {.disk = {.ops = &fake_ops, .size = 1 << 20, .block_size = 4096}};
    struct disk *d = &f.disk;
    struct disk_request r[REQUESTS];
    struct wait w = WAIT_INIT;
    assert_int_equal(disk_limit(&d, &(struct rate_limits){.operations = 1, .burst_ms = 1}, NULL), 0);
    uint64_t start = host_monotonic_ns();
    start_requests(d, r, &w, REQUESTS, 512);
    d->ops->drain(d);
    assert_int_equal(f.submitted, REQUESTS);
    assert_true(host_monotonic_ns() - start < 20 * S); // not the thirty seconds that it is worth
    uint64_t seen[2] = {0};
    d->ops->stats(d, emit, seen);
    assert_int_equal(seen[0], 1);
    assert_in_range(seen[1], REQUESTS - 3, REQUESTS - 1);
    // They are paid for afterwards; closing does not wait either.
    start_requests(d, r, &w, 1, 512);
    assert_int_equal(f.submitted, REQUESTS);
    d->ops->close(d);
    assert_int_equal(f.submitted, REQUESTS + 1);
    assert_int_equal(w.done, REQUESTS + 1);
}

static void without_limits_nothing_changes(void **state)
{
    (void)state;
    struct fake_disk f = {.disk = {.ops = &fake_ops}};
    struct disk *d = &f.disk;
    struct net n, *net = &n;
    assert_int_equal(disk_limit(&d, &(struct rate_limits){.burst_ms = 5}, NULL), 0);
    assert_ptr_equal(d, &f.disk);
    assert_int_equal(net_limit(&net, &(struct rate_limits){0}, NULL), 0);
    assert_ptr_equal(net, &n);
}

// ---- a network, whose thread is the test's own

struct fake_net {
    struct net net;
    _Atomic unsigned woken;
    unsigned sent, taken;
    bool closed;
};

static int net_start(struct net *n, struct error *err)
{
    (void)n, (void)err;
    return 0;
}

static void net_nothing(struct net *n)
{
    (void)n;
}

static void net_wake(struct net *n)
{
    ((struct fake_net *)n)->woken++;
}

static bool net_send(struct net *n, const struct net_header *h, const uint8_t *frame, size_t size)
{
    (void)h, (void)frame, (void)size;
    ((struct fake_net *)n)->sent++;
    return true;
}

static void net_close(struct net *n)
{
    ((struct fake_net *)n)->closed = true;
}

static bool card_receive(void *ctx, const struct net_header *h, const uint8_t *frame, size_t size)
{
    (void)h, (void)frame, (void)size;
    ((struct fake_net *)ctx)->taken++;
    return true;
}

static void a_network_refuses_and_wakes(void **state)
{
    (void)state;
    static const struct net_ops ops = {
        .start = net_start, .stop = net_nothing, .wake = net_wake, .send = net_send, .close = net_close};
    struct fake_net f = {.net = {.ops = &ops, .takes = NET_CSUM, .mtu = 1500}};
    struct net *n = &f.net;
    static uint8_t frame[64000];
    const struct net_header plain = {0}, large = {.flags = 1, .gso_type = NET_GSO_TCPV4, .gso_size = 1000};
    assert_int_equal(net_limit(&n, &(struct rate_limits){.operations = 100, .burst_ms = 10}, NULL), 0);
    assert_int_equal(n->takes, NET_CSUM);
    n->ctx = &f;
    n->receive = card_receive;
    assert_int_equal(n->ops->start(n, NULL), 0);
    uint64_t start = host_monotonic_ns();
    unsigned refused = 0;
    while (f.sent < 12) { // the frames that come in have tokens of their own
        if (!n->ops->send(n, &plain, frame, 100)) {
            refused++;
            for (unsigned before = f.woken; f.woken == before;)
                usleep(100); // until the alarm wakes us
        }
    }
    assert_true(refused >= 5);
    assert_true(host_monotonic_ns() - start >= 90 * MS);
    assert_true(f.net.receive(f.net.ctx, &plain, frame, 100));
    // One frame of 64 segments takes 640 ms.
    while (!f.net.receive(f.net.ctx, &large, frame, sizeof frame))
        usleep(100);
    uint64_t now = host_monotonic_ns();
    assert_false(f.net.receive(f.net.ctx, &plain, frame, 100));
    assert_int_equal(f.taken, 2);
    while (!f.net.receive(f.net.ctx, &plain, frame, 100))
        usleep(1000);
    assert_true(host_monotonic_ns() - now >= 600 * MS);
    n->ops->close(n);
    assert_true(f.closed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rate_is_kept_in_the_long_run),
        cmocka_unit_test(a_burst_goes_at_once),
        cmocka_unit_test(what_is_larger_than_the_bucket_goes_too),
        cmocka_unit_test(no_limit),
        cmocka_unit_test(a_disk_delays),
        cmocka_unit_test(draining_does_not_wait_for_limits),
        cmocka_unit_test(without_limits_nothing_changes),
        cmocka_unit_test(a_network_refuses_and_wakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
