// The block device on a real file: many requests in flight on the backend's threads, cut in random ways, in two
// queues, with resets in the middle; in the end the file holds what the driver believes it holds.
#include "backend/disk.h"
#include "driver.h"
#include "unit.h"
#include "virtio/blk.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SECTORS = 512, SLOTS = 5, QUEUES_USED = 2, REQUESTS = 3000, DATA_MAX = 8 * 512 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4 };

// One request that may be in flight. Requests in flight never touch the same sectors: slot k has its own part of the
// disk.
struct slot {
    bool busy;
    uint32_t type, sector, sectors;
    uint64_t at; // header, status, data at +64
};

struct file_bed {
    struct bed bed;
    struct aio *aio;
    struct disk *disk;
    struct virtio_device *dev;
    char path[64];
    uint8_t shadow[SECTORS * 512];
    struct slot slot[QUEUES_USED][SLOTS];
    uint64_t random;
};

static unsigned rnd(struct file_bed *b, unsigned below)
{
    b->random ^= b->random << 13; // xorshift64
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return (unsigned)(b->random >> 33) % below;
}

static void start(struct file_bed *b)
{
    b->bed.d.heap = BED_HEAP;
    for (unsigned i = 0; driver_status(&b->bed.d) && i < 100000; i++) {
        driver_set_status(&b->bed.d, 0);
        usleep(10);
    }
    driver_start(&b->bed.d, driver_offered(&b->bed.d) & ~VIRTIO_F_EVENT_IDX, QUEUES_USED);
    for (unsigned q = 0; q < QUEUES_USED; q++)
        for (unsigned k = 0; k < SLOTS; k++)
            b->slot[q][k] = (struct slot){.at = driver_alloc(&b->bed.d, 64 + DATA_MAX)};
}

static void send(struct file_bed *b, unsigned q, unsigned k)
{
    struct slot *s = &b->slot[q][k];
    struct driver *d = &b->bed.d;
    enum { PART = SECTORS / (QUEUES_USED * SLOTS) };
    uint8_t *ram = b->bed.f.ram + s->at;
    static const uint32_t types[] = {T_IN, T_OUT, T_OUT, T_FLUSH};
    s->type = types[rnd(b, 4)];
    s->sectors = 1 + rnd(b, DATA_MAX / 512);
    s->sector = (q * SLOTS + k) * PART + rnd(b, PART - s->sectors);
    s->busy = true;
    uint64_t header[2] = {s->type, s->sector};
    memcpy(ram, header, 16);
    ram[16] = 0xee;
    for (unsigned i = 0; i < s->sectors * 512; i++)
        ram[64 + i] = (uint8_t)(s->type == T_OUT ? rnd(b, 256) : 0xcc);
    // Three descriptors for each slot: header, data in one piece or none, status.
    uint16_t first = (uint16_t)(3 * k), write = s->type == T_IN ? DESC_WRITE : 0;
    uint32_t length = s->type == T_FLUSH ? 0 : s->sectors * 512;
    driver_desc(d, q, first, (struct driver_desc){s->at, 16, DESC_NEXT, first + 1});
    driver_desc(d, q, first + 1, (struct driver_desc){s->at + 64, length, DESC_NEXT | write, first + 2});
    driver_desc(d, q, first + 2, (struct driver_desc){s->at + 16, 1, DESC_WRITE, 0});
    driver_make_available(d, q, first);
    if (rnd(b, 4))
        driver_notify(d, q);
}

static void check(struct file_bed *b, const struct slot *s)
{
    const uint8_t *ram = b->bed.f.ram + s->at;
    assert_int_equal(ram[16], 0);
    if (s->type == T_IN)
        assert_memory_equal(ram + 64, b->shadow + s->sector * 512, s->sectors * 512);
    if (s->type == T_OUT)
        memcpy(b->shadow + s->sector * 512, ram + 64, s->sectors * 512);
}

// Takes what is done; true if there was something.
static bool collect(struct file_bed *b, unsigned q)
{
    uint32_t id, len;
    vm_lock(&b->dev->dev.lock); // orders our look at the ring after the completing thread's writes
    bool got = driver_used(&b->bed.d, q, &id, &len);
    vm_unlock(&b->dev->dev.lock);
    if (!got)
        return false;
    struct slot *s = &b->slot[q][id / 3];
    assert_true(id % 3 == 0 && id / 3 < SLOTS && s->busy);
    assert_int_equal(len, s->type == T_IN ? s->sectors * 512 + 1 : 1);
    s->busy = false;
    check(b, s);
    return true;
}

static void settle(struct file_bed *b)
{
    for (unsigned q = 0; q < QUEUES_USED; q++) {
        driver_notify(&b->bed.d, q);
        for (unsigned waits = 0; waits < 1000000;) {
            bool busy = false;
            for (unsigned k = 0; k < SLOTS; k++)
                busy |= b->slot[q][k].busy;
            if (!busy)
                break;
            if (!collect(b, q)) {
                waits++;
                usleep(10);
            }
        }
        for (unsigned k = 0; k < SLOTS; k++)
            assert_false(b->slot[q][k].busy);
    }
}

// After a reset a write that was in flight is there or not; once the status is zero, it is settled which.
static void reset_in_flight(struct file_bed *b)
{
    driver_set_status(&b->bed.d, 0);
    start(b);
    for (unsigned i = 0; i < SECTORS; i += DATA_MAX / 512) {
        struct slot *s = &b->slot[0][0];
        struct driver *d = &b->bed.d;
        uint64_t header[2] = {T_IN, i};
        memcpy(b->bed.f.ram + s->at, header, 16);
        driver_desc(d, 0, 0, (struct driver_desc){s->at, 16, DESC_NEXT, 1});
        driver_desc(d, 0, 1, (struct driver_desc){s->at + 64, DATA_MAX, DESC_NEXT | DESC_WRITE, 2});
        driver_desc(d, 0, 2, (struct driver_desc){s->at + 16, 1, DESC_WRITE, 0});
        driver_make_available(d, 0, 0);
        driver_notify(d, 0);
        uint32_t id, len;
        bool got = false;
        for (unsigned waits = 0; !got && waits < 1000000; waits++) {
            vm_lock(&b->dev->dev.lock);
            got = driver_used(d, 0, &id, &len);
            vm_unlock(&b->dev->dev.lock);
            if (!got)
                usleep(10);
        }
        assert_true(got);
        memcpy(b->shadow + i * 512, b->bed.f.ram + s->at + 64, DATA_MAX);
    }
}

static void run(void **state, int (*make)(struct aio **, struct error *))
{
    struct file_bed *b = calloc(1, sizeof *b);
    struct error err;
    b->random = 0x123456789;
    if (make(&b->aio, &err)) {
        free(b);
        print_message("%s\n", err.text);
        skip();
    }
    strcpy(b->path, "/tmp/trapeze-blk-XXXXXX");
    int fd = mkstemp(b->path);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < sizeof b->shadow; i++)
        b->shadow[i] = (uint8_t)rnd(b, 256);
    assert_int_equal(write(fd, b->shadow, sizeof b->shadow), sizeof b->shadow);
    assert_int_equal(disk_open(&(struct disk_options){.path = b->path}, b->aio, &b->disk, &err), 0);
    bed_init(&b->bed);
    assert_int_equal(virtio_blk_create(&b->bed.f.vm, "virtio-blk0", b->disk, QUEUES_USED, &b->dev, &err), 0);
    bed_attach(&b->bed, b->dev, *state != NULL);
    start(b);
    for (unsigned sent = 0, tries = 0; sent < REQUESTS && tries < 1000000; tries++) {
        unsigned q = rnd(b, QUEUES_USED), k = rnd(b, SLOTS);
        if (b->slot[q][k].busy) {
            driver_notify(&b->bed.d, q);
            usleep(10);
        } else {
            send(b, q, k);
            if (++sent % 700 == 0)
                reset_in_flight(b);
        }
        while (collect(b, q))
            ;
    }
    settle(b);
    device_drain_all(&b->bed.f.vm);
    assert_int_equal(b->dev->in_flight, 0);
    assert_true(b->dev->requests >= REQUESTS - SLOTS * QUEUES_USED * 5); // a reset may forget a few
    uint8_t *file = malloc(sizeof b->shadow);
    assert_int_equal(pread(fd, file, sizeof b->shadow, 0), sizeof b->shadow);
    assert_memory_equal(file, b->shadow, sizeof b->shadow);
    free(file);
    // Switched off with requests on their way.
    for (unsigned k = 0; k < SLOTS; k++)
        send(b, 0, k);
    device_drain_all(&b->bed.f.vm);
    bed_destroy(&b->bed);
    b->disk->ops->close(b->disk);
    b->aio->ops->destroy(b->aio);
    close(fd);
    unlink(b->path);
    free(b);
}

static int make_threads(struct aio **out, struct error *err)
{
    return aio_create_threads(out, 3, err);
}

static void threads(void **state)
{
    run(state, make_threads);
}

static void uring(void **state)
{
    run(state, aio_create_uring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ON_BOTH(threads), ON_BOTH(uring)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
