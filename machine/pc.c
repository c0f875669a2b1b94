// The PC, put together. The parts are made in the order of `parts` and reset in the same order.
//
// Interrupts. A device's line goes to the router (vm/irq.h), which calls line() with its lock held; from there to the
// PIC and the IOAPIC. The PIC's own output is LINT0 of every local APIC and pin 0 of the IOAPIC. So locks nest: router,
// PIC, IOAPIC, local APIC; an EOI comes back to the IOAPIC with no lock held.
//
// Nothing runs before the guest's kernel does, so on every reset boot() leaves the machine as firmware would have: ACPI
// tables in place, interrupt controllers quiet, the boot CPU's local APIC in virtual wire mode.
//
// Example: --cpus 2 --memory 4G gives RAM at 0..3 GiB and 4..5 GiB, local APICs 0 and 1, one IOAPIC, PCI bus 0.
#include "machine/pc.h"
#include "chip/acpi_pm.h"
#include "chip/async_pf.h"
#include "chip/debug.h"
#include "chip/generation.h"
#include "chip/i8042.h"
#include "chip/ioapic.h"
#include "chip/lapic.h"
#include "chip/pic.h"
#include "chip/pit.h"
#include "chip/pvclock.h"
#include "chip/rtc.h"
#include "chip/steal_time.h"
#include "chip/uart.h"
#include "machine/acpi.h"
#include "pci/bus.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"
#include "vm/alloc.h"
#include <errno.h>
#include <string.h>

enum {
    GSI_PIT = 2,
    GSI_KEYBOARD = 1,
    GSI_GENERATION = 5,
    GSI_RTC = 8,
    GSI_SCI = 9,
    GSI_PCI = 16,
    GSI_VIRTIO_MMIO = 20
};
enum { IOAPIC_PIN_PIC = 0 };
enum { RESET_PORT = 0xcf9, RESET_VALUE = 6 };

#define EBDA 0x9fc00ull
#define VGA_HOLE 0xa0000ull
#define TABLES_SIZE (ACPI_SIZE - 4096ull)    // of the area for ACPI tables; its last page
#define GENERATION (ACPI_BASE + TABLES_SIZE) // holds the machine's generation
#define VGA_HOLE_END 0xc0000ull
#define LOW_RAM_END 0xc0000000ull // where RAM makes room for devices
#define ECAM 0xe0000000ull
#define VIRTIO_MMIO 0xfeb00000ull
#define HIGH_RAM 0x100000000ull
#define PCI_MMIO64_SIZE (64ull << 30)

static const struct {
    uint16_t port;
    uint8_t irq;
    const char *name;
} serial_ports[PC_SERIAL_PORTS] = {{0x3f8, 4, "com1"}, {0x2f8, 3, "com2"}, {0x3e8, 4, "com3"}, {0x2e8, 3, "com4"}};

struct pc {
    struct device dev; // for the VM to free
    struct pc_config config;
    struct lapics *lapics;
    struct ioapic *ioapic;
    struct pic *pic;
    struct acpi_pm *acpi_pm;
    struct generation *generation;
    struct pci_bus *pci;
    unsigned pci_slots; // used
    struct boot_map map;
    struct boot_source source;
    struct acpi_description acpi;
};

// ---- interrupts

static unsigned pci_gsi(unsigned slot, unsigned pin)
{
    return GSI_PCI + (slot + pin) % 4;
}

static unsigned pci_irq(unsigned slot, unsigned pin)
{
    return 10 + (slot + pin) % 2;
}

// The PIC's line behind a GSI, or 16 if there is none.
static unsigned pic_line(unsigned gsi)
{
    if (gsi == GSI_PIT)
        return 0;
    if (gsi >= GSI_PCI && gsi < GSI_PCI + 4)
        return 10 + gsi % 2;
    return gsi && gsi < 16 ? gsi : 16;
}

static void line(void *ctx, unsigned gsi, bool level)
{
    struct pc *pc = ctx;
    ioapic_set(pc->ioapic, gsi, level);
    unsigned l = pic_line(gsi);
    if (l == 10 || l == 11) {
        // Two GSIs and the ISA line share it. We hold the router's lock, so `raised` stands still.
        const uint32_t *raised = pc->dev.vm->irq.raised;
        level = raised[l] || raised[GSI_PCI + l % 2] || raised[GSI_PCI + 2 + l % 2];
    }
    if (l < 16)
        pic_set(pc->pic, l, level);
}

static void msi(void *ctx, uint64_t address, uint32_t data)
{
    struct apic_message m = apic_message_from_msi(address, data);
    if (address >> 20 == LAPIC_MMIO_BASE >> 20 && m.mode != APIC_STARTUP)
        lapics_send(((struct pc *)ctx)->lapics, &m);
}

static void pic_output(void *ctx, bool level)
{
    struct pc *pc = ctx;
    lapics_set_pic(pc->lapics, level);
    ioapic_set(pc->ioapic, IOAPIC_PIN_PIC, level);
}

static void ioapic_send(void *ctx, const struct apic_message *m)
{
    lapics_send(((struct pc *)ctx)->lapics, m);
}

static void levels_changed(void *ctx, const struct apic_message *m, unsigned count)
{
    lapics_set_routes(((struct pc *)ctx)->lapics, m, count);
}

static void eoi(void *ctx, uint8_t vector)
{
    ioapic_eoi(((struct pc *)ctx)->ioapic, vector);
}

static int ask_pic(void *ctx)
{
    return pic_ack(((struct pc *)ctx)->pic);
}

static void power_button(void *ctx)
{
    acpi_pm_power_button(((struct pc *)ctx)->acpi_pm);
}

// ---- parts

static void map_range(struct pc *pc, uint64_t base, uint64_t end, enum boot_memory type)
{
    if (base < end)
        pc->map.range[pc->map.count++] = (struct boot_range){.base = base, .size = end - base, .type = type};
}

static int add_memory(struct pc *pc, struct error *err)
{
    struct vm *vm = pc->dev.vm;
    uint8_t *ram = pc->config.ram;
    uint64_t size = pc->config.ram_size, low = size < LOW_RAM_END ? size : LOW_RAM_END, high = size - low;
    if (size < PC_RAM_MIN || size % 4096)
        return error_set(err, EINVAL, "memory of %llu bytes: at least 1 MiB in whole pages is needed",
                         (unsigned long long)size);
    if (high && (HIGH_RAM + high) >> vm->model->phys_bits)
        return error_set(err, EINVAL, "memory of %llu MiB is more than the CPU model's %u address bits reach",
                         (unsigned long long)size >> 20, vm->model->phys_bits);
    const struct {
        uint64_t gpa, end;
        uint8_t *host;
    } pieces[] = {
        {0, VGA_HOLE, ram}, {VGA_HOLE_END, low, ram + VGA_HOLE_END}, {HIGH_RAM, HIGH_RAM + high, ram + LOW_RAM_END}};
    for (unsigned i = 0; i < 3; i++) {
        if (pieces[i].gpa == pieces[i].end)
            continue;
        int r = vm_memory_add(vm, pieces[i].gpa, pieces[i].end - pieces[i].gpa, pieces[i].host, false, err);
        if (r)
            return r;
    }
    map_range(pc, 0, EBDA, BOOT_RAM);
    map_range(pc, EBDA, VGA_HOLE, BOOT_RESERVED);
    map_range(pc, ACPI_BASE, ACPI_BASE + ACPI_SIZE, BOOT_RESERVED);
    map_range(pc, 0x100000, low, BOOT_RAM);
    map_range(pc, ECAM, ECAM + PCI_ECAM_SIZE, BOOT_RESERVED);
    map_range(pc, HIGH_RAM, HIGH_RAM + high, BOOT_RAM);
    return 0;
}

static int add_interrupt_controllers(struct pc *pc, struct error *err)
{
    struct vm *vm = pc->dev.vm;
    int r = lapics_create(vm, pc->config.cpus, &pc->lapics, err);
    if (!r)
        r = ioapic_create(vm, 0, pc, ioapic_send, &pc->ioapic, err);
    if (!r)
        r = pic_create(vm, pc, pic_output, &pc->pic, err);
    if (r)
        return r;
    if (pc->lapics->engines)
        pc->ioapic->levels_changed = levels_changed;
    pc->lapics->ctx = pc;
    pc->lapics->eoi = eoi;
    pc->lapics->pic_ack = ask_pic;
    vm->irq.to = (struct irq_controllers){.ctx = pc, .line = line, .msi = msi};
    return 0;
}

static int add_chips(struct pc *pc, struct error *err)
{
    struct vm *vm = pc->dev.vm;
    struct pit *pit;
    struct rtc *rtc;
    struct i8042 *i8042;
    struct pvclock *pvclock;
    struct steal_time *steal_time;
    struct async_pf *async_pf;
    int r = pit_create(vm, GSI_PIT, &pit, err);
    if (!r)
        r = rtc_create(vm, GSI_RTC, &rtc, err);
    if (!r)
        r = i8042_create(vm, GSI_KEYBOARD, &i8042, err);
    if (!r)
        r = acpi_pm_create(vm, GSI_SCI, &pc->acpi_pm, err);
    if (!r)
        r = generation_create(vm, GSI_GENERATION, GENERATION, &pc->generation, err);
    if (!r && vm->model->config.paravirt)
        r = pvclock_create(vm, &pvclock, err);
    if (!r && cpu_model_has_paravirt(vm->model, CPU_PV_STEAL_TIME))
        r = steal_time_create(vm, &steal_time, err);
    if (!r && cpu_model_has_paravirt(vm->model, CPU_PV_ASYNC_PF))
        r = async_pf_create(vm, &async_pf, err);
    if (r)
        return r;
    vm->power_button = power_button;
    vm->power_button_ctx = pc;
    return 0;
}

static int add_serial(struct pc *pc, struct error *err)
{
    for (unsigned i = 0; i < PC_SERIAL_PORTS; i++) {
        struct uart *uart;
        if (!pc->config.serial[i])
            continue;
        int r = uart_create(pc->dev.vm, serial_ports[i].port, serial_ports[i].irq, pc->config.serial[i],
                            serial_ports[i].name, &uart, err);
        if (r)
            return r;
        pc->acpi.serial[pc->acpi.serials++] =
            (struct acpi_serial){.port = serial_ports[i].port, .irq = serial_ports[i].irq, .number = i + 1};
    }
    return 0;
}

static int add_pci(struct pc *pc, struct error *err)
{
    struct vm *vm = pc->dev.vm;
    struct pci_bus_config config = {.ecam = ECAM,
                                    .io = {0xc000, 0x4000},
                                    .mmio32 = {LOW_RAM_END, ECAM - LOW_RAM_END},
                                    .intx_gsi = pci_gsi,
                                    .intx_irq = pci_irq};
    // 64-bit BARs: the first multiple of the window's size above RAM, if addresses reach so far.
    uint64_t size = pc->config.ram_size, end = HIGH_RAM + (size > LOW_RAM_END ? size - LOW_RAM_END : 0);
    uint64_t base = (end + PCI_MMIO64_SIZE - 1) & ~(PCI_MMIO64_SIZE - 1);
    if (!((base + PCI_MMIO64_SIZE - 1) >> vm->model->phys_bits))
        config.mmio64 = (struct pci_window){base, PCI_MMIO64_SIZE};
    pc->acpi.pci_io_low = (struct acpi_window){0, 0xcf8};
    pc->acpi.pci_io_high = (struct acpi_window){0xd00, 0xf300};
    pc->acpi.pci_mmio32 = (struct acpi_window){config.mmio32.base, config.mmio32.size};
    pc->acpi.pci_mmio64 = (struct acpi_window){config.mmio64.base, config.mmio64.size};
    return pci_bus_create(vm, &config, &pc->pci, err);
}

static int add_debug(struct pc *pc, struct error *err)
{
    int r = 0;
    if (pc->config.debug_exit)
        r = debug_exit_create(pc->dev.vm, err);
    if (!r && pc->config.debug_console)
        r = debug_console_create(pc->dev.vm, pc->config.debug_console, err);
    return r;
}

static int (*const parts[])(struct pc *pc, struct error *err) = {
    add_memory, add_interrupt_controllers, add_chips, add_serial, add_pci, add_debug,
};

static void pc_destroy(struct device *d)
{
    vm_free(d);
}

static const struct device_ops ops = {.name = "pc", .unlocked = true, .destroy = pc_destroy};

int pc_create(struct vm *vm, const struct pc_config *config, struct pc **out, struct error *err)
{
    struct pc *pc = vm_alloc(sizeof *pc);
    if (!pc)
        return error_set(err, ENOMEM, "pc: out of memory");
    device_add(vm, &pc->dev, &ops, "pc");
    pc->config = *config;
    pc->acpi = (struct acpi_description){
        .cpus = config->cpus,
        .local_apic = LAPIC_MMIO_BASE,
        .ioapic = IOAPIC_MMIO_BASE,
        .sci = GSI_SCI,
        .pm_base = ACPI_PM_BASE,
        .s5 = ACPI_S5,
        .reset_port = RESET_PORT,
        .reset_value = RESET_VALUE,
        .ecam = ECAM,
        .generation = GENERATION,
        .generation_gsi = GSI_GENERATION,
        .pci_gsi = pci_gsi,
        .pci_irq = pci_irq,
    };
    for (unsigned i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        int r = parts[i](pc, err);
        if (r < 0)
            return r;
    }
    *out = pc;
    return 0;
}

int pc_attach_virtio(struct pc *pc, struct virtio_device *d, enum pc_transport transport, struct error *err)
{
    if (transport == PC_VIRTIO_PCI) {
        if (pc->pci_slots + 1 >= PCI_SLOTS)
            return error_set(err, ENOSPC, "more than %d PCI devices", PCI_SLOTS - 1);
        return virtio_pci_attach(d, pc->pci, ++pc->pci_slots, err);
    }
    unsigned n = pc->acpi.virtio_mmios;
    if (n == PC_VIRTIO_MMIO_MAX)
        return error_set(err, ENOSPC, "more than %d virtio-mmio devices", PC_VIRTIO_MMIO_MAX);
    struct acpi_mmio_device *m = &pc->acpi.virtio_mmio[n];
    *m = (struct acpi_mmio_device){
        .base = VIRTIO_MMIO + n * VIRTIO_MMIO_SIZE, .size = VIRTIO_MMIO_SIZE, .gsi = GSI_VIRTIO_MMIO + n % 4};
    int r = virtio_mmio_attach(d, m->base, m->gsi, err);
    if (r)
        return r;
    pc->acpi.virtio_mmios++;
    return 0;
}

// ---- boot

// What firmware would have written to the interrupt controllers: the PICs initialized with everything masked, PCI's
// lines level-triggered.
static void quiet_interrupts(struct pc *pc)
{
    static const struct {
        uint16_t port;
        uint8_t val;
    } writes[] = {{0x20, 0x11}, {0x21, 0x08}, {0x21, 0x04}, {0x21, 0x01}, {0x21, 0xff}, {0xa0, 0x11},
                  {0xa1, 0x70}, {0xa1, 0x02}, {0xa1, 0x01}, {0xa1, 0xff}, {0x4d1, 0x0c}};
    for (unsigned i = 0; i < sizeof writes / sizeof writes[0]; i++)
        bus_write(&pc->dev.vm->ports, 0, writes[i].port, 1, writes[i].val);
    lapics_virtual_wire(pc->lapics);
}

// All memory cacheable, on all CPUs alike. (MTRRs survive the INIT by which an operating system starts the others.)
static void prepare_cpu(struct cpu_state *s, unsigned cpu)
{
    enum { MTRR_ENABLE = 1 << 11, MTRR_WRITE_BACK = 6 };
    (void)cpu;
    s->msr.mtrr_def_type = MTRR_ENABLE | MTRR_WRITE_BACK;
}

static int boot(struct vm *vm, void *ctx, struct cpu_state *cpu, struct error *err)
{
    struct pc *pc = ctx;
    void *tables = vm_ram(vm, ACPI_BASE, ACPI_SIZE, true);
    memset(tables, 0, ACPI_SIZE);
    pc->map.rsdp = acpi_write(tables, ACPI_BASE, TABLES_SIZE, &pc->acpi);
    vm_ram_written(vm, ACPI_BASE, ACPI_SIZE);
    if (!pc->map.rsdp)
        return error_set(err, ENOSPC, "ACPI tables: more than %d bytes", ACPI_SIZE);
    generation_publish(pc->generation);
    quiet_interrupts(pc);
    return boot_load(vm, &pc->source, &pc->map, cpu, err);
}

void pc_new_generation(struct pc *pc)
{
    generation_renew(pc->generation);
}

void pc_boot(struct pc *pc, const struct boot_source *source)
{
    pc->source = *source;
    pc->dev.vm->boot = boot;
    pc->dev.vm->boot_ctx = pc;
    pc->dev.vm->prepare_cpu = prepare_cpu;
}
