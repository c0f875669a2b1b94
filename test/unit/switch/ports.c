// Ports of a switch: introductions, headers that say what a frame lacks, and who gets frames that still lack it.
#include "bed.h"
#include "unit.h"
#include <errno.h>

static const uint8_t mac_a[6] = {2, 0, 0, 0, 0, 1}, mac_b[6] = {2, 0, 0, 0, 0, 2};

static struct net_stream *stream_of(int fd)
{
    struct net_stream *s = malloc(sizeof *s);
    net_stream_init(s, fd, 0);
    return s;
}

static void drop(struct net_stream *s)
{
    close(s->fd);
    net_stream_free(s);
    free(s);
}

static void tell(struct net_stream *s, const void *what, size_t size)
{
    assert_true(net_stream_put(s, NET_MESSAGE_CONTROL, NULL, what, size));
    assert_int_equal(net_stream_flush(s), 0);
}

static bool hear(struct net_stream *s, struct net_message *m)
{
    int e = net_stream_next(s, m);
    if (!e && net_stream_fill(s) > 0)
        e = net_stream_next(s, m);
    return e == 1;
}

// Introduces itself; the answer's `refused`, or -1 if none came.
static int greet(struct bed *b, struct net_stream *s, const char *network, const uint8_t mac[6], unsigned flags)
{
    struct switch_hello h = {.type = SWITCH_HELLO,
                             .version = SWITCH_VERSION,
                             .want = SWITCH_WANT_PORT,
                             .flags = (uint8_t)flags,
                             .magic = SWITCH_MAGIC,
                             .name = "vm"};
    struct net_message m;
    memcpy(h.mac, mac, 6);
    strcpy(h.network, network);
    tell(s, &h, sizeof h);
    bed_work(b);
    if (!hear(s, &m) || m.kind != NET_MESSAGE_CONTROL || m.data[0] != SWITCH_ANSWER)
        return -1;
    return m.data[1];
}

// A TCP segment of `payload` bytes from a to b, with its checksum still to be completed.
static size_t tcp(uint8_t *frame, struct net_header *h, size_t payload, unsigned mss)
{
    size_t size = 54 + payload;
    memset(frame, 0, 54);
    memcpy(frame, mac_b, 6);
    memcpy(frame + 6, mac_a, 6);
    memcpy(frame + 12, "\x08\x00\x45\x00", 4);
    frame[23] = 6;
    frame[46] = 5 << 4;
    frame[47] = 0x19; // ACK PSH FIN
    for (size_t i = 0; i < payload; i++)
        frame[54 + i] = (uint8_t)(i * 7);
    *h = (struct net_header){.flags = NET_HEADER_NEEDS_CSUM,
                             .gso_type = mss ? NET_GSO_TCPV4 : NET_GSO_NONE,
                             .gso_size = (uint16_t)mss,
                             .hdr_len = 54,
                             .csum_start = 34,
                             .csum_offset = 16};
    return size;
}

static void large_frames_stay_whole_or_are_cut(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b);
    struct net_stream *one = stream_of(bed_plug(&b)), *two = stream_of(bed_plug(&b));
    assert_int_equal(greet(&b, one, "lan", mac_a, 0), 0);
    assert_int_equal(greet(&b, two, "lan", mac_b, 0), 0);
    static uint8_t frame[NET_FRAME_MAX];
    struct net_header h;
    struct net_message m;
    size_t size = tcp(frame, &h, 10000, 1448);
    // Before it says what it takes, it gets what everybody can take.
    net_stream_put(one, NET_MESSAGE_HEADED, &h, frame, size);
    assert_int_equal(net_stream_flush(one), 0);
    bed_work(&b);
    size_t payload = 0;
    for (unsigned n = 0; n < 7; n++) {
        assert_true(hear(two, &m));
        assert_int_equal(m.kind, NET_MESSAGE_HEADED);
        assert_int_equal(m.header.flags | m.header.gso_type, 0);
        assert_int_equal(m.size, n < 6 ? 54 + 1448 : 54 + 10000 - 6 * 1448);
        assert_memory_equal(m.data + 54, frame + 54 + payload, m.size - 54);
        assert_int_equal((unsigned)m.data[38] << 24 | m.data[39] << 16 | m.data[40] << 8 | m.data[41], payload);
        assert_int_equal(m.data[47], n < 6 ? 0x10 : 0x19); // PSH and FIN are the last one's
        assert_int_equal(m.data[19], n);                   // IP's identification
        assert_int_equal(m.data[16] << 8 | m.data[17], m.size - 14);
        payload += m.size - 54;
    }
    assert_false(hear(two, &m));
    // Then as they came.
    tell(two, &(struct switch_offloads){SWITCH_OFFLOADS, NET_CSUM | NET_TSO4}, 2);
    bed_work(&b);
    net_stream_put(one, NET_MESSAGE_HEADED, &h, frame, size);
    assert_int_equal(net_stream_flush(one), 0);
    bed_work(&b);
    assert_true(hear(two, &m));
    assert_int_equal(m.size, size);
    assert_memory_equal(&m.header, &h, sizeof h);
    // Headers that make no sense are refused.
    static const struct net_header wrong[] = {{.flags = 1, .csum_start = 65000},
                                              {.gso_type = NET_GSO_TCPV4, .gso_size = 1448},
                                              {.flags = 1, .csum_start = 34, .gso_type = NET_GSO_TCPV4},
                                              {.flags = 1, .csum_start = 34, .gso_type = 3, .gso_size = 9}};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        net_stream_put(one, NET_MESSAGE_HEADED, &wrong[i], frame, size);
        assert_int_equal(net_stream_flush(one), 0);
    }
    bed_work(&b);
    assert_false(hear(two, &m));
    drop(one);
    drop(two);
    bed_work(&b);
    assert_null(b.s->ports);
    assert_null(b.s->networks);
    bed_close(&b);
}

static void introductions(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b);
    static const uint8_t group[6] = {1};
    struct net_stream *one = stream_of(bed_plug(&b)), *two = stream_of(bed_plug(&b)), *three = stream_of(bed_plug(&b)),
                      *four = stream_of(bed_plug(&b)), *five = stream_of(bed_plug(&b));
    assert_int_equal(greet(&b, one, "lan", mac_a, 0), 0);
    assert_int_equal(greet(&b, two, "lan", mac_a, 0), 1); // taken
    assert_int_equal(greet(&b, three, "dmz", mac_a, 0), 0);
    assert_int_equal(greet(&b, four, "../x", mac_b, 0), 1);
    assert_int_equal(greet(&b, five, "lan", group, 0), 1);
    assert_int_equal(b.s->count, 2);
    // Twice is once too often.
    assert_int_equal(greet(&b, one, "lan", mac_b, 0), -1);
    assert_int_equal(b.s->count, 1);
    // Now its address is free. One that may use any address still cannot use an announced one.
    struct net_stream *six = stream_of(bed_plug(&b)), *seven = stream_of(bed_plug(&b));
    struct net_message m;
    assert_int_equal(greet(&b, six, "lan", mac_a, 0), 0);
    assert_int_equal(greet(&b, seven, "lan", mac_b, SWITCH_ANY_MAC), 0);
    uint8_t frame[60];
    memset(frame, 0xff, sizeof frame);
    memcpy(frame + 6, mac_a, 6);
    net_stream_put(seven, NET_MESSAGE_HEADED, &(struct net_header){0}, frame, sizeof frame);
    frame[11] = 9;
    assert_int_equal(net_stream_flush(seven), 0); // written: the memory is ours again
    net_stream_put(seven, NET_MESSAGE_HEADED, &(struct net_header){0}, frame, sizeof frame);
    assert_int_equal(net_stream_flush(seven), 0);
    bed_work(&b);
    assert_true(hear(six, &m));
    (void)m;
    struct net_stream *all[] = {one, two, three, four, five, six, seven};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(introductions),
        cmocka_unit_test(large_frames_stay_whole_or_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
