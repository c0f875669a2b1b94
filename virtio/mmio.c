// The MMIO transport of virtio devices, version 2 (Virtio 1.2, 4.2).
//
// Registers of 32 bits, then the device's own configuration from 0x100 on. One level-triggered interrupt, up while any
// bit of InterruptStatus is set. Nothing announces the device: the machine's ACPI tables must name it.
//
// The transport is a device of its own (registers, saved state) but has no lock: it borrows the virtio device's.
#include "virtio/mmio.h"
#include "vm/alloc.h"
#include "vm/bell.h"
#include <errno.h>

enum {
    MAGIC_VALUE = 0x000,
    VERSION = 0x004,
    DEVICE_ID = 0x008,
    VENDOR_ID = 0x00c,
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SEL = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SEL = 0x024,
    QUEUE_SEL = 0x030,
    QUEUE_NUM_MAX = 0x034,
    QUEUE_NUM = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050,
    INTERRUPT_STATUS = 0x060,
    INTERRUPT_ACK = 0x064,
    STATUS = 0x070,
    QUEUE_DESC_LOW = 0x080,
    QUEUE_DESC_HIGH = 0x084,
    QUEUE_DRIVER_LOW = 0x090,
    QUEUE_DRIVER_HIGH = 0x094,
    QUEUE_DEVICE_LOW = 0x0a0,
    QUEUE_DEVICE_HIGH = 0x0a4,
    SHM_LEN_LOW = 0x0b0,
    SHM_BASE_HIGH = 0x0bc,
    CONFIG_GENERATION = 0x0fc,
    CONFIG = 0x100,
};

enum { INTERRUPT_QUEUE = 1, INTERRUPT_CONFIG = 2 };

struct virtio_mmio {
    struct device dev;
    struct virtio_device *virtio;
    struct irq_line irq;
    uint32_t device_features_sel, driver_features_sel, queue_sel;
    uint8_t interrupts; // InterruptStatus
    uint64_t gpa;
    struct vm_bell bell[VIRTIO_QUEUES_MAX];
};

static void set_interrupts(struct virtio_mmio *m, unsigned interrupts)
{
    m->interrupts = (uint8_t)interrupts;
    irq_set(&m->irq, interrupts);
}

static uint32_t register_read(const struct virtio_mmio *m, unsigned offset)
{
    const struct virtq *q = virtio_queue(m->virtio, m->queue_sel);
    switch (offset) {
    case MAGIC_VALUE:
        return 0x74726976; // "virt"
    case VERSION:
        return 2;
    case DEVICE_ID:
        return m->virtio->kind->id;
    case VENDOR_ID:
        return 0x1af4;
    case DEVICE_FEATURES:
        return virtio_offered(m->virtio, m->device_features_sel);
    case QUEUE_NUM_MAX:
        return q ? q->size_max : 0;
    case QUEUE_READY:
        return q && q->enabled;
    case INTERRUPT_STATUS:
        return m->interrupts;
    case STATUS:
        return virtio_status(m->virtio);
    case CONFIG_GENERATION:
        return m->virtio->config_generation;
    }
    // Shared memory regions: none, which is a length of all ones (4.2.2).
    return offset >= SHM_LEN_LOW && offset <= SHM_BASE_HIGH ? UINT32_MAX : 0;
}

static void register_write(struct virtio_mmio *m, unsigned offset, uint32_t val)
{
    struct virtio_device *d = m->virtio;
    unsigned q = m->queue_sel;
    switch (offset) {
    case DEVICE_FEATURES_SEL:
        m->device_features_sel = val;
        break;
    case DRIVER_FEATURES_SEL:
        m->driver_features_sel = val;
        break;
    case DRIVER_FEATURES:
        virtio_accept(d, m->driver_features_sel, val);
        break;
    case QUEUE_SEL:
        m->queue_sel = val;
        break;
    case QUEUE_NUM:
        virtio_queue_set_size(d, q, val <= UINT16_MAX ? (uint16_t)val : 0);
        break;
    case QUEUE_READY:
        if (val == 1)
            virtio_queue_enable(d, q);
        else if (!val)
            virtio_queue_disable(d, q);
        break;
    case QUEUE_NOTIFY:
        virtio_kick(d, val);
        break;
    case INTERRUPT_ACK:
        set_interrupts(m, m->interrupts & ~val);
        break;
    case STATUS:
        virtio_set_status(d, (uint8_t)val);
        break;
    case QUEUE_DESC_LOW:
    case QUEUE_DESC_HIGH:
        virtio_queue_set_address(d, q, VIRTIO_DESC, offset == QUEUE_DESC_HIGH, val);
        break;
    case QUEUE_DRIVER_LOW:
    case QUEUE_DRIVER_HIGH:
        virtio_queue_set_address(d, q, VIRTIO_AVAIL, offset == QUEUE_DRIVER_HIGH, val);
        break;
    case QUEUE_DEVICE_LOW:
    case QUEUE_DEVICE_HIGH:
        virtio_queue_set_address(d, q, VIRTIO_USED, offset == QUEUE_DEVICE_HIGH, val);
        break;
    }
}

// Registers take aligned 32-bit accesses only (4.2.2.2); others read zero and write nothing.
static uint64_t virtio_mmio_read(struct device *dev, struct bus_access a)
{
    struct virtio_mmio *m = (struct virtio_mmio *)dev;
    uint64_t val = 0;
    vm_lock(&m->virtio->dev.lock);
    if (a.offset >= CONFIG)
        val = virtio_config_read(m->virtio, a.offset - CONFIG, a.size);
    else if (a.size == 4)
        val = register_read(m, (unsigned)a.offset);
    vm_unlock(&m->virtio->dev.lock);
    return val;
}

static void virtio_mmio_write(struct device *dev, struct bus_access a, uint64_t val)
{
    struct virtio_mmio *m = (struct virtio_mmio *)dev;
    vm_lock(&m->virtio->dev.lock);
    if (a.offset >= CONFIG)
        virtio_config_write(m->virtio, a.offset - CONFIG, a.size, (uint32_t)val);
    else if (a.size == 4)
        register_write(m, (unsigned)a.offset, (uint32_t)val);
    vm_unlock(&m->virtio->dev.lock);
}

static void queue_interrupt(void *ctx, unsigned queue)
{
    (void)queue;
    struct virtio_mmio *m = ctx;
    set_interrupts(m, m->interrupts | INTERRUPT_QUEUE);
}

static void config_interrupt(void *ctx)
{
    struct virtio_mmio *m = ctx;
    set_interrupts(m, m->interrupts | INTERRUPT_CONFIG);
}

static void ready(void *ctx)
{
    struct virtio_mmio *m = ctx;
    for (unsigned q = 0; q < m->virtio->queues; q++) {
        const struct vm_bell_at at = {.gpa = m->gpa + QUEUE_NOTIFY, .size = 4, .value = q};
        vm_bell_hang(&m->bell[q], &at, &m->virtio->dev, virtio_rung, q);
    }
}

static void transport_reset(void *ctx)
{
    struct virtio_mmio *m = ctx;
    for (unsigned q = 0; q < m->virtio->queues; q++)
        vm_bell_take_down(&m->bell[q]);
    m->device_features_sel = m->driver_features_sel = m->queue_sel = 0;
    set_interrupts(m, 0);
}

static void virtio_mmio_reset(struct device *dev)
{
    struct virtio_mmio *m = (struct virtio_mmio *)dev;
    vm_lock(&m->virtio->dev.lock);
    transport_reset(m);
    vm_unlock(&m->virtio->dev.lock);
}

static int virtio_mmio_loaded(struct device *dev)
{
    struct virtio_mmio *m = (struct virtio_mmio *)dev;
    set_interrupts(m, m->interrupts & (INTERRUPT_QUEUE | INTERRUPT_CONFIG));
    if (virtio_in_operation(m->virtio))
        ready(m);
    return 0;
}

static void virtio_mmio_destroy(struct device *dev)
{
    vm_free(dev);
}

static const struct state_field fields[] = {
    STATE_U32(struct virtio_mmio, device_features_sel, 1),
    STATE_U32(struct virtio_mmio, driver_features_sel, 1),
    STATE_U32(struct virtio_mmio, queue_sel, 1),
    STATE_U8(struct virtio_mmio, interrupts, 1),
    STATE_END,
};
static const struct state_table state = {"virtio-mmio", 1, fields};

static const struct device_ops ops = {
    .name = "virtio-mmio",
    .unlocked = true,
    .reset = virtio_mmio_reset,
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
    .state = &state,
    .loaded = virtio_mmio_loaded,
    .destroy = virtio_mmio_destroy,
};

int virtio_mmio_attach(struct virtio_device *d, uint64_t gpa, unsigned gsi, struct error *err)
{
    struct virtio_mmio *m = vm_alloc(sizeof *m);
    if (!m)
        return error_set(err, ENOMEM, "%s: out of memory", d->dev.name);
    m->virtio = d;
    m->gpa = gpa;
    struct vm *vm = d->dev.vm;
    char name[sizeof d->dev.name];
    device_add(vm, &m->dev, &ops, virtio_transport_name(d, "mmio:", name));
    irq_line_init(&m->irq, vm, gsi);
    d->transport = (struct virtio_transport){m, queue_interrupt, config_interrupt, transport_reset, ready};
    struct bus_range r = {.base = gpa, .size = VIRTIO_MMIO_SIZE, .dev = &m->dev, .max_size = 4};
    return bus_add(&vm->mmio, &r, err);
}
