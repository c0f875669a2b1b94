// Saving and loading the whole machine. A machine is put into an arbitrary state by random accesses to all of its
// ports, registers and model-specific registers. Then:
//   - what is saved, loaded into a fresh machine and saved again is the same, byte for byte;
//   - the copy behaves as the original does: after the same further accesses and the same time both save as the same
//     bytes again, have raised the same lines, and read as the same values on the way;
//   - what is cut off, altered or another machine's is refused or harmless.
#include "vm/save.h"
#include "cpu/check.h"
#include "fake_vm.h"
#include "machine/pc.h"
#include "pci/bus.h"
#include "unit.h"
#include "virtio/console.h"
#include "virtio/rng.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { RAM = 2 << 20, CPUS = 2 };

struct bench {
    struct stream stream[2]; // COM1, virtio console
    struct fake_vm f;
    struct pc *pc;
    uint8_t *ram;
};

static void on_write(struct stream *s, const void *data, size_t size)
{
    (void)s, (void)data, (void)size;
}

static void on_ready(struct stream *s)
{
    (void)s;
}

static const struct stream_ops stream_ops = {.write = on_write, .ready = on_ready};

static void attach(struct bench *b, int (*create)(struct vm *, const char *, struct virtio_device **, struct error *),
                   const char *name, enum pc_transport transport)
{
    struct virtio_device *d;
    struct error err;
    int e = create ? create(&b->f.vm, name, &d, &err) : virtio_console_create(&b->f.vm, name, &b->stream[1], &d, &err);
    if (e || pc_attach_virtio(b->pc, d, transport, &err))
        fail_msg("%s", err.text);
}

static void bench_init(struct bench *b, bool more)
{
    struct error err;
    memset(b, 0, sizeof *b);
    b->stream[0].ops = b->stream[1].ops = &stream_ops;
    fake_vm_init_bare(&b->f, CPUS);
    b->f.vm.no_reboot = false;
    b->f.log.level = LOG_ERROR;
    b->ram = aligned_alloc(4096, RAM);
    memset(b->ram, 0, RAM);
    struct pc_config config = {
        .ram = b->ram, .ram_size = RAM, .cpus = CPUS, .serial = {&b->stream[0]}, .debug_console = &b->stream[0]};
    if (pc_create(&b->f.vm, &config, &b->pc, &err))
        fail_msg("%s", err.text);
    attach(b, virtio_rng_create, "virtio-rng0", PC_VIRTIO_PCI);
    attach(b, NULL, "virtio-console0", PC_VIRTIO_PCI);
    attach(b, virtio_rng_create, "virtio-rng1", PC_VIRTIO_MMIO);
    if (more)
        attach(b, virtio_rng_create, "virtio-rng2", PC_VIRTIO_PCI);
    device_reset_all(&b->f.vm);
}

static void bench_destroy(struct bench *b)
{
    fake_vm_destroy(&b->f);
    free(b->ram);
}

// --- a guest without sense, always the same for the same seed

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static const struct {
    uint64_t base;
    uint16_t size, count; // of a register; of registers
    bool mmio;
} places[] = {
    {0x20, 1, 2, false},       {0xa0, 1, 2, false},        {0x4d0, 1, 2, false},      {0x40, 1, 4, false},
    {0x61, 1, 1, false},       {0x60, 1, 1, false},        {0x64, 1, 1, false},       {0x70, 1, 2, false},
    {0x3f8, 1, 8, false},      {0x600, 2, 2, false},       {0xcf8, 4, 2, false},      {0xfec00000, 4, 1, true},
    {0xfec00010, 4, 1, true},  {0xfee00000, 16, 64, true}, {0xe0008000, 4, 32, true}, {0xe0010000, 4, 32, true},
    {0xc0000000, 4, 16, true}, {0xc0004000, 4, 16, true},  {0xfeb00000, 4, 64, true},
};

static uint64_t access(struct bench *b, uint64_t *seed)
{
    unsigned i = next(seed) % (sizeof places / sizeof places[0]), step = places[i].size;
    uint64_t at = places[i].base + next(seed) % places[i].count * step, val = next(seed) >> (next(seed) & 31);
    unsigned size = step > 4 ? 4 : step, cpu = next(seed) % CPUS;
    struct bus *bus = places[i].mmio ? &b->f.vm.mmio : &b->f.vm.ports;
    if (next(seed) & 1)
        return bus_read(bus, cpu, at, size);
    if (at == 0x64 && (val & 0xff) >= 0xf0)
        return 0; // it would pull the reset line
    if (size < 8)
        val &= (1ull << 8 * size) - 1;
    bus_write(bus, cpu, at, size, val);
    return 0;
}

static uint64_t msr_access(struct bench *b, uint64_t *seed)
{
    static const uint32_t msrs[] = {0x1b, 0x6e0, 0x808, 0x80b, 0x80f, 0x830, 0x832, 0x838, 0x83e};
    uint32_t msr = msrs[next(seed) % (sizeof msrs / sizeof msrs[0])];
    unsigned cpu = next(seed) % CPUS;
    uint64_t val = next(seed) >> (next(seed) & 63);
    if (msr == 0x1b)
        val = 0xfee00800 | (val & 0x400) | (cpu ? 0 : 0x100);
    if (next(seed) & 1)
        return vm_msr_read(&b->f.vm, cpu, msr, &val) ? 1 : val;
    return (uint64_t)vm_msr_write(&b->f.vm, cpu, msr, val);
}

// What the machine answered, as one number.
static uint64_t live(struct bench *b, uint64_t seed, unsigned steps)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < steps; i++) {
        uint64_t kind = next(&seed) % 16, answer = 0;
        if (kind == 0)
            fake_vm_advance(&b->f, next(&seed) % 3000000);
        else if (kind == 1)
            answer = (uint64_t)b->f.vm.local_apic.ack(b->f.vm.local_apic_ctx, next(&seed) % CPUS);
        else if (kind < 4)
            answer = msr_access(b, &seed);
        else
            answer = access(b, &seed);
        sum = sum * 31 + answer;
    }
    return sum;
}

static struct state_buffer saved(struct bench *b)
{
    struct state_buffer s = {0};
    struct error err = {.text = ""};
    // The RTC works out what has happened when it is looked at, and loading looks at it: so look before, too.
    fake_vm_out(&b->f, 0x70, 1, 0x0d);
    fake_vm_out(&b->f, 0x71, 1, 0);
    vm_pause(&b->f.vm);
    if (vm_save(&b->f.vm, &s, &err))
        fail_msg("%s", err.text);
    vm_resume(&b->f.vm);
    return s;
}

static int load(struct bench *b, const struct state_buffer *s, struct error *err)
{
    struct state_buffer r = {.data = s->data, .size = s->size};
    vm_pause(&b->f.vm);
    int e = vm_load(&b->f.vm, &r, err);
    vm_resume(&b->f.vm);
    return e;
}

// Where two states differ, in words: the last table and field that both have in common.
static void assert_same(const struct state_buffer *a, const struct state_buffer *b, const char *when, uint64_t seed)
{
    size_t i = 0;
    while (i < a->size && i < b->size && a->data[i] == b->data[i])
        i++;
    if (i == a->size && i == b->size)
        return;
    char near[400];
    unsigned n = 0;
    for (size_t k = i > 300 ? i - 300 : 0; k <= i && k < a->size; k++)
        if (a->data[k] >= ' ' && a->data[k] < 127)
            near[n++] = (char)a->data[k];
    near[n] = 0;
    fail_msg("seed %llu, %s: differs at byte %zu of %zu and %zu, behind '%s'", (unsigned long long)seed, when, i,
             a->size, b->size, near);
}

// Signals that wait for a CPU that never runs: the copy may have been told once more, never less.
static void take_signals(struct bench *a, struct bench *b)
{
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        unsigned had = fake_vm_signals(&a->f, cpu), has = fake_vm_signals(&b->f, cpu);
        assert_int_equal(had & ~has, 0);
    }
}

static void copy_lives_on(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct bench a, b;
        struct error err = {.text = ""};
        bench_init(&a, false);
        bench_init(&b, false);
        live(&a, seed * 0x9e3779b97f4a7c15, 400);
        struct state_buffer first = saved(&a);
        memcpy(b.ram, a.ram, RAM);
        if (load(&b, &first, &err))
            fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
        take_signals(&a, &b);
        for (unsigned i = 0; i < IRQ_GSI_MAX; i++)
            if (!a.f.vm.irq.raised[i] != !b.f.vm.irq.raised[i])
                fail_msg("seed %llu: line %u is %s in the copy", (unsigned long long)seed, i,
                         a.f.vm.irq.raised[i] ? "down" : "up");
        state_free(&first);
        first = saved(&a);
        struct state_buffer second = saved(&b);
        assert_same(&first, &second, "loaded", seed);
        for (unsigned round = 0; round < 4; round++) {
            state_free(&first);
            state_free(&second);
            uint64_t more = (seed + round) * 0xd1342543de82ef95;
            uint64_t was = live(&a, more, 150), is = live(&b, more, 150);
            take_signals(&a, &b);
            first = saved(&a);
            second = saved(&b);
            assert_same(&first, &second, "some time later", seed);
            assert_true(was == is);
        }
        state_free(&first);
        state_free(&second);
        bench_destroy(&a);
        bench_destroy(&b);
    }
}

// Into a machine that has lived already, as going back to a snapshot does.
static void loads_over(void **state)
{
    (void)state;
    struct bench a, b;
    struct error err = {.text = ""};
    bench_init(&a, false);
    bench_init(&b, false);
    live(&a, 77, 500);
    live(&b, 78, 900);
    struct state_buffer first = saved(&a);
    memcpy(b.ram, a.ram, RAM);
    if (load(&b, &first, &err))
        fail_msg("%s", err.text);
    take_signals(&a, &b);
    state_free(&first);
    first = saved(&a);
    struct state_buffer second = saved(&b);
    assert_same(&first, &second, "loaded over", 77);
    state_free(&first);
    state_free(&second);
    bench_destroy(&a);
    bench_destroy(&b);
}

static void another_machine(void **state)
{
    (void)state;
    struct bench a, b;
    struct error err = {.text = ""};
    bench_init(&a, false);
    bench_init(&b, true);
    struct state_buffer s = saved(&a);
    assert_int_equal(load(&b, &s, &err), -EINVAL);
    assert_string_equal(err.text, "saved state of device: found that of end");
    state_free(&s);
    s = saved(&b);
    assert_int_equal(load(&a, &s, &err), -EINVAL);
    assert_string_equal(err.text, "saved state of end: found that of device");
    state_free(&s);
    bench_destroy(&a);
    bench_destroy(&b);
}

// A byte that is wrong anywhere, and an end that is missing: refused, or loaded as what a machine can be.
static void damaged(void **state)
{
    (void)state;
    struct bench a, b;
    struct error err;
    bench_init(&a, false);
    bench_init(&b, false);
    live(&a, 4711, 500);
    struct state_buffer s = saved(&a);
    unsigned refused = 0;
    uint64_t seed = 99;
    for (unsigned i = 0; i < 3000; i++) {
        size_t at = next(&seed) % s.size;
        uint8_t was = s.data[at];
        s.data[at] ^= 1u << next(&seed) % 8;
        refused += load(&b, &s, &err) != 0;
        live(&b, seed, 5);
        s.data[at] = was;
    }
    assert_true(refused > 300); // names, sizes and counts are a good part of all bytes
    for (unsigned i = 0; i < 500; i++) {
        struct state_buffer cut = {.data = s.data, .size = next(&seed) % s.size};
        assert_int_equal(load(&b, &cut, &err), -EINVAL);
    }
    assert_int_equal(load(&b, &s, &err), 0);
    state_free(&s);
    bench_destroy(&a);
    bench_destroy(&b);
}

static void only_while_paused(void **state)
{
    (void)state;
    struct bench a;
    struct error err;
    struct state_buffer s = {0};
    bench_init(&a, false);
    assert_int_equal(vm_save(&a.f.vm, &s, &err), -EBUSY);
    assert_int_equal(vm_load(&a.f.vm, &s, &err), -EBUSY);
    assert_null(s.data);
    vm_pause(&a.f.vm);
    vm_kill(&a.f.vm);
    assert_int_equal(vm_save(&a.f.vm, &s, &err), -EBUSY);
    assert_string_equal(err.text, "saving the machine: it has ended");
    vm_resume(&a.f.vm);
    bench_destroy(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copy_lives_on), cmocka_unit_test(loads_over),        cmocka_unit_test(another_machine),
        cmocka_unit_test(damaged),       cmocka_unit_test(only_while_paused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
