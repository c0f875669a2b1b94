// Virtio devices in front of a guest made of bytes: see virtio.h.
#include "virtio.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"
#include <string.h>

// Rings of 16 entries: descriptors at 0x100, available at 0x200, used at 0x300; 0x400 further for each queue.
enum { QUEUE_SIZE = 16, DESC = 0x100, AVAIL = 0x200, USED = 0x300, QUEUE_STEP = 0x400 };
enum { MMIO = 0xd0000000, SPACE = 0xc0000000, ECAM = 0xb0000000, SLOT = 2 };

static unsigned intx_gsi(unsigned slot, unsigned pin)
{
    return 16 + (slot + pin) % 8;
}

void fuzz_virtio_begin(struct fuzz_virtio *v, const uint8_t *data, size_t size)
{
    fuzz_begin(&v->g, data, size);
    v->backend = NULL;
    struct pci_bus_config config = {
        .ecam = ECAM, .mmio32 = {SPACE, 0x1000000}, .intx_gsi = intx_gsi, .intx_irq = intx_gsi};
    FUZZ_CHECK(pci_bus_create(&v->g.f.vm, &config, &v->bus, NULL) == 0);
}

static void write_common(struct fuzz_virtio *v, unsigned pci_offset, unsigned pci_size, unsigned mmio_offset,
                         uint32_t val)
{
    bus_write(&v->g.f.vm.mmio, 0, v->bar + (v->is_pci ? pci_offset : mmio_offset), v->is_pci ? pci_size : 4, val);
}

static void start(struct fuzz_virtio *v, uint64_t refused)
{
    uint64_t features = v->dev->offered & ~(refused & ~VIRTIO_F_VERSION_1);
    if (v->is_pci)
        pci_bus_config_write(v->bus, SLOT * 8, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    write_common(v, 20, 1, 0x70, 0);
    write_common(v, 20, 1, 0x70, 3);
    for (unsigned i = 0; i < 2; i++) {
        write_common(v, 8, 4, 0x24, i);
        write_common(v, 12, 4, 0x20, (uint32_t)(features >> 32 * i));
    }
    write_common(v, 20, 1, 0x70, 11);
    for (unsigned q = 0; q < v->dev->queues; q++) {
        write_common(v, 22, 2, 0x30, q);
        write_common(v, 24, 2, 0x38, QUEUE_SIZE);
        write_common(v, 26, 2, 0, q); // MSI-X vector; no register of MMIO can be written at 0
        write_common(v, 32, 4, 0x80, DESC + QUEUE_STEP * q);
        write_common(v, 40, 4, 0x90, AVAIL + QUEUE_STEP * q);
        write_common(v, 48, 4, 0xa0, USED + QUEUE_STEP * q);
        write_common(v, 28, 2, 0x44, 1);
    }
    write_common(v, 20, 1, 0x70, 15);
}

void fuzz_virtio_offer(struct fuzz_virtio *v, unsigned queue, unsigned first, const struct fuzz_desc *desc,
                       unsigned count)
{
    struct fuzz_guest *g = &v->g;
    uint8_t *ram = g->f.ram + QUEUE_STEP * queue;
    for (unsigned i = 0; i < count; i++)
        memcpy(ram + DESC + 16 * ((first + i) % QUEUE_SIZE), &desc[i], 16);
    uint16_t idx, head = (uint16_t)(first % QUEUE_SIZE);
    memcpy(&idx, ram + AVAIL + 2, 2);
    memcpy(ram + AVAIL + 4 + 2 * (idx % QUEUE_SIZE), &head, 2);
    idx++;
    memcpy(ram + AVAIL + 2, &idx, 2);
    if (v->is_pci)
        bus_write(&g->f.vm.mmio, 0, v->bar + 0x3000 + 4 * queue, 2, queue);
    else
        bus_write(&g->f.vm.mmio, 0, v->bar + 0x50, 4, queue);
}

// A chain of up to four descriptors with a likely shape, which the bytes bend.
static void offer(struct fuzz_virtio *v, unsigned queue, unsigned how)
{
    struct fuzz_guest *g = &v->g;
    struct fuzz_desc desc[4];
    unsigned first = (unsigned)fuzz_take(g, 1), count = (how & 3) + 1;
    for (unsigned i = 0; i < count; i++) {
        struct fuzz_desc *d = &desc[i];
        *d = (struct fuzz_desc){.addr = fuzz_address(g), .len = (uint32_t)fuzz_take(g, 2)};
        unsigned bits = (unsigned)fuzz_take(g, 1);
        bool last = i + 1 == count;
        if (bits & 0x80)
            d->len <<= 12;
        d->next = (uint16_t)(bits & 0x40 ? bits & 0x1f : (first + i + 1) % QUEUE_SIZE);
        d->flags = (uint16_t)((bits & (bits & 0x20 ? 7 : 2)) | !last); // mostly not indirect, and the last one ends it
    }
    fuzz_virtio_offer(v, queue, first, desc, count);
}

// The same with all but the first in an indirect table.
static void offer_indirect(struct fuzz_virtio *v, unsigned queue, unsigned how)
{
    enum { TABLE = 0x2000, SLOTS = 32, NEXT = 1, WRITE = 2, INDIRECT = 4 };
    struct fuzz_guest *g = &v->g;
    unsigned first = (unsigned)fuzz_take(g, 1), count = (how & 3) + 1;
    uint64_t at = TABLE + 64 * (first % SLOTS);
    struct fuzz_desc direct[2] = {
        {fuzz_address(g), (uint32_t)fuzz_take(g, 1), NEXT, (uint16_t)((first + 1) % QUEUE_SIZE)},
        {at, 16 * count, INDIRECT, 0}};
    for (unsigned i = 0; i < count; i++) {
        struct fuzz_desc d = {fuzz_address(g), (uint32_t)fuzz_take(g, 2), 0, (uint16_t)(i + 1)};
        unsigned bits = (unsigned)fuzz_take(g, 1);
        d.flags = (uint16_t)((bits & (bits >= 0xf0 ? 7 : WRITE)) | (i + 1 < count ? NEXT : 0));
        if (bits >= 0xfc)
            d.next = (uint16_t)bits;
        memcpy(g->f.ram + at + 16 * i, &d, 16);
    }
    bool both = how & 4;
    fuzz_virtio_offer(v, queue, first + !both, &direct[!both], 1 + both);
}

// One access through the window in PCI configuration space, to an offset that may be right.
static void use_window(struct fuzz_virtio *v)
{
    struct fuzz_guest *g = &v->g;
    unsigned how = (unsigned)fuzz_take(g, 1), cap = pci_bus_config_read(v->bus, SLOT * 8, PCI_CAPABILITIES, 1), next;
    while ((next = pci_bus_config_read(v->bus, SLOT * 8, cap + 1, 1)) != 0)
        cap = next; // it is the last one
    unsigned size = 1u << how % 3;
    pci_bus_config_write(v->bus, SLOT * 8, cap + 4, 1, how >= 0xf0);
    pci_bus_config_write(v->bus, SLOT * 8, cap + 8, 4, (uint32_t)fuzz_take(g, 2) & ~(size - 1));
    pci_bus_config_write(v->bus, SLOT * 8, cap + 12, 4, size);
    if (how & 0x10)
        pci_bus_config_write(v->bus, SLOT * 8, cap + 16, size, (uint32_t)fuzz_take(g, size));
    else
        pci_bus_config_read(v->bus, SLOT * 8, cap + 16, size);
}

// MSI-X on, the first vectors open.
static void use_msix(struct fuzz_virtio *v)
{
    unsigned cap = pci_bus_config_read(v->bus, SLOT * 8, PCI_CAPABILITIES, 1);
    pci_bus_config_write(v->bus, SLOT * 8, cap + 2, 2, 0x8000);
    for (unsigned i = 0; i < 3; i++)
        bus_write(&v->g.f.vm.mmio, 0, v->bar + 0x4000 + 16 * i + 12, 4, 0);
}

static void act(struct fuzz_guest *g, void *ctx)
{
    struct fuzz_virtio *v = ctx;
    unsigned how = (unsigned)fuzz_take(g, 1), queue = (how >> 3) % v->dev->queues;
    if (how >= 0xf8 || ((v->dev->status & VIRTIO_NEEDS_RESET) && (how & 1)))
        start(v, fuzz_take(g, 4) & fuzz_take(g, 4));
    else if (how >= 0xf4 && v->is_pci)
        use_msix(v);
    else if (how >= 0xf0 && v->is_pci)
        use_window(v);
    else if (how >= 0x80 && v->backend)
        v->backend(v);
    else if (how >= 0x60)
        offer_indirect(v, queue, how);
    else
        offer(v, queue, how);
}

void fuzz_virtio_run(struct fuzz_virtio *v)
{
    struct fuzz_guest *g = &v->g;
    unsigned how = (unsigned)fuzz_take(g, 1);
    v->is_pci = how & 1;
    if (v->is_pci) {
        FUZZ_CHECK(virtio_pci_attach(v->dev, v->bus, SLOT, NULL) == 0);
        v->bar = SPACE;
        static const struct {
            uint64_t offset, size;
        } parts[] = {{0, 56}, {0x1000, 4}, {0x2000, 0x50}, {0x3000, 0x80}, {0x4000, 0x120}, {0x5000, 8}};
        for (unsigned i = 0; i < sizeof parts / sizeof parts[0]; i++)
            fuzz_range(g, &g->f.vm.mmio, v->bar + parts[i].offset, parts[i].size);
        fuzz_range(g, &g->f.vm.mmio, ECAM + (SLOT * 8 << 12), 0x100);
        fuzz_range(g, &g->f.vm.mmio, SPACE, 0x8000);
    } else {
        FUZZ_CHECK(virtio_mmio_attach(v->dev, MMIO, 9, NULL) == 0);
        v->bar = MMIO;
        fuzz_range(g, &g->f.vm.mmio, MMIO, 0x100);
        fuzz_range(g, &g->f.vm.mmio, MMIO + 0x100, 0x50);
    }
    fake_vm_reset(&g->f);
    if (how & 2) {
        start(v, how & 4 ? fuzz_take(g, 4) : 0);
        FUZZ_CHECK(v->dev->status == 15);
    }
    fuzz_run(g, act, v);
}

void fuzz_virtio_end(struct fuzz_virtio *v)
{
    device_drain_all(&v->g.f.vm);
    fake_vm_advance(&v->g.f, 1000000);
    device_drain_all(&v->g.f.vm);
    FUZZ_CHECK(v->dev->in_flight == 0 && !v->dev->resetting);
    fuzz_end(&v->g);
}
