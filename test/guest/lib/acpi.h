// The firmware's tables as a guest finds them: RSDP, RSDT or XSDT, and one table by its name. (ACPI 6.4, 5.2.)
#pragma once
#include "guest.h"

// Scans 0xe0000 to 0xfffff for the RSDP. 0 if there is none whose checksum is right.
const u8 *acpi_rsdp(void);
// The table with this signature, or 0. Looks into the XSDT if there is one.
const u8 *acpi_table(const char *signature);
// Whether the bytes of a table (length at offset 4) add up to 0.
bool acpi_sum_is_zero(const u8 *table);

// Fields lie at odd addresses.
static inline u32 acpi_u32(const u8 *at)
{
    u32 v;
    memcpy(&v, at, 4);
    return v;
}

static inline u64 acpi_u64(const u8 *at)
{
    u64 v;
    memcpy(&v, at, 8);
    return v;
}
