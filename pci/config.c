// Configuration space: header, BARs, capabilities, the interrupt pin. See device.h.
#include "pci/bus.h"
#include <errno.h>
#include <string.h>

static uint32_t get(const uint8_t *bytes, unsigned reg, unsigned size)
{
    uint32_t val = 0;
    memcpy(&val, bytes + reg, size);
    return val;
}

static void put(uint8_t *bytes, unsigned reg, unsigned size, uint32_t val)
{
    memcpy(bytes + reg, &val, size);
}

static bool touches(unsigned reg, unsigned size, unsigned first, unsigned bytes)
{
    return reg < first + bytes && first < reg + size;
}

void pci_function_init(struct pci_function *f, struct pci_bus *bus, const struct pci_identity *id,
                       const struct pci_function_hooks *hooks, struct vm_lock *lock)
{
    f->bus = bus;
    f->hooks = hooks;
    f->lock = lock ? lock : &f->dev.lock;
    f->capabilities_end = PCI_HEADER_END;
    put(f->fixed, PCI_VENDOR_ID, 2, id->vendor);
    put(f->fixed, PCI_DEVICE_ID, 2, id->device);
    put(f->fixed, PCI_REVISION, 1, id->revision);
    put(f->fixed, PCI_CLASS, 3, id->class_code);
    put(f->fixed, PCI_SUBSYSTEM_VENDOR, 2, id->subsystem_vendor);
    put(f->fixed, PCI_SUBSYSTEM, 2, id->subsystem);
    put(f->writable, PCI_CACHE_LINE, 1, 0xff);
    put(f->writable, PCI_INTERRUPT_LINE, 1, 0xff);
    put(f->writable, PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
    for (unsigned i = 0; i < PCI_BARS; i++)
        f->bar[i].wanted = f->bar[i].mapped = PCI_UNMAPPED;
}

void pci_bar_add(struct pci_function *f, unsigned bar, enum pci_bar_kind kind, uint64_t size, unsigned max_access)
{
    // The sizing protocol (PCI Local Bus 3.0, 6.2.5.1) is nothing but the address bits below the size being read-only.
    uint64_t mask = ~(size - 1);
    unsigned reg = PCI_BAR0 + 4 * bar;
    static const uint8_t type[] = {[PCI_BAR_IO] = 1, [PCI_BAR_MEM32] = 0, [PCI_BAR_MEM64] = 4};
    f->bar[bar] = (struct pci_bar){
        .kind = kind, .size = size, .max_access = max_access, .wanted = PCI_UNMAPPED, .mapped = PCI_UNMAPPED};
    put(f->fixed, reg, 4, type[kind]);
    put(f->writable, reg, 4, (uint32_t)mask);
    if (kind == PCI_BAR_MEM64)
        put(f->writable, reg + 4, 4, (uint32_t)(mask >> 32));
    uint16_t decode = kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    put(f->writable, PCI_COMMAND, 2, get(f->writable, PCI_COMMAND, 2) | decode);
    put(f->fixed, PCI_COMMAND, 2, get(f->fixed, PCI_COMMAND, 2) | decode); // on after reset, as firmware leaves it
}

unsigned pci_capability_add(struct pci_function *f, uint8_t id, const void *bytes, const void *writable, unsigned size)
{
    unsigned at = f->capabilities_end;
    memcpy(f->fixed + at, bytes, size);
    if (writable)
        memcpy(f->writable + at, writable, size);
    f->fixed[at] = id;
    f->fixed[at + 1] = 0;
    f->fixed[f->last_capability ? f->last_capability + 1 : PCI_CAPABILITIES] = (uint8_t)at;
    f->fixed[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    f->last_capability = at;
    f->capabilities_end = (at + size + 3) & ~3u;
    return at;
}

void pci_intx_add(struct pci_function *f)
{
    f->has_intx = true;
    f->fixed[PCI_INTERRUPT_PIN] = 1; // INTA
}

// Takes a naturally aligned piece of a window; 0 if there is no room.
static uint64_t take(const struct pci_window *w, uint64_t *next, uint64_t size)
{
    uint64_t at = (*next + size - 1) & ~(size - 1);
    uint64_t end = w->base + w->size; // a window never reaches the top of the 64-bit space
    if (at < *next || at >= end || size > end - at)
        return 0;
    *next = at + size;
    return at;
}

// A BAR that can lie above 4 GiB still goes below it unless it is large, so that 32-bit guests can use it.
static uint64_t find_place(struct pci_bus *bus, const struct pci_bar *bar)
{
    const struct pci_bus_config *c = &bus->config;
    if (bar->kind == PCI_BAR_IO)
        return take(&c->io, &bus->io_next, bar->size);
    uint64_t at = 0;
    bool large = bar->size > 1 << 20;
    if (bar->kind == PCI_BAR_MEM64 && large)
        at = take(&c->mmio64, &bus->mmio64_next, bar->size);
    if (!at)
        at = take(&c->mmio32, &bus->mmio32_next, bar->size);
    if (!at && bar->kind == PCI_BAR_MEM64 && !large)
        at = take(&c->mmio64, &bus->mmio64_next, bar->size);
    return at;
}

int pci_function_plug(struct pci_function *f, unsigned devfn, const struct device_ops *ops, const char *name,
                      struct error *err)
{
    struct pci_bus *bus = f->bus;
    if (devfn >= PCI_FUNCTIONS || bus->function[devfn])
        return error_set(err, EBUSY, "%s: PCI slot %u.%u is not free", name, devfn >> 3, devfn & 7);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &f->bar[i];
        if (bar->kind == PCI_BAR_NONE)
            continue;
        uint64_t at = find_place(bus, bar);
        if (!at)
            return error_set(err, ENOSPC, "%s: no room for BAR %u (%llu bytes) in the PCI windows", name, i,
                             (unsigned long long)bar->size);
        unsigned reg = PCI_BAR0 + 4 * i;
        put(f->fixed, reg, 4, get(f->fixed, reg, 4) | (uint32_t)at);
        if (bar->kind == PCI_BAR_MEM64)
            put(f->fixed, reg + 4, 4, (uint32_t)(at >> 32));
    }
    f->devfn = (uint8_t)devfn;
    device_add(bus->dev.vm, &f->dev, ops, name);
    if (f->has_intx) {
        irq_line_init(&f->intx, bus->dev.vm, bus->config.intx_gsi(devfn >> 3, 0));
        f->fixed[PCI_INTERRUPT_LINE] = (uint8_t)bus->config.intx_irq(devfn >> 3, 0);
    }
    memcpy(f->value, f->fixed, sizeof f->value);
    bus->function[devfn] = f;
    return 0;
}

static uint64_t bar_address(const struct pci_function *f, unsigned i)
{
    const struct pci_bar *bar = &f->bar[i];
    uint16_t command = pci_command(f);
    unsigned reg = PCI_BAR0 + 4 * i;
    uint64_t at = get(f->value, reg, 4);
    if (!(command & (bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return PCI_UNMAPPED;
    if (bar->kind == PCI_BAR_MEM64)
        at |= (uint64_t)get(f->value, reg + 4, 4) << 32;
    at &= ~(bar->size - 1);
    return at ? at : PCI_UNMAPPED; // zero means that nobody has chosen an address
}

static struct bus *bar_bus(const struct pci_function *f, const struct pci_bar *bar)
{
    return bar->kind == PCI_BAR_IO ? &f->bus->dev.vm->ports : &f->bus->dev.vm->mmio;
}

static void unmap_moved(struct pci_function *f)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &f->bar[i];
        if (bar->mapped != PCI_UNMAPPED && bar->mapped != bar->wanted) {
            bus_remove(bar_bus(f, bar), &f->dev, i);
            bar->mapped = PCI_UNMAPPED;
        }
    }
}

static void map_wanted(struct pci_function *f)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &f->bar[i];
        if (bar->wanted == PCI_UNMAPPED || bar->mapped == bar->wanted)
            continue;
        struct bus_range r = {
            .base = bar->wanted, .size = bar->size, .dev = &f->dev, .region = i, .max_size = bar->max_access};
        // A guest may ask for an address that is taken or does not exist: then the BAR is nowhere until that changes.
        if (!bus_add(bar_bus(f, bar), &r, NULL))
            bar->mapped = bar->wanted;
    }
}

uint64_t pci_bar_address(struct pci_function *f, unsigned bar)
{
    vm_lock(&f->bus->map_lock);
    uint64_t at = f->bar[bar].mapped;
    vm_unlock(&f->bus->map_lock);
    return at;
}

void pci_bars_update(struct pci_function *f)
{
    struct pci_bus *bus = f->bus;
    bool changed = false;
    vm_lock(&bus->map_lock);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &f->bar[i];
        if (bar->kind == PCI_BAR_NONE)
            continue;
        uint64_t wanted = bar_address(f, i);
        changed |= wanted != bar->wanted;
        bar->wanted = wanted;
    }
    if (changed) {
        // This move may also make room for a BAR of another function, which has been waiting for it.
        unmap_moved(f);
        map_wanted(f);
        for (unsigned i = 0; i < PCI_FUNCTIONS; i++)
            if (bus->function[i] && bus->function[i] != f)
                map_wanted(bus->function[i]);
    }
    vm_unlock(&bus->map_lock);
}

// A function that uses MSI-X may not raise its pin (PCI Local Bus 3.0, 6.8.2.3).
static void update_intx(struct pci_function *f)
{
    bool off = (pci_command(f) & PCI_COMMAND_INTX_OFF) || pci_msix_enabled(f);
    if (f->has_intx)
        irq_set(&f->intx, f->intx_level && !off);
}

void pci_intx_set(struct pci_function *f, bool level)
{
    if (f->intx_level == level)
        return;
    f->intx_level = level;
    update_intx(f);
}

// Brings everything that follows from the registers in line with them.
static void registers_changed(struct pci_function *f)
{
    pci_bars_update(f);
    update_intx(f);
    pci_msix_update(f);
}

void pci_function_reset(struct pci_function *f)
{
    vm_lock(f->lock);
    memcpy(f->value, f->fixed, sizeof f->value);
    f->intx_level = false;
    pci_msix_reset(f);
    registers_changed(f);
    vm_unlock(f->lock);
}

int pci_function_loaded(struct pci_function *f)
{
    vm_lock(f->lock);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        f->value[i] = (uint8_t)((f->value[i] & f->writable[i]) | (f->fixed[i] & ~f->writable[i]));
    f->intx_level = f->intx_level && f->has_intx;
    pci_msix_loaded(f);
    registers_changed(f);
    vm_unlock(f->lock);
    return 0;
}

uint32_t pci_function_config_read(struct pci_function *f, unsigned reg, unsigned size)
{
    // A conventional function has no extended space: all ones there, as for a register that straddles the end.
    if (reg + size > PCI_CONFIG_SIZE)
        return size >= 4 ? UINT32_MAX : (1u << 8 * size) - 1;
    vm_lock(f->lock);
    if (f->hooks && f->hooks->config_reading)
        f->hooks->config_reading(f, reg, size);
    uint32_t val = get(f->value, reg, size);
    if (touches(reg, size, PCI_STATUS, 1) && f->intx_level)
        val |= (uint32_t)PCI_STATUS_INTX << 8 * (PCI_STATUS - reg);
    vm_unlock(f->lock);
    return val;
}

void pci_function_config_write(struct pci_function *f, unsigned reg, unsigned size, uint32_t val)
{
    if (reg + size > PCI_CONFIG_SIZE)
        return;
    vm_lock(f->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t w = f->writable[reg + i];
        f->value[reg + i] = (uint8_t)((f->value[reg + i] & ~w) | (val >> 8 * i & w));
    }
    if (touches(reg, size, PCI_COMMAND, 2) || touches(reg, size, PCI_BAR0, 4 * PCI_BARS) ||
        (f->msix.count && touches(reg, size, f->msix.capability, 4)))
        registers_changed(f);
    if (f->hooks && f->hooks->config_written)
        f->hooks->config_written(f, reg, size);
    vm_unlock(f->lock);
}
