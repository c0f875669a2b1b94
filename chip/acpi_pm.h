// The fixed power management hardware of ACPI: PM1 event and control blocks and the PM timer (ACPI 6.4, 4.8).
//
// Ports, all from ACPI_PM_BASE: +0 PM1 status, +2 PM1 enable, +4 PM1 control, +8 PM timer (32 bits). The machine is in
// ACPI mode from the start (there is no SMI), so SCI_EN always reads as set. Writing SLP_TYP = ACPI_S5 with SLP_EN
// powers the machine off.
//
// Example: a tiny guest ends with outw(0x2000, 0x604), as it would under QEMU.
#pragma once
#include "vm/vm.h"

enum { ACPI_PM_BASE = 0x600, ACPI_PM_SIZE = 0x10, ACPI_PM_CONTROL = 4, ACPI_PM_TIMER = 8, ACPI_S5 = 0 };

struct acpi_pm {
    struct device dev;
    uint16_t status, enable, control;
    uint64_t msb_seen; // how often the timer's top bit had changed when TMR_STS was last cleared
    struct vm_timer timer;
    struct irq_line sci;
};

int acpi_pm_create(struct vm *vm, unsigned gsi, struct acpi_pm **out, struct error *err);
void acpi_pm_power_button(struct acpi_pm *pm); // any thread
