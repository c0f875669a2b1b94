// The memory balloon before a driver that gives pages away, reports them, and lies.
#include "virtio/balloon.h"
#include "driver.h"
#include "host/memory.h"
#include "unit.h"
#include <errno.h>
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 64, SIZE = PAGES * PAGE, INFLATE = 0, DEFLATE = 1, STATISTICS = 2, REPORTING = 3 };
enum { F_STATS = 2, F_POISON = 16, F_REPORTING = 32, ALL = F_STATS | F_POISON | F_REPORTING };
enum { NUM_PAGES = 0, ACTUAL = 4, POISON = 12 }; // configuration

#define HIGH 0x100000000ull // memory that the host can take back lies here

struct balloon_bed {
    struct bed bed;
    struct host_ram ram;
    struct virtio_device *dev;
    uint64_t data; // in the other memory
};

static void begin(struct balloon_bed *b, void **state)
{
    memset(b, 0, sizeof *b);
    bed_init(&b->bed);
    assert_int_equal(host_ram_create(&b->ram, "test-ram", SIZE, true, NULL), 0);
    assert_int_equal(vm_memory_add(&b->bed.f.vm, HIGH, SIZE, b->ram.base, false, NULL), 0);
    memset(b->ram.base, 0xaa, SIZE);
    assert_int_equal(virtio_balloon_create(&b->bed.f.vm, "virtio-balloon0", &b->dev, NULL), 0);
    bed_attach(&b->bed, b->dev, *state != NULL);
}

static void start(struct balloon_bed *b, uint64_t features, unsigned queues)
{
    driver_start(&b->bed.d, features, queues);
    b->data = driver_alloc(&b->bed.d, 1 << 20);
    b->bed.f.writes = 0;
}

static void end(struct balloon_bed *b)
{
    bed_destroy(&b->bed);
    host_ram_destroy(&b->ram);
}

// Pages [first, first + count) of the high memory: whether the host has them. Each is either whole or zero.
static bool there(const struct balloon_bed *b, unsigned first, unsigned count)
{
    unsigned char in_core[PAGES];
    assert_int_equal(mincore(b->ram.base, SIZE, in_core), 0);
    bool first_there = in_core[first] & 1;
    for (unsigned i = first; i < first + count; i++) {
        assert_int_equal(in_core[i] & 1, first_there);
        if (!first_there) // looking at it makes it come back
            continue;
        assert_int_equal(b->ram.base[i * PAGE], 0xaa);
        assert_int_equal(b->ram.base[i * PAGE + PAGE - 1], 0xaa);
    }
    return first_there;
}

static void exchange(struct balloon_bed *b, unsigned queue, struct driver_desc desc)
{
    uint32_t id, len;
    driver_desc(&b->bed.d, queue, 3, desc);
    driver_make_available(&b->bed.d, queue, 3);
    driver_notify(&b->bed.d, queue);
    if (driver_status(&b->bed.d) & VIRTIO_NEEDS_RESET)
        return;
    assert_true(driver_used(&b->bed.d, queue, &id, &len));
    assert_int_equal(id, 3);
    assert_int_equal(len, 0);
}

static void give(struct balloon_bed *b, unsigned queue, const uint32_t *page, unsigned count)
{
    assert_true(vm_write(&b->bed.f.vm, b->data, page, count * sizeof *page));
    exchange(b, queue, (struct driver_desc){b->data, count * (uint32_t)sizeof *page, 0, 0});
}

#define NUMBER(n) (uint32_t)(HIGH / PAGE + (n))

static void pages_go_to_the_host_and_come_back_empty(void **state)
{
    struct balloon_bed b;
    begin(&b, state);
    start(&b, ALL, 4);
    give(&b, INFLATE, (uint32_t[]){NUMBER(8), NUMBER(9), NUMBER(10), NUMBER(31), NUMBER(30), NUMBER(63)}, 6);
    assert_false(there(&b, 8, 3));
    assert_false(there(&b, 30, 2));
    assert_false(there(&b, 63, 1));
    assert_true(there(&b, 0, 8) && there(&b, 11, 19) && there(&b, 32, 31));
    // Whoever has decoded code there must hear of it: three pieces (after what vm_write said).
    uint64_t told = 0;
    for (unsigned i = 0; i < b.bed.f.writes; i++)
        told += b.bed.f.written[i].gpa >= HIGH ? b.bed.f.written[i].size : 0;
    assert_int_equal(told, 6 * PAGE);
    give(&b, DEFLATE, (uint32_t[]){NUMBER(8)}, 1);
    for (unsigned i = 0; i < PAGE; i++)
        assert_int_equal(b.ram.base[8 * PAGE + i], 0);
    struct virtio_balloon_state s;
    virtio_balloon_state(b.dev, &s);
    assert_int_equal(s.discarded, 6 * PAGE);
    end(&b);
}

static void pages_that_are_none_are_passed_over(void **state)
{
    struct balloon_bed b;
    begin(&b, state);
    start(&b, ALL, 4);
    give(&b, INFLATE,
         (uint32_t[]){NUMBER(-1), NUMBER(0), NUMBER(PAGES), UINT32_MAX, 0, FAKE_VM_RAM / PAGE, NUMBER(0), NUMBER(0)},
         8);
    assert_false(there(&b, 0, 1));
    assert_true(there(&b, 1, PAGES - 1));
    // A piece of a number at the end, and nothing at all.
    exchange(&b, INFLATE, (struct driver_desc){b.data, 3, 0, 0});
    exchange(&b, INFLATE, (struct driver_desc){b.data, 0, 0, 0});
    exchange(&b, INFLATE, (struct driver_desc){b.data, 8, DESC_WRITE, 0});
    assert_false(driver_status(&b.bed.d) & VIRTIO_NEEDS_RESET);
    // More in one go than any driver sends.
    exchange(&b, INFLATE, (struct driver_desc){b.data, 16385 * 4, 0, 0});
    assert_true(driver_status(&b.bed.d) & VIRTIO_NEEDS_RESET);
    end(&b);
}

static void free_memory_is_reported(void **state)
{
    struct balloon_bed b;
    begin(&b, state);
    start(&b, ALL, 4);
    exchange(&b, REPORTING, (struct driver_desc){HIGH + 16 * PAGE, 16 * PAGE, DESC_WRITE, 0});
    assert_false(there(&b, 16, 16));
    assert_true(there(&b, 0, 16) && there(&b, 32, 32));
    // Only whole pages go.
    exchange(&b, REPORTING, (struct driver_desc){HIGH + 40 * PAGE + 1, 2 * PAGE, DESC_WRITE, 0});
    assert_true(there(&b, 32, 9) && there(&b, 42, 22));
    assert_false(there(&b, 41, 1));
    // What is no RAM breaks the ring's rules, as everywhere.
    exchange(&b, REPORTING, (struct driver_desc){HIGH + SIZE, PAGE, DESC_WRITE, 0});
    assert_true(driver_status(&b.bed.d) & VIRTIO_NEEDS_RESET);
    end(&b);
}

static void poisoned_memory_is_left_alone(void **state)
{
    struct balloon_bed b;
    begin(&b, state);
    start(&b, ALL, 4);
    driver_set_config(&b.bed.d, POISON, 4, 0xaaaaaaaa);
    exchange(&b, REPORTING, (struct driver_desc){HIGH, 16 * PAGE, DESC_WRITE, 0});
    assert_true(there(&b, 0, PAGES));
    driver_set_config(&b.bed.d, POISON, 4, 0);
    exchange(&b, REPORTING, (struct driver_desc){HIGH, 16 * PAGE, DESC_WRITE, 0});
    assert_false(there(&b, 0, 16));
    end(&b);
}

// The memory of a restored machine is a private mapping.
static void private_memory_goes_unless_it_must_be_zero(void **state)
{
    struct balloon_bed b;
    begin(&b, state);
    start(&b, ALL, 4);
    uint8_t *page = b.bed.f.ram + (2 << 20); // this one is
    struct driver_desc report = {2 << 20, PAGE, DESC_WRITE, 0};
    memset(page, 0x77, PAGE);
    exchange(&b, REPORTING, report);
    assert_int_equal(page[5], 0x77);
    start(&b, F_REPORTING, 3);
    exchange(&b, 2, report);
    assert_int_equal(page[5], 0); // what was behind it is nothing, here
    end(&b);
}

// Queues that exist have no gaps between them.
static void reporting_follows_deflate_if_there_are_no_statistics(void **state)
{
    struct balloon_bed b;
    begin(&b, state);
    start(&b, F_REPORTING, 4);
    exchange(&b, 2, (struct driver_desc){HIGH, PAGE, DESC_WRITE, 0});
    assert_false(there(&b, 0, 1));
    exchange(&b, 3, (struct driver_desc){HIGH, 8 * PAGE, DESC_WRITE, 0}); // there is no such queue
    assert_true(there(&b, 1, PAGES - 1));
    end(&b);
}

static void the_target_reaches_the_guest(void **state)
{
    struct balloon_bed b;
    struct virtio_balloon_state s;
    enum { TOTAL = FAKE_VM_RAM + SIZE };
    begin(&b, state);
    start(&b, ALL, 4);
    assert_int_equal(driver_config(&b.bed.d, NUM_PAGES, 4), 0);
    uint32_t generation = driver_generation(&b.bed.d);
    virtio_balloon_resize(b.dev, 1 << 20);
    assert_int_not_equal(driver_generation(&b.bed.d), generation);
    assert_true(bed_interrupt(&b.bed));
    assert_int_equal(driver_config(&b.bed.d, NUM_PAGES, 4), (TOTAL - (1 << 20)) / PAGE);
    driver_set_config(&b.bed.d, ACTUAL, 4, 100);
    driver_set_config(&b.bed.d, NUM_PAGES, 4, 5); // not the driver's
    driver_set_config(&b.bed.d, ACTUAL, 2, 7);
    virtio_balloon_state(b.dev, &s);
    assert_int_equal(s.memory, TOTAL);
    assert_int_equal(s.target, 1 << 20);
    assert_int_equal(s.current, TOTAL - 100 * PAGE);
    driver_set_config(&b.bed.d, ACTUAL, 4, UINT32_MAX);
    virtio_balloon_state(b.dev, &s);
    assert_int_equal(s.current, 0);
    virtio_balloon_resize(b.dev, UINT64_MAX);
    assert_int_equal(driver_config(&b.bed.d, NUM_PAGES, 4), 0);
    virtio_balloon_resize(b.dev, 0);
    assert_int_equal(driver_config(&b.bed.d, NUM_PAGES, 4), TOTAL / PAGE);
    end(&b);
}

static uint64_t found;

static void find_free(void *ctx, const char *name, uint64_t value)
{
    if (!strcmp(name, ctx))
        found = value;
}

static uint64_t statistic(struct balloon_bed *b, const char *name)
{
    found = 0;
    b->dev->kind->device.stats(&b->dev->dev, find_free, (void *)name);
    return found;
}

static void statistics_are_asked_for(void **state)
{
    struct balloon_bed b;
    uint32_t id, len;
    begin(&b, state);
    start(&b, ALL, 4);
    const struct __attribute__((packed)) {
        uint16_t tag;
        uint64_t value;
    } s[] = {{4, 12345}, {999, 1}, {7, 777}}, t = {4, 54321};
    assert_true(vm_write(&b.bed.f.vm, b.data, s, sizeof s));
    driver_desc(&b.bed.d, STATISTICS, 0, (struct driver_desc){b.data, sizeof s, 0, 0});
    driver_make_available(&b.bed.d, STATISTICS, 0);
    driver_notify(&b.bed.d, STATISTICS);
    assert_false(driver_used(&b.bed.d, STATISTICS, &id, &len)); // until somebody asks
    assert_int_equal(b.dev->in_flight, 0);                      // but it is not with us
    assert_int_equal(statistic(&b, "guest_free"), 12345);
    assert_true(driver_used(&b.bed.d, STATISTICS, &id, &len));
    assert_true(vm_write(&b.bed.f.vm, b.data, &t, sizeof t));
    driver_make_available(&b.bed.d, STATISTICS, 0);
    driver_notify(&b.bed.d, STATISTICS);
    assert_int_equal(statistic(&b, "guest_caches"), 777);
    assert_int_equal(statistic(&b, "guest_free"), 54321);
    end(&b);
}

static void state_moves_to_another_machine(void **state)
{
    struct balloon_bed a, b;
    struct virtio_balloon_state s;
    begin(&a, state);
    start(&a, ALL, 4);
    virtio_balloon_resize(a.dev, 1 << 20);
    driver_set_config(&a.bed.d, ACTUAL, 4, 100);
    driver_set_config(&a.bed.d, POISON, 4, 0xaa);
    begin(&b, state);
    assert_int_equal(fake_vm_copy_state(&a.dev->dev, &b.dev->dev), 0);
    virtio_balloon_state(b.dev, &s);
    assert_int_equal(s.target, 1 << 20);
    assert_int_equal(s.memory - s.current, 100 * PAGE);
    assert_int_equal(driver_config(&b.bed.d, POISON, 4), 0xaa);
    // A target that is more than all is no state of ours.
    uint32_t bad = UINT32_MAX;
    memcpy(a.dev->config, &bad, sizeof bad);
    assert_int_equal(fake_vm_copy_state(&a.dev->dev, &b.dev->dev), -EINVAL);
    end(&a);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(pages_go_to_the_host_and_come_back_empty),
        ON_BOTH(pages_that_are_none_are_passed_over),
        ON_BOTH(free_memory_is_reported),
        ON_BOTH(poisoned_memory_is_left_alone),
        ON_BOTH(private_memory_goes_unless_it_must_be_zero),
        ON_BOTH(reporting_follows_deflate_if_there_are_no_statistics),
        ON_BOTH(the_target_reaches_the_guest),
        ON_BOTH(statistics_are_asked_for),
        ON_BOTH(state_moves_to_another_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
