// The PCI transport of virtio devices (Virtio 1.2, 4.1).
//
// One 64-bit BAR holds everything, a page for each part; vendor capabilities tell the driver where they are:
//
//     0x0000  common configuration: features, status, queues
//     0x1000  ISR: why the interrupt pin is up; reading lowers it
//     0x2000  the device's own configuration
//     0x3000  notification: 4 bytes for each queue
//     0x4000  MSI-X table      0x5000  MSI-X pending bits
//
// A fifth capability is a window into the BAR through configuration space, for those who can't map memory yet.
// With MSI-X on, each queue and the configuration have a vector of their own or none; otherwise all share the pin.
//
// The transport is a device of its own (registers, saved state) but has no lock: it borrows the virtio device's.
#include "virtio/pci.h"
#include "vm/alloc.h"
#include "vm/bell.h"
#include <errno.h>
#include <string.h>

enum { BAR = 0, BAR_SIZE = 0x8000, AREA_SHIFT = 12 };
enum { AREA_COMMON, AREA_ISR, AREA_DEVICE, AREA_NOTIFY, AREA_MSIX_TABLE, AREA_MSIX_PBA };
enum { AREA_SIZE = 1 << AREA_SHIFT, NOTIFY_MULTIPLIER = 4, NO_VECTOR = 0xffff };
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

// Capability types (4.1.4).
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI = 5 };

struct capability {
    uint8_t id, next, len, type, bar, ident, padding[2];
    uint32_t offset, length;
    uint32_t extra; // CAP_NOTIFY: multiplier; CAP_PCI: the data window
};
_Static_assert(sizeof(struct capability) == 20, "Virtio 1.2, 4.1.4");

// The registers as the driver sees them (4.1.4.3).
struct registers {
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t config_vector, num_queues;
    uint8_t device_status, config_generation;
    uint16_t queue_select, queue_size, queue_vector, queue_enable, queue_notify_off;
    uint32_t queue_desc[2], queue_driver[2], queue_device[2];
};
_Static_assert(sizeof(struct registers) == 56, "Virtio 1.2, 4.1.4.3");

struct virtio_pci {
    struct pci_function fn;
    struct virtio_device *virtio;
    unsigned window; // capability offset of the BAR window
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    uint16_t config_vector, queue_vector[VIRTIO_QUEUES_MAX];
    uint8_t isr;
    struct vm_bell bell[VIRTIO_QUEUES_MAX];
};

// Registers that are what they are, not what was written: filled in afresh for each read.
static void fill(const struct virtio_pci *p, struct registers *r)
{
    struct virtio_device *d = p->virtio;
    const struct virtq *q = virtio_queue(d, p->queue_select);
    *r = (struct registers){
        .device_feature_select = p->device_feature_select,
        .device_feature = virtio_offered(d, p->device_feature_select),
        .driver_feature_select = p->driver_feature_select,
        .driver_feature = virtio_accepted(d, p->driver_feature_select),
        .config_vector = p->config_vector,
        .num_queues = (uint16_t)d->queues,
        .device_status = virtio_status(d),
        .config_generation = d->config_generation,
        .queue_select = p->queue_select,
    };
    if (!q)
        return; // size 0: there is no such queue
    r->queue_size = q->size;
    r->queue_vector = p->queue_vector[p->queue_select];
    r->queue_enable = q->enabled;
    r->queue_notify_off = p->queue_select;
    memcpy(r->queue_desc, &q->desc, 8);
    memcpy(r->queue_driver, &q->avail, 8);
    memcpy(r->queue_device, &q->used, 8);
}

// A vector that the table does not have reads back as none, by which the driver sees that it failed (4.1.5.1.2).
static uint16_t vector(const struct virtio_pci *p, uint32_t val)
{
    return val < p->fn.msix.count ? (uint16_t)val : NO_VECTOR;
}

// Drivers write each field with its own width (4.1.3.1); any other write does nothing.
static void common_write(struct virtio_pci *p, unsigned offset, unsigned size, uint32_t val)
{
#define AT(field, bytes) (offsetof(struct registers, field) << 4 | (bytes))
    struct virtio_device *d = p->virtio;
    unsigned q = p->queue_select;
    switch (offset << 4 | size) {
    case AT(device_feature_select, 4):
        p->device_feature_select = val;
        break;
    case AT(driver_feature_select, 4):
        p->driver_feature_select = val;
        break;
    case AT(driver_feature, 4):
        virtio_accept(d, p->driver_feature_select, val);
        break;
    case AT(config_vector, 2):
        p->config_vector = vector(p, val);
        break;
    case AT(device_status, 1):
        virtio_set_status(d, (uint8_t)val);
        break;
    case AT(queue_select, 2):
        p->queue_select = (uint16_t)val;
        break;
    case AT(queue_size, 2):
        virtio_queue_set_size(d, q, (uint16_t)val);
        break;
    case AT(queue_vector, 2):
        if (q < d->queues)
            p->queue_vector[q] = vector(p, val);
        break;
    case AT(queue_enable, 2):
        if (val == 1)
            virtio_queue_enable(d, q);
        break;
    case AT(queue_desc[0], 4):
    case AT(queue_desc[1], 4):
        virtio_queue_set_address(d, q, VIRTIO_DESC, offset >> 2 & 1, val);
        break;
    case AT(queue_driver[0], 4):
    case AT(queue_driver[1], 4):
        virtio_queue_set_address(d, q, VIRTIO_AVAIL, offset >> 2 & 1, val);
        break;
    case AT(queue_device[0], 4):
    case AT(queue_device[1], 4):
        virtio_queue_set_address(d, q, VIRTIO_USED, offset >> 2 & 1, val);
        break;
    }
#undef AT
}

static uint64_t bar_read(struct virtio_pci *p, uint64_t offset, unsigned size)
{
    unsigned in_area = offset & (AREA_SIZE - 1);
    uint64_t val = 0;
    struct registers r;
    switch (offset >> AREA_SHIFT) {
    case AREA_COMMON:
        fill(p, &r);
        if (in_area < sizeof r)
            memcpy(&val, (const uint8_t *)&r + in_area, size < sizeof r - in_area ? size : sizeof r - in_area);
        break;
    case AREA_ISR:
        if (in_area == 0) {
            val = p->isr;
            p->isr = 0;
            pci_intx_set(&p->fn, false);
        }
        break;
    case AREA_DEVICE:
        val = virtio_config_read(p->virtio, in_area, size);
        break;
    case AREA_MSIX_TABLE:
    case AREA_MSIX_PBA:
        pci_msix_read(&p->fn, BAR, offset, size, &val);
        break;
    }
    return val;
}

static void bar_write(struct virtio_pci *p, uint64_t offset, unsigned size, uint32_t val)
{
    unsigned in_area = offset & (AREA_SIZE - 1);
    switch (offset >> AREA_SHIFT) {
    case AREA_COMMON:
        common_write(p, in_area, size, val);
        break;
    case AREA_DEVICE:
        virtio_config_write(p->virtio, in_area, size, val);
        break;
    case AREA_NOTIFY:
        virtio_kick(p->virtio, in_area / NOTIFY_MULTIPLIER);
        break;
    case AREA_MSIX_TABLE:
    case AREA_MSIX_PBA:
        pci_msix_write(&p->fn, BAR, offset, size, val);
        break;
    }
}

static uint64_t virtio_pci_read(struct device *dev, struct bus_access a)
{
    struct virtio_pci *p = (struct virtio_pci *)dev;
    vm_lock(p->fn.lock);
    uint64_t val = bar_read(p, a.offset, a.size);
    vm_unlock(p->fn.lock);
    return val;
}

static void virtio_pci_write(struct device *dev, struct bus_access a, uint64_t val)
{
    struct virtio_pci *p = (struct virtio_pci *)dev;
    vm_lock(p->fn.lock);
    bar_write(p, a.offset, a.size, (uint32_t)val);
    vm_unlock(p->fn.lock);
}

// The window (4.1.4.9): an access to its data is an access to the BAR, of the length and at the offset written before.
static bool window_open(const struct virtio_pci *p, unsigned reg, unsigned size, uint32_t *offset, uint32_t *length)
{
    unsigned data = p->window + offsetof(struct capability, extra);
    if (reg >= data + 4 || reg + size <= data)
        return false;
    struct capability c;
    memcpy(&c, p->fn.value + p->window, sizeof c);
    *offset = c.offset;
    *length = c.length;
    return c.bar == BAR && (c.length == 1 || c.length == 2 || c.length == 4) && c.offset % c.length == 0 &&
           c.offset < BAR_SIZE;
}

static void config_reading(struct pci_function *f, unsigned reg, unsigned size)
{
    struct virtio_pci *p = (struct virtio_pci *)f;
    uint32_t offset, length;
    if (!window_open(p, reg, size, &offset, &length))
        return;
    uint32_t val = (uint32_t)bar_read(p, offset, length);
    memcpy(f->value + p->window + offsetof(struct capability, extra), &val, length);
}

// Bells hang where the BAR is, while the driver works with the device.
static void hang_bells(void *ctx)
{
    struct virtio_pci *p = ctx;
    uint64_t bar = pci_bar_address(&p->fn, BAR);
    for (unsigned q = 0; q < p->virtio->queues; q++) {
        const struct vm_bell_at at = {.gpa = bar + (AREA_NOTIFY << AREA_SHIFT) + NOTIFY_MULTIPLIER * q};
        if (virtio_in_operation(p->virtio) && bar != PCI_UNMAPPED)
            vm_bell_hang(&p->bell[q], &at, &p->virtio->dev, virtio_rung, q);
        else
            vm_bell_take_down(&p->bell[q]);
    }
}

static void config_written(struct pci_function *f, unsigned reg, unsigned size)
{
    struct virtio_pci *p = (struct virtio_pci *)f;
    if (reg < PCI_BAR0 + 4 * PCI_BARS)
        hang_bells(p);
    uint32_t offset, length, val = 0;
    if (!window_open(p, reg, size, &offset, &length))
        return;
    memcpy(&val, f->value + p->window + offsetof(struct capability, extra), length);
    bar_write(p, offset, length, val);
}

static void interrupt(struct virtio_pci *p, uint16_t vector, uint8_t isr)
{
    if (pci_msix_enabled(&p->fn)) {
        if (vector != NO_VECTOR)
            pci_msix_fire(&p->fn, vector);
        return;
    }
    p->isr |= isr;
    pci_intx_set(&p->fn, true);
}

static void queue_interrupt(void *ctx, unsigned queue)
{
    struct virtio_pci *p = ctx;
    interrupt(p, p->queue_vector[queue], ISR_QUEUE);
}

static void config_interrupt(void *ctx)
{
    struct virtio_pci *p = ctx;
    interrupt(p, p->config_vector, ISR_CONFIG);
}

static void transport_reset(void *ctx)
{
    struct virtio_pci *p = ctx;
    p->config_vector = NO_VECTOR;
    for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
        p->queue_vector[q] = NO_VECTOR;
    p->isr = 0;
    p->device_feature_select = p->driver_feature_select = 0;
    p->queue_select = 0;
    for (unsigned q = 0; q < p->virtio->queues; q++)
        vm_bell_take_down(&p->bell[q]);
    pci_intx_set(&p->fn, false);
}

static void virtio_pci_reset(struct device *dev)
{
    struct virtio_pci *p = (struct virtio_pci *)dev;
    pci_function_reset(&p->fn);
    vm_lock(p->fn.lock);
    transport_reset(p);
    vm_unlock(p->fn.lock);
}

static int virtio_pci_loaded(struct device *dev)
{
    struct virtio_pci *p = (struct virtio_pci *)dev;
    p->config_vector = vector(p, p->config_vector);
    for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
        p->queue_vector[q] = vector(p, p->queue_vector[q]);
    int e = pci_function_loaded(&p->fn);
    vm_lock(p->fn.lock);
    hang_bells(p);
    vm_unlock(p->fn.lock);
    return e;
}

static void virtio_pci_destroy(struct device *dev)
{
    vm_free(dev);
}

static const struct state_field fields[] = {
    PCI_FUNCTION_STATE(struct virtio_pci, fn),
    STATE_U32(struct virtio_pci, device_feature_select, 1),
    STATE_U32(struct virtio_pci, driver_feature_select, 1),
    STATE_U16(struct virtio_pci, queue_select, 1),
    STATE_U16(struct virtio_pci, config_vector, 1),
    STATE_U16(struct virtio_pci, queue_vector, 1),
    STATE_U8(struct virtio_pci, isr, 1),
    STATE_END,
};
static const struct state_table state = {"virtio-pci", 1, fields};

static const struct device_ops ops = {
    .name = "virtio-pci",
    .unlocked = true,
    .reset = virtio_pci_reset,
    .read = virtio_pci_read,
    .write = virtio_pci_write,
    .state = &state,
    .loaded = virtio_pci_loaded,
    .destroy = virtio_pci_destroy,
};

static const struct pci_function_hooks hooks = {.config_reading = config_reading, .config_written = config_written};

static unsigned add_capability(struct virtio_pci *p, uint8_t type, unsigned area, uint32_t length, uint32_t extra)
{
    struct capability c = {
        .len = type == CAP_NOTIFY || type == CAP_PCI ? sizeof c : offsetof(struct capability, extra),
        .type = type,
        .bar = BAR,
        .offset = area << AREA_SHIFT,
        .length = length,
        .extra = extra,
    };
    struct capability writable = {0};
    if (type == CAP_PCI)
        writable = (struct capability){.bar = 0xff, .offset = UINT32_MAX, .length = UINT32_MAX, .extra = UINT32_MAX};
    return pci_capability_add(&p->fn, PCI_CAP_VENDOR, &c, &writable, c.len);
}

int virtio_pci_attach(struct virtio_device *d, struct pci_bus *bus, unsigned slot, struct error *err)
{
    struct virtio_pci *p = vm_alloc(sizeof *p);
    if (!p)
        return error_set(err, ENOMEM, "%s: out of memory", d->dev.name);
    p->virtio = d;
    struct pci_identity id = {
        .vendor = 0x1af4, // 4.1.2: 0x1040 + device type; revision and subsystem as for no transitional device
        .device = (uint16_t)(0x1040 + d->kind->id),
        .subsystem_vendor = 0x1af4,
        .subsystem = (uint16_t)(0x1040 + d->kind->id),
        .class_code = d->kind->pci_class,
        .revision = 1,
    };
    pci_function_init(&p->fn, bus, &id, &hooks, &d->dev.lock);
    pci_bar_add(&p->fn, BAR, PCI_BAR_MEM64, BAR_SIZE, 4);
    pci_intx_add(&p->fn);
    pci_msix_add(&p->fn, BAR, AREA_MSIX_TABLE << AREA_SHIFT, AREA_MSIX_PBA << AREA_SHIFT, d->queues + 1);
    add_capability(p, CAP_COMMON, AREA_COMMON, sizeof(struct registers), 0);
    add_capability(p, CAP_ISR, AREA_ISR, 1, 0);
    if (d->config_size)
        add_capability(p, CAP_DEVICE, AREA_DEVICE, d->config_size, 0);
    add_capability(p, CAP_NOTIFY, AREA_NOTIFY, NOTIFY_MULTIPLIER * d->queues, NOTIFY_MULTIPLIER);
    p->window = add_capability(p, CAP_PCI, 0, 0, 0);
    char name[sizeof d->dev.name];
    int rc = slot && slot < PCI_SLOTS
                 ? pci_function_plug(&p->fn, slot * 8, &ops, virtio_transport_name(d, "pci:", name), err)
                 : error_set(err, EINVAL, "%s: no PCI slot %u", d->dev.name, slot);
    if (rc) {
        vm_free(p);
        return rc;
    }
    d->transport = (struct virtio_transport){p, queue_interrupt, config_interrupt, transport_reset, hang_bells};
    transport_reset(p);
    return 0;
}
