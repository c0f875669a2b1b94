// The DSDT: the machine's devices that cannot be found by asking them (ACPI 6.4, chapters 5 and 6).
//
// In ASL it would read like this (one device of each kind):
//
//     Name (PICM, Zero)                           // interrupts by the PIC, until the system says otherwise
//     Method (\_PIC, 1) { Store (Arg0, PICM) }
//     Name (\_S5, Package () {0, 0, 0, 0})        // SLP_TYP of "soft off"
//     Scope (\_SB) {
//         Device (C000) { Name (_HID, "ACPI0007")  Name (_UID, Zero) }
//         Device (PCI0) { ...  Method (_PRT) { If (PICM) { Return (PRTA) }  Return (PRTP) } }
//         Device (RES0) { Name (_HID, EisaId ("PNP0C02")) ... }      // configuration space, power management
//         Device (RTC0) { Name (_HID, EisaId ("PNP0B00")) ... }
//         Device (KBD0) { Name (_HID, EisaId ("PNP0303")) ... }
//         Device (COM1) { Name (_HID, EisaId ("PNP0501")) ... }
//         Device (VM00) { Name (_HID, "LNRO0005") ... }              // virtio-mmio
//         Device (VGEN) { Name (_CID, "VM_Gen_Counter")  Name (ADDR, Package () {0xff000, Zero}) ... }
//         Device (GED0) { Name (_HID, "ACPI0013") ...  Method (_EVT, 1) { Notify (VGEN, 0x80) } }
//     }
#include "chip/acpi_pm.h"
#include "machine/acpi.h"
#include "machine/aml.h"
#include "pci/bus.h"

static void named_int(struct aml *a, const char *name, uint64_t v)
{
    aml_name(a, name);
    aml_int(a, v);
}

static void hid(struct aml *a, const char *eisa_id)
{
    aml_name(a, "_HID");
    aml_eisa_id(a, eisa_id);
}

// "C007" from 'C', 7 in hexadecimal.
static const char *numbered(char name[5], char letter, char second, unsigned n)
{
    static const char digits[] = "0123456789ABCDEF";
    name[0] = letter;
    name[1] = second;
    name[2] = digits[n / 16 % 16];
    name[3] = digits[n % 16];
    name[4] = 0;
    return name;
}

static void processors(struct aml *a, const struct acpi_description *d)
{
    char name[5];
    for (unsigned i = 0; i < d->cpus; i++) {
        aml_device(a, numbered(name, 'C', '0', i));
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        named_int(a, "_UID", i);
        aml_close(a);
    }
}

// A routing table: for each pin of each slot a package of address, pin, 0, interrupt (6.2.13).
static void routing(struct aml *a, const char *name, unsigned (*route)(unsigned slot, unsigned pin))
{
    aml_name(a, name);
    aml_package(a, (PCI_SLOTS - 1) * 4);
    for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            aml_package(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_int(a, 0);
            aml_int(a, route(slot, pin));
            aml_close(a);
        }
    }
    aml_close(a);
}

static void window_memory(struct aml *a, const struct acpi_window *w)
{
    if (w->size)
        aml_window_memory(a, w->base, w->size);
}

static void pci(struct aml *a, const struct acpi_description *d)
{
    aml_device(a, "PCI0");
    hid(a, "PNP0A08");
    aml_name(a, "_CID");
    aml_eisa_id(a, "PNP0A03");
    named_int(a, "_UID", 0);
    named_int(a, "_SEG", 0);
    named_int(a, "_BBN", 0);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_window_bus(a, 0, 0);
    aml_io(a, 0xcf8, 8);
    aml_window_io(a, d->pci_io_low.base, d->pci_io_low.base + d->pci_io_low.size - 1);
    aml_window_io(a, d->pci_io_high.base, d->pci_io_high.base + d->pci_io_high.size - 1);
    window_memory(a, &d->pci_mmio32);
    window_memory(a, &d->pci_mmio64);
    aml_resources_end(a);

    routing(a, "PRTA", d->pci_gsi);
    routing(a, "PRTP", d->pci_irq);
    aml_method(a, "_PRT", 0);
    aml_if(a);
    aml_path(a, "PICM");
    aml_byte(a, AML_RETURN);
    aml_path(a, "PRTA");
    aml_close(a);
    aml_byte(a, AML_RETURN);
    aml_path(a, "PRTP");
    aml_close(a);
    aml_close(a);
}

// Addresses that are taken, but by nothing that has a driver.
static void reserved(struct aml *a, const struct acpi_description *d)
{
    aml_device(a, "RES0");
    hid(a, "PNP0C02");
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_memory32(a, d->ecam, PCI_ECAM_SIZE);
    aml_io(a, d->pm_base, ACPI_PM_SIZE);
    aml_resources_end(a);
    aml_close(a);
}

static void isa(struct aml *a, const char *name, const char *id, uint16_t port, uint8_t size, uint16_t port2,
                unsigned irq, unsigned uid)
{
    aml_device(a, name);
    hid(a, id);
    named_int(a, "_UID", uid);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_io(a, port, size);
    if (port2)
        aml_io(a, port2, size);
    aml_irq(a, irq);
    aml_resources_end(a);
    aml_close(a);
}

static void virtio_mmio(struct aml *a, const struct acpi_description *d)
{
    char name[5];
    for (unsigned i = 0; i < d->virtio_mmios; i++) {
        const struct acpi_mmio_device *m = &d->virtio_mmio[i];
        aml_device(a, numbered(name, 'V', 'M', i));
        aml_name(a, "_HID");
        aml_string(a, "LNRO0005");
        named_int(a, "_UID", i);
        aml_name(a, "_CRS");
        aml_resources(a);
        aml_memory32(a, m->base, m->size);
        aml_interrupt(a, m->gsi);
        aml_resources_end(a);
        aml_close(a);
    }
}

// The generation of the machine, and the event device (5.6.9) that says when it has changed.
static void generation(struct aml *a, const struct acpi_description *d)
{
    enum { CHANGED = 0x80 };
    if (!d->generation)
        return;
    aml_device(a, "VGEN");
    aml_name(a, "_HID");
    aml_string(a, "TRPZ0001");
    aml_name(a, "_CID");
    aml_string(a, "VM_Gen_Counter");
    aml_name(a, "_DDN");
    aml_string(a, "VM_Gen_Counter");
    aml_name(a, "ADDR");
    aml_package(a, 2);
    aml_int(a, (uint32_t)d->generation);
    aml_int(a, d->generation >> 32);
    aml_close(a);
    aml_close(a);

    aml_device(a, "GED0");
    aml_name(a, "_HID");
    aml_string(a, "ACPI0013");
    named_int(a, "_UID", 0);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_event(a, d->generation_gsi);
    aml_resources_end(a);
    aml_method(a, "_EVT", 1);
    aml_byte(a, AML_NOTIFY);
    aml_path(a, "\\_SB.VGEN");
    aml_int(a, CHANGED);
    aml_close(a);
    aml_close(a);
}

void acpi_dsdt(struct aml *a, const struct acpi_description *d)
{
    named_int(a, "PICM", 0);
    aml_method(a, "\\_PIC", 1);
    aml_byte(a, AML_STORE);
    aml_byte(a, AML_ARG0);
    aml_path(a, "PICM");
    aml_close(a);

    aml_name(a, "\\_S5");
    aml_package(a, 4);
    aml_int(a, d->s5);
    for (unsigned i = 1; i < 4; i++)
        aml_int(a, 0);
    aml_close(a);

    aml_scope(a, "\\_SB");
    processors(a, d);
    pci(a, d);
    reserved(a, d);
    isa(a, "RTC0", "PNP0B00", 0x70, 2, 0, 8, 0);
    isa(a, "KBD0", "PNP0303", 0x60, 1, 0x64, 1, 0);
    for (unsigned i = 0; i < d->serials; i++) {
        const struct acpi_serial *s = &d->serial[i];
        char name[] = {'C', 'O', 'M', '0' + s->number, 0};
        isa(a, name, "PNP0501", s->port, 8, 0, s->irq, s->number);
    }
    virtio_mmio(a, d);
    generation(a, d);
    aml_close(a);
}
