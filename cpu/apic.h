// The local APIC as something that is handed over: between a chip that models it and an engine that has its own.
//
// The registers are those of the xAPIC's page (Intel SDM vol. 3, table 11-1), whatever mode the APIC is in: the ID is
// in bits 24..31 and ICR comes in two halves in x2APIC mode, too. That is also the form in which KVM gives them.
//
// Example: the timer's entry of the LVT, at offset 0x320 of the page, is reg[CPU_APIC_LVT].
#pragma once
#include <stdbool.h>
#include <stdint.h>

// Offsets in the page, divided by 16.
enum {
    CPU_APIC_ID = 0x02,
    CPU_APIC_VERSION = 0x03,
    CPU_APIC_TPR = 0x08,
    CPU_APIC_LDR = 0x0d,
    CPU_APIC_DFR = 0x0e,
    CPU_APIC_SVR = 0x0f,
    CPU_APIC_ISR = 0x10, // 8 registers of 32 vectors; likewise the next two
    CPU_APIC_TMR = 0x18,
    CPU_APIC_IRR = 0x20,
    CPU_APIC_ESR = 0x28,
    CPU_APIC_ICR = 0x30, // and ICR_HIGH
    CPU_APIC_LVT = 0x32, // timer, thermal, performance, LINT0, LINT1, error
    CPU_APIC_TIMER_INITIAL = 0x38,
    CPU_APIC_TIMER_CURRENT = 0x39,
    CPU_APIC_TIMER_DIVIDE = 0x3e,
    CPU_APIC_REGISTERS = 0x40,
};

struct cpu_apic {
    uint64_t base; // the MSR
    uint32_t reg[CPU_APIC_REGISTERS];
    uint64_t tsc_deadline; // in ticks of the VM's TSC, before TSC_ADJUST; 0: none
};

// A message to local APICs as the memory write that it is (Intel SDM vol. 3, 11.11).
struct cpu_msi {
    uint64_t address;
    uint32_t data;
};

#define CPU_APIC_BASE_ADDRESS 0xfee00000ull // the page: it does not move
#define CPU_APIC_BASE_BSP (1ull << 8)
#define CPU_APIC_BASE_X2APIC (1ull << 10)
#define CPU_APIC_BASE_ENABLE (1ull << 11)

// Whether WRMSR to APIC_BASE may change it so: modes and the ways between them (Intel SDM vol. 3, 11.12.5), and an
// address that stays. If not: #GP.
static inline bool cpu_apic_base_allowed(uint64_t old, uint64_t val)
{
    enum { OFF = 0, X2APIC_ALONE = 1, XAPIC = 2, X2APIC = 3 };
    unsigned from = old >> 10 & 3, to = val >> 10 & 3;
    if ((val & ~(CPU_APIC_BASE_BSP | CPU_APIC_BASE_X2APIC | CPU_APIC_BASE_ENABLE)) != CPU_APIC_BASE_ADDRESS)
        return false;
    return to != X2APIC_ALONE && !(from == X2APIC && to == XAPIC) && !(from == OFF && to == X2APIC);
}
