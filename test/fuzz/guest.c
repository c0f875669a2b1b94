// A guest made of the fuzzer's bytes: see guest.h.
//
// From nothing a fuzzer builds up its inputs byte by byte, with little variety. A guest's program may just as well be
// random, so now and then the mutator throws away what it has and makes a new one.
#include "guest.h"
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max) __attribute__((weak)); // absent without the fuzzer
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

enum { REG_READ, REG_WRITE, REG_WRITE_AGAIN, RAM, TIME, OWN, OWN_AGAIN, RARE, ACTIONS };

static void begin(struct fuzz_guest *g, const uint8_t *data, size_t size)
{
    g->data = data;
    g->left = size;
    g->longest = UINT64_MAX;
    g->ranges = 0;
}

void fuzz_begin(struct fuzz_guest *g, const uint8_t *data, size_t size)
{
    begin(g, data, size);
    fake_vm_init(&g->f, 2);
}

void fuzz_begin_bare(struct fuzz_guest *g, const uint8_t *data, size_t size, uint8_t *ram)
{
    begin(g, data, size);
    fake_vm_init_bare(&g->f, 2);
    g->f.ram = ram;
}

static void advance(struct fuzz_guest *g)
{
    uint64_t ns = fuzz_take(g, 3) << (fuzz_take(g, 1) % 20);
    fake_vm_advance(&g->f, ns < g->longest ? ns : g->longest);
}

void fuzz_end(struct fuzz_guest *g)
{
    device_drain_all(&g->f.vm);
    fake_vm_destroy(&g->f);
}

void fuzz_range(struct fuzz_guest *g, struct bus *bus, uint64_t base, uint64_t size)
{
    FUZZ_CHECK(g->ranges < FUZZ_RANGES && size);
    g->range[g->ranges].bus = bus;
    g->range[g->ranges].base = base;
    g->range[g->ranges++].size = size;
}

uint64_t fuzz_take(struct fuzz_guest *g, unsigned bytes)
{
    uint64_t val = 0;
    unsigned n = bytes < g->left ? bytes : (unsigned)g->left;
    memcpy(&val, g->data, n);
    g->data += n;
    g->left -= n;
    return val;
}

uint64_t fuzz_address(struct fuzz_guest *g)
{
    uint64_t kind = fuzz_take(g, 1);
    if (kind == 0xff)
        return fuzz_take(g, 8);
    if (kind == 0xfe)
        return FAKE_VM_RAM - fuzz_take(g, 1);
    return fuzz_take(g, 2);
}

static void touch_register(struct fuzz_guest *g, bool write)
{
    if (!g->ranges)
        return;
    unsigned how = (unsigned)fuzz_take(g, 1);
    unsigned i = (unsigned)fuzz_take(g, 1) % g->ranges, size = 1u << (how & 3), cpu = how >> 2 & 1;
    // Small ranges need few bytes to choose from, and most registers lie at multiples of their size.
    uint64_t offset = fuzz_take(g, g->range[i].size > 256 ? 2 : 1) % g->range[i].size;
    if (how & 0x70)
        offset &= ~(uint64_t)(size - 1);
    uint64_t addr = g->range[i].base + offset;
    if (write)
        bus_write(g->range[i].bus, cpu, addr, size, fuzz_take(g, size));
    else
        bus_read(g->range[i].bus, cpu, addr, size);
}

static void write_ram(struct fuzz_guest *g)
{
    uint64_t at = fuzz_take(g, 2), n = fuzz_take(g, 1) % 16 + 1;
    if (n > g->left)
        n = g->left;
    memcpy(g->f.ram + at, g->data, n); // RAM goes on behind the first 64 KiB
    g->data += n;
    g->left -= n;
}

// Saves and loads one device. Loading may fail if a byte was changed, but never when none was.
static void reload(struct fuzz_guest *g)
{
    unsigned skip = (unsigned)fuzz_take(g, 1), spoil = (unsigned)fuzz_take(g, 1) % 4;
    struct device *d = g->f.vm.devices;
    for (unsigned i = 0; d && i < skip % 24; i++)
        d = d->next;
    if (!d || !d->ops->state)
        return;
    device_drain_all(&g->f.vm);
    struct state_buffer b = {0};
    struct error err;
    FUZZ_CHECK(state_save(&b, d->ops->state, d, &err) == 0);
    for (unsigned i = 0; i < spoil; i++) {
        uint64_t at = fuzz_take(g, 2);
        b.data[at % b.size] = (uint8_t)fuzz_take(g, 1);
    }
    int e = state_load(&b, d->ops->state, d, &err);
    if (!e && d->ops->loaded) {
        if (!d->ops->unlocked)
            vm_lock(&d->lock);
        e = d->ops->loaded(d);
        if (!d->ops->unlocked)
            vm_unlock(&d->lock);
    }
    FUZZ_CHECK(e == 0 || spoil);
    if (e) // nobody runs a machine that was not loaded
        fake_vm_reset(&g->f);
    state_free(&b);
}

static void act_rarely(struct fuzz_guest *g)
{
    unsigned what = (unsigned)fuzz_take(g, 1);
    if (what < 8)
        fake_vm_reset(&g->f);
    else if (what < 64)
        reload(g);
    else
        touch_register(g, what & 1);
}

void fuzz_run(struct fuzz_guest *g, void (*own)(struct fuzz_guest *g, void *ctx), void *ctx)
{
    fake_vm_reset(&g->f);
    while (g->left) {
        switch (fuzz_take(g, 1) % ACTIONS) {
        case REG_READ:
            touch_register(g, false);
            break;
        case REG_WRITE:
        case REG_WRITE_AGAIN:
            touch_register(g, true);
            break;
        case RAM:
            write_ram(g);
            break;
        case TIME:
            advance(g);
            break;
        case OWN:
        case OWN_AGAIN:
            if (own)
                own(g, ctx);
            break;
        case RARE:
            act_rarely(g);
            break;
        }
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    enum { SHORTEST = 32, ONE_IN = 32 };
    if ((size >= SHORTEST && seed % ONE_IN) || max < SHORTEST)
        return LLVMFuzzerMutate(data, size, max);
    uint64_t x = seed * 0x9e3779b97f4a7c15 | 1;
    size = SHORTEST + seed / ONE_IN % (max - SHORTEST);
    for (size_t i = 0; i < size; i++) {
        x ^= x << 13; // xorshift64
        x ^= x >> 7;
        x ^= x << 17;
        data[i] = (uint8_t)(x >> 32);
    }
    return size;
}
