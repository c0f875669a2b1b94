// The block device before a disk of the test's own, which can do its work at once, when the test says so, or on a
// thread.
#include "virtio/blk.h"
#include "driver.h"
#include "unit.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum { DISK_SIZE = 1 << 20, HELD = 1024 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

struct test_disk {
    struct disk disk;
    uint8_t data[DISK_SIZE];
    bool hold; // requests wait for release()
    int fail;  // what requests end with
    unsigned submitted, flushes, discards;
    struct disk_request *held[HELD];
    unsigned helds;
};

static int carry_out(struct test_disk *t, struct disk_request *r)
{
    if (t->fail)
        return t->fail;
    uint8_t *at = t->data + r->offset;
    if (r->op == DISK_FLUSH)
        t->flushes++;
    else
        assert_true(r->offset % 512 == 0 && r->length % 512 == 0 && r->offset + r->length <= t->disk.size);
    if (r->op == DISK_DISCARD)
        t->discards++;
    if (r->op == DISK_WRITE_ZEROES)
        memset(at, 0, r->length);
    if (r->op != DISK_READ && r->op != DISK_WRITE)
        return 0;
    uint64_t sum = 0;
    for (unsigned i = 0; i < r->segs; i++) {
        if (r->op == DISK_READ)
            memcpy(r->seg[i].base, at + sum, r->seg[i].len);
        else
            memcpy(at + sum, r->seg[i].base, r->seg[i].len);
        sum += r->seg[i].len;
    }
    assert_int_equal(sum, r->length);
    return 0;
}

static void test_submit(struct disk *d, struct disk_request *r)
{
    struct test_disk *t = (struct test_disk *)d;
    t->submitted++;
    if (t->hold) {
        assert_true(t->helds < HELD);
        t->held[t->helds++] = r;
        return;
    }
    r->done(r, carry_out(t, r));
}

// Does the request that waits at place i.
static void release(struct test_disk *t, unsigned i)
{
    struct disk_request *r = t->held[i];
    t->held[i] = t->held[--t->helds];
    r->done(r, carry_out(t, r));
}

static void test_drain(struct disk *d)
{
    struct test_disk *t = (struct test_disk *)d;
    while (t->helds)
        release(t, t->helds - 1);
}

static const struct disk_ops test_ops = {.submit = test_submit, .drain = test_drain};

struct blk_bed {
    struct bed bed;
    struct test_disk *disk;
    struct virtio_device *dev;
    uint64_t header, data, status; // guest addresses
};

static void begin(struct blk_bed *b, void **state, bool readonly, unsigned queues)
{
    bed_init(&b->bed);
    b->disk = calloc(1, sizeof *b->disk);
    b->disk->disk = (struct disk){.ops = &test_ops,
                                  .size = DISK_SIZE,
                                  .block_size = 4096,
                                  .readonly = readonly,
                                  .discard = true,
                                  .serial = "exactly-twenty-chars"};
    for (unsigned i = 0; i < DISK_SIZE; i++)
        b->disk->data[i] = (uint8_t)(i >> 9);
    struct error err;
    assert_int_equal(virtio_blk_create(&b->bed.f.vm, "virtio-blk0", &b->disk->disk, queues, &b->dev, &err), 0);
    bed_attach(&b->bed, b->dev, *state != NULL);
    driver_start(&b->bed.d, driver_offered(&b->bed.d) & ~VIRTIO_F_EVENT_IDX, queues);
    b->header = driver_alloc(&b->bed.d, 16);
    b->status = driver_alloc(&b->bed.d, 1);
    b->data = driver_alloc(&b->bed.d, 65536);
}

static void end(struct blk_bed *b)
{
    device_drain_all(&b->bed.f.vm);
    assert_int_equal(b->dev->in_flight, 0);
    bed_destroy(&b->bed);
    free(b->disk);
}

static void put_header(struct blk_bed *b, uint32_t type, uint64_t sector)
{
    uint64_t h[2] = {type, sector};
    memcpy(b->bed.f.ram + b->header, h, 16);
}

// One request of the usual form in descriptors 3k.., made available; not notified.
static void request(struct blk_bed *b, unsigned k, uint32_t type, uint64_t sector, uint32_t length)
{
    struct driver *d = &b->bed.d;
    uint16_t i = (uint16_t)(3 * k);
    put_header(b, type, sector);
    b->bed.f.ram[b->status] = 0xee;
    uint16_t write = type == T_OUT || type == T_DISCARD || type == T_WRITE_ZEROES ? 0 : DESC_WRITE;
    driver_desc(d, 0, i, (struct driver_desc){b->header, 16, DESC_NEXT, i + 1});
    driver_desc(d, 0, i + 1, (struct driver_desc){b->data, length, DESC_NEXT | write, i + 2});
    driver_desc(d, 0, i + 2, (struct driver_desc){b->status, 1, DESC_WRITE, 0});
    driver_make_available(d, 0, i);
}

// Makes a request and waits for it; returns the status, *len is the length in the used ring.
static uint8_t run(struct blk_bed *b, uint32_t type, uint64_t sector, uint32_t length, uint32_t *len)
{
    uint32_t id, ignored;
    request(b, 0, type, sector, length);
    driver_notify(&b->bed.d, 0);
    if (!driver_used(&b->bed.d, 0, &id, len ? len : &ignored))
        fail_msg("request %u was not completed", type);
    assert_int_equal(id, 0);
    assert_false(driver_used(&b->bed.d, 0, &id, &ignored));
    return b->bed.f.ram[b->status];
}

static void reads_and_writes(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    uint8_t *ram = b.bed.f.ram + b.data;
    uint32_t len;
    assert_int_equal(run(&b, T_IN, 5, 1024, &len), S_OK);
    assert_int_equal(len, 1025);
    assert_int_equal(ram[0], 5);
    assert_int_equal(ram[1023], 6);
    assert_true(bed_interrupt(&b.bed));
    memset(ram, 0xab, 1536);
    assert_int_equal(run(&b, T_OUT, 100, 1536, &len), S_OK);
    assert_int_equal(len, 1);
    assert_int_equal(b.disk->data[100 * 512 - 1], 99);
    assert_int_equal(b.disk->data[100 * 512], 0xab);
    assert_int_equal(b.disk->data[103 * 512 - 1], 0xab);
    assert_int_equal(b.disk->data[103 * 512], 103);
    // The engine is told of what was read into memory.
    b.bed.f.writes = 0;
    run(&b, T_IN, 0, 512, NULL);
    bool told = false;
    for (unsigned i = 0; i < b.bed.f.writes; i++)
        told |= b.bed.f.written[i].gpa == b.data && b.bed.f.written[i].size == 512;
    assert_true(told);
    end(&b);
}

static void edges_of_the_disk(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    enum { LAST = DISK_SIZE / 512 };
    assert_int_equal(run(&b, T_IN, LAST - 1, 512, NULL), S_OK);
    assert_int_equal(run(&b, T_IN, LAST, 0, NULL), S_OK); // nothing, at the very end
    unsigned submitted = b.disk->submitted;
    uint32_t len;
    assert_int_equal(run(&b, T_IN, LAST - 1, 1024, &len), S_IOERR);
    assert_int_equal(len, 1);
    assert_int_equal(run(&b, T_IN, LAST, 512, NULL), S_IOERR);
    assert_int_equal(run(&b, T_IN, LAST + 1, 0, NULL), S_IOERR);
    assert_int_equal(run(&b, T_IN, UINT64_MAX, 512, NULL), S_IOERR);
    assert_int_equal(run(&b, T_IN, UINT64_MAX / 512 + 1, 512, NULL), S_IOERR); // wraps to byte 0
    assert_int_equal(run(&b, T_OUT, 1ull << 63, 512, NULL), S_IOERR);
    assert_int_equal(run(&b, T_IN, 0, 511, NULL), S_IOERR);
    assert_int_equal(run(&b, T_OUT, 0, 513, NULL), S_IOERR);
    assert_int_equal(b.disk->submitted, submitted);
    b.disk->fail = -EIO;
    assert_int_equal(run(&b, T_IN, 0, 512, NULL), S_IOERR);
    assert_int_equal(run(&b, T_FLUSH, 0, 0, NULL), S_IOERR);
    end(&b);
}

static void other_requests(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    assert_int_equal(run(&b, T_FLUSH, 0, 0, NULL), S_OK);
    assert_int_equal(b.disk->flushes, 1);
    uint32_t len;
    assert_int_equal(run(&b, T_GET_ID, 0, 20, &len), S_OK);
    assert_int_equal(len, 21);
    assert_memory_equal(b.bed.f.ram + b.data, "exactly-twenty-chars", 20);
    b.bed.f.ram[b.data + 4] = 'X';
    assert_int_equal(run(&b, T_GET_ID, 0, 4, &len), S_OK); // little room
    assert_int_equal(len, 5);
    assert_memory_equal(b.bed.f.ram + b.data, "exacX", 5);
    strcpy(b.disk->disk.serial, "short");
    memset(b.bed.f.ram + b.data, 0xff, 20);
    assert_int_equal(run(&b, T_GET_ID, 0, 20, NULL), S_OK);
    assert_memory_equal(b.bed.f.ram + b.data, "short\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    static const uint32_t unknown[] = {2, 3, 5, 10, 12, 14, 0x80000000, 0xffffffff};
    for (unsigned i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        assert_int_equal(run(&b, unknown[i], 0, 512, NULL), S_UNSUPP);
    end(&b);
}

static void put_range(struct blk_bed *b, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    uint8_t *p = b->bed.f.ram + b->data;
    memcpy(p, &sector, 8);
    memcpy(p + 8, &sectors, 4);
    memcpy(p + 12, &flags, 4);
}

static void ranges(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    put_range(&b, 10, 4, 0);
    assert_int_equal(run(&b, T_DISCARD, 0, 16, NULL), S_OK);
    assert_int_equal(b.disk->discards, 1);
    put_range(&b, 10, 4, 1);
    assert_int_equal(run(&b, T_WRITE_ZEROES, 0, 16, NULL), S_OK);
    assert_int_equal(b.disk->data[10 * 512 - 1], 9);
    assert_int_equal(b.disk->data[10 * 512 + 1], 0);
    assert_int_equal(b.disk->data[14 * 512], 14);
    assert_int_equal(run(&b, T_DISCARD, 0, 16, NULL), S_UNSUPP); // has no unmap flag
    put_range(&b, 10, 4, 2);
    assert_int_equal(run(&b, T_WRITE_ZEROES, 0, 16, NULL), S_UNSUPP);
    put_range(&b, DISK_SIZE / 512 - 1, 2, 0);
    assert_int_equal(run(&b, T_DISCARD, 0, 16, NULL), S_IOERR);
    put_range(&b, UINT64_MAX, 2, 0);
    assert_int_equal(run(&b, T_WRITE_ZEROES, 0, 16, NULL), S_IOERR);
    put_range(&b, 0, UINT32_MAX, 0);
    assert_int_equal(run(&b, T_WRITE_ZEROES, 0, 16, NULL), S_IOERR);
    put_range(&b, 0, 1, 0);
    assert_int_equal(run(&b, T_DISCARD, 0, 32, NULL), S_IOERR); // more than the one segment that we allow
    assert_int_equal(run(&b, T_DISCARD, 0, 8, NULL), S_IOERR);
    assert_int_equal(run(&b, T_DISCARD, 0, 0, NULL), S_IOERR);
    assert_int_equal(b.disk->discards, 1);
    // No more at once than the driver was told, however large the disk.
    b.disk->disk.size = 1ull << 40;
    put_range(&b, 0, driver_config(&b.bed.d, 36, 4), 0);
    assert_int_equal(run(&b, T_DISCARD, 0, 16, NULL), S_OK);
    put_range(&b, 0, driver_config(&b.bed.d, 36, 4) + 1, 0);
    assert_int_equal(run(&b, T_DISCARD, 0, 16, NULL), S_IOERR);
    b.disk->disk.size = DISK_SIZE;
    end(&b);
}

static void count_one(void *ctx, const char *name, uint64_t value)
{
    static const char *const names[] = {"virtio-blk0.requests", "virtio-blk0.interrupts", "virtio-blk0.bytes_read",
                                        "virtio-blk0.bytes_written", "virtio-blk0.flushes"};
    uint64_t *counts = ctx;
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(name, names[i]))
            counts[i] += value;
}

static void requests_are_counted(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    run(&b, T_IN, 0, 1024, NULL);
    run(&b, T_OUT, 0, 512, NULL);
    run(&b, T_OUT, 0, 512, NULL);
    run(&b, T_FLUSH, 0, 0, NULL);
    run(&b, 99, 0, 0, NULL);
    uint64_t counts[5] = {0};
    vm_stats(&b.bed.f.vm, count_one, counts);
    static const uint64_t expected[] = {5, 5, 1024, 1024, 1};
    assert_memory_equal(counts, expected, sizeof expected);
    end(&b);
}

static void read_only(void **state)
{
    struct blk_bed b;
    begin(&b, state, true, 1);
    assert_true(b.dev->offered & 1 << 5);
    assert_int_equal(run(&b, T_IN, 7, 512, NULL), S_OK);
    assert_int_equal(run(&b, T_OUT, 7, 512, NULL), S_IOERR);
    put_range(&b, 7, 1, 0);
    assert_int_equal(run(&b, T_WRITE_ZEROES, 0, 16, NULL), S_UNSUPP);
    assert_int_equal(b.disk->data[7 * 512], 7);
    end(&b);
}

// The driver may cut header, data and status wherever it likes.
static void any_framing(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    struct driver *d = &b.bed.d;
    uint32_t id, len;
    uint8_t *ram = b.bed.f.ram;
    put_header(&b, T_OUT, 20);
    memset(ram + b.data, 0x5a, 512);
    // 5 + 11 bytes of header, of which the last piece also begins the data.
    memcpy(ram + b.data - 11, ram + b.header + 5, 11);
    driver_desc(d, 0, 0, (struct driver_desc){b.header, 5, DESC_NEXT, 1});
    driver_desc(d, 0, 1, (struct driver_desc){b.data - 11, 11 + 100, DESC_NEXT, 2});
    driver_desc(d, 0, 2, (struct driver_desc){b.data + 100, 412, DESC_NEXT, 3});
    driver_desc(d, 0, 3, (struct driver_desc){b.status, 1, DESC_WRITE, 0});
    driver_make_available(d, 0, 0);
    driver_notify(d, 0);
    assert_true(driver_used(d, 0, &id, &len));
    assert_int_equal(ram[b.status], S_OK);
    assert_int_equal(b.disk->data[20 * 512], 0x5a);
    assert_int_equal(b.disk->data[21 * 512 - 1], 0x5a);
    assert_int_equal(b.disk->data[21 * 512], 21);
    // Data and status in one piece.
    put_header(&b, T_IN, 30);
    driver_desc(d, 0, 0, (struct driver_desc){b.header, 16, DESC_NEXT, 1});
    driver_desc(d, 0, 1, (struct driver_desc){b.data, 513, DESC_WRITE, 0});
    ram[b.data + 512] = 0xee;
    driver_make_available(d, 0, 0);
    driver_notify(d, 0);
    assert_true(driver_used(d, 0, &id, &len));
    assert_int_equal(len, 513);
    assert_int_equal(ram[b.data], 30);
    assert_int_equal(ram[b.data + 511], 30);
    assert_int_equal(ram[b.data + 512], S_OK);
    end(&b);
}

static void requests_without_header_or_status(void **state)
{
    for (unsigned i = 0; i < 3; i++) {
        struct blk_bed b;
        begin(&b, state, false, 1);
        struct driver *d = &b.bed.d;
        put_header(&b, T_IN, 0);
        driver_desc(d, 0, 0, (struct driver_desc){b.header, i == 0 ? 16 : 15, i == 0 ? 0 : DESC_NEXT, 1});
        driver_desc(d, 0, 1, (struct driver_desc){b.status, i == 1 ? 1 : 0, DESC_WRITE, 0});
        driver_make_available(d, 0, 0);
        driver_notify(d, 0);
        assert_true(driver_status(d) & VIRTIO_NEEDS_RESET);
        end(&b);
    }
}

static void completions_in_any_order(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    b.disk->hold = true;
    for (unsigned k = 0; k < 4; k++)
        request(&b, k, T_IN, k, 512);
    driver_notify(&b.bed.d, 0);
    assert_int_equal(b.disk->helds, 4);
    uint32_t id, len;
    assert_false(driver_used(&b.bed.d, 0, &id, &len));
    static const unsigned order[] = {2, 0, 0, 0}, ids[] = {6, 0, 9, 3};
    for (unsigned k = 0; k < 4; k++) {
        release(b.disk, order[k]);
        assert_true(driver_used(&b.bed.d, 0, &id, &len));
        assert_int_equal(id, ids[k]);
    }
    end(&b);
}

static void a_reset_outlives_requests(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    b.disk->hold = true;
    request(&b, 0, T_IN, 1, 512);
    driver_notify(&b.bed.d, 0);
    driver_set_status(&b.bed.d, 0);
    assert_int_not_equal(driver_status(&b.bed.d), 0);
    release(b.disk, 0);
    assert_int_equal(driver_status(&b.bed.d), 0);
    // A driver that resets without waiting, again and again: the pool ends, nothing is lost, nothing grows.
    for (unsigned i = 0; i < 1000; i++) {
        b.bed.d.heap = b.data + 65536;
        driver_set_status(&b.bed.d, 0);
        driver_set_status(&b.bed.d, 3);
        driver_accept(&b.bed.d, VIRTIO_F_VERSION_1);
        driver_set_status(&b.bed.d, 11);
        driver_make_queue(&b.bed.d, 0, DRIVER_QUEUE_SIZE);
        driver_enable_queue(&b.bed.d, 0);
        driver_set_status(&b.bed.d, 15);
        request(&b, 0, T_IN, 2, 512);
        driver_notify(&b.bed.d, 0);
    }
    assert_int_equal(b.disk->helds, 256);
    uint32_t id, len;
    assert_false(driver_used(&b.bed.d, 0, &id, &len));
    release(b.disk, 0); // makes room for the last one, which has been waiting
    assert_int_equal(b.disk->helds, 256);
    release(b.disk, 255);
    assert_true(driver_used(&b.bed.d, 0, &id, &len));
    end(&b);
}

static void write_through(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    enum { WRITEBACK = 32 };
    assert_int_equal(driver_config(&b.bed.d, WRITEBACK, 1), 1);
    run(&b, T_OUT, 0, 512, NULL);
    assert_int_equal(b.disk->flushes, 0);
    driver_set_config(&b.bed.d, WRITEBACK, 1, 0);
    assert_int_equal(driver_config(&b.bed.d, WRITEBACK, 1), 0);
    b.disk->hold = true;
    request(&b, 0, T_OUT, 0, 512);
    driver_notify(&b.bed.d, 0);
    release(b.disk, 0);
    uint32_t id, len;
    assert_false(driver_used(&b.bed.d, 0, &id, &len)); // written, but the flush is to come
    release(b.disk, 0);
    assert_int_equal(b.disk->flushes, 1);
    assert_true(driver_used(&b.bed.d, 0, &id, &len));
    b.disk->hold = false;
    run(&b, T_IN, 0, 512, NULL);
    assert_int_equal(b.disk->flushes, 1);
    // A driver that knows no flush.
    driver_start(&b.bed.d, 0, 1);
    assert_int_equal(driver_config(&b.bed.d, WRITEBACK, 1), 1);
    run(&b, T_OUT, 0, 512, NULL);
    assert_int_equal(b.disk->flushes, 2);
    driver_set_config(&b.bed.d, WRITEBACK, 1, 0); // nor the register
    assert_int_equal(driver_config(&b.bed.d, WRITEBACK, 1), 1);
    end(&b);
}

static void configuration(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 3);
    struct driver *d = &b.bed.d;
    assert_int_equal(driver_config(d, 0, 4), DISK_SIZE / 512);
    assert_int_equal(driver_config(d, 4, 4), 0);
    assert_int_equal(driver_config(d, 12, 4), 254);
    assert_int_equal(driver_config(d, 20, 4), 512);
    assert_int_equal(driver_config(d, 24, 1), 3); // 4096 bytes are 2^3 blocks
    assert_int_equal(driver_config(d, 34, 2), 3);
    assert_int_equal(driver_config(d, 40, 4), 1);
    struct error err;
    struct virtio_device *dev;
    assert_int_equal(virtio_blk_create(&b.bed.f.vm, "x", &b.disk->disk, 0, &dev, &err), -EINVAL);
    assert_int_equal(virtio_blk_create(&b.bed.f.vm, "x", &b.disk->disk, 17, &dev, &err), -EINVAL);
    // A request in the last queue.
    put_header(&b, T_IN, 9);
    driver_desc(d, 2, 0, (struct driver_desc){b.header, 16, DESC_NEXT, 1});
    driver_desc(d, 2, 1, (struct driver_desc){b.data, 513, DESC_WRITE, 0});
    driver_make_available(d, 2, 0);
    driver_notify(d, 2);
    uint32_t id, len;
    assert_true(driver_used(d, 2, &id, &len));
    assert_int_equal(b.bed.f.ram[b.data], 9);
    end(&b);
}

// Requests that are done on another thread while the driver goes on.
struct worker {
    struct test_disk *disk;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct disk_request *queue[64];
    unsigned in, out;
    bool stop;
};
static struct worker *worker_of(struct disk *d)
{
    return *(struct worker **)(((struct test_disk *)d)->data + DISK_SIZE - sizeof(struct worker *));
}

static void worker_submit(struct disk *d, struct disk_request *r)
{
    struct worker *w = worker_of(d);
    pthread_mutex_lock(&w->lock);
    w->queue[w->in++ % 64] = r;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (w->in == w->out && !w->stop)
            pthread_cond_wait(&w->more, &w->lock);
        if (w->in == w->out)
            break;
        struct disk_request *r = w->queue[w->out % 64];
        pthread_mutex_unlock(&w->lock);
        r->done(r, carry_out(w->disk, r));
        pthread_mutex_lock(&w->lock);
        w->out++;
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void on_another_thread(void **state)
{
    struct blk_bed b;
    begin(&b, state, false, 1);
    struct disk_ops ops = test_ops;
    ops.submit = worker_submit;
    b.disk->disk.ops = &ops;
    struct worker w = {.disk = b.disk, .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};
    struct worker *pointer = &w;
    memcpy(b.disk->data + DISK_SIZE - sizeof pointer, &pointer, sizeof pointer);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, work, &w), 0);
    unsigned sent = 0, seen = 0;
    for (unsigned waits = 0; seen < 2000 && waits < 1000000;) {
        while (sent < 2000 && sent - seen < 5) {
            request(&b, sent % 5, T_IN, 3, 512);
            driver_notify(&b.bed.d, 0);
            sent++;
        }
        vm_lock(&b.dev->dev.lock); // the test's view of the ring is as ordered as a guest's
        uint32_t id, len;
        bool got = driver_used(&b.bed.d, 0, &id, &len);
        vm_unlock(&b.dev->dev.lock);
        seen += got;
        if (!got) {
            waits++;
            usleep(10);
        }
    }
    assert_int_equal(seen, 2000);
    pthread_mutex_lock(&w.lock);
    w.stop = true;
    pthread_cond_signal(&w.more);
    pthread_mutex_unlock(&w.lock);
    pthread_join(thread, NULL);
    b.disk->disk.ops = &test_ops;
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(reads_and_writes),
        ON_BOTH(edges_of_the_disk),
        ON_BOTH(other_requests),
        ON_BOTH(ranges),
        ON_BOTH(requests_are_counted),
        ON_BOTH(read_only),
        ON_BOTH(any_framing),
        ON_BOTH(requests_without_header_or_status),
        ON_BOTH(completions_in_any_order),
        ON_BOTH(a_reset_outlives_requests),
        ON_BOTH(write_through),
        ON_BOTH(configuration),
        ON_BOTH(on_another_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
