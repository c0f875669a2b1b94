// The file system device, and with it every device that is served elsewhere, before an other side that is the test.
#include "virtio/fs.h"
#include "driver.h"
#include "unit.h"
#include "virtio/vhost.h"
#include <errno.h>

enum { REQUESTS = 1, HEADER = 40, OUT_HEADER = 16, ENOTCONN_LINUX = 107 };

struct test_vhost {
    struct vhost vhost;
    unsigned regions, rings, kicks, drains, stops, submitted;
    struct vhost_region region[VHOST_REGIONS_MAX];
    // The last request.
    unsigned ring, out, in;
    uint16_t slot;
    struct vhost_buffer buffer[VHOST_BUFFERS_MAX];
    uint16_t order[600]; // slots in the order of submission
};

static int test_start(struct vhost *v, const struct vhost_region *region, unsigned regions, unsigned rings,
                      struct error *err)
{
    struct test_vhost *t = (struct test_vhost *)v;
    (void)err;
    memcpy(t->region, region, regions * sizeof *region);
    t->regions = regions;
    t->rings = rings;
    return 0;
}

static void test_submit(struct vhost *v, unsigned ring, uint16_t slot, const struct vhost_buffer *b, unsigned out,
                        unsigned in)
{
    struct test_vhost *t = (struct test_vhost *)v;
    t->order[t->submitted++] = slot;
    t->ring = ring;
    t->slot = slot;
    t->out = out;
    t->in = in;
    memcpy(t->buffer, b, (out + in) * sizeof *b);
}

static void test_kick(struct vhost *v, unsigned ring)
{
    (void)ring;
    ((struct test_vhost *)v)->kicks++;
}

static void test_drain(struct vhost *v)
{
    struct test_vhost *t = (struct test_vhost *)v;
    struct virtio_vhost *dev = v->ctx;
    t->drains++;
    if (dev->virtio.in_flight) // it cannot wait here: it gives up
        v->lost(v->ctx, "does not finish");
}

static void test_stop(struct vhost *v)
{
    ((struct test_vhost *)v)->stops++;
}

static const struct vhost_ops test_ops = {
    .start = test_start, .submit = test_submit, .kick = test_kick, .drain = test_drain, .stop = test_stop};

struct fs_bed {
    struct bed bed;
    struct test_vhost t;
    struct virtio_device *dev;
    uint64_t data;
};

static void begin(struct fs_bed *b, void **state)
{
    memset(b, 0, sizeof *b);
    bed_init(&b->bed);
    b->t.vhost.ops = &test_ops;
    assert_int_equal(virtio_fs_create(&b->bed.f.vm, "virtio-fs0", "data", &b->t.vhost, &b->dev, NULL), 0);
    bed_attach(&b->bed, b->dev, *state != NULL);
}

static void start(struct fs_bed *b)
{
    driver_start(&b->bed.d, 0, 2);
    if (!b->data)
        b->data = driver_alloc(&b->bed.d, 1 << 16);
    b->bed.f.writes = 0;
}

static void end(struct fs_bed *b)
{
    bed_destroy(&b->bed);
    assert_int_equal(b->t.stops, 1);
}

// A request of 40 bytes with room for an answer of 100 and 28 bytes.
static void ask(struct fs_bed *b, unsigned head, uint64_t unique)
{
    struct driver *d = &b->bed.d;
    uint64_t at = b->data + 1024ul * head;
    assert_true(vm_write(d->vm, at + 8, &unique, sizeof unique));
    driver_desc(d, REQUESTS, head, (struct driver_desc){at, HEADER, DESC_NEXT, (uint16_t)(head + 1)});
    driver_desc(d, REQUESTS, head + 1,
                (struct driver_desc){at + 100, 100, DESC_NEXT | DESC_WRITE, (uint16_t)(head + 2)});
    driver_desc(d, REQUESTS, head + 2, (struct driver_desc){at + 300, 28, DESC_WRITE, 0});
    driver_make_available(d, REQUESTS, (uint16_t)head);
    driver_notify(d, REQUESTS);
}

static void answer(struct fs_bed *b, uint16_t slot, uint32_t written)
{
    b->t.vhost.done(b->t.vhost.ctx, REQUESTS, &(struct vhost_done){slot, written}, 1);
}

static void is_described(void **state)
{
    struct fs_bed b;
    begin(&b, state);
    start(&b);
    assert_int_equal(driver_config(&b.bed.d, 0, 4), 'd' | 'a' << 8 | 't' << 16 | 'a' << 24);
    assert_int_equal(driver_config(&b.bed.d, 4, 4), 0);
    assert_int_equal(driver_config(&b.bed.d, 36, 4), 1);
    assert_int_equal(b.t.rings, 2);
    assert_int_equal(b.t.regions, 1);
    assert_int_equal(b.t.region[0].size, FAKE_VM_RAM);
    assert_ptr_equal(b.t.region[0].host, b.bed.f.ram);
    struct virtio_device *dev;
    static const char *const bad[] = {"", "1234567890123456789012345678901234567"};
    for (unsigned n = 0; n < 2; n++)
        assert_int_equal(virtio_fs_create(&b.bed.f.vm, "virtio-fs1", bad[n], &b.t.vhost, &dev, NULL), -EINVAL);
    end(&b);
}

static void requests_go_there_and_come_back(void **state)
{
    struct fs_bed b;
    uint32_t id, len;
    begin(&b, state);
    start(&b);
    ask(&b, 4, 1);
    assert_int_equal(b.t.submitted, 1);
    assert_int_equal(b.t.kicks, 1);
    assert_int_equal(b.t.ring, REQUESTS);
    assert_int_equal(b.t.out, 1);
    assert_int_equal(b.t.in, 2);
    assert_int_equal(b.t.buffer[0].gpa, b.data + 4096);
    assert_int_equal(b.t.buffer[0].len, HEADER);
    assert_int_equal(b.t.buffer[2].gpa, b.data + 4096 + 300);
    uint16_t first = b.t.slot;
    ask(&b, 8, 2);
    assert_int_not_equal(b.t.slot, first);
    b.bed.f.writes = 0;
    answer(&b, b.t.slot, 120);
    assert_true(driver_used(&b.bed.d, REQUESTS, &id, &len));
    assert_int_equal(id, 8);
    assert_int_equal(len, 120);
    assert_true(bed_interrupt(&b.bed));
    // Who has decoded code there has heard of it, and before the ring was written.
    assert_true(b.bed.f.writes >= 3);
    assert_int_equal(b.bed.f.written[0].gpa, b.data + 8192 + 100);
    assert_int_equal(b.bed.f.written[0].size, 100);
    assert_int_equal(b.bed.f.written[1].gpa, b.data + 8192 + 300);
    assert_int_equal(b.bed.f.written[1].size, 28);
    answer(&b, first, UINT32_MAX); // more than there is room for
    assert_true(driver_used(&b.bed.d, REQUESTS, &id, &len));
    assert_int_equal(id, 4);
    assert_int_equal(len, 128);
    end(&b);
}

static void a_chain_of_nothing_is_no_request(void **state)
{
    struct fs_bed b;
    uint32_t id, len;
    begin(&b, state);
    start(&b);
    driver_desc(&b.bed.d, REQUESTS, 0, (struct driver_desc){b.data, 0, 0, 0});
    driver_make_available(&b.bed.d, REQUESTS, 0);
    driver_notify(&b.bed.d, REQUESTS);
    assert_int_equal(b.t.submitted, 0);
    assert_true(driver_used(&b.bed.d, REQUESTS, &id, &len));
    assert_int_equal(len, 0);
    end(&b);
}

static void reset_waits_for_what_is_under_way(void **state)
{
    struct fs_bed b;
    uint32_t id, len;
    begin(&b, state);
    start(&b);
    ask(&b, 0, 1);
    uint16_t slot = b.t.slot;
    driver_set_status(&b.bed.d, 0);
    assert_int_equal(driver_status(&b.bed.d), VIRTIO_ACKNOWLEDGE);
    answer(&b, slot, 128);
    assert_int_equal(driver_status(&b.bed.d), 0);
    start(&b);
    assert_false(driver_used(&b.bed.d, REQUESTS, &id, &len)); // it was an older ring's
    end(&b);
}

// A driver that does not wait fills all slots; then its chains wait in the ring until one comes back.
static void slots_are_as_many_as_there_are(void **state)
{
    struct fs_bed b;
    begin(&b, state);
    unsigned heap = 0;
    for (unsigned round = 0; b.t.submitted < VHOST_SLOTS; round++) {
        driver_set_status(&b.bed.d, 0);
        driver_set_status(&b.bed.d, VIRTIO_ACKNOWLEDGE);
        driver_set_status(&b.bed.d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
        driver_accept(&b.bed.d, VIRTIO_F_VERSION_1);
        driver_set_status(&b.bed.d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
        if (heap)
            b.bed.d.heap = heap;
        heap = (unsigned)b.bed.d.heap;
        driver_make_queue(&b.bed.d, REQUESTS, DRIVER_QUEUE_SIZE);
        driver_enable_queue(&b.bed.d, REQUESTS);
        driver_set_status(&b.bed.d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
        b.data = driver_alloc(&b.bed.d, 1 << 16);
        for (unsigned head = 0; head < 13; head += 3)
            ask(&b, head, head);
        assert_true(round < 60);
    }
    assert_int_equal(b.t.submitted, VHOST_SLOTS);
    ask(&b, 0, 7); // the last round's others wait already
    assert_int_equal(b.t.submitted, VHOST_SLOTS);
    answer(&b, b.t.order[0], 16);
    assert_int_equal(b.t.submitted, VHOST_SLOTS + 1);
    assert_int_equal(b.t.slot, b.t.order[0]);
    for (unsigned n = 1; n < VHOST_SLOTS; n++)
        answer(&b, b.t.order[n], 16);
    while (b.dev->in_flight)
        answer(&b, b.t.order[--b.t.submitted], 16);
    end(&b);
}

struct reply {
    uint32_t len;
    int32_t error;
    uint64_t unique;
};

static void expect_error(struct fs_bed *b, unsigned head, uint64_t unique)
{
    struct reply r;
    uint32_t id, len;
    assert_true(driver_used(&b->bed.d, REQUESTS, &id, &len));
    assert_int_equal(id, head);
    assert_int_equal(len, OUT_HEADER);
    assert_true(vm_read(&b->bed.f.vm, b->data + 1024ul * head + 100, &r, sizeof r));
    assert_int_equal(r.len, OUT_HEADER);
    assert_int_equal(r.error, -ENOTCONN_LINUX);
    assert_int_equal(r.unique, unique);
}

static void when_it_is_lost_requests_fail(void **state)
{
    struct fs_bed b;
    uint32_t id, len;
    begin(&b, state);
    start(&b);
    ask(&b, 4, 0x123456789);
    b.t.vhost.lost(b.t.vhost.ctx, "virtiofsd has ended");
    assert_string_equal(b.bed.f.last_log, "warning: virtio-fs0: virtiofsd has ended");
    assert_int_equal(b.bed.f.log_lines, 1);
    expect_error(&b, 4, 0x123456789);
    ask(&b, 8, 77);
    expect_error(&b, 8, 77);
    assert_int_equal(b.t.submitted, 1);
    // What has no room for an answer, or is no request, comes back as it is.
    driver_desc(&b.bed.d, REQUESTS, 0, (struct driver_desc){b.data, HEADER, 0, 0});
    driver_make_available(&b.bed.d, REQUESTS, 0);
    driver_desc(&b.bed.d, REQUESTS, 1, (struct driver_desc){b.data, 15, DESC_NEXT, 2});
    driver_desc(&b.bed.d, REQUESTS, 2, (struct driver_desc){b.data, 1000, DESC_WRITE, 0});
    driver_make_available(&b.bed.d, REQUESTS, 1);
    driver_notify(&b.bed.d, REQUESTS);
    for (unsigned n = 0; n < 2; n++) {
        assert_true(driver_used(&b.bed.d, REQUESTS, &id, &len));
        assert_int_equal(len, 0);
    }
    assert_false(driver_status(&b.bed.d) & VIRTIO_NEEDS_RESET);
    start(&b);
    ask(&b, 4, 78);
    expect_error(&b, 4, 78);
    end(&b);
}

// A kind that cannot answer for the other side needs a reset, and after that another one.
static void when_it_is_lost_a_reset_is_needed(void **state)
{
    struct fs_bed b;
    uint32_t id, len;
    begin(&b, state);
    ((struct virtio_vhost *)b.dev)->refuse = NULL;
    start(&b);
    ask(&b, 4, 1);
    b.t.vhost.lost(b.t.vhost.ctx, "the back end has ended");
    assert_true(driver_status(&b.bed.d) & VIRTIO_NEEDS_RESET);
    assert_true(bed_interrupt(&b.bed));
    assert_true(driver_used(&b.bed.d, REQUESTS, &id, &len));
    assert_int_equal(len, 0);
    driver_set_status(&b.bed.d, 0);
    assert_int_equal(driver_status(&b.bed.d), 0);
    driver_set_status(&b.bed.d, VIRTIO_ACKNOWLEDGE);
    driver_set_status(&b.bed.d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    driver_accept(&b.bed.d, VIRTIO_F_VERSION_1);
    driver_set_status(&b.bed.d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
    driver_make_queue(&b.bed.d, REQUESTS, DRIVER_QUEUE_SIZE);
    driver_enable_queue(&b.bed.d, REQUESTS);
    driver_set_status(&b.bed.d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
    assert_true(driver_status(&b.bed.d) & VIRTIO_NEEDS_RESET);
    end(&b);
}

static void nothing_is_under_way_after_draining(void **state)
{
    struct fs_bed b;
    begin(&b, state);
    start(&b);
    ask(&b, 4, 1);
    device_drain_all(&b.bed.f.vm);
    assert_int_equal(b.dev->in_flight, 0);
    expect_error(&b, 4, 1);
    end(&b);
}

static void state_moves_to_another_machine(void **state)
{
    struct fs_bed a, b;
    uint32_t id, len;
    begin(&a, state);
    start(&a);
    ask(&a, 4, 1);
    answer(&a, a.t.slot, 50);
    assert_true(driver_used(&a.bed.d, REQUESTS, &id, &len));
    begin(&b, state);
    memcpy(b.bed.f.ram, a.bed.f.ram, FAKE_VM_RAM);
    assert_int_equal(fake_vm_copy_state(&a.dev->dev, &b.dev->dev), 0);
    b.data = a.data;
    memcpy(b.bed.d.queue, a.bed.d.queue, sizeof a.bed.d.queue);
    ask(&b, 8, 2);
    assert_int_equal(b.t.submitted, 1);
    answer(&b, b.t.slot, 60);
    assert_true(driver_used(&b.bed.d, REQUESTS, &id, &len));
    assert_int_equal(id, 8);
    assert_int_equal(len, 60);
    end(&a);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(is_described),
        ON_BOTH(requests_go_there_and_come_back),
        ON_BOTH(a_chain_of_nothing_is_no_request),
        ON_BOTH(reset_waits_for_what_is_under_way),
        ON_BOTH(slots_are_as_many_as_there_are),
        ON_BOTH(when_it_is_lost_requests_fail),
        ON_BOTH(when_it_is_lost_a_reset_is_needed),
        ON_BOTH(nothing_is_under_way_after_draining),
        ON_BOTH(state_moves_to_another_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
