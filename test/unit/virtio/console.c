// The console and the entropy device.
#include "virtio/console.h"
#include "driver.h"
#include "unit.h"
#include "virtio/rng.h"

struct test_stream {
    struct stream stream;
    uint8_t out[8192];
    size_t size;
    unsigned readies;
};

static void test_write(struct stream *s, const void *data, size_t size)
{
    struct test_stream *t = (struct test_stream *)s;
    size_t room = sizeof t->out - t->size;
    memcpy(t->out + t->size, data, size < room ? size : room);
    t->size += size;
}

static void test_ready(struct stream *s)
{
    ((struct test_stream *)s)->readies++;
}

static const struct stream_ops test_ops = {.write = test_write, .ready = test_ready};

struct console_bed {
    struct bed bed;
    struct test_stream stream;
    struct virtio_device *dev;
    uint64_t data;
};

static void begin(struct console_bed *b, void **state)
{
    bed_init(&b->bed);
    b->stream = (struct test_stream){.stream = {.ops = &test_ops}};
    struct error err;
    assert_int_equal(virtio_console_create(&b->bed.f.vm, "virtio-console0", &b->stream.stream, &b->dev, &err), 0);
    bed_attach(&b->bed, b->dev, *state != NULL);
}

static size_t type(struct console_bed *b, const char *text)
{
    return b->stream.stream.receive(b->stream.stream.ctx, (const uint8_t *)text, strlen(text));
}

static void goes_out(void **state)
{
    struct console_bed b;
    begin(&b, state);
    driver_start(&b.bed.d, 0, 2);
    struct driver *d = &b.bed.d;
    uint64_t data = driver_alloc(d, 64);
    memcpy(b.bed.f.ram + data, "hello, world", 12);
    driver_desc(d, 1, 0, (struct driver_desc){data, 7, DESC_NEXT, 1});
    driver_desc(d, 1, 1, (struct driver_desc){data + 7, 5, DESC_NEXT, 2});
    driver_desc(d, 1, 2, (struct driver_desc){data, 64, DESC_WRITE, 0}); // of no use here
    driver_make_available(d, 1, 0);
    driver_notify(d, 1);
    assert_int_equal(b.stream.size, 12);
    assert_memory_equal(b.stream.out, "hello, world", 12);
    uint32_t id, len;
    assert_true(driver_used(d, 1, &id, &len));
    assert_int_equal(len, 0);
    assert_true(bed_interrupt(&b.bed));
    // More than anybody sends: refused, and nothing of it printed.
    for (uint16_t i = 0; i < 2; i++)
        driver_desc(d, 1, i, (struct driver_desc){0, 600 << 10, i ? 0 : DESC_NEXT, 1});
    driver_make_available(d, 1, 0);
    driver_notify(d, 1);
    assert_int_equal(b.stream.size, 12);
    assert_true(driver_status(d) & VIRTIO_NEEDS_RESET);
    bed_destroy(&b.bed);
}

static void comes_in_with_flow_control(void **state)
{
    struct console_bed b;
    begin(&b, state);
    assert_int_equal(type(&b, "early"), 0); // nobody listens yet
    driver_start(&b.bed.d, 0, 2);
    unsigned readies = b.stream.readies;
    assert_in_range(readies, 1, 10); // now somebody does
    assert_int_equal(type(&b, "early"), 0);
    struct driver *d = &b.bed.d;
    uint64_t data = driver_alloc(d, 64);
    driver_desc(d, 0, 0, (struct driver_desc){data, 2, DESC_WRITE | DESC_NEXT, 1});
    driver_desc(d, 0, 1, (struct driver_desc){data + 8, 1, DESC_WRITE, 0});
    driver_desc(d, 0, 2, (struct driver_desc){data + 16, 8, DESC_WRITE, 0});
    driver_make_available(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(b.stream.readies, readies + 1);
    assert_int_equal(type(&b, "abcdefgh"), 3);
    uint32_t id, len;
    assert_true(driver_used(d, 0, &id, &len));
    assert_int_equal(len, 3);
    assert_memory_equal(b.bed.f.ram + data, "ab", 3);
    assert_memory_equal(b.bed.f.ram + data + 8, "c", 2);
    assert_true(bed_interrupt(&b.bed));
    assert_int_equal(type(&b, "defgh"), 0);
    driver_make_available(d, 0, 2);
    assert_int_equal(type(&b, "defgh"), 5);
    assert_memory_equal(b.bed.f.ram + data + 16, "defgh", 6);
    assert_true(driver_used(d, 0, &id, &len));
    assert_int_equal(len, 5);
    // Hostile: buffers without room, and a ring that is none.
    driver_desc(d, 0, 3, (struct driver_desc){data, 8, 0, 0});
    driver_make_available(d, 0, 3);
    assert_int_equal(type(&b, "x"), 0);
    assert_true(driver_used(d, 0, &id, &len));
    assert_int_equal(len, 0);
    driver_make_available(d, 0, 1000);
    assert_int_equal(type(&b, "x"), 0);
    assert_true(driver_status(d) & VIRTIO_NEEDS_RESET);
    bed_destroy(&b.bed);
    assert_null(b.stream.stream.receive);
}

static void size_and_emergency_writes(void **state)
{
    struct console_bed b;
    begin(&b, state);
    driver_set_config(&b.bed.d, 8, 4, 'E'); // before any negotiation
    driver_set_config(&b.bed.d, 8, 1, '!');
    driver_set_config(&b.bed.d, 0, 4, 0);
    assert_int_equal(b.stream.size, 2);
    assert_memory_equal(b.stream.out, "E!", 2);
    driver_start(&b.bed.d, 1, 2);
    virtio_console_resize(b.dev, 132, 43);
    assert_int_equal(driver_config(&b.bed.d, 0, 4), 43 << 16 | 132);
    assert_int_equal(driver_isr(&b.bed.d), 2);
    bed_destroy(&b.bed);
}

static void entropy(void **state)
{
    struct bed b;
    struct virtio_device *dev;
    struct error err;
    bed_init(&b);
    assert_int_equal(virtio_rng_create(&b.f.vm, "virtio-rng0", &dev, &err), 0);
    bed_attach(&b, dev, *state != NULL);
    driver_start(&b.d, 0, 1);
    uint64_t data = driver_alloc(&b.d, 256);
    driver_desc(&b.d, 0, 0, (struct driver_desc){data, 32, DESC_NEXT | DESC_WRITE, 1});
    driver_desc(&b.d, 0, 1, (struct driver_desc){data + 64, 32, DESC_WRITE, 0});
    driver_make_available(&b.d, 0, 0);
    driver_notify(&b.d, 0);
    uint32_t id, len;
    assert_true(driver_used(&b.d, 0, &id, &len));
    assert_int_equal(len, 64);
    static const uint8_t zero[32];
    assert_memory_not_equal(b.f.ram + data, zero, 32);
    assert_memory_equal(b.f.ram + data + 32, zero, 32);
    assert_memory_not_equal(b.f.ram + data + 64, zero, 32);
    assert_memory_not_equal(b.f.ram + data + 64, b.f.ram + data, 32);
    // A wish for megabytes is granted in part; one for nothing is completed.
    driver_desc(&b.d, 0, 2, (struct driver_desc){1 << 20, 2 << 20, DESC_WRITE, 0});
    driver_make_available(&b.d, 0, 2);
    driver_notify(&b.d, 0);
    assert_true(driver_used(&b.d, 0, &id, &len));
    assert_int_equal(len, 65536);
    assert_memory_equal(b.f.ram + (1 << 20) + 65536, zero, 32);
    driver_desc(&b.d, 0, 3, (struct driver_desc){data, 8, 0, 0});
    driver_make_available(&b.d, 0, 3);
    driver_notify(&b.d, 0);
    assert_true(driver_used(&b.d, 0, &id, &len));
    assert_int_equal(len, 0);
    bed_destroy(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(goes_out),
        ON_BOTH(comes_in_with_flow_control),
        ON_BOTH(size_and_emergency_writes),
        ON_BOTH(entropy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
