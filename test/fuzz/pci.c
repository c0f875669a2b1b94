// PCI configuration space, BARs that move, and MSI-X.
#include "guest.h"
#include "pci/bus.h"
#include <string.h>

enum { CARDS = 2, ECAM = 0xb0000000, SPACE = 0xc0000000 };

struct card {
    struct pci_function fn;
};

static uint64_t card_read(struct device *d, struct bus_access a)
{
    struct card *c = (struct card *)d;
    uint64_t val = 0;
    FUZZ_CHECK(a.region < PCI_BARS && a.offset + a.size <= c->fn.bar[a.region].size);
    vm_lock(&d->lock);
    pci_msix_read(&c->fn, a.region, a.offset, a.size, &val);
    vm_unlock(&d->lock);
    return val;
}

static void card_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct card *c = (struct card *)d;
    FUZZ_CHECK(a.region < PCI_BARS && a.offset + a.size <= c->fn.bar[a.region].size);
    vm_lock(&d->lock);
    pci_msix_write(&c->fn, a.region, a.offset, a.size, val);
    vm_unlock(&d->lock);
}

static void card_reset(struct device *d)
{
    pci_function_reset((struct pci_function *)d);
}

static int card_loaded(struct device *d)
{
    return pci_function_loaded((struct pci_function *)d);
}

static const struct state_field fields[] = {PCI_FUNCTION_STATE(struct card, fn), STATE_END};
static const struct state_table state = {"card", 1, fields};
static const struct device_ops ops = {.name = "card",
                                      .unlocked = true,
                                      .reset = card_reset,
                                      .read = card_read,
                                      .write = card_write,
                                      .state = &state,
                                      .loaded = card_loaded};
static const struct pci_identity identity = {.vendor = 0x1af4, .device = 0x10ff, .class_code = 0xff0000};

static unsigned intx_gsi(unsigned slot, unsigned pin)
{
    return 16 + (slot + pin) % 8;
}

// Opens a vector, as a driver does.
static void program(struct card *c, unsigned vector, unsigned how)
{
    struct pci_bus *bus = c->fn.bus;
    unsigned cap = pci_bus_config_read(bus, c->fn.devfn, PCI_CAPABILITIES, 1);
    pci_bus_config_write(bus, c->fn.devfn, cap + 2, 2, how & 1 ? 0xc000 : 0x8000);
    pci_bus_config_write(bus, c->fn.devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | (how & 2 ? 0 : PCI_COMMAND_MASTER));
    pci_bus_config_write(bus, c->fn.devfn, PCI_BAR0 + 8, 4, SPACE);
    pci_bus_config_write(bus, c->fn.devfn, PCI_BAR0 + 12, 4, 0);
    bus_write(&bus->dev.vm->mmio, 0, SPACE + 16 * (vector % 64) + 8, 8, how >> 2 & 1 ? 0 : 1ull << 32);
}

// The device's side: the pin and the vectors go off.
static void device_acts(struct fuzz_guest *g, void *ctx)
{
    struct card *c = (struct card *)ctx + fuzz_take(g, 1) % CARDS;
    unsigned what = (unsigned)fuzz_take(g, 1);
    if (what >= 0xc0) {
        program(c, (unsigned)fuzz_take(g, 1), what);
        return;
    }
    vm_lock(&c->fn.dev.lock);
    if (what & 0x80)
        pci_intx_set(&c->fn, what & 1);
    else
        pci_msix_fire(&c->fn, what);
    vm_unlock(&c->fn.dev.lock);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_guest g;
    struct pci_bus *bus;
    struct card card[CARDS];
    memset(card, 0, sizeof card);
    fuzz_begin(&g, data, size);
    struct pci_bus_config config = {.ecam = ECAM,
                                    .io = {0x6000, 0x1000},
                                    .mmio32 = {SPACE, 0x1000000},
                                    .mmio64 = {1ull << 35, 1ull << 32},
                                    .intx_gsi = intx_gsi,
                                    .intx_irq = intx_gsi};
    FUZZ_CHECK(pci_bus_create(&g.f.vm, &config, &bus, NULL) == 0);
    fuzz_range(&g, &g.f.vm.ports, 0xcf8, 8);
    fuzz_range(&g, &g.f.vm.mmio, ECAM, 0x100);
    for (unsigned i = 0; i < CARDS; i++) {
        struct pci_function *fn = &card[i].fn;
        pci_function_init(fn, bus, &identity, NULL, NULL);
        pci_bar_add(fn, 0, PCI_BAR_MEM32, 0x1000, 4);
        pci_bar_add(fn, 1, PCI_BAR_IO, 0x20, 4);
        pci_bar_add(fn, 2, PCI_BAR_MEM64, 0x1000, 8);
        pci_intx_add(fn);
        pci_msix_add(fn, 2, 0, 0x800, 1 + 63 * i);
        FUZZ_CHECK(pci_function_plug(fn, 8 + i, &ops, i ? "card1" : "card0", NULL) == 0);
        fuzz_range(&g, &g.f.vm.mmio, ECAM + ((8 + i) << 12), 0x100);
    }
    fuzz_range(&g, &g.f.vm.mmio, SPACE, 0x8000);
    fuzz_range(&g, &g.f.vm.ports, 0x6000, 0x80);
    fuzz_run(&g, device_acts, card);
    for (unsigned i = 0; i < CARDS; i++) // identities cannot be changed
        FUZZ_CHECK(pci_bus_config_read(bus, 8 + i, 0, 4) == 0x10ff1af4);
    fuzz_end(&g);
    return 0;
}
