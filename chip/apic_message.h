// What travels between interrupt controllers: the message that an IOAPIC pin, an MSI or an IPI becomes on its way to
// the local APICs (Intel SDM vol. 3, 11.6 and 11.11).
//
// Destinations come in two widths. IOAPIC entries and MSIs name 8 bits, an x2APIC's ICR 32; 8-bit ones are widened by
// their senders with apic_dest8(), so that "everybody" is always APIC_EVERYBODY.
//
// Example: a disk's MSI-X write of 0x41 to 0xfee01000 is {.dest = 1, .vector = 0x41, .mode = APIC_FIXED}.
#pragma once
#include "cpu/apic.h"
#include <stdbool.h>
#include <stdint.h>

enum apic_mode {
    APIC_FIXED = 0,
    APIC_LOWEST = 1, // to the one of the addressed CPUs that is doing the least important work
    APIC_SMI = 2,
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_STARTUP = 6, // IPIs only
    APIC_EXTINT = 7,  // the vector is the PIC's to say
};

#define APIC_EVERYBODY 0xffffffffu

struct apic_message {
    uint32_t dest;
    uint8_t vector;
    uint8_t mode; // enum apic_mode
    bool logical; // dest is a logical destination (LDR), not an APIC id
    bool level;   // level-triggered: the EOI is told to the IOAPIC
};

static inline uint32_t apic_dest8(uint8_t dest)
{
    return dest == 0xff ? APIC_EVERYBODY : dest;
}

// The MSI that says the same, as far as 8 bits reach: beyond that are only clusters of x2APICs above the first 16.
static inline struct cpu_msi apic_message_to_msi(const struct apic_message *m)
{
    uint32_t dest = m->dest == APIC_EVERYBODY ? 0xff : m->dest & 0xff;
    return (struct cpu_msi){.address = CPU_APIC_BASE_ADDRESS | dest << 12 | (uint32_t)m->logical << 2,
                            .data = m->vector | (uint32_t)m->mode << 8 | 1u << 14 | (uint32_t)m->level << 15};
}

// An MSI (Intel SDM vol. 3, 11.11). The redirection hint asks for the lowest priority among the destinations.
static inline struct apic_message apic_message_from_msi(uint64_t address, uint32_t data)
{
    struct apic_message m = {
        .dest = apic_dest8(address >> 12),
        .vector = data,
        .mode = data >> 8 & 7,
        .logical = address >> 2 & 1,
        .level = data >> 15 & 1,
    };
    if ((address & 8) && m.mode == APIC_FIXED)
        m.mode = APIC_LOWEST;
    return m;
}
