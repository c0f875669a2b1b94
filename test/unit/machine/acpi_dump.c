// Writes the ACPI tables of a PC into files, for acpi.sh: acpi_dump CPUS MMIO_DEVICES DIRECTORY. Also checks what the
// disassembler does not: that each table is reachable, sealed, and inside of its area.
#include "machine/acpi.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t memory[ACPI_SIZE];

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

static uint64_t number(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, p, size);
    return v;
}

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    while (n--)
        s += *p++;
    return s;
}

static const uint8_t *table_at(uint64_t address)
{
    check(address >= ACPI_BASE && address <= ACPI_BASE + ACPI_SIZE - 36, "a table outside of the area");
    const uint8_t *t = memory + (address - ACPI_BASE);
    check(number(t + 4, 4) <= ACPI_SIZE - (address - ACPI_BASE), "a table too long");
    return t;
}

static void dump(const char *directory, const uint8_t *t, const char *signature, const char *name)
{
    char path[256];
    uint32_t size = number(t + 4, 4);
    check(!memcmp(t, signature, 4), signature);
    check(!memcmp(signature, "FACS", 4) || !sum(t, size), "a wrong checksum");
    snprintf(path, sizeof path, "%s/%s.aml", directory, name);
    FILE *f = fopen(path, "wb");
    check(f && fwrite(t, 1, size, f) == size && !fclose(f), path);
}

static unsigned gsi(unsigned slot, unsigned pin)
{
    return 16 + (slot + pin) % 4;
}

static unsigned irq(unsigned slot, unsigned pin)
{
    return 10 + (slot + pin) % 2;
}

int main(int argc, char **argv)
{
    check(argc == 4, "usage: acpi_dump CPUS MMIO_DEVICES DIRECTORY");
    struct acpi_description d = {
        .cpus = atoi(argv[1]),
        .local_apic = 0xfee00000,
        .ioapic = 0xfec00000,
        .sci = 9,
        .pm_base = 0x600,
        .reset_port = 0xcf9,
        .reset_value = 6,
        .ecam = 0xe0000000,
        .pci_io_low = {0, 0xcf8},
        .pci_io_high = {0xd00, 0xf300},
        .pci_mmio32 = {0xc0000000, 0x20000000},
        .pci_mmio64 = {0x1000000000, 0x1000000000},
        .generation = 0xff000,
        .generation_gsi = 5,
        .pci_gsi = gsi,
        .pci_irq = irq,
        .serials = 2,
        .serial = {{0x3f8, 4, 1}, {0x2f8, 3, 2}},
        .virtio_mmios = atoi(argv[2]),
    };
    for (unsigned i = 0; i < d.virtio_mmios; i++)
        d.virtio_mmio[i] = (struct acpi_mmio_device){0xfeb00000 + i * 0x200, 0x200, 20 + i % 4};
    uint64_t rsdp_at = acpi_write(memory, ACPI_BASE, sizeof memory, &d);
    check(rsdp_at && !(rsdp_at & 15), "the tables do not fit");
    const uint8_t *rsdp = memory + (rsdp_at - ACPI_BASE);
    check(!memcmp(rsdp, "RSD PTR ", 8) && !sum(rsdp, 20) && !sum(rsdp, 36), "a broken RSDP");
    const uint8_t *xsdt = table_at(number(rsdp + 24, 8));
    dump(argv[3], xsdt, "XSDT", "xsdt");
    check(number(xsdt + 4, 4) == 36 + 3 * 8, "the XSDT's size");
    const uint8_t *fadt = table_at(number(xsdt + 36, 8));
    dump(argv[3], fadt, "FACP", "facp");
    dump(argv[3], table_at(number(xsdt + 44, 8)), "APIC", "apic");
    dump(argv[3], table_at(number(xsdt + 52, 8)), "MCFG", "mcfg");
    dump(argv[3], table_at(number(fadt + 36, 4)), "FACS", "facs");
    check(!(number(fadt + 36, 4) & 63), "the FACS is not aligned");
    dump(argv[3], table_at(number(fadt + 40, 4)), "DSDT", "dsdt");
    check(number(fadt + 140, 8) == number(fadt + 40, 4), "two addresses of the DSDT");
    // And what does not fit is refused, wherever it is cut.
    for (size_t size = 0; size < 4096; size += 7)
        check(!acpi_write(memory, ACPI_BASE, size, &d), "tables that fit where they can't");
    return 0;
}
