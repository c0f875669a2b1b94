// The socket device before a backend that is made of buffers. Everything happens on the test's thread: the test is the
// backend's thread when it calls work(), call() and ready().
#include "virtio/vsock.h"
#include "driver.h"
#include "unit.h"
#include "virtio/vsock_table.h"
#include <errno.h>
#include <stdlib.h>

enum { RX = 0, TX = 1, EVENT = 2, CID = 7, PEERS = 8, BUFFER = VSOCK_BUFFER, HOST_PORT = 1 << 30 };
enum { RX_STEP = 0x2000, TX_AT = 0x40000, EVENT_AT = 0x70000, RX_BUFFERS = DRIVER_QUEUE_SIZE };

struct vsock_peer {
    bool used, closed, broken;
    bool many; // stands for several, of which each is closed
    unsigned want, shut;
    uint32_t port, opened; // the guest's wish; the host port when it accepted
    struct vsock_connection *connection;
    size_t takes; // what write() still takes
    size_t wrote;
    uint8_t written[4 * BUFFER];
    size_t has; // what read() still gives: bytes that count up
    bool ended;
    uint8_t next;
};

struct vsock_bed {
    struct bed bed;
    struct vsock vsock;
    struct virtio_device *dev;
    struct vsock_peer peer[PEERS];
    bool refuse; // connect()
    unsigned started, stopped, wakes;
    uint64_t data; // guest RAM for buffers
    uint16_t tx;   // next descriptor there
    uint32_t rx_alloc, rx_forwarded;
};

static struct vsock_bed *bed_of(struct vsock *v)
{
    return (struct vsock_bed *)((char *)v - offsetof(struct vsock_bed, vsock));
}

static int test_start(struct vsock *v, struct error *err)
{
    (void)err;
    bed_of(v)->started++;
    return 0;
}

static void test_stop(struct vsock *v)
{
    bed_of(v)->stopped++;
}

static void test_wake(struct vsock *v)
{
    bed_of(v)->wakes++;
}

static struct vsock_peer *new_peer(struct vsock_bed *b)
{
    struct vsock_peer *p = b->peer;
    while (p->used)
        assert_true(++p < b->peer + PEERS);
    p->used = true;
    p->takes = SIZE_MAX;
    return p;
}

static struct vsock_peer *test_connect(struct vsock *v, uint32_t port, struct vsock_connection *c)
{
    if (bed_of(v)->refuse)
        return NULL;
    struct vsock_peer *p = new_peer(bed_of(v));
    p->port = port;
    p->connection = c;
    return p;
}

static void test_opened(struct vsock_peer *p, uint32_t host_port)
{
    p->opened = host_port;
}

static int64_t test_read(struct vsock_peer *p, void *data, size_t size)
{
    assert_false(p->closed);
    if (p->broken)
        return -ECONNRESET;
    if (!p->has)
        return p->ended ? 0 : -EAGAIN;
    size_t n = size < p->has ? size : p->has;
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)data)[i] = p->next++;
    p->has -= n;
    return (int64_t)n;
}

static int64_t test_write(struct vsock_peer *p, const void *data, size_t size)
{
    assert_false(p->closed);
    if (p->broken)
        return -EPIPE;
    size_t n = size < p->takes ? size : p->takes;
    if (!n)
        return -EAGAIN;
    assert_true(p->wrote + n <= sizeof p->written);
    memcpy(p->written + p->wrote, data, n);
    p->wrote += n;
    p->takes -= n;
    return (int64_t)n;
}

static void test_shut(struct vsock_peer *p, unsigned ways)
{
    p->shut |= ways;
}

static void test_want(struct vsock_peer *p, unsigned ready)
{
    p->want = ready;
}

static void test_close_peer(struct vsock_peer *p)
{
    assert_true(!p->closed || p->many);
    p->closed = true;
}

static const struct vsock_ops test_ops = {.start = test_start,
                                          .stop = test_stop,
                                          .wake = test_wake,
                                          .connect = test_connect,
                                          .opened = test_opened,
                                          .read = test_read,
                                          .write = test_write,
                                          .shut = test_shut,
                                          .want = test_want,
                                          .close_peer = test_close_peer};

static void work(struct vsock_bed *b)
{
    b->vsock.work(b->vsock.ctx);
}

static struct vsock_bed *begin(void **state)
{
    struct vsock_bed *b = calloc(1, sizeof *b);
    assert_non_null(b);
    bed_init(&b->bed);
    b->vsock.ops = &test_ops;
    assert_int_equal(virtio_vsock_create(&b->bed.f.vm, "virtio-vsock0", &b->vsock, CID, &b->dev, NULL), 0);
    bed_attach(&b->bed, b->dev, *state != NULL);
    b->rx_alloc = 1 << 20;
    return b;
}

static void offer(struct vsock_bed *b, uint16_t i)
{
    driver_desc(&b->bed.d, RX, i, (struct driver_desc){b->data + RX_STEP * i, 4096 + 44, DESC_WRITE, 0});
    driver_make_available(&b->bed.d, RX, i);
}

static void start(struct vsock_bed *b, unsigned rx_buffers)
{
    driver_start(&b->bed.d, 1, 3);
    b->data = driver_alloc(&b->bed.d, 1 << 20);
    b->tx = 0;
    for (unsigned i = 0; i < rx_buffers; i++)
        offer(b, (uint16_t)i);
    work(b);
}

static void end(struct vsock_bed *b)
{
    bed_destroy(&b->bed);
    assert_int_equal(b->stopped, 1);
    for (unsigned i = 0; i < PEERS; i++)
        assert_int_equal(b->peer[i].used, b->peer[i].closed);
    free(b);
}

// What the guest sends: header and `len` bytes that count up from `first`.
static void put(struct vsock_bed *b, struct vsock_header h, uint8_t first)
{
    struct driver *d = &b->bed.d;
    uint64_t at = b->data + TX_AT;
    uint8_t *ram = b->bed.f.ram + at + sizeof h;
    h.src_cid = h.src_cid ? h.src_cid : CID;
    h.dst_cid = h.dst_cid ? h.dst_cid : VSOCK_CID_HOST;
    h.type = h.type ? h.type : VSOCK_TYPE_STREAM;
    h.buf_alloc = b->rx_alloc;
    h.fwd_cnt = b->rx_forwarded;
    assert_true(vm_write(d->vm, at, &h, sizeof h));
    for (uint32_t i = 0; i < h.len; i++)
        ram[i] = (uint8_t)(first + i);
    driver_desc(d, TX, 0, (struct driver_desc){at, (uint32_t)sizeof h + h.len, 0, 0});
    driver_make_available(d, TX, 0);
    driver_notify(d, TX);
    work(b);
}

static void put_op(struct vsock_bed *b, uint32_t guest_port, uint32_t host_port, uint16_t op, uint32_t flags)
{
    put(b, (struct vsock_header){.src_port = guest_port, .dst_port = host_port, .op = op, .flags = flags}, 0);
}

static void put_data(struct vsock_bed *b, uint32_t guest_port, uint32_t host_port, uint32_t len, uint8_t first)
{
    put(b, (struct vsock_header){.src_port = guest_port, .dst_port = host_port, .op = VSOCK_OP_RW, .len = len}, first);
}

// The next packet for the guest, whose buffer is offered again. op 0: none.
static struct vsock_header get(struct vsock_bed *b, const uint8_t **data)
{
    struct vsock_header h = {0};
    uint32_t id, len;
    if (!driver_used(&b->bed.d, RX, &id, &len))
        return h;
    const uint8_t *at = b->bed.f.ram + b->data + RX_STEP * id;
    memcpy(&h, at, sizeof h);
    assert_int_equal(len, sizeof h + h.len);
    assert_int_equal(h.src_cid, VSOCK_CID_HOST);
    assert_int_equal(h.dst_cid, CID);
    assert_int_equal(h.type, VSOCK_TYPE_STREAM);
    if (h.op != VSOCK_OP_RST)
        assert_int_equal(h.buf_alloc, VSOCK_BUFFER);
    if (data)
        *data = at + sizeof h;
    offer(b, (uint16_t)id);
    return h;
}

static struct vsock_header wants_op(struct vsock_bed *b, uint16_t op, uint32_t guest_port, uint32_t host_port)
{
    struct vsock_header h = get(b, NULL);
    assert_int_equal(h.op, op);
    assert_int_equal(h.dst_port, guest_port);
    assert_int_equal(h.src_port, host_port);
    return h;
}

static void wants_nothing(struct vsock_bed *b)
{
    assert_int_equal(get(b, NULL).op, 0);
}

// A connection from the guest's port to the host's port 80.
static struct vsock_peer *open_from_guest(struct vsock_bed *b, uint32_t guest_port)
{
    put_op(b, guest_port, 80, VSOCK_OP_REQUEST, 0);
    wants_op(b, VSOCK_OP_RESPONSE, guest_port, 80);
    struct vsock_peer *p = b->peer;
    while (p[1].used)
        p++;
    assert_int_equal(p->port, 80);
    assert_int_equal(p->want, VSOCK_READ);
    return p;
}

static void ready(struct vsock_bed *b, struct vsock_peer *p, unsigned what)
{
    b->vsock.ready(b->vsock.ctx, p->connection, what);
    work(b);
}

static void describes_itself(void **state)
{
    struct vsock_bed *b = begin(state);
    assert_int_equal(b->started, 1);
    assert_int_equal(driver_offered(&b->bed.d) & 0xffffff, 1);
    assert_int_equal(driver_config(&b->bed.d, 0, 4), CID);
    assert_int_equal(driver_config(&b->bed.d, 4, 4), 0);
    struct vsock_peer *p = new_peer(b);
    assert_null(b->vsock.call(b->vsock.ctx, 5555, p)); // no driver is there
    p->closed = true;
    start(b, 0);
    unsigned wakes = b->wakes;
    driver_notify(&b->bed.d, TX);
    driver_notify(&b->bed.d, RX);
    assert_true(b->wakes >= wakes + 2);
    end(b);
}

static void guest_connects(void **state)
{
    struct vsock_bed *b = begin(state);
    start(b, RX_BUFFERS);
    struct vsock_peer *p = open_from_guest(b, 1025);
    put_data(b, 1025, 80, 1000, 5);
    assert_int_equal(p->wrote, 1000);
    assert_int_equal(p->written[0], 5);
    assert_int_equal(p->written[999], (uint8_t)(5 + 999));
    p->has = 5000;
    ready(b, p, VSOCK_READ);
    const uint8_t *data;
    struct vsock_header h = get(b, &data);
    assert_int_equal(h.op, VSOCK_OP_RW);
    assert_int_equal(h.len, 4096);
    assert_int_equal(h.fwd_cnt, 1000);
    assert_int_equal(data[4095], 255);
    h = get(b, &data);
    assert_int_equal(h.len, 5000 - 4096);
    assert_int_equal(data[0], 0);
    wants_nothing(b);
    assert_int_equal(p->want, VSOCK_READ);
    // The guest is through writing, then through altogether.
    put_op(b, 1025, 80, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND);
    assert_int_equal(p->shut, VSOCK_WRITE);
    assert_false(p->closed);
    wants_nothing(b);
    put_op(b, 1025, 80, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND | VSOCK_SHUTDOWN_RECEIVE);
    assert_true(p->closed);
    wants_op(b, VSOCK_OP_RST, 1025, 80);
    // It may use the port again.
    b->refuse = true;
    put_op(b, 1025, 80, VSOCK_OP_REQUEST, 0);
    wants_op(b, VSOCK_OP_RST, 1025, 80);
    wants_nothing(b);
    end(b);
}

static void host_connects(void **state)
{
    struct vsock_bed *b = begin(state);
    start(b, RX_BUFFERS);
    struct vsock_peer *p = new_peer(b);
    p->connection = b->vsock.call(b->vsock.ctx, 5555, p);
    assert_non_null(p->connection);
    work(b);
    wants_op(b, VSOCK_OP_REQUEST, 5555, HOST_PORT);
    assert_int_equal(p->want & VSOCK_READ, 0); // what the host says before it was accepted stays where it is
    assert_int_equal(p->opened, 0);
    put_op(b, 5555, HOST_PORT, VSOCK_OP_RESPONSE, 0);
    assert_int_equal(p->opened, HOST_PORT);
    assert_int_equal(p->want, VSOCK_READ);
    // Half an end, then the whole.
    p->has = 10;
    p->ended = true;
    ready(b, p, VSOCK_READ);
    struct vsock_header h = wants_op(b, VSOCK_OP_RW, 5555, HOST_PORT);
    assert_int_equal(h.len, 10);
    h = wants_op(b, VSOCK_OP_SHUTDOWN, 5555, HOST_PORT);
    assert_int_equal(h.flags, VSOCK_SHUTDOWN_SEND);
    assert_int_equal(p->want, 0);
    put_data(b, 5555, HOST_PORT, 7, 0);
    assert_int_equal(p->wrote, 7);
    ready(b, p, VSOCK_HANGUP);
    h = wants_op(b, VSOCK_OP_SHUTDOWN, 5555, HOST_PORT);
    assert_int_equal(h.flags, VSOCK_SHUTDOWN_SEND | VSOCK_SHUTDOWN_RECEIVE);
    assert_true(p->closed);
    // Nobody is there any more; who still reads is left in peace.
    put_op(b, 5555, HOST_PORT, VSOCK_OP_CREDIT_UPDATE, 0);
    wants_nothing(b);
    put_op(b, 5555, HOST_PORT, VSOCK_OP_SHUTDOWN, 3);
    wants_op(b, VSOCK_OP_RST, 5555, HOST_PORT);
    // Refused by the guest.
    p = new_peer(b);
    p->connection = b->vsock.call(b->vsock.ctx, 5555, p);
    work(b);
    wants_op(b, VSOCK_OP_REQUEST, 5555, HOST_PORT + 1);
    put_op(b, 5555, HOST_PORT + 1, VSOCK_OP_RST, 0);
    assert_true(p->closed);
    wants_nothing(b);
    // Given up by the host before the guest has answered.
    p = new_peer(b);
    p->connection = b->vsock.call(b->vsock.ctx, 5555, p);
    work(b);
    wants_op(b, VSOCK_OP_REQUEST, 5555, HOST_PORT + 2);
    ready(b, p, VSOCK_HANGUP | VSOCK_READ);
    wants_op(b, VSOCK_OP_RST, 5555, HOST_PORT + 2);
    // Closed with data under way: all of it comes before the end.
    p = new_peer(b);
    p->connection = b->vsock.call(b->vsock.ctx, 5555, p);
    work(b);
    wants_op(b, VSOCK_OP_REQUEST, 5555, HOST_PORT + 3);
    put_op(b, 5555, HOST_PORT + 3, VSOCK_OP_RESPONSE, 0);
    p->has = 5000;
    p->ended = true;
    ready(b, p, VSOCK_HANGUP | VSOCK_READ);
    assert_int_equal(wants_op(b, VSOCK_OP_RW, 5555, HOST_PORT + 3).len, 4096);
    assert_int_equal(wants_op(b, VSOCK_OP_RW, 5555, HOST_PORT + 3).len, 904);
    assert_int_equal(wants_op(b, VSOCK_OP_SHUTDOWN, 5555, HOST_PORT + 3).flags, 3);
    end(b);
}

static void credit_of_the_guest(void **state)
{
    struct vsock_bed *b = begin(state);
    start(b, RX_BUFFERS);
    b->rx_alloc = 6000;
    struct vsock_peer *p = open_from_guest(b, 1025);
    p->has = 10000;
    ready(b, p, VSOCK_READ);
    assert_int_equal(get(b, NULL).len, 4096);
    assert_int_equal(get(b, NULL).len, 6000 - 4096);
    assert_int_equal(wants_op(b, VSOCK_OP_CREDIT_REQUEST, 1025, 80).len, 0);
    wants_nothing(b);
    assert_int_equal(p->has, 4000); // nothing was read that nobody can take
    assert_int_equal(p->want, 0);
    // An answer that brings nothing is not asked again.
    put_op(b, 1025, 80, VSOCK_OP_CREDIT_UPDATE, 0);
    wants_nothing(b);
    b->rx_forwarded = 1000;
    put_op(b, 1025, 80, VSOCK_OP_CREDIT_UPDATE, 0);
    assert_int_equal(get(b, NULL).len, 1000);
    wants_op(b, VSOCK_OP_CREDIT_REQUEST, 1025, 80);
    // Nonsense is no credit: more handed on than was ever sent.
    b->rx_forwarded = 8000;
    put_op(b, 1025, 80, VSOCK_OP_CREDIT_UPDATE, 0);
    wants_nothing(b);
    b->rx_forwarded = 7000;
    put_op(b, 1025, 80, VSOCK_OP_CREDIT_UPDATE, 0);
    assert_int_equal(get(b, NULL).len, 3000);
    wants_nothing(b);
    end(b);
}

static void credit_of_the_host(void **state)
{
    struct vsock_bed *b = begin(state);
    start(b, RX_BUFFERS);
    struct vsock_peer *p = open_from_guest(b, 1025);
    p->takes = 100;
    const uint32_t piece = BUFFER / 2;
    put_data(b, 1025, 80, piece, 0);
    assert_int_equal(p->wrote, 100);
    assert_int_equal(p->want, VSOCK_READ | VSOCK_WRITE);
    put_data(b, 1025, 80, piece, 0);
    wants_nothing(b); // there is no news
    put_op(b, 1025, 80, VSOCK_OP_CREDIT_REQUEST, 0);
    struct vsock_header h = wants_op(b, VSOCK_OP_CREDIT_UPDATE, 1025, 80);
    assert_int_equal(h.fwd_cnt, 100);
    // All of it comes, in order and around the end of the buffer.
    for (unsigned i = 0; p->wrote < 2 * piece; i++) {
        p->takes = 7777;
        ready(b, p, VSOCK_WRITE);
        if (i == 3)
            put_data(b, 1025, 80, 1000, 0);
    }
    p->takes = SIZE_MAX;
    ready(b, p, VSOCK_WRITE);
    assert_int_equal(p->wrote, 2 * piece + 1000);
    for (uint32_t i = 0; i < p->wrote; i++)
        if (p->written[i] != (uint8_t)(i % piece))
            fail_msg("byte %u is wrong", i);
    assert_int_equal(p->want, VSOCK_READ);
    uint32_t told = 100;
    while ((h = get(b, NULL)).op) { // it was told as it went on, before it had to stop
        assert_int_equal(h.op, VSOCK_OP_CREDIT_UPDATE);
        told = h.fwd_cnt;
    }
    assert_true(told > BUFFER / 2);
    // Shut down while some is kept: it is written first, then the peer is closed.
    p->takes = 0;
    put_data(b, 1025, 80, 50, 0);
    put_op(b, 1025, 80, VSOCK_OP_SHUTDOWN, 3);
    assert_false(p->closed);
    wants_nothing(b);
    p->takes = SIZE_MAX;
    ready(b, p, VSOCK_WRITE);
    assert_int_equal(p->wrote, 2 * piece + 1050);
    assert_true(p->closed);
    wants_op(b, VSOCK_OP_RST, 1025, 80);
    // More than was granted ends the connection.
    p = open_from_guest(b, 1026);
    p->takes = 0;
    put_data(b, 1026, 80, BUFFER, 0);
    assert_false(p->closed);
    put_data(b, 1026, 80, 1, 0);
    assert_true(p->closed);
    wants_op(b, VSOCK_OP_RST, 1026, 80);
    end(b);
}

static void connections_take_turns(void **state)
{
    struct vsock_bed *b = begin(state);
    start(b, RX_BUFFERS);
    struct vsock_peer *one = open_from_guest(b, 1), *two = open_from_guest(b, 2);
    one->has = two->has = 2 * VSOCK_READ_MAX;
    b->vsock.ready(b->vsock.ctx, one->connection, VSOCK_READ);
    b->vsock.ready(b->vsock.ctx, two->connection, VSOCK_READ);
    uint32_t got[3] = {0}, turns = 0, before = 0;
    work(b);
    for (struct vsock_header h; (h = get(b, NULL)).op; work(b)) {
        assert_int_equal(h.op, VSOCK_OP_RW);
        got[h.dst_port] += h.len;
        turns += h.dst_port != before;
        before = h.dst_port;
    }
    assert_int_equal(got[1], 2 * VSOCK_READ_MAX);
    assert_int_equal(got[2], 2 * VSOCK_READ_MAX);
    assert_int_equal(turns, 4);
    end(b);
}

static void hostile_packets(void **state)
{
    struct vsock_bed *b = begin(state);
    start(b, RX_BUFFERS);
    struct vsock_peer *p = open_from_guest(b, 1025);
    struct vsock_header h = {.src_port = 1025, .dst_port = 80, .op = VSOCK_OP_RST};
    h.src_cid = 99;
    put(b, h, 0); // not who it says it is
    assert_false(p->closed);
    wants_nothing(b);
    h.src_cid = 0;
    h.dst_cid = 3;
    h.op = VSOCK_OP_REQUEST;
    put(b, h, 0); // another guest: there is none
    uint32_t id, len;
    assert_true(driver_used(&b->bed.d, RX, &id, &len));
    memcpy(&h, b->bed.f.ram + b->data + RX_STEP * id, sizeof h);
    assert_int_equal(h.op, VSOCK_OP_RST);
    assert_int_equal(h.src_cid, 3);
    offer(b, (uint16_t)id);
    h = (struct vsock_header){.src_port = 1025, .dst_port = 80, .op = VSOCK_OP_RW, .type = 2};
    put(b, h, 0); // sequenced packets were not offered
    assert_true(driver_used(&b->bed.d, RX, &id, &len));
    memcpy(&h, b->bed.f.ram + b->data + RX_STEP * id, sizeof h);
    assert_int_equal(h.op, VSOCK_OP_RST);
    assert_int_equal(h.type, 2);
    offer(b, (uint16_t)id);
    assert_false(p->closed);
    put_op(b, 1025, 81, VSOCK_OP_RW, 0);
    wants_op(b, VSOCK_OP_RST, 1025, 81);
    put_op(b, 1025, 81, VSOCK_OP_RST, 0);
    wants_nothing(b); // no answer to an answer
    static const uint16_t wrong[] = {VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE, 0, 8, 0xffff};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put_op(b, 1025, 80, wrong[i], 0);
        assert_true(p->closed);
        wants_op(b, VSOCK_OP_RST, 1025, 80);
        p = open_from_guest(b, 1025);
    }
    put_op(b, 1025, 80, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND);
    put_data(b, 1025, 80, 1, 0); // it said that it was through
    assert_true(p->closed);
    wants_op(b, VSOCK_OP_RST, 1025, 80);
    assert_int_equal(driver_status(&b->bed.d), 15);
    // Shorter than it says.
    h = (struct vsock_header){.src_cid = CID, .dst_cid = 2, .len = 10, .type = 1, .op = VSOCK_OP_RW};
    assert_true(vm_write(b->bed.d.vm, b->data + TX_AT, &h, sizeof h));
    driver_desc(&b->bed.d, TX, 0, (struct driver_desc){b->data + TX_AT, sizeof h + 9, 0, 0});
    driver_make_available(&b->bed.d, TX, 0);
    work(b);
    assert_true(driver_status(&b->bed.d) & VIRTIO_NEEDS_RESET);
    end(b);
}

// Answers that the guest does not fetch are bounded, and none is lost.
static void answers_wait_for_buffers(void **state)
{
    struct vsock_bed *b = begin(state);
    start(b, 0);
    for (uint32_t i = 0; i < VSOCK_RESETS + 10; i++)
        put_op(b, 2000 + i, 80, VSOCK_OP_RW, 0);
    unsigned taken = 0, answers = 0;
    uint32_t id, len;
    while (driver_used(&b->bed.d, TX, &id, &len))
        taken++;
    assert_int_equal(taken, VSOCK_RESETS);
    for (uint16_t i = 0; i < RX_BUFFERS; i++)
        offer(b, i);
    for (struct vsock_header h; work(b), (h = get(b, NULL)).op; answers++)
        assert_int_equal(h.op, VSOCK_OP_RST);
    while (driver_used(&b->bed.d, TX, &id, &len))
        taken++;
    assert_int_equal(taken, VSOCK_RESETS + 10);
    assert_int_equal(answers, VSOCK_RESETS + 10);
    // A buffer without room for a packet.
    put_op(b, 2000, 80, VSOCK_OP_RW, 0);
    driver_start(&b->bed.d, 1, 3);
    driver_desc(&b->bed.d, RX, 0, (struct driver_desc){b->data, 43, DESC_WRITE, 0});
    driver_make_available(&b->bed.d, RX, 0);
    put_op(b, 2000, 80, VSOCK_OP_RW, 0);
    assert_true(driver_status(&b->bed.d) & VIRTIO_NEEDS_RESET);
    end(b);
}

static void as_many_as_there_may_be(void **state)
{
    struct vsock_bed *b = begin(state);
    start(b, RX_BUFFERS);
    struct vsock_peer *p = new_peer(b);
    p->many = true;
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        assert_non_null(b->vsock.call(b->vsock.ctx, i, p));
    assert_null(b->vsock.call(b->vsock.ctx, 1, p));
    put_op(b, 99, 80, VSOCK_OP_REQUEST, 0);
    for (struct vsock_header h = {0}; h.op != VSOCK_OP_RST; work(b))
        assert_int_not_equal((h = get(b, NULL)).op, 0);
    driver_set_status(&b->bed.d, 0);
    work(b);
    assert_true(p->closed);
    start(b, RX_BUFFERS);
    assert_non_null(b->vsock.call(b->vsock.ctx, 1, p));
    end(b);
}

static void resets_drop_connections(void **state)
{
    struct vsock_bed *b = begin(state);
    start(b, RX_BUFFERS);
    struct vsock_peer *p = open_from_guest(b, 1025);
    p->has = 100;
    unsigned wakes = b->wakes;
    driver_set_status(&b->bed.d, 0);
    assert_true(b->wakes > wakes);
    assert_false(p->closed); // that is for the backend's thread to do
    assert_null(b->vsock.call(b->vsock.ctx, 1, p));
    work(b);
    assert_true(p->closed);
    start(b, RX_BUFFERS);
    wants_nothing(b);
    put_data(b, 1025, 80, 1, 0);
    wants_op(b, VSOCK_OP_RST, 1025, 80);
    end(b);
}

// A restored driver still has its connections, and must hear that they are gone.
static void restored(void **state)
{
    struct vsock_bed *b = begin(state), *from = begin(state);
    start(from, 4);
    struct vsock_peer *p = open_from_guest(from, 1025);
    struct driver *d = &b->bed.d;
    start(b, 4); // lays the rings out as they are in the other one
    memcpy(b->bed.f.ram, from->bed.f.ram, FAKE_VM_RAM);
    memcpy(d->queue, from->bed.d.queue, sizeof d->queue);
    assert_int_equal(fake_vm_copy_state(&from->dev->dev, &b->dev->dev), 0);
    fake_vm_advance(&b->bed.f, 1000);
    work(b);
    uint32_t id, len;
    assert_false(driver_used(d, EVENT, &id, &len));
    driver_desc(d, EVENT, 3, (struct driver_desc){b->data + EVENT_AT, 4, DESC_WRITE, 0});
    memset(b->bed.f.ram + b->data + EVENT_AT, 0xff, 4);
    driver_make_available(d, EVENT, 3);
    driver_notify(d, EVENT);
    assert_true(driver_used(d, EVENT, &id, &len));
    assert_int_equal(len, 4);
    assert_int_equal(b->bed.f.ram[b->data + EVENT_AT], 0);
    assert_int_equal(b->bed.f.ram[b->data + EVENT_AT + 3], 0);
    driver_make_available(d, EVENT, 3); // once
    driver_notify(d, EVENT);
    assert_false(driver_used(d, EVENT, &id, &len));
    put_data(b, 1025, 80, 1, 0);
    wants_op(b, VSOCK_OP_RST, 1025, 80);
    p->closed = false;
    end(b);
    end(from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(describes_itself),
        ON_BOTH(guest_connects),
        ON_BOTH(host_connects),
        ON_BOTH(credit_of_the_guest),
        ON_BOTH(credit_of_the_host),
        ON_BOTH(connections_take_turns),
        ON_BOTH(hostile_packets),
        ON_BOTH(answers_wait_for_buffers),
        ON_BOTH(as_many_as_there_may_be),
        ON_BOTH(resets_drop_connections),
        ON_BOTH(restored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
