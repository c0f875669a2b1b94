// The PCI bus and a function on it: both doors to configuration space, sizing and moving BARs, the command register,
// the pin, MSI-X, capabilities, and restoring from a hostile file.
#include "fake_vm.h"
#include "pci/bus.h"
#include "unit.h"
#include <errno.h>

enum { ECAM = 0xb0000000, MMIO32 = 0xc0000000, SLOT = 3, DEVFN = SLOT * 8, GSI = 16 + SLOT };
#define MMIO64 0x800000000ull

// A function with a 4 KiB 32-bit BAR 0, 32 bytes of ports in BAR 1, a 32 KiB 64-bit BAR 2 with MSI-X in it.
struct card {
    struct pci_function fn;
    unsigned reads, writes;
    struct bus_access last;
    uint64_t last_val;
};

struct bed {
    struct fake_vm f;
    struct pci_bus *bus;
    struct card card;
};

static uint64_t card_read(struct device *d, struct bus_access a)
{
    struct card *c = (struct card *)d;
    uint64_t val;
    if (pci_msix_read(&c->fn, a.region, a.offset, a.size, &val))
        return val;
    c->reads++;
    c->last = a;
    return 0x1234567890abcdef;
}

static void card_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct card *c = (struct card *)d;
    if (pci_msix_write(&c->fn, a.region, a.offset, a.size, val))
        return;
    c->writes++;
    c->last = a;
    c->last_val = val;
}

static void card_reset(struct device *d)
{
    pci_function_reset((struct pci_function *)d);
}

static int card_loaded(struct device *d)
{
    return pci_function_loaded((struct pci_function *)d);
}

static const struct state_field card_fields[] = {PCI_FUNCTION_STATE(struct card, fn), STATE_END};
static const struct state_table card_state = {"card", 1, card_fields};
static const struct device_ops card_ops = {.name = "card",
                                           .unlocked = true,
                                           .reset = card_reset,
                                           .read = card_read,
                                           .write = card_write,
                                           .state = &card_state,
                                           .loaded = card_loaded};
static const struct pci_identity card_id = {.vendor = 0x1af4,
                                            .device = 0x10ff,
                                            .subsystem_vendor = 0x1af4,
                                            .subsystem = 0x1100,
                                            .class_code = 0x123456,
                                            .revision = 7};

static unsigned intx_gsi(unsigned slot, unsigned pin)
{
    return 16 + (slot + pin) % 8;
}

static unsigned intx_irq(unsigned slot, unsigned pin)
{
    return 8 + (slot + pin) % 4;
}

static void make_card(struct card *c, struct pci_bus *bus)
{
    pci_function_init(&c->fn, bus, &card_id, NULL, NULL);
    pci_bar_add(&c->fn, 0, PCI_BAR_MEM32, 0x1000, 8);
    pci_bar_add(&c->fn, 1, PCI_BAR_IO, 0x20, 4);
    pci_bar_add(&c->fn, 2, PCI_BAR_MEM64, 0x8000, 8);
    pci_intx_add(&c->fn);
    pci_msix_add(&c->fn, 2, 0x4000, 0x5000, 3);
}

static int setup(void **state)
{
    struct bed *b = test_calloc(1, sizeof *b);
    struct error err;
    fake_vm_init(&b->f, 1);
    struct pci_bus_config config = {.ecam = ECAM,
                                    .io = {0x6000, 0x1000},
                                    .mmio32 = {MMIO32, 0x1000000},
                                    .mmio64 = {MMIO64, 0x100000000},
                                    .intx_gsi = intx_gsi,
                                    .intx_irq = intx_irq};
    assert_int_equal(pci_bus_create(&b->f.vm, &config, &b->bus, &err), 0);
    make_card(&b->card, b->bus);
    assert_int_equal(pci_function_plug(&b->card.fn, DEVFN, &card_ops, "card", &err), 0);
    fake_vm_reset(&b->f);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bed *b = *state;
    fake_vm_destroy(&b->f);
    test_free(b);
    return 0;
}

static uint32_t conf_read(struct bed *b, unsigned devfn, unsigned reg, unsigned size)
{
    fake_vm_out(&b->f, 0xcf8, 4, 0x80000000 | devfn << 8 | (reg & 0xfc));
    return (uint32_t)fake_vm_in(&b->f, (uint16_t)(0xcfc + (reg & 3)), size);
}

static void conf_write(struct bed *b, unsigned devfn, unsigned reg, unsigned size, uint32_t val)
{
    fake_vm_out(&b->f, 0xcf8, 4, 0x80000000 | devfn << 8 | (reg & 0xfc));
    fake_vm_out(&b->f, (uint16_t)(0xcfc + (reg & 3)), size, val);
}

static uint64_t ecam(unsigned devfn, unsigned reg)
{
    return ECAM + ((uint64_t)devfn << 12) + reg;
}

static void both_doors_show_the_same(void **state)
{
    struct bed *b = *state;
    assert_int_equal(conf_read(b, DEVFN, 0, 4), 0x10ff1af4);
    assert_int_equal(conf_read(b, DEVFN, 2, 2), 0x10ff);
    assert_int_equal(conf_read(b, DEVFN, 3, 1), 0x10);
    assert_int_equal(conf_read(b, DEVFN, 8, 4), 0x12345607);
    assert_int_equal(conf_read(b, DEVFN, 0x2c, 4), 0x11001af4);
    assert_int_equal(conf_read(b, DEVFN, PCI_INTERRUPT_LINE, 2), 0x0100 | (8 + SLOT));
    for (unsigned reg = 0; reg < PCI_CONFIG_SIZE; reg += 4)
        assert_int_equal(fake_vm_read(&b->f, ecam(DEVFN, reg), 4), conf_read(b, DEVFN, reg, 4));
    fake_vm_write(&b->f, ecam(DEVFN, PCI_INTERRUPT_LINE), 1, 0xa5);
    assert_int_equal(conf_read(b, DEVFN, PCI_INTERRUPT_LINE, 1), 0xa5);
    // The host bridge.
    assert_int_equal(conf_read(b, 0, PCI_CLASS, 2) | conf_read(b, 0, PCI_CLASS + 2, 1) << 16, 0x060000);
}

static void nobody_reads_ones(void **state)
{
    struct bed *b = *state;
    assert_int_equal(conf_read(b, 5 * 8, 0, 4), 0xffffffff);
    assert_int_equal(conf_read(b, DEVFN + 1, 0, 2), 0xffff);
    conf_write(b, 5 * 8, 4, 4, 7);
    assert_int_equal(fake_vm_read(&b->f, ecam(5 * 8, 0), 4), 0xffffffff);
    assert_int_equal(fake_vm_read(&b->f, ecam(DEVFN, 0x100), 4), 0xffffffff); // no extended space
    assert_int_equal(fake_vm_read(&b->f, ecam(DEVFN, 0xfe), 4), 0xffffffff);  // across its end
    fake_vm_write(&b->f, ecam(DEVFN, 0x100), 4, 0);
    // Bus 1, and the enable bit clear.
    fake_vm_out(&b->f, 0xcf8, 4, 0x80010000 | DEVFN << 8);
    assert_int_equal(fake_vm_in(&b->f, 0xcfc, 4), 0xffffffff);
    fake_vm_out(&b->f, 0xcf8, 4, DEVFN << 8);
    assert_int_equal(fake_vm_in(&b->f, 0xcfc, 4), 0xffffffff);
    // The address register takes and shows double words only.
    fake_vm_out(&b->f, 0xcf8, 4, 0x80001234);
    assert_int_equal(fake_vm_in(&b->f, 0xcf8, 4), 0x80001234);
    fake_vm_out(&b->f, 0xcfb, 1, 1);
    fake_vm_out(&b->f, 0xcf8, 2, 0x5555);
    assert_int_equal(fake_vm_in(&b->f, 0xcf8, 4), 0x80001234);
    assert_int_equal(fake_vm_in(&b->f, 0xcf8, 1), 0xff);
}

static void only_writable_bits_change(void **state)
{
    struct bed *b = *state;
    static const uint8_t read_only[] = {0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 0x2c, 0x2e, 0x34, 0x3d};
    for (unsigned i = 0; i < sizeof read_only; i++) {
        uint32_t before = conf_read(b, DEVFN, read_only[i], 1);
        conf_write(b, DEVFN, read_only[i], 1, ~before);
        assert_int_equal(conf_read(b, DEVFN, read_only[i], 1), before);
    }
    conf_write(b, DEVFN, PCI_COMMAND, 2, 0xffff);
    assert_int_equal(conf_read(b, DEVFN, PCI_COMMAND, 2),
                     PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
}

static uint64_t bar_of(struct bed *b, unsigned bar, bool wide)
{
    uint64_t at = conf_read(b, DEVFN, PCI_BAR0 + 4 * bar, 4);
    if (wide)
        at |= (uint64_t)conf_read(b, DEVFN, PCI_BAR0 + 4 * bar + 4, 4) << 32;
    return at;
}

static void bars_have_places_and_sizes(void **state)
{
    struct bed *b = *state;
    assert_int_equal(bar_of(b, 0, false), MMIO32);
    assert_int_equal(bar_of(b, 1, false), 0x6000 | 1);
    assert_int_equal(bar_of(b, 2, true), MMIO32 + 0x8000 + 4); // aligned to its size; 64-bit
    assert_int_equal(conf_read(b, DEVFN, PCI_COMMAND, 2), PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    fake_vm_read(&b->f, MMIO32 + 0xff8, 8);
    assert_int_equal(b->card.last.region, 0);
    assert_int_equal(b->card.last.offset, 0xff8);
    fake_vm_out(&b->f, 0x6004, 2, 0xbeef);
    assert_int_equal(b->card.last.region, 1);
    assert_int_equal(b->card.last_val, 0xbeef);
    // Sizing, as every operating system does it.
    for (unsigned bar = 0; bar < 6; bar++)
        conf_write(b, DEVFN, PCI_BAR0 + 4 * bar, 4, 0xffffffff);
    assert_int_equal(bar_of(b, 0, false), 0xfffff000);
    assert_int_equal(bar_of(b, 1, false), 0xffffffe1);
    assert_true(bar_of(b, 2, true) == 0xffffffffffff8004);
    assert_int_equal(bar_of(b, 4, true), 0);
}

static unsigned reads_at(struct bed *b, uint64_t gpa)
{
    unsigned before = b->card.reads;
    fake_vm_read(&b->f, gpa, 4);
    return b->card.reads - before;
}

static void bars_move_and_switch(void **state)
{
    struct bed *b = *state;
    assert_int_equal(reads_at(b, MMIO32), 1);
    conf_write(b, DEVFN, PCI_BAR0, 4, MMIO32 + 0x200000);
    assert_int_equal(reads_at(b, MMIO32), 0);
    assert_int_equal(reads_at(b, MMIO32 + 0x200000), 1);
    conf_write(b, DEVFN, PCI_COMMAND, 2, PCI_COMMAND_IO);
    assert_int_equal(reads_at(b, MMIO32 + 0x200000), 0);
    fake_vm_in(&b->f, 0x6000, 4);
    assert_int_equal(b->card.last.region, 1);
    conf_write(b, DEVFN, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(reads_at(b, MMIO32 + 0x200000), 1);
    assert_int_equal(fake_vm_in(&b->f, 0x6000, 4), 0xffffffff);
    // A 64-bit BAR above 4 GiB: its halves are written one after the other.
    conf_write(b, DEVFN, PCI_BAR0 + 12, 4, MMIO64 >> 32);
    conf_write(b, DEVFN, PCI_BAR0 + 8, 4, 0x10000);
    assert_int_equal(reads_at(b, MMIO64 + 0x10000), 1);
    assert_int_equal(b->card.last.region, 2);
    // Where nothing can be: at zero, over another device, beyond the bus. It is nowhere then, and comes back.
    conf_write(b, DEVFN, PCI_BAR0, 4, 0);
    assert_int_equal(b->card.fn.bar[0].mapped, PCI_UNMAPPED);
    conf_write(b, DEVFN, PCI_BAR0, 4, ECAM + 0x1000);
    assert_int_equal(reads_at(b, ECAM + 0x1000), 0);
    conf_write(b, DEVFN, PCI_BAR0, 4, MMIO32);
    assert_int_equal(reads_at(b, MMIO32), 1);
    // After a reset everything is where it was.
    fake_vm_reset(&b->f);
    assert_int_equal(bar_of(b, 2, true), MMIO32 + 0x8000 + 4);
    assert_int_equal(reads_at(b, MMIO32 + 0x8000), 1);
}

// Two functions that change places: whoever finds its place taken gets it when the other goes.
static void a_waiting_bar_gets_its_place(void **state)
{
    struct bed *b = *state;
    struct card *other = test_calloc(1, sizeof *other);
    struct error err;
    make_card(other, b->bus);
    assert_int_equal(pci_function_plug(&other->fn, DEVFN, &card_ops, "other", &err), -EBUSY);
    assert_int_equal(pci_function_plug(&other->fn, DEVFN + 8, &card_ops, "other", &err), 0);
    fake_vm_reset(&b->f);
    uint64_t first = MMIO32, second = other->fn.bar[0].mapped;
    assert_true(second != PCI_UNMAPPED && second != first);
    conf_write(b, DEVFN, PCI_BAR0, 4, (uint32_t)second); // taken
    assert_int_equal(reads_at(b, second), 0);
    conf_write(b, DEVFN + 8, PCI_BAR0, 4, (uint32_t)first);
    assert_int_equal(reads_at(b, second), 1);
    assert_int_equal(other->fn.bar[0].mapped, first);
    fake_vm_destroy(&b->f);
    test_free(other);
    fake_vm_init(&b->f, 1); // for teardown
}

static void no_room_is_an_error(void **state)
{
    struct bed *b = *state;
    struct card *big = test_calloc(1, sizeof *big);
    struct error err;
    pci_function_init(&big->fn, b->bus, &card_id, NULL, NULL);
    pci_bar_add(&big->fn, 0, PCI_BAR_MEM32, 0x2000000, 4);
    assert_int_equal(pci_function_plug(&big->fn, 8, &card_ops, "big", &err), -ENOSPC);
    assert_non_null(strstr(err.text, "big: no room for BAR 0"));
    memset(big, 0, sizeof *big);
    pci_function_init(&big->fn, b->bus, &card_id, NULL, NULL);
    pci_bar_add(&big->fn, 0, PCI_BAR_MEM64, 0x2000000, 4);
    assert_int_equal(pci_function_plug(&big->fn, 8, &card_ops, "big", &err), 0);
    assert_true(((uint64_t)conf_read(b, 8, PCI_BAR0 + 4, 4) << 32 | (conf_read(b, 8, PCI_BAR0, 4) & ~15u)) == MMIO64);
    fake_vm_destroy(&b->f);
    test_free(big);
    fake_vm_init(&b->f, 1);
}

static void the_pin_obeys_the_command_register(void **state)
{
    struct bed *b = *state;
    pci_intx_set(&b->card.fn, true);
    assert_true(b->f.line[GSI]);
    assert_int_equal(conf_read(b, DEVFN, PCI_STATUS, 2), PCI_STATUS_INTX | PCI_STATUS_CAPABILITIES);
    assert_int_equal(conf_read(b, DEVFN, PCI_COMMAND, 4) >> 16, PCI_STATUS_INTX | PCI_STATUS_CAPABILITIES);
    conf_write(b, DEVFN, PCI_COMMAND, 2, PCI_COMMAND_INTX_OFF);
    assert_false(b->f.line[GSI]);
    assert_true(conf_read(b, DEVFN, PCI_STATUS, 2) & PCI_STATUS_INTX); // the status bit says what the device wants
    conf_write(b, DEVFN, PCI_COMMAND, 2, 0);
    assert_true(b->f.line[GSI]);
    unsigned msix = conf_read(b, DEVFN, PCI_CAPABILITIES, 1);
    conf_write(b, DEVFN, msix + 2, 2, 0x8000);
    assert_false(b->f.line[GSI]);
    conf_write(b, DEVFN, msix + 2, 2, 0);
    assert_true(b->f.line[GSI]);
    pci_intx_set(&b->card.fn, false);
    assert_false(b->f.line[GSI]);
    pci_intx_set(&b->card.fn, true);
    fake_vm_reset(&b->f);
    assert_false(b->f.line[GSI]);
}

enum { TABLE = MMIO32 + 0x8000 + 0x4000, PBA = MMIO32 + 0x8000 + 0x5000 };

static void program_vector(struct bed *b, unsigned v, uint64_t address, uint32_t data, uint32_t control)
{
    fake_vm_write(&b->f, TABLE + 16 * v, 4, (uint32_t)address);
    fake_vm_write(&b->f, TABLE + 16 * v + 4, 4, (uint32_t)(address >> 32));
    fake_vm_write(&b->f, TABLE + 16 * v + 8, 8, data | (uint64_t)control << 32);
}

static void msix_masks_and_remembers(void **state)
{
    struct bed *b = *state;
    struct pci_function *fn = &b->card.fn;
    unsigned cap = conf_read(b, DEVFN, PCI_CAPABILITIES, 1);
    assert_int_equal(conf_read(b, DEVFN, cap, 4), PCI_CAP_MSIX | 2 << 16); // last in the list, three vectors
    assert_int_equal(conf_read(b, DEVFN, cap + 4, 4), 0x4000 | 2);
    assert_int_equal(conf_read(b, DEVFN, cap + 8, 4), 0x5000 | 2);
    assert_int_equal(fake_vm_read(&b->f, TABLE + 12, 4), 1); // masked after reset
    program_vector(b, 1, 0xfee01000, 0x41, 0);
    pci_msix_fire(fn, 1); // not enabled: nothing, not even pending
    assert_int_equal(b->f.msis, 0);
    assert_int_equal(fake_vm_read(&b->f, PBA, 4), 0);

    conf_write(b, DEVFN, cap + 2, 2, 0x8000);
    pci_msix_fire(fn, 1); // the function may not master the bus
    assert_int_equal(b->f.msis, 0);
    assert_int_equal(fake_vm_read(&b->f, PBA, 8), 2);
    conf_write(b, DEVFN, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(b->f.msis, 1);
    assert_int_equal(b->f.msi[0].address, 0xfee01000);
    assert_int_equal(b->f.msi[0].data, 0x41);
    assert_int_equal(fake_vm_read(&b->f, PBA, 8), 0);

    pci_msix_fire(fn, 1);
    assert_int_equal(b->f.msis, 2);
    pci_msix_fire(fn, 0); // masked in its entry; twice is once
    pci_msix_fire(fn, 0);
    pci_msix_fire(fn, 77); // no such vector
    assert_int_equal(b->f.msis, 2);
    assert_int_equal(fake_vm_read(&b->f, PBA, 4), 1);
    program_vector(b, 0, 0x1fee02000, 0x42, 0xfffffffe);
    assert_int_equal(b->f.msis, 3);
    assert_true(b->f.msi[2].address == 0x1fee02000);
    assert_int_equal(fake_vm_read(&b->f, TABLE + 12, 4), 0); // reserved bits do not stick

    conf_write(b, DEVFN, cap + 2, 2, 0xc000); // all masked
    pci_msix_fire(fn, 0);
    pci_msix_fire(fn, 1);
    assert_int_equal(b->f.msis, 3);
    fake_vm_write(&b->f, PBA, 8, 0); // read-only
    fake_vm_write(&b->f, TABLE + 2, 2, 0xffff);
    fake_vm_write(&b->f, TABLE + 4, 8, ~0ull); // not aligned
    conf_write(b, DEVFN, cap + 2, 2, 0x8000);
    assert_int_equal(b->f.msis, 5);
    assert_true(b->f.msi[3].address == 0x1fee02000);
    assert_int_equal(b->f.msi[3].data, 0x42);
    assert_int_equal(b->f.msi[4].address, 0xfee01000);
    assert_int_equal(fake_vm_read(&b->f, TABLE + 0x30, 4), 0x90abcdef); // beyond the table it is the device's own
}

static void port_cf9_resets(void **state)
{
    struct bed *b = *state;
    fake_vm_out(&b->f, 0xcf9, 1, 0x02);
    assert_int_equal(fake_vm_in(&b->f, 0xcf9, 1), 0x02);
    assert_int_equal(b->f.vm.end, VM_END_NONE);
    fake_vm_out(&b->f, 0xcf9, 1, 0x06);
    assert_int_equal(b->f.vm.end, VM_END_RESET);
}

static void state_is_kept_and_hostile_state_tamed(void **state)
{
    struct bed *b = *state, *other = NULL;
    assert_int_equal(setup((void **)&other), 0);
    unsigned cap = conf_read(b, DEVFN, PCI_CAPABILITIES, 1);
    program_vector(b, 2, 0xfee03000, 0x43, 1);
    conf_write(b, DEVFN, cap + 2, 2, 0x8000);
    conf_write(b, DEVFN, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    conf_write(b, DEVFN, PCI_BAR0, 4, MMIO32 + 0x300000);
    pci_msix_fire(&b->card.fn, 2);
    assert_int_equal(fake_vm_copy_state(&b->card.fn.dev, &other->card.fn.dev), 0);
    assert_int_equal(reads_at(other, MMIO32 + 0x300000), 1);
    assert_int_equal(reads_at(other, MMIO32), 0);
    assert_int_equal(other->f.msis, 0);
    fake_vm_write(&other->f, TABLE + 16 * 2 + 12, 4, 0);
    assert_int_equal(other->f.msis, 1);
    assert_int_equal(other->f.msi[0].data, 0x43);

    memset(b->card.fn.value, 0xff, sizeof b->card.fn.value);
    memset(b->card.fn.msix.table, 0xff, sizeof b->card.fn.msix.table);
    b->card.fn.msix.pending = UINT64_MAX;
    b->card.fn.intx_level = 1;
    assert_int_equal(fake_vm_copy_state(&b->card.fn.dev, &other->card.fn.dev), 0);
    assert_int_equal(conf_read(other, DEVFN, 0, 4), 0x10ff1af4);
    assert_int_equal(conf_read(other, DEVFN, cap, 4), PCI_CAP_MSIX | (0xc000u | 2) << 16);
    assert_int_equal(other->card.fn.msix.pending, 7);
    conf_write(other, DEVFN, PCI_BAR0 + 8, 4, MMIO32 + 0x8000);
    conf_write(other, DEVFN, PCI_BAR0 + 12, 4, 0);
    assert_int_equal(fake_vm_read(&other->f, TABLE + 12, 4), 1);
    teardown((void **)&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(both_doors_show_the_same, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_reads_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(only_writable_bits_change, setup, teardown),
        cmocka_unit_test_setup_teardown(bars_have_places_and_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(bars_move_and_switch, setup, teardown),
        cmocka_unit_test_setup_teardown(a_waiting_bar_gets_its_place, setup, teardown),
        cmocka_unit_test_setup_teardown(no_room_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(the_pin_obeys_the_command_register, setup, teardown),
        cmocka_unit_test_setup_teardown(msix_masks_and_remembers, setup, teardown),
        cmocka_unit_test_setup_teardown(port_cf9_resets, setup, teardown),
        cmocka_unit_test_setup_teardown(state_is_kept_and_hostile_state_tamed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
