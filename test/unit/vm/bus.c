// The buses: who answers, how accesses are split, what happens where nobody is, and ranges that move.
#include "fake_vm.h"
#include "host/thread.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>

// A device that records accesses and answers with the offset in every byte.
struct recorder {
    struct device dev;
    char text[512];
};

static void note(struct recorder *r, const char *verb, struct bus_access a, uint64_t val)
{
    size_t n = strlen(r->text);
    snprintf(r->text + n, sizeof r->text - n, "%s%u.%llu/%u=%llx ", verb, a.region, (unsigned long long)a.offset,
             a.size, (unsigned long long)val);
}

static uint64_t record_read(struct device *d, struct bus_access a)
{
    uint64_t val = 0;
    for (unsigned i = 0; i < a.size; i++)
        val |= (uint64_t)(a.offset + i) << 8 * i;
    note((struct recorder *)d, "r", a, val);
    return val;
}

static void record_write(struct device *d, struct bus_access a, uint64_t val)
{
    note((struct recorder *)d, "w", a, val);
}

static const struct device_ops recorder_ops = {.name = "recorder", .read = record_read, .write = record_write};

struct bed {
    struct fake_vm f;
    struct recorder a, b;
    struct device quiet, mover;
};

static int setup(void **state)
{
    static struct bed bed;
    memset(&bed, 0, sizeof bed);
    fake_vm_init(&bed.f, 1);
    device_add(&bed.f.vm, &bed.a.dev, &recorder_ops, "a");
    device_add(&bed.f.vm, &bed.b.dev, &recorder_ops, "b");
    *state = &bed;
    return 0;
}

static int teardown(void **state)
{
    fake_vm_destroy(&((struct bed *)*state)->f);
    return 0;
}

static void add(struct bus *bus, uint64_t base, uint64_t size, struct recorder *r, unsigned region, unsigned min,
                unsigned max)
{
    struct error err;
    struct bus_range range = {
        .base = base, .size = size, .dev = &r->dev, .region = region, .min_size = min, .max_size = max};
    if (bus_add(bus, &range, &err) < 0)
        fail_msg("%s", err.text);
}

static void nobody_gives_all_ones(void **state)
{
    struct bed *bed = *state;
    assert_int_equal(fake_vm_in(&bed->f, 0x80, 1), 0xff);
    assert_int_equal(fake_vm_in(&bed->f, 0x80, 2), 0xffff);
    assert_int_equal(fake_vm_in(&bed->f, 0xffff, 4), 0xffffffff);
    assert_true(fake_vm_read(&bed->f, 0xfee00000, 8) == UINT64_MAX);
    fake_vm_out(&bed->f, 0x80, 1, 0);
    add(&bed->f.vm.ports, 0x80, 1, &bed->a, 0, 0, 0);
    assert_int_equal(fake_vm_in(&bed->f, 0x81, 1), 0xff);
    assert_int_equal(fake_vm_in(&bed->f, 0x7f, 1), 0xff);
    assert_true(fake_vm_read(&bed->f, UINT64_MAX, 8) == UINT64_MAX);
    assert_string_equal(bed->a.text, "");
}

static void passes_accesses_on(void **state)
{
    struct bed *bed = *state;
    add(&bed->f.vm.mmio, 0x1000, 0x100, &bed->a, 3, 0, 0);
    add(&bed->f.vm.mmio, 0x1100, 0x100, &bed->b, 0, 0, 0);
    assert_int_equal(fake_vm_read(&bed->f, 0x1004, 4), 0x07060504);
    fake_vm_write(&bed->f, 0x11f8, 8, 0x1122334455667788);
    fake_vm_write(&bed->f, 0x1000, 1, 0xabcd);
    assert_string_equal(bed->a.text, "r3.4/4=7060504 w3.0/1=cd ");
    assert_string_equal(bed->b.text, "w0.248/8=1122334455667788 ");
}

static void splits_what_is_too_large(void **state)
{
    struct bed *bed = *state;
    add(&bed->f.vm.ports, 0x70, 2, &bed->a, 0, 1, 1);
    add(&bed->f.vm.mmio, 0x1000, 0x100, &bed->b, 0, 4, 4);
    assert_int_equal(fake_vm_in(&bed->f, 0x70, 2), 0x0100);
    assert_string_equal(bed->a.text, "r0.0/1=0 r0.1/1=1 ");
    fake_vm_write(&bed->f, 0x1008, 8, 0x1122334455667788);
    assert_string_equal(bed->b.text, "w0.8/4=55667788 w0.12/4=11223344 ");
    // Smaller than the device takes.
    assert_int_equal(fake_vm_read(&bed->f, 0x1000, 2), 0xffff);
    fake_vm_write(&bed->f, 0x1000, 1, 7);
    assert_string_equal(bed->b.text, "w0.8/4=55667788 w0.12/4=11223344 ");
}

static void splits_at_the_edges(void **state)
{
    struct bed *bed = *state;
    add(&bed->f.vm.ports, 0x70, 2, &bed->a, 0, 0, 0);
    add(&bed->f.vm.ports, 0x72, 2, &bed->b, 0, 0, 0);
    assert_int_equal(fake_vm_in(&bed->f, 0x6f, 4), 0x000100ff); // nobody, a, a, b
    assert_string_equal(bed->a.text, "r0.0/1=0 r0.1/1=1 ");
    assert_string_equal(bed->b.text, "r0.0/1=0 ");
    fake_vm_out(&bed->f, 0x73, 2, 0x1234);
    assert_string_equal(bed->b.text, "r0.0/1=0 w0.1/1=34 ");
    // The last port, and an access that would wrap: it does not reach port 0.
    add(&bed->f.vm.ports, 0xffff, 1, &bed->a, 1, 0, 0);
    add(&bed->f.vm.ports, 0, 1, &bed->a, 2, 0, 0);
    assert_int_equal(fake_vm_in(&bed->f, 0xffff, 4), 0xffffff00);
}

static void refuses_overlap_and_what_leaves_the_bus(void **state)
{
    struct bed *bed = *state;
    struct bus *ports = &bed->f.vm.ports;
    struct error err;
    add(ports, 0x100, 0x10, &bed->a, 0, 0, 0);
    static const struct {
        uint64_t base, size;
        int result;
    } cases[] = {
        {0xf1, 0x10, -EEXIST}, {0x10f, 1, -EEXIST},     {0x100, 0x10, -EEXIST}, {0xf0, 0x40, -EEXIST},
        {0xf0, 0x10, 0},       {0x110, 1, 0},           {0xfffe, 3, -ERANGE},   {0x10000, 1, -ERANGE},
        {0x200, 0, -ERANGE},   {0x200, ~0ull, -ERANGE}, {0xfff0, 0x10, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bus_range r = {.base = cases[i].base, .size = cases[i].size, .dev = &bed->b.dev};
        assert_int_equal(bus_add(ports, &r, &err), cases[i].result);
    }
    struct bus_range r = {.base = 0x10f, .size = 1, .dev = &bed->b.dev};
    bus_add(ports, &r, &err);
    assert_string_equal(err.text, "b: port range 0x10f+0x1 is taken by a");
}

static uint64_t counted;

static void take_reads(void *ctx, const char *name, uint64_t value)
{
    if (!strcmp(name, ctx))
        counted = value;
}

static void ranges_move_without_growing(void **state)
{
    struct bed *bed = *state;
    struct bus *mmio = &bed->f.vm.mmio;
    for (unsigned i = 0; i < 40; i++)
        add(mmio, 0x100000 + i * 0x1000, 0x1000, &bed->b, i, 0, 0);
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t base = 0xe0000000 + (i * 0x9000) % 0x1000000;
        add(mmio, base, 0x1000, &bed->a, 2, 0, 0);
        bed->a.text[0] = 0;
        assert_int_equal(fake_vm_read(&bed->f, base + 1, 1), 1);
        bus_remove(mmio, &bed->a.dev, 2);
        assert_int_equal(fake_vm_read(&bed->f, base + 1, 1), 0xff);
    }
    // One slot served all of them, so its counter saw every read.
    bus_stats(mmio, take_reads, "mmio.a.2.reads");
    assert_int_equal(counted, 100000);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(fake_vm_read(&bed->f, 0x100000 + i * 0x1000 + 5, 1), 5);
}

// Readers on other threads, while ranges come, move and go: a range that stays always answers, and one that moves
// answers with its own offset or not at all.
struct reader {
    struct fake_vm *f;
    _Atomic uint32_t *done;
    uint64_t wrong, answered, reads;
};

static uint64_t read_offset(struct device *d, struct bus_access a)
{
    (void)d;
    return a.offset;
}

static const struct device_ops quiet_ops = {.name = "quiet", .unlocked = true, .read = read_offset};

static void read_on(void *ctx)
{
    struct reader *r = ctx;
    for (uint32_t i = 0; !*r->done; i++) {
        uint64_t at = i % 61 * 8;
        r->wrong += bus_read(&r->f->vm.mmio, 1, 0x100000 + at, 4) != at;
        uint64_t moving = bus_read(&r->f->vm.mmio, 1, 0xe0000000 + i % 16 * 0x1000 + at, 4);
        r->wrong += moving != at && moving != 0xffffffff;
        r->answered += moving == at;
        r->reads++;
    }
}

static void ranges_move_under_readers(void **state)
{
    struct bed *bed = *state;
    struct bus *mmio = &bed->f.vm.mmio;
    _Atomic uint32_t done = 0;
    struct error err;
    device_add(&bed->f.vm, &bed->quiet, &quiet_ops, "quiet");
    device_add(&bed->f.vm, &bed->mover, &quiet_ops, "mover");
    assert_int_equal(bus_add(mmio, &(struct bus_range){.base = 0x100000, .size = 0x1000, .dev = &bed->quiet}, &err), 0);
    struct reader reader[2];
    struct thread *thread[2];
    for (int i = 0; i < 2; i++) {
        reader[i] = (struct reader){.f = &bed->f, .done = &done};
        assert_int_equal(thread_create(&thread[i], "reader", read_on, &reader[i], NULL), 0);
    }
    for (unsigned i = 0; i < 50000; i++) {
        struct bus_range r = {.base = 0xe0000000 + i % 16 * 0x1000, .size = 0x1000, .dev = &bed->mover};
        assert_int_equal(bus_add(mmio, &r, &err), 0);
        if (i % 1000 == 0) { // and one that stays: the table outgrows itself
            r = (struct bus_range){.base = 0x10000000 + 0x1000 * i, .size = 0x800, .dev = &bed->mover, .region = 1 + i};
            assert_int_equal(bus_add(mmio, &r, &err), 0);
        }
        bus_remove(mmio, &bed->mover, 0);
    }
    done = 1;
    for (int i = 0; i < 2; i++) {
        thread_join(thread[i]);
        assert_int_equal(reader[i].wrong, 0);
        print_message("%llu reads, %llu of the moving range answered\n", (unsigned long long)reader[i].reads,
                      (unsigned long long)reader[i].answered);
    }
}

static void traces_accesses(void **state)
{
    struct bed *bed = *state;
    add(&bed->f.vm.ports, 0x70, 2, &bed->a, 0, 0, 0);
    bed->f.log.trace = TRACE_PIO;
    fake_vm_out(&bed->f, 0x71, 1, 0x2a);
    assert_string_equal(bed->f.last_log, "trace: cpu0 port write 0x71 size 1 = 0x2a a");
    fake_vm_in(&bed->f, 0x80, 2);
    assert_string_equal(bed->f.last_log, "trace: cpu0 port read 0x80 size 2 = 0xffff nobody");
    unsigned lines = bed->f.log_lines;
    fake_vm_read(&bed->f, 0x1000, 1);
    assert_int_equal(bed->f.log_lines, lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nobody_gives_all_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(passes_accesses_on, setup, teardown),
        cmocka_unit_test_setup_teardown(splits_what_is_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(splits_at_the_edges, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_overlap_and_what_leaves_the_bus, setup, teardown),
        cmocka_unit_test_setup_teardown(ranges_move_without_growing, setup, teardown),
        cmocka_unit_test_setup_teardown(ranges_move_under_readers, setup, teardown),
        cmocka_unit_test_setup_teardown(traces_accesses, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
