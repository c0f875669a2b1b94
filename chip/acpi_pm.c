// ACPI fixed hardware: the registers.
//
// Status bits are set by the hardware and cleared by writing ones; the SCI (a level) is up while a bit is set in both
// status and enable. The PM timer counts 3.579545 MHz; each change of its top bit sets TMR_STS. That bit is not kept
// but worked out: the number of changes so far, compared with the number at the last clearing.
//
// Example: the power button sets PWRBTN_STS; if the OS has set PWRBTN_EN, it gets an SCI and shuts down.
#include "chip/acpi_pm.h"
#include "vm/alloc.h"
#include <errno.h>

enum { REG_STATUS = 0, REG_ENABLE = 2, REG_CONTROL = 4, REG_TIMER = 8 };

enum { TMR = 1 << 0, GBL = 1 << 5, PWRBTN = 1 << 8, SLPBTN = 1 << 9, RTC = 1 << 10 };
enum { STATUS_BITS = TMR | GBL | PWRBTN, ENABLE_BITS = TMR | GBL | PWRBTN | SLPBTN | RTC };
enum { SCI_EN = 1 << 0, GBL_RLS = 1 << 2, SLP_TYP_SHIFT = 10, SLP_EN = 1 << 13 };

enum { PM_HZ = 3579545 };

static uint64_t ticks(const struct acpi_pm *pm)
{
    return (unsigned __int128)vm_clock_ns(&pm->dev.vm->clock) * PM_HZ / 1000000000;
}

static uint64_t msb_changes(const struct acpi_pm *pm)
{
    return ticks(pm) >> 31;
}

// Brings status, SCI and the timer for the next change into line.
static void update(struct acpi_pm *pm)
{
    if (msb_changes(pm) != pm->msb_seen)
        pm->status |= TMR;
    irq_set(&pm->sci, pm->status & pm->enable);
    uint64_t next = VM_TIMER_NEVER;
    if ((pm->enable & TMR) && !(pm->status & TMR))
        next = (((unsigned __int128)(pm->msb_seen + 1) << 31) * 1000000000 + PM_HZ - 1) / PM_HZ;
    vm_timer_set(&pm->timer, next);
}

static void fire(struct device *d, struct vm_timer *t)
{
    (void)t;
    update((struct acpi_pm *)d);
}

static uint64_t read16(struct acpi_pm *pm, unsigned reg)
{
    switch (reg) {
    case REG_STATUS:
        update(pm);
        return pm->status;
    case REG_ENABLE:
        return pm->enable;
    case REG_CONTROL:
        return pm->control | SCI_EN;
    case REG_TIMER:
        return (uint16_t)ticks(pm);
    case REG_TIMER + 2:
        return (uint16_t)(ticks(pm) >> 16);
    }
    return 0;
}

static uint64_t acpi_pm_read(struct device *d, struct bus_access a)
{
    struct acpi_pm *pm = (struct acpi_pm *)d;
    if (a.offset == REG_TIMER && a.size == 4)
        return (uint32_t)ticks(pm); // in one look: the halves belong together
    uint64_t v = read16(pm, a.offset & ~1u);
    if (a.size == 4)
        v |= read16(pm, a.offset + 2) << 16;
    return v >> (a.offset & 1) * 8;
}

// Writes `val` under `mask` (a byte or all 16 bits).
static void write16(struct acpi_pm *pm, unsigned reg, uint16_t val, uint16_t mask)
{
    switch (reg) {
    case REG_STATUS:
        if (val & mask & TMR)
            pm->msb_seen = msb_changes(pm);
        pm->status &= ~(val & mask);
        update(pm);
        break;
    case REG_ENABLE:
        pm->enable = ((pm->enable & ~mask) | (val & mask)) & ENABLE_BITS;
        update(pm);
        break;
    case REG_CONTROL:
        val = (pm->control & ~mask) | (val & mask);
        pm->control = val & ~(SCI_EN | GBL_RLS | SLP_EN); // the first is fixed, the others read as zero
        if ((val & SLP_EN) && (val >> SLP_TYP_SHIFT & 7) == ACPI_S5)
            vm_request_poweroff(pm->dev.vm);
        break;
    }
}

static void acpi_pm_write(struct device *d, struct bus_access a, uint64_t val)
{
    struct acpi_pm *pm = (struct acpi_pm *)d;
    unsigned shift = (a.offset & 1) * 8;
    write16(pm, a.offset & ~1u, val << shift, a.size == 1 ? 0xff << shift : 0xffff);
    if (a.size == 4)
        write16(pm, a.offset + 2, val >> 16, 0xffff);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
    vm_lock(&pm->dev.lock);
    pm->status |= PWRBTN;
    update(pm);
    vm_unlock(&pm->dev.lock);
}

static void acpi_pm_reset(struct device *d)
{
    struct acpi_pm *pm = (struct acpi_pm *)d;
    pm->status = pm->enable = pm->control = 0;
    pm->msb_seen = msb_changes(pm);
    update(pm);
}

static int acpi_pm_loaded(struct device *d)
{
    struct acpi_pm *pm = (struct acpi_pm *)d;
    pm->status &= STATUS_BITS;
    pm->enable &= ENABLE_BITS;
    if (pm->msb_seen > msb_changes(pm))
        return -EINVAL;
    update(pm);
    return 0;
}

static void acpi_pm_destroy(struct device *d)
{
    vm_free(d);
}

static const struct state_field fields[] = {
    STATE_U16(struct acpi_pm, status, 1),
    STATE_U16(struct acpi_pm, enable, 1),
    STATE_U16(struct acpi_pm, control, 1),
    STATE_U64(struct acpi_pm, msb_seen, 1),
    STATE_END,
};

static const struct state_table state = {"acpi_pm", 1, fields};

static const struct device_ops ops = {
    .name = "acpi_pm",
    .reset = acpi_pm_reset,
    .read = acpi_pm_read,
    .write = acpi_pm_write,
    .state = &state,
    .loaded = acpi_pm_loaded,
    .destroy = acpi_pm_destroy,
};

int acpi_pm_create(struct vm *vm, unsigned gsi, struct acpi_pm **out, struct error *err)
{
    struct acpi_pm *pm = vm_alloc(sizeof *pm);
    if (!pm)
        return error_set(err, ENOMEM, "acpi_pm: out of memory");
    device_add(vm, &pm->dev, &ops, "acpi_pm");
    irq_line_init(&pm->sci, vm, gsi);
    vm_timer_init(&pm->timer, &pm->dev, fire);
    *out = pm;
    return bus_add(
        &vm->ports,
        &(struct bus_range){.base = ACPI_PM_BASE, .size = ACPI_PM_SIZE, .dev = &pm->dev, .min_size = 1, .max_size = 4},
        err);
}
