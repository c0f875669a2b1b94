// The tests' virtio driver: see driver.h.
#include "driver.h"
#include "unit.h"

// Offsets of the common configuration (Virtio 1.2, 4.1.4.3) and of the MMIO registers (4.2.2).
struct offsets {
    uint16_t device_select, device_feature, driver_select, driver_feature, status, generation, queue_select, queue_max,
        queue_size, queue_enable, desc, avail, used;
};
static const struct offsets pci_offsets = {0, 4, 8, 12, 20, 21, 22, 24, 24, 28, 32, 40, 48};
static const struct offsets mmio_offsets = {0x14, 0x10, 0x24, 0x20, 0x70, 0xfc, 0x30,
                                            0x34, 0x38, 0x44, 0x80, 0x90, 0xa0};

static const struct offsets *at(const struct driver *d)
{
    return d->is_pci ? &pci_offsets : &mmio_offsets;
}

// Reads and writes a register: MMIO registers are all 32 bits wide, PCI's have their own widths.
static uint32_t get(struct driver *d, unsigned offset, unsigned pci_size)
{
    return (uint32_t)bus_read(&d->vm->mmio, 0, d->common + offset, d->is_pci ? pci_size : 4);
}

static void set(struct driver *d, unsigned offset, unsigned pci_size, uint32_t val)
{
    bus_write(&d->vm->mmio, 0, d->common + offset, d->is_pci ? pci_size : 4, val);
}

void driver_find_pci(struct driver *d, struct vm *vm, struct pci_bus *bus, unsigned slot, uint64_t heap)
{
    *d = (struct driver){.vm = vm, .is_pci = true, .devfn = slot * 8, .bus = bus, .heap = heap};
    pci_bus_config_write(bus, d->devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    for (unsigned cap = pci_bus_config_read(bus, d->devfn, PCI_CAPABILITIES, 1); cap;
         cap = pci_bus_config_read(bus, d->devfn, cap + 1, 1)) {
        unsigned id = pci_bus_config_read(bus, d->devfn, cap, 1);
        bool msix = id == PCI_CAP_MSIX;
        if (!msix && id != PCI_CAP_VENDOR)
            continue;
        uint32_t where = pci_bus_config_read(bus, d->devfn, cap + (msix ? 4 : 8), 4);
        unsigned type = pci_bus_config_read(bus, d->devfn, cap + 3, 1);
        unsigned bar = msix ? where & 7 : pci_bus_config_read(bus, d->devfn, cap + 4, 1);
        uint64_t base = pci_bus_config_read(bus, d->devfn, PCI_BAR0 + 4 * bar, 4) & ~0xfu;
        base |= (uint64_t)pci_bus_config_read(bus, d->devfn, PCI_BAR0 + 4 * bar + 4, 4) << 32;
        base += msix ? where & ~7u : where;
        if (msix) {
            d->msix = base;
            continue;
        }
        switch (type) {
        case 1:
            d->common = base;
            break;
        case 2:
            d->notify = base;
            d->notify_multiplier = pci_bus_config_read(bus, d->devfn, cap + 16, 4);
            break;
        case 3:
            d->isr = base;
            break;
        case 4:
            d->config = base;
            break;
        case 5:
            d->window = cap;
            break;
        }
    }
    assert_true(d->common && d->notify && d->isr && d->window);
}

void driver_find_mmio(struct driver *d, struct vm *vm, uint64_t base, uint64_t heap)
{
    *d = (struct driver){.vm = vm, .common = base, .config = base + 0x100, .heap = heap};
    assert_int_equal(get(d, 0, 4), 0x74726976);
    assert_int_equal(get(d, 4, 4), 2);
}

uint64_t driver_offered(struct driver *d)
{
    set(d, at(d)->device_select, 4, 0);
    uint64_t features = get(d, at(d)->device_feature, 4);
    set(d, at(d)->device_select, 4, 1);
    return features | (uint64_t)get(d, at(d)->device_feature, 4) << 32;
}

void driver_accept(struct driver *d, uint64_t features)
{
    set(d, at(d)->driver_select, 4, 0);
    set(d, at(d)->driver_feature, 4, (uint32_t)features);
    set(d, at(d)->driver_select, 4, 1);
    set(d, at(d)->driver_feature, 4, (uint32_t)(features >> 32));
}

uint8_t driver_status(struct driver *d)
{
    return (uint8_t)get(d, at(d)->status, 1);
}

void driver_set_status(struct driver *d, uint8_t status)
{
    set(d, at(d)->status, 1, status);
}

uint32_t driver_config(struct driver *d, unsigned offset, unsigned size)
{
    return (uint32_t)bus_read(&d->vm->mmio, 0, d->config + offset, size);
}

void driver_set_config(struct driver *d, unsigned offset, unsigned size, uint32_t val)
{
    bus_write(&d->vm->mmio, 0, d->config + offset, size, val);
}

uint32_t driver_generation(struct driver *d)
{
    return get(d, at(d)->generation, 1);
}

uint16_t driver_queue_max(struct driver *d, unsigned q)
{
    set(d, at(d)->queue_select, 2, q);
    return (uint16_t)get(d, at(d)->queue_max, 2);
}

static void set_address(struct driver *d, unsigned offset, uint64_t gpa)
{
    set(d, offset, 4, (uint32_t)gpa);
    set(d, offset + 4, 4, (uint32_t)(gpa >> 32));
}

void driver_enable_queue(struct driver *d, unsigned q)
{
    set(d, at(d)->queue_select, 2, q);
    set(d, at(d)->queue_size, 2, d->queue[q].size);
    set_address(d, at(d)->desc, d->queue[q].desc);
    set_address(d, at(d)->avail, d->queue[q].avail);
    set_address(d, at(d)->used, d->queue[q].used);
    set(d, at(d)->queue_enable, 2, 1);
}

void driver_notify(struct driver *d, unsigned q)
{
    if (d->is_pci)
        bus_write(&d->vm->mmio, 0, d->notify + (uint64_t)q * d->notify_multiplier, 2, q);
    else
        bus_write(&d->vm->mmio, 0, d->common + 0x50, 4, q);
}

unsigned driver_isr(struct driver *d)
{
    if (d->is_pci)
        return (unsigned)bus_read(&d->vm->mmio, 0, d->isr, 1);
    uint32_t status = get(d, 0x60, 4);
    set(d, 0x64, 4, status);
    return status;
}

uint64_t driver_alloc(struct driver *d, uint64_t size)
{
    uint64_t gpa = (d->heap + 15) & ~15ull;
    d->heap = gpa + size;
    assert_non_null(vm_ram(d->vm, gpa, size, true));
    return gpa;
}

void driver_make_queue(struct driver *d, unsigned q, uint16_t size)
{
    struct driver_queue *r = &d->queue[q];
    *r = (struct driver_queue){.size = size};
    r->desc = driver_alloc(d, 16ul * size);
    r->avail = driver_alloc(d, 6 + 2ul * size);
    r->used = driver_alloc(d, 6 + 8ul * size);
    memset(vm_ram(d->vm, r->desc, 16ul * size, true), 0, 16ul * size);
    memset(vm_ram(d->vm, r->avail, 6 + 2ul * size, true), 0, 6 + 2ul * size);
    memset(vm_ram(d->vm, r->used, 6 + 8ul * size, true), 0, 6 + 8ul * size);
}

void driver_start(struct driver *d, uint64_t features, unsigned queues)
{
    driver_set_status(d, 0);
    assert_int_equal(driver_status(d), 0);
    driver_set_status(d, VIRTIO_ACKNOWLEDGE);
    driver_set_status(d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    driver_accept(d, features | VIRTIO_F_VERSION_1);
    driver_set_status(d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
    assert_int_equal(driver_status(d), VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
    for (unsigned q = 0; q < queues; q++) {
        driver_make_queue(d, q, DRIVER_QUEUE_SIZE);
        driver_enable_queue(d, q);
    }
    driver_set_status(d, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
    assert_int_equal(driver_status(d), VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

void driver_desc(struct driver *d, unsigned q, unsigned index, struct driver_desc desc)
{
    assert_true(vm_write(d->vm, d->queue[q].desc + 16ul * index, &desc, sizeof desc));
}

void driver_poke16(struct driver *d, uint64_t gpa, uint16_t val)
{
    assert_true(vm_write(d->vm, gpa, &val, 2));
}

uint16_t driver_peek16(struct driver *d, uint64_t gpa)
{
    uint16_t val;
    assert_true(vm_read(d->vm, gpa, &val, 2));
    return val;
}

void driver_make_available(struct driver *d, unsigned q, uint16_t head)
{
    struct driver_queue *r = &d->queue[q];
    driver_poke16(d, r->avail + 4 + 2ul * (r->avail_idx % r->size), head);
    driver_poke16(d, r->avail + 2, ++r->avail_idx);
}

bool driver_used(struct driver *d, unsigned q, uint32_t *id, uint32_t *len)
{
    struct driver_queue *r = &d->queue[q];
    if (driver_peek16(d, r->used + 2) == r->used_seen)
        return false;
    uint32_t element[2];
    assert_true(vm_read(d->vm, r->used + 4 + 8ul * (r->used_seen % r->size), element, sizeof element));
    r->used_seen++;
    *id = element[0];
    *len = element[1];
    return true;
}

static unsigned intx_gsi(unsigned slot, unsigned pin)
{
    return 16 + (slot + pin) % 8;
}

void bed_init(struct bed *b)
{
    memset(b, 0, sizeof *b);
    fake_vm_init(&b->f, 1);
    struct pci_bus_config config = {.mmio32 = {0xc0000000, 0x1000000}, .intx_gsi = intx_gsi, .intx_irq = intx_gsi};
    struct error err;
    if (pci_bus_create(&b->f.vm, &config, &b->bus, &err))
        fail_msg("%s", err.text);
}

void bed_attach(struct bed *b, struct virtio_device *dev, bool pci)
{
    struct error err;
    int rc =
        pci ? virtio_pci_attach(dev, b->bus, BED_SLOT, &err) : virtio_mmio_attach(dev, BED_MMIO, BED_MMIO_GSI, &err);
    if (rc)
        fail_msg("%s", err.text);
    fake_vm_reset(&b->f);
    if (pci)
        driver_find_pci(&b->d, &b->f.vm, b->bus, BED_SLOT, BED_HEAP);
    else
        driver_find_mmio(&b->d, &b->f.vm, BED_MMIO, BED_HEAP);
}

void bed_destroy(struct bed *b)
{
    fake_vm_destroy(&b->f);
}

bool bed_interrupt(struct bed *b)
{
    return b->f.line[b->d.is_pci ? intx_gsi(BED_SLOT, 0) : BED_MMIO_GSI];
}
