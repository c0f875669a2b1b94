// The ACPI tables but the DSDT's code (ACPI 6.4, 5.2): RSDP, XSDT, FADT, FACS, MADT, MCFG.
//
// Tables are written one after the other and each is sealed with its checksum. The platform is an ordinary PC, not a
// "hardware-reduced" one, but in ACPI mode from the start: there is no SMI command port.
//
// Example: in the MADT, interrupt 0 of the ISA bus (the PIT) is GSI 2 and the SCI is level-triggered.
#include "machine/acpi.h"
#include "machine/aml.h"
#include <string.h>

enum { HEADER = 36 };

struct writer {
    uint8_t *memory;
    uint64_t address;
    size_t size, at;
    int overflow;
};

static uint8_t checksum(const uint8_t *p, size_t n)
{
    uint8_t sum = 0;
    while (n--)
        sum += *p++;
    return -sum;
}

// Room for a table; NULL if there is none. Tables begin at multiples of 64, as the FACS must.
static uint8_t *begin(struct writer *w, size_t size)
{
    size_t at = (w->at + 63) & ~(size_t)63;
    if (at > w->size || size > w->size - at) {
        w->overflow = 1;
        return NULL;
    }
    w->at = at + size;
    memset(w->memory + at, 0, size);
    return w->memory + at;
}

static uint64_t address_of(const struct writer *w, const uint8_t *table)
{
    return w->address + (table - w->memory);
}

static void put16(uint8_t *table, unsigned offset, uint16_t v)
{
    memcpy(table + offset, &v, sizeof v);
}

static void put32(uint8_t *table, unsigned offset, uint32_t v)
{
    memcpy(table + offset, &v, sizeof v);
}

static void put64(uint8_t *table, unsigned offset, uint64_t v)
{
    memcpy(table + offset, &v, sizeof v);
}

// The header that all tables but RSDP and FACS share (5.2.6), and the checksum over all.
static void seal(uint8_t *table, const char *signature, uint8_t revision, uint32_t size)
{
    memcpy(table, signature, 4);
    put32(table, 4, size);
    table[8] = revision;
    memcpy(table + 10, "TRAPEZ", 6);
    memcpy(table + 16, "TRAPEZE ", 8);
    put32(table, 24, 1);
    memcpy(table + 28, "TRPZ", 4);
    put32(table, 32, 1);
    table[9] = 0;
    table[9] = checksum(table, size);
}

static uint64_t write_dsdt(struct writer *w, const struct acpi_description *d)
{
    uint8_t *t = begin(w, HEADER);
    if (!t)
        return 0;
    struct aml a = {.data = t + HEADER, .capacity = w->size - w->at};
    acpi_dsdt(&a, d);
    if (a.overflow) {
        w->overflow = 1;
        return 0;
    }
    w->at += a.size;
    seal(t, "DSDT", 2, HEADER + a.size);
    return address_of(w, t);
}

static uint64_t write_facs(struct writer *w)
{
    enum { SIZE = 64 };
    uint8_t *t = begin(w, SIZE);
    if (!t)
        return 0;
    memcpy(t, "FACS", 4);
    put32(t, 4, SIZE);
    t[32] = 2; // version; it has no checksum
    return address_of(w, t);
}

// A generic address structure in I/O space (5.2.3.2).
static void put_gas(uint8_t *table, unsigned offset, uint16_t port, unsigned bits)
{
    table[offset] = 1;
    table[offset + 1] = bits;
    table[offset + 3] = bits == 8 ? 1 : bits == 16 ? 2 : 3; // access size
    put64(table, offset + 4, port);
}

static uint64_t write_fadt(struct writer *w, const struct acpi_description *d, uint64_t dsdt, uint64_t facs)
{
    enum { SIZE = 276 };
    enum { LEGACY_DEVICES = 1, I8042 = 2, NO_VGA = 4, NO_ASPM = 16 };
    enum { WBINVD = 1, C1 = 4, NO_SLEEP_BUTTON = 32, NO_FIXED_RTC = 64, TIMER_32BIT = 256, RESET_REGISTER = 1024 };
    uint8_t *t = begin(w, SIZE);
    if (!t)
        return 0;
    put32(t, 36, facs);
    put32(t, 40, dsdt);
    put16(t, 46, d->sci);
    put32(t, 56, d->pm_base);
    put32(t, 64, d->pm_base + 4);
    put32(t, 76, d->pm_base + 8);
    t[88] = 4;            // bytes of PM1 event block, control block, timer
    t[89] = 2;            //
    t[91] = 4;            //
    put16(t, 96, 0xfff);  // latencies of C2 and C3: there are none
    put16(t, 98, 0xffff); //
    t[108] = 0x32;        // century in CMOS RAM
    put16(t, 109, LEGACY_DEVICES | I8042 | NO_VGA | NO_ASPM);
    put32(t, 112, WBINVD | C1 | NO_SLEEP_BUTTON | NO_FIXED_RTC | TIMER_32BIT | RESET_REGISTER);
    put_gas(t, 116, d->reset_port, 8);
    t[128] = d->reset_value;
    t[131] = 4; // minor version
    put64(t, 140, dsdt);
    put_gas(t, 148, d->pm_base, 32);
    put_gas(t, 172, d->pm_base + 4, 16);
    put_gas(t, 208, d->pm_base + 8, 32);
    memcpy(t + 268, "TRAPEZE", 7); // hypervisor vendor
    seal(t, "FACP", 6, SIZE);
    return address_of(w, t);
}

static uint64_t write_madt(struct writer *w, const struct acpi_description *d)
{
    enum { PCAT_COMPATIBLE = 1, ENABLED = 1, LEVEL_ACTIVE_HIGH = 0xd };
    size_t size = 44 + d->cpus * 8 + 12 + 2 * 10 + 6;
    uint8_t *t = begin(w, size);
    if (!t)
        return 0;
    uint8_t *e = t + 44;
    put32(t, 36, d->local_apic);
    put32(t, 40, PCAT_COMPATIBLE);
    for (unsigned i = 0; i < d->cpus; i++, e += 8) {
        const uint8_t cpu[8] = {0, 8, i, i, ENABLED};
        memcpy(e, cpu, 8);
    }
    e[0] = 1; // IOAPIC
    e[1] = 12;
    e[2] = d->ioapic_id;
    put32(e, 4, d->ioapic);
    e += 12;
    const uint8_t overrides[2][10] = {{2, 10, 0, 0, 2}, {2, 10, 0, d->sci, d->sci, 0, 0, 0, LEVEL_ACTIVE_HIGH}};
    memcpy(e, overrides, sizeof overrides);
    e += sizeof overrides;
    const uint8_t nmi[6] = {4, 6, 0xff, 0, 0, 1}; // LINT1 of all CPUs
    memcpy(e, nmi, sizeof nmi);
    seal(t, "APIC", 4, size);
    return address_of(w, t);
}

static uint64_t write_mcfg(struct writer *w, const struct acpi_description *d)
{
    enum { SIZE = 60 };
    uint8_t *t = begin(w, SIZE);
    if (!t)
        return 0;
    put64(t, 44, d->ecam); // segment 0, buses 0 to 0
    seal(t, "MCFG", 1, SIZE);
    return address_of(w, t);
}

uint64_t acpi_write(void *memory, uint64_t address, size_t size, const struct acpi_description *d)
{
    enum { TABLES = 3, RSDP_SIZE = 36 };
    struct writer w = {.memory = memory, .address = address, .size = size};
    uint8_t *rsdp = begin(&w, RSDP_SIZE), *xsdt = begin(&w, HEADER + TABLES * 8);
    if (!xsdt)
        return 0;
    uint64_t facs = write_facs(&w), dsdt = write_dsdt(&w, d);
    uint64_t tables[TABLES] = {write_fadt(&w, d, dsdt, facs), write_madt(&w, d), write_mcfg(&w, d)};
    memcpy(xsdt + HEADER, tables, sizeof tables);
    seal(xsdt, "XSDT", 1, HEADER + sizeof tables);
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "TRAPEZ", 6);
    rsdp[15] = 2; // revision
    put32(rsdp, 20, RSDP_SIZE);
    put64(rsdp, 24, address_of(&w, xsdt));
    rsdp[8] = checksum(rsdp, 20);
    rsdp[32] = checksum(rsdp, RSDP_SIZE);
    return w.overflow ? 0 : address_of(&w, rsdp);
}
