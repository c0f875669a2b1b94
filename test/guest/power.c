// Resets and power-off, all in one guest that starts five times. CMOS memory survives a reset and tells which start it
// is: by the i8042, by port 0x92, by port 0xcf9, by the ACPI reset register; and the last ends by ACPI power-off (S5).
// (ACPI 6.4, 4.8.3.2, 4.8.3.6, 7.4.2.5.)
#include "lib/acpi.h"
#include "lib/apic.h"

#define STAGE 0x7a // a byte of CMOS memory nobody else uses

// The values of a FADT that is too old to have a reset register are not printed.
#define FADT_RESET_SUPPORTED (1u << 10)

static void wait_for_the_end(const char *name)
{
    for (u32 i = 0; i < 100000000; i++)
        pause();
    check_true(name, false);
    cmos_write(STAGE, 0);
    finish();
}

static bool checksum_of(const char *signature)
{
    const u8 *table = acpi_table(signature);
    return table && acpi_sum_is_zero(table);
}

// SLP_TYPa of \_S5, as the DSDT says: NameOp "_S5_" PackageOp length count, then an integer. -1 if it is not there.
static int sleep_type(const u8 *dsdt)
{
    u32 size = acpi_u32(dsdt + 4);
    for (u32 i = 36; i + 11 <= size; i++) {
        const u8 *a = dsdt + i;
        if (a[0] != '_' || a[1] != 'S' || a[2] != '5' || a[3] != '_' || a[4] != 0x12)
            continue;
        a += 5;
        a += 1 + (*a >> 6); // the package's length, one to four bytes
        a++;                // the number of elements
        if (*a == 0x0a)     // BytePrefix
            return a[1];
        return *a <= 1 ? *a : -1; // ZeroOp, OneOp
    }
    return -1;
}

static void power_off(const u8 *fadt)
{
    const u8 *dsdt = (u8 *)(ulong)acpi_u32(fadt + 40);
    u16 pm1a = (u16)acpi_u32(fadt + 64);
    int type = sleep_type(dsdt);
    if (!check_true("DSDT has _S5", type >= 0))
        finish();
    // Into ACPI mode, if the firmware has not done so: SCI_EN then shows in PM1_CNT.
    if (acpi_u32(fadt + 48) && !(inw(pm1a) & 1)) {
        outb((u16)acpi_u32(fadt + 48), fadt[52]);
        for (u32 i = 0; i < 1000000 && !(inw(pm1a) & 1); i++)
            pause();
    }
    check("SCI_EN", inw(pm1a) & 1, 1);
    cmos_write(STAGE, 0);
    say("ok   power off: now\n");
    outw(pm1a, (u16)((inw(pm1a) & ~0x1c00) | type << 10 | 1 << 13));
    wait_for_the_end("power off");
}

int main(void)
{
    // Whatever the byte held before: only a start by one of our resets finds 0xa0 and up.
    u8 stage = cmos_read(STAGE);
    if ((stage & 0xf0) != 0xa0)
        stage = 0xa0;
    cmos_write(STAGE, stage + 1);
    const u8 *fadt = acpi_table("FACP");
    bool have_register = fadt && acpi_u32(fadt + 4) >= 129 && (acpi_u32(fadt + 112) & FADT_RESET_SUPPORTED);

    switch (stage & 15) {
    case 0:
        check_true("RSDP", acpi_rsdp());
        check_true("FADT, checksum", checksum_of("FACP"));
        check_true("MADT, checksum", checksum_of("APIC"));
        check_true("DSDT, checksum", fadt && acpi_sum_is_zero((u8 *)(ulong)acpi_u32(fadt + 40)));
        if (fadt) {
            // 3579545 Hz: it moves within a millisecond.
            u16 timer = (u16)acpi_u32(fadt + 76);
            u32 first = inl(timer), tries = 1000000;
            while (inl(timer) == first && tries)
                tries--;
            check_true("PM timer runs", tries);
        }
        if (!left_out("reset by the i8042")) {
            outb(0x64, 0xfe);
            wait_for_the_end("reset by the i8042");
        }
        cmos_write(STAGE, 0xa2);
        // fall through
    case 1:
        if (stage & 15)
            check_true("reset by the i8042", true);
        if (!left_out("reset by port 0x92")) {
            outb(0x92, inb(0x92) | 1);
            wait_for_the_end("reset by port 0x92");
        }
        cmos_write(STAGE, 0xa3);
        // fall through
    case 2:
        if ((stage & 15) == 2)
            check_true("reset by port 0x92", true);
        outb(0xcf9, 2);
        outb(0xcf9, 6);
        wait_for_the_end("reset by port 0xcf9");
        // fall through
    case 3:
        check_true("reset by port 0xcf9", true);
        if (have_register && fadt[116] == 1) {
            outb((u16)acpi_u64(fadt + 120), fadt[128]);
            wait_for_the_end("reset by the ACPI register");
        }
        skip("reset by the ACPI register", "the FADT has none in I/O space");
        cmos_write(STAGE, 0xa5);
        break;
    default:
        check_true("reset by the ACPI register", true);
    }
    if (!fadt) {
        check_true("FADT", false);
        return 0;
    }
    power_off(fadt);
    return 0;
}
