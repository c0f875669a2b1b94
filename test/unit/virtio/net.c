// The network card before a backend that records what it is given. Everything happens on the test's thread: the test is
// the backend's thread when it calls receive() and transmit().
#include "virtio/net.h"
#include "driver.h"
#include "unit.h"

enum { HEADER = 12, FRAMES = 8, RX = 0, TX = 1 };
enum { F_CSUM = 1, F_GUEST_CSUM = 2, F_MTU = 8, F_GUEST_TSO4 = 1 << 7, F_HOST_TSO4 = 1 << 11, F_MERGE = 1 << 15 };

struct test_net {
    struct net net;
    bool refuse; // send()
    unsigned started, stopped, wakes, sent, accepted;
    struct net_header header[FRAMES];
    size_t size[FRAMES];
    uint8_t first[FRAMES][64]; // bytes of each frame
};

static int test_start(struct net *n, struct error *err)
{
    (void)err;
    ((struct test_net *)n)->started++;
    return 0;
}

static void test_stop(struct net *n)
{
    ((struct test_net *)n)->stopped++;
}

static void test_wake(struct net *n)
{
    ((struct test_net *)n)->wakes++;
}

static bool test_send(struct net *n, const struct net_header *h, const uint8_t *frame, size_t size)
{
    struct test_net *t = (struct test_net *)n;
    if (t->refuse)
        return false;
    assert_true(t->sent < FRAMES);
    t->header[t->sent] = *h;
    t->size[t->sent] = size;
    memcpy(t->first[t->sent++], frame, size < 64 ? size : 64);
    return true;
}

static void test_accept(struct net *n, unsigned offloads)
{
    ((struct test_net *)n)->accepted = offloads;
}

static const struct net_ops test_ops = {
    .start = test_start, .stop = test_stop, .wake = test_wake, .send = test_send, .accept = test_accept};

struct net_bed {
    struct bed bed;
    struct test_net t;
    struct virtio_device *dev;
    uint64_t data; // 1 MiB of guest RAM
    uint8_t frame[NET_FRAME_MAX];
};

static void begin(struct net_bed *b, void **state)
{
    static const uint8_t mac[6] = {2, 1, 2, 3, 4, 5};
    memset(b, 0, sizeof *b);
    bed_init(&b->bed);
    b->t.net = (struct net){.ops = &test_ops, .takes = NET_CSUM | NET_TSO4, .gives = NET_CSUM | NET_TSO4, .mtu = 9000};
    assert_int_equal(virtio_net_create(&b->bed.f.vm, "virtio-net0", &b->t.net, mac, &b->dev, NULL), 0);
    bed_attach(&b->bed, b->dev, *state != NULL);
    for (unsigned i = 0; i < sizeof b->frame; i++)
        b->frame[i] = (uint8_t)(i * 7 + i / 256);
}

static void start(struct net_bed *b, uint64_t features)
{
    driver_start(&b->bed.d, features, 2);
    b->data = driver_alloc(&b->bed.d, 1 << 20);
}

static void end(struct net_bed *b)
{
    bed_destroy(&b->bed);
    assert_int_equal(b->t.stopped, 1);
}

static bool arrive(struct net_bed *b, const struct net_header *h, size_t size)
{
    return b->t.net.receive(b->t.net.ctx, h, b->frame, size);
}

// Offers one buffer for receiving, at offset `at` of the data.
static void offer(struct net_bed *b, uint16_t i, uint32_t at, uint32_t size)
{
    driver_desc(&b->bed.d, RX, i, (struct driver_desc){b->data + at, size, DESC_WRITE, 0});
    driver_make_available(&b->bed.d, RX, i);
}

// Sends one frame of `size` bytes whose header is h, cut in the middle of the header.
static void put(struct net_bed *b, uint16_t i, const struct net_header *h, uint32_t size)
{
    struct driver *d = &b->bed.d;
    uint64_t at = b->data + 0x1000 * i;
    assert_true(vm_write(d->vm, at, h, sizeof *h));
    assert_true(vm_write(d->vm, at + HEADER, b->frame, size));
    driver_desc(d, TX, i, (struct driver_desc){at, 5, DESC_NEXT, (uint16_t)(i + 1)});
    driver_desc(d, TX, (uint16_t)(i + 1), (struct driver_desc){at + 5, size + HEADER - 5, 0, 0});
    driver_make_available(d, TX, i);
    driver_notify(d, TX);
}

static void describes_itself(void **state)
{
    struct net_bed b;
    begin(&b, state);
    assert_int_equal(b.t.started, 1);
    uint64_t offered = driver_offered(&b.bed.d);
    uint64_t wanted = 1 | 2 | 8 | 1 << 5 | 1 << 7 | 1 << 11 | 1 << 15 | 1 << 16;
    assert_int_equal(offered & 0xffffff, wanted);
    static const uint8_t mac[6] = {2, 1, 2, 3, 4, 5};
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(driver_config(&b.bed.d, i, 1), mac[i]);
    assert_int_equal(driver_config(&b.bed.d, 6, 2), 1);
    assert_int_equal(driver_config(&b.bed.d, 10, 2), 9000);
    start(&b, 0);
    b.t.net.link(b.t.net.ctx, false);
    assert_int_equal(driver_config(&b.bed.d, 6, 2), 0);
    assert_int_equal(driver_isr(&b.bed.d), 2);
    b.t.net.link(b.t.net.ctx, false); // no news
    assert_int_equal(driver_isr(&b.bed.d), 0);
    end(&b);
}

static void sends_on_the_backends_thread(void **state)
{
    struct net_bed b;
    begin(&b, state);
    start(&b, 0);
    const struct net_header h = {0};
    unsigned wakes = b.t.wakes;
    put(&b, 0, &h, 100);
    assert_int_equal(b.t.sent, 0); // a kick only wakes
    assert_true(b.t.wakes > wakes);
    b.t.net.transmit(b.t.net.ctx);
    assert_int_equal(b.t.sent, 1);
    assert_int_equal(b.t.size[0], 100);
    assert_memory_equal(b.t.first[0], b.frame, 64);
    uint32_t id, len;
    assert_true(driver_used(&b.bed.d, TX, &id, &len));
    assert_int_equal(len, 0);
    assert_true(bed_interrupt(&b.bed));
    // A frame that is refused goes later, whatever has become of its buffer, and before the next one.
    b.t.refuse = true;
    put(&b, 2, &h, 60);
    b.frame[0] = 99;
    put(&b, 4, &h, 61);
    b.t.net.transmit(b.t.net.ctx);
    b.t.net.transmit(b.t.net.ctx);
    assert_true(driver_used(&b.bed.d, TX, &id, &len));
    assert_false(driver_used(&b.bed.d, TX, &id, &len));
    static const uint8_t zero[80];
    assert_true(vm_write(b.bed.d.vm, b.data + 0x2000, zero, sizeof zero));
    b.t.refuse = false;
    b.t.net.transmit(b.t.net.ctx);
    assert_int_equal(b.t.sent, 3);
    assert_int_equal(b.t.size[1], 60);
    assert_int_equal(b.t.first[1][0], 0);
    assert_int_equal(b.t.first[1][1], 7);
    assert_int_equal(b.t.size[2], 61);
    assert_int_equal(b.t.first[2][0], 99);
    // Too short, too long: dropped, and nothing is broken.
    put(&b, 6, &h, 13);
    driver_desc(&b.bed.d, TX, 8, (struct driver_desc){b.data, HEADER + NET_FRAME_MAX + 1, 0, 0});
    driver_make_available(&b.bed.d, TX, 8);
    b.t.net.transmit(b.t.net.ctx);
    assert_int_equal(b.t.sent, 3);
    assert_int_equal(driver_status(&b.bed.d), 15);
    // No room for a header: broken.
    driver_desc(&b.bed.d, TX, 9, (struct driver_desc){b.data, HEADER - 1, 0, 0});
    driver_make_available(&b.bed.d, TX, 9);
    b.t.net.transmit(b.t.net.ctx);
    assert_true(driver_status(&b.bed.d) & VIRTIO_NEEDS_RESET);
    end(&b);
}

static void reset_forgets_what_is_held(void **state)
{
    struct net_bed b;
    begin(&b, state);
    start(&b, 0);
    b.t.refuse = true;
    put(&b, 0, &(struct net_header){0}, 100);
    b.t.net.transmit(b.t.net.ctx);
    driver_set_status(&b.bed.d, 0);
    assert_int_equal(driver_status(&b.bed.d), 0);
    b.t.refuse = false;
    b.t.net.transmit(b.t.net.ctx);
    assert_int_equal(b.t.sent, 0);
    end(&b);
}

// Once, by a whole RARP frame from its address to all; later if the backend has no room; not without a driver.
static void announces_itself(void **state)
{
    static const uint8_t head[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 1, 2, 3, 4, 5, 0x80, 0x35,
                                   0,    1,    8,    0,    6,    4,    0, 3, 2, 1, 2, 3, 4,    5};
    struct net_bed b;
    begin(&b, state);
    virtio_net_announce(b.dev);
    b.t.net.transmit(b.t.net.ctx);
    assert_int_equal(b.t.sent, 0);
    start(&b, 0);
    b.t.wakes = 0;
    virtio_net_announce(b.dev);
    assert_int_equal(b.t.wakes, 1);
    b.t.refuse = true;
    b.t.net.transmit(b.t.net.ctx);
    b.t.refuse = false;
    b.t.net.transmit(b.t.net.ctx);
    b.t.net.transmit(b.t.net.ctx);
    assert_int_equal(b.t.sent, 1);
    assert_int_equal(b.t.size[0], 60);
    assert_memory_equal(b.t.first[0], head, sizeof head);
    end(&b);
}

static void offloads_as_negotiated(void **state)
{
    struct net_bed b;
    begin(&b, state);
    start(&b, F_CSUM | F_GUEST_CSUM | F_HOST_TSO4);
    const struct net_header good = {.flags = 1, .csum_start = 34, .csum_offset = 16},
                            segments = {
                                .flags = 1, .gso_type = 1, .gso_size = 1460, .csum_start = 34, .csum_offset = 16};
    struct net_header bad[] = {good, segments, segments, segments, good};
    bad[0].csum_start = 99; // the field lies beyond the end
    bad[1].gso_type = 4;    // not accepted
    bad[2].flags = 0;       // segments without checksum
    bad[3].gso_size = 0;
    bad[4].gso_type = 3; // UDP, never offered
    put(&b, 0, &good, 100);
    put(&b, 2, &segments, 2000);
    for (unsigned i = 0; i < 5; i++)
        put(&b, (uint16_t)(4 + 2 * i), &bad[i], 100);
    b.t.net.transmit(b.t.net.ctx);
    assert_int_equal(b.t.accepted, NET_CSUM);
    assert_int_equal(b.t.sent, 2);
    assert_int_equal(b.t.header[0].flags, 1);
    assert_int_equal(b.t.header[1].gso_size, 1460);
    assert_int_equal(driver_status(&b.bed.d), 15);
    // In: what the driver did not accept is dropped.
    offer(&b, 0, 0, 4096);
    assert_true(arrive(&b, &segments, 2000));
    uint32_t id, len;
    assert_false(driver_used(&b.bed.d, RX, &id, &len));
    assert_true(arrive(&b, &good, 100));
    assert_true(driver_used(&b.bed.d, RX, &id, &len));
    assert_int_equal(len, 112);
    assert_int_equal(b.bed.f.ram[b.data], 1);
    assert_int_equal(b.bed.f.ram[b.data + 6], 34);
    // A driver that knows of no checksums does not hear of one that was found right.
    driver_start(&b.bed.d, 0, 2);
    offer(&b, 0, 0, 4096);
    assert_true(arrive(&b, &(struct net_header){.flags = NET_HEADER_DATA_VALID}, 100));
    assert_int_equal(b.bed.f.ram[b.data], 0);
    assert_int_equal(driver_peek16(&b.bed.d, b.data + 10), 1); // num_buffers
    end(&b);
}

static void receives_into_one_buffer(void **state)
{
    struct net_bed b;
    begin(&b, state);
    const struct net_header h = {0};
    assert_true(arrive(&b, &h, 100)); // nobody is there: dropped
    start(&b, 0);
    assert_false(arrive(&b, &h, 100)); // no room
    offer(&b, 0, 0, 100);
    unsigned wakes = b.t.wakes;
    driver_notify(&b.bed.d, RX);
    assert_int_equal(b.t.wakes, wakes + 1);
    driver_notify(&b.bed.d, RX); // it does not wait any more
    assert_int_equal(b.t.wakes, wakes + 1);
    assert_true(arrive(&b, &h, 100)); // larger than the buffer: dropped, and the buffer stays
    uint32_t id, len;
    assert_false(driver_used(&b.bed.d, RX, &id, &len));
    assert_true(arrive(&b, &h, 88));
    assert_true(driver_used(&b.bed.d, RX, &id, &len));
    assert_int_equal(len, 100);
    assert_memory_equal(b.bed.f.ram + b.data + HEADER, b.frame, 88);
    assert_true(bed_interrupt(&b.bed));
    assert_true(arrive(&b, &h, 10)); // no Ethernet frame
    offer(&b, 1, 0, 8);
    assert_true(arrive(&b, &h, 60));
    assert_true(driver_status(&b.bed.d) & VIRTIO_NEEDS_RESET);
    assert_true(arrive(&b, &h, 60));
    end(&b);
}

static void merges_buffers(void **state)
{
    struct net_bed b;
    begin(&b, state);
    start(&b, F_MERGE | VIRTIO_F_EVENT_IDX);
    const struct net_header h = {0};
    offer(&b, 0, 0x0000, 100);
    offer(&b, 1, 0x1000, 100);
    uint32_t id, len;
    assert_false(arrive(&b, &h, 250)); // three are needed
    assert_false(driver_used(&b.bed.d, RX, &id, &len));
    assert_int_equal(b.dev->in_flight, 0);
    offer(&b, 2, 0x2000, 100);
    unsigned wakes = b.t.wakes;
    driver_notify(&b.bed.d, RX);
    assert_int_equal(b.t.wakes, wakes + 1);
    assert_true(arrive(&b, &h, 250));
    static const uint32_t lens[] = {100, 100, 62};
    for (unsigned i = 0; i < 3; i++) {
        assert_true(driver_used(&b.bed.d, RX, &id, &len));
        assert_int_equal(id, i);
        assert_int_equal(len, lens[i]);
    }
    assert_int_equal(driver_peek16(&b.bed.d, b.data + 10), 3);
    assert_memory_equal(b.bed.f.ram + b.data + HEADER, b.frame, 88);
    assert_memory_equal(b.bed.f.ram + b.data + 0x1000, b.frame + 88, 100);
    assert_memory_equal(b.bed.f.ram + b.data + 0x2000, b.frame + 188, 62);
    // All that the ring can hold is too little: the frame is dropped, and the next one comes through.
    for (uint16_t i = 0; i < DRIVER_QUEUE_SIZE; i++)
        offer(&b, i, 0x100u * i, 100);
    assert_true(arrive(&b, &h, 2000));
    assert_false(driver_used(&b.bed.d, RX, &id, &len));
    assert_true(arrive(&b, &h, 60));
    assert_true(driver_used(&b.bed.d, RX, &id, &len));
    assert_int_equal(len, 72);
    // A broken chain behind a good one: nothing is in flight afterwards, so a reset is over at once.
    driver_start(&b.bed.d, F_MERGE, 2);
    offer(&b, 0, 0, 100);
    driver_make_available(&b.bed.d, RX, 1000);
    assert_true(arrive(&b, &h, 250));
    assert_true(driver_status(&b.bed.d) & VIRTIO_NEEDS_RESET);
    driver_set_status(&b.bed.d, 0);
    assert_int_equal(driver_status(&b.bed.d), 0);
    end(&b);
}

static void largest_frame(void **state)
{
    struct net_bed b;
    begin(&b, state);
    start(&b, F_MERGE);
    for (uint16_t i = 0; i < DRIVER_QUEUE_SIZE; i++)
        offer(&b, i, 0x2000u * i, 0x2000);
    assert_true(arrive(&b, &(struct net_header){0}, NET_FRAME_MAX));
    uint32_t id, len, sum = 0, n = 0;
    for (; driver_used(&b.bed.d, RX, &id, &len); n++)
        sum += len;
    assert_int_equal(n, 9);
    assert_int_equal(sum, NET_FRAME_MAX + HEADER);
    assert_memory_equal(b.bed.f.ram + b.data + HEADER, b.frame, NET_FRAME_MAX);
    assert_true(arrive(&b, &(struct net_header){0}, NET_FRAME_MAX + 1)); // dropped
    assert_false(driver_used(&b.bed.d, RX, &id, &len));
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(describes_itself),
        ON_BOTH(sends_on_the_backends_thread),
        ON_BOTH(reset_forgets_what_is_held),
        ON_BOTH(offloads_as_negotiated),
        ON_BOTH(receives_into_one_buffer),
        ON_BOTH(merges_buffers),
        ON_BOTH(largest_frame),
        ON_BOTH(announces_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
