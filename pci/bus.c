// The bus: address and data ports, ECAM, the host bridge, and places for BARs. See bus.h.
#include "pci/bus.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

enum { REGION_PORTS, REGION_ECAM };
enum { PORT_ADDRESS = 0xcf8, PORTS = 8, OFFSET_RESET = 1, OFFSET_DATA = 4, ADDRESS_ENABLE = 1u << 31 };

// Reset control register: bit 2 going up resets the machine; bits 1 and 3 say how hard and only read back.
enum { RESET_CPU = 1 << 2, RESET_KEPT = 1 << 1 | 1 << 3 };

static uint64_t all_ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (1ull << 8 * size) - 1;
}

uint32_t pci_bus_config_read(struct pci_bus *bus, unsigned devfn, unsigned reg, unsigned size)
{
    struct pci_function *f = devfn < PCI_FUNCTIONS ? bus->function[devfn] : NULL;
    return f ? pci_function_config_read(f, reg, size) : (uint32_t)all_ones(size);
}

void pci_bus_config_write(struct pci_bus *bus, unsigned devfn, unsigned reg, unsigned size, uint32_t val)
{
    struct pci_function *f = devfn < PCI_FUNCTIONS ? bus->function[devfn] : NULL;
    if (f)
        pci_function_config_write(f, reg, size, val);
}

// The function and register that the address port points at; false if it points nowhere.
static bool selected(struct pci_bus *bus, struct bus_access a, unsigned *devfn, unsigned *reg)
{
    vm_lock(&bus->dev.lock);
    uint32_t address = bus->address;
    vm_unlock(&bus->dev.lock);
    if (a.offset < OFFSET_DATA || !(address & ADDRESS_ENABLE) || (address >> 16 & 0xff) != 0)
        return false;
    *devfn = address >> 8 & 0xff;
    *reg = (address & 0xfc) + (unsigned)(a.offset - OFFSET_DATA);
    return true;
}

static uint64_t port_read(struct pci_bus *bus, struct bus_access a)
{
    unsigned devfn, reg;
    if (selected(bus, a, &devfn, &reg))
        return pci_bus_config_read(bus, devfn, reg, a.size);
    uint64_t val = all_ones(a.size);
    vm_lock(&bus->dev.lock);
    if (a.offset == 0 && a.size == 4)
        val = bus->address;
    else if (a.offset == OFFSET_RESET && a.size == 1)
        val = bus->reset;
    vm_unlock(&bus->dev.lock);
    return val;
}

static void port_write(struct pci_bus *bus, struct bus_access a, uint64_t val)
{
    unsigned devfn, reg;
    if (selected(bus, a, &devfn, &reg)) {
        pci_bus_config_write(bus, devfn, reg, a.size, (uint32_t)val);
        return;
    }
    bool reset = false;
    vm_lock(&bus->dev.lock);
    if (a.offset == 0 && a.size == 4) {
        bus->address = (uint32_t)val & ~0x7f000003u; // reserved bits read as zero
    } else if (a.offset == OFFSET_RESET && a.size == 1) {
        reset = val & RESET_CPU;
        bus->reset = val & RESET_KEPT;
    }
    vm_unlock(&bus->dev.lock);
    if (reset)
        vm_request_reset(bus->dev.vm);
}

static uint64_t bus_device_read(struct device *d, struct bus_access a)
{
    struct pci_bus *bus = (struct pci_bus *)d;
    if (a.region == REGION_PORTS)
        return port_read(bus, a);
    return pci_bus_config_read(bus, (unsigned)(a.offset >> 12), a.offset & 0xfff, a.size);
}

static void bus_device_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct pci_bus *bus = (struct pci_bus *)d;
    if (a.region == REGION_PORTS)
        port_write(bus, a, val);
    else
        pci_bus_config_write(bus, (unsigned)(a.offset >> 12), a.offset & 0xfff, a.size, (uint32_t)val);
}

static void bus_device_reset(struct device *d)
{
    struct pci_bus *bus = (struct pci_bus *)d;
    vm_lock(&d->lock);
    bus->address = 0;
    bus->reset = 0;
    vm_unlock(&d->lock);
}

static void free_device(struct device *d)
{
    vm_free(d);
}

static const struct state_field bus_fields[] = {STATE_U32(struct pci_bus, address, 1),
                                                STATE_U8(struct pci_bus, reset, 1), STATE_END};
static const struct state_table bus_state = {"pci-bus", 1, bus_fields};
static const struct device_ops bus_ops = {
    .name = "pci-bus",
    .unlocked = true,
    .reset = bus_device_reset,
    .read = bus_device_read,
    .write = bus_device_write,
    .state = &bus_state,
    .destroy = free_device,
};

// The host bridge has nothing but an identity: that of a generic PCI Express host bridge, for which no operating system
// has special treatment.
static const struct pci_identity bridge_identity = {
    .vendor = 0x1b36, .device = 0x0008, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .class_code = 0x060000};

static void bridge_reset(struct device *d)
{
    pci_function_reset((struct pci_function *)d);
}

static int bridge_loaded(struct device *d)
{
    return pci_function_loaded((struct pci_function *)d);
}

static const struct state_field bridge_fields[] = {STATE_BYTES(struct pci_function, value, 1), STATE_END};
static const struct state_table bridge_state = {"pci-host-bridge", 1, bridge_fields};
static const struct device_ops bridge_ops = {
    .name = "pci-host-bridge",
    .unlocked = true,
    .reset = bridge_reset,
    .state = &bridge_state,
    .loaded = bridge_loaded,
    .destroy = free_device,
};

int pci_bus_create(struct vm *vm, const struct pci_bus_config *config, struct pci_bus **out, struct error *err)
{
    struct pci_bus *bus = vm_alloc(sizeof *bus);
    if (!bus)
        return error_set(err, ENOMEM, "PCI bus: out of memory");
    bus->config = *config;
    bus->io_next = config->io.base;
    bus->mmio32_next = config->mmio32.base;
    bus->mmio64_next = config->mmio64.base;
    device_add(vm, &bus->dev, &bus_ops, "pci-bus");
    int rc = bus_add(&vm->ports,
                     &(struct bus_range){
                         .base = PORT_ADDRESS, .size = PORTS, .dev = &bus->dev, .region = REGION_PORTS, .max_size = 4},
                     err);
    if (!rc && config->ecam)
        rc = bus_add(
            &vm->mmio,
            &(struct bus_range){
                .base = config->ecam, .size = PCI_ECAM_SIZE, .dev = &bus->dev, .region = REGION_ECAM, .max_size = 4},
            err);
    if (rc) {
        error_prefix(err, "PCI bus");
        return rc;
    }
    bus->bridge = vm_alloc(sizeof *bus->bridge);
    if (!bus->bridge)
        return error_set(err, ENOMEM, "PCI host bridge: out of memory");
    pci_function_init(bus->bridge, bus, &bridge_identity, NULL, NULL);
    rc = pci_function_plug(bus->bridge, 0, &bridge_ops, "pci-host-bridge", err);
    if (rc) {
        vm_free(bus->bridge);
        return rc;
    }
    *out = bus;
    return 0;
}
