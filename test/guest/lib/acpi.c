// See acpi.h.
#include "acpi.h"

static u8 sum(const u8 *at, u32 n)
{
    u8 s = 0;
    while (n--)
        s += *at++;
    return s;
}

static bool same(const u8 *at, const char *text, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (at[i] != (u8)text[i])
            return false;
    return true;
}

bool acpi_sum_is_zero(const u8 *table)
{
    return sum(table, acpi_u32(table + 4)) == 0;
}

const u8 *acpi_rsdp(void)
{
    for (ulong at = 0xe0000; at < 0x100000; at += 16)
        if (same((u8 *)at, "RSD PTR ", 8) && sum((u8 *)at, 20) == 0)
            return (u8 *)at;
    return 0;
}

const u8 *acpi_table(const char *signature)
{
    const u8 *rsdp = acpi_rsdp();
    if (!rsdp)
        return 0;
    bool wide = rsdp[15] >= 2 && acpi_u64(rsdp + 24);
    const u8 *list = (u8 *)(ulong)(wide ? acpi_u64(rsdp + 24) : acpi_u32(rsdp + 16));
    u32 size = acpi_u32(list + 4), entry = wide ? 8 : 4;
    for (u32 at = 36; at + entry <= size; at += entry) {
        const u8 *table = (u8 *)(ulong)(wide ? acpi_u64(list + at) : acpi_u32(list + at));
        if (same(table, signature, 4))
            return table;
    }
    return 0;
}
