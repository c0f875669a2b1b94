// Application processors (ap.c, ap.S), for 64-bit guests with more than one CPU.
#pragma once
#include "apic.h"

#define AP_MAX 4

// The state an AP found at its first instruction.
struct ap_seen {
    u32 cs, cr0;
};

// INIT and SIPI to the CPU whose APIC ID is `cpu` (1 to AP_MAX - 1); it calls entry(cpu) in 64-bit mode on a stack of
// its own with interrupts off and its APIC enabled, and halts for good when that returns. False if it does not come up.
bool ap_start(unsigned cpu, void (*entry)(unsigned cpu), struct ap_seen *seen);
