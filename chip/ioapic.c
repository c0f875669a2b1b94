// The I/O APIC's pins and registers.
//
// An edge-triggered pin sends its message when it becomes asserted; if it is masked then, the edge is lost. A
// level-triggered pin sends it while it is asserted, not masked, and not under way already: "remote IRR" is set when
// the message goes and cleared by the EOI, after which a pin that is still asserted sends again.
//
// A level that nobody lets fall would interrupt again before the CPU executes a single instruction after its IRET, for
// ever; on real hardware the messages' travelling time lets the program creep forward. So after STORM interrupts in a
// row each further one is held back for PAUSE.
//
// Example: entry 0x000000000000a031 is level-triggered, active low, fixed, vector 0x31, to APIC id 0.
#include "chip/ioapic.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

enum { REG_SELECT = 0x00, REG_WINDOW = 0x10, REG_EOI = 0x40 };                         // in the MMIO page
enum { INDEX_ID = 0, INDEX_VERSION = 1, INDEX_ARBITRATION = 2, INDEX_ENTRIES = 0x10 }; // by REG_SELECT

enum { STORM = 64, PAUSE = 100000 }; // ns

#define ENTRY_REMOTE_IRR (1ull << 14)
#define ENTRY_LEVEL (1ull << 15)
#define ENTRY_MASKED (1ull << 16)
#define ENTRY_WRITABLE 0xff0000000001afffull // not the delivery status (12), remote IRR (14) and reserved bits

static struct apic_message message(uint64_t e)
{
    return (struct apic_message){
        .dest = apic_dest8(e >> 56),
        .vector = e,
        .mode = e >> 8 & 7,
        .logical = e >> 11 & 1,
        .level = e >> 15 & 1,
    };
}

// A mask comes and goes with every interrupt of some systems, and whoever is told takes its time: so it does not count.
static void tell_levels(struct ioapic *io)
{
    struct apic_message m[IOAPIC_PINS];
    unsigned count = 0;
    bool changed = false;
    if (!io->levels_changed)
        return;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        uint64_t e = io->entry[i] & ENTRY_LEVEL ? io->entry[i] & ~(ENTRY_MASKED | ENTRY_REMOTE_IRR) : 0;
        changed |= e != io->told[i];
        io->told[i] = e;
        if (e && (e >> 8 & 7) <= APIC_LOWEST)
            m[count++] = message(e);
    }
    if (changed)
        io->levels_changed(io->ctx, m, count);
}

static void deliver(struct ioapic *io, unsigned pin)
{
    struct apic_message m = message(io->entry[pin]);
    if (m.mode == 3 || m.mode == 6)
        return; // reserved
    if (m.mode > APIC_LOWEST)
        m.level = false; // NMI, INIT and ExtINT are edges always
    else if (m.level)
        io->entry[pin] |= ENTRY_REMOTE_IRR;
    io->send(io->ctx, &m);
}

// Sends what a level-triggered pin has to say.
static void service(struct ioapic *io, unsigned pin)
{
    uint64_t e = io->entry[pin];
    if ((e & ENTRY_LEVEL) && !(e & (ENTRY_MASKED | ENTRY_REMOTE_IRR)) && (io->level >> pin & 1))
        deliver(io, pin);
}

void ioapic_set(struct ioapic *io, unsigned pin, bool asserted)
{
    if (pin >= IOAPIC_PINS)
        return;
    vm_lock(&io->dev.lock);
    bool was = io->level >> pin & 1;
    if (!asserted)
        io->storm[pin] = 0;
    io->level = (io->level & ~(1u << pin)) | (uint32_t)asserted << pin;
    if (io->entry[pin] & ENTRY_LEVEL)
        service(io, pin);
    else if (asserted && !was && !(io->entry[pin] & ENTRY_MASKED))
        deliver(io, pin);
    vm_unlock(&io->dev.lock);
}

static void eoi(struct ioapic *io, uint8_t vector)
{
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        uint64_t *e = &io->entry[i];
        if ((uint8_t)*e == vector && (*e & ENTRY_REMOTE_IRR)) {
            *e &= ~ENTRY_REMOTE_IRR;
            if (io->storm[i] < STORM) {
                io->storm[i]++;
                service(io, i);
            } else {
                vm_timer_set(&io->timer, vm_clock_ns(&io->dev.vm->clock) + PAUSE);
            }
        }
    }
}

static void service_all(struct device *d, struct vm_timer *t)
{
    (void)t;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        service((struct ioapic *)d, i);
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
    vm_lock(&io->dev.lock);
    eoi(io, vector);
    vm_unlock(&io->dev.lock);
}

static void write_entry(struct ioapic *io, unsigned pin, unsigned half, uint32_t val)
{
    uint64_t *e = &io->entry[pin], mask = ENTRY_WRITABLE & (half ? ~0ull << 32 : 0xffffffffull);
    *e = (*e & ~mask) | ((half ? (uint64_t)val << 32 : val) & mask);
    if (!(*e & ENTRY_LEVEL))
        *e &= ~ENTRY_REMOTE_IRR; // how system software without the EOI register clears it
    tell_levels(io);
    service(io, pin);
}

static uint64_t ioapic_read(struct device *d, struct bus_access a)
{
    struct ioapic *io = (struct ioapic *)d;
    if (a.offset == REG_SELECT)
        return io->select;
    if (a.offset != REG_WINDOW)
        return 0;
    switch (io->select) {
    case INDEX_ID:
    case INDEX_ARBITRATION:
        return (uint32_t)io->id << 24;
    case INDEX_VERSION:
        return 0x20 | (IOAPIC_PINS - 1) << 16;
    }
    unsigned i = io->select - INDEX_ENTRIES;
    if (i >= 2 * IOAPIC_PINS)
        return 0;
    return (uint32_t)(io->entry[i / 2] >> (i & 1) * 32);
}

static void ioapic_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct ioapic *io = (struct ioapic *)d;
    if (a.offset == REG_SELECT) {
        io->select = val;
    } else if (a.offset == REG_EOI) {
        eoi(io, val);
    } else if (a.offset == REG_WINDOW) {
        unsigned i = io->select - INDEX_ENTRIES;
        if (io->select == INDEX_ID)
            io->id = val >> 24 & 0xf;
        else if (i < 2 * IOAPIC_PINS)
            write_entry(io, i / 2, i & 1, val);
    }
}

static void ioapic_reset(struct device *d)
{
    struct ioapic *io = (struct ioapic *)d;
    io->select = 0;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        io->entry[i] = ENTRY_MASKED;
    memset(io->storm, 0, sizeof io->storm);
    vm_timer_cancel(&io->timer);
    tell_levels(io);
}

static int ioapic_loaded(struct device *d)
{
    struct ioapic *io = (struct ioapic *)d;
    io->level &= (1u << IOAPIC_PINS) - 1;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        io->entry[i] &= ENTRY_WRITABLE | (io->entry[i] & ENTRY_LEVEL ? ENTRY_REMOTE_IRR : 0);
    vm_timer_set(&io->timer, vm_clock_ns(&d->vm->clock) + PAUSE); // in case that it was saved in a pause
    tell_levels(io);
    return 0;
}

static void ioapic_destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field fields[] = {
    STATE_U8(struct ioapic, id, 1),
    STATE_U8(struct ioapic, select, 1),
    STATE_U32(struct ioapic, level, 1),
    STATE_U64(struct ioapic, entry, 1),
    STATE_END,
};

static const struct state_table state = {"ioapic", 1, fields};

static const struct device_ops ops = {
    .name = "ioapic",
    .reset = ioapic_reset,
    .read = ioapic_read,
    .write = ioapic_write,
    .state = &state,
    .loaded = ioapic_loaded,
    .destroy = ioapic_destroy,
};

int ioapic_create(struct vm *vm, uint8_t id, void *ctx, void (*send)(void *ctx, const struct apic_message *m),
                  struct ioapic **out, struct error *err)
{
    struct ioapic *io = vm_alloc(sizeof *io);
    if (!io)
        return error_set(err, ENOMEM, "ioapic: out of memory");
    io->id = id;
    io->ctx = ctx;
    io->send = send;
    device_add(vm, &io->dev, &ops, "ioapic");
    vm_timer_init(&io->timer, &io->dev, service_all);
    ioapic_reset(&io->dev);
    *out = io;
    return bus_add(
        &vm->mmio,
        &(struct bus_range){
            .base = IOAPIC_MMIO_BASE, .size = IOAPIC_MMIO_SIZE, .dev = &io->dev, .min_size = 4, .max_size = 4},
        err);
}
