// The real-time clock and CMOS RAM of a PC (Motorola MC146818A data sheet).
//
// Ports 0x70 (index; bit 7, which masks NMIs on a PC, is ignored) and 0x71 (data). Registers 0..13 are the clock,
// 14..127 battery-backed RAM, of which byte 0x32 is the century. The time is the VM's wall clock plus an offset, which
// is what changes when a guest sets the time; it survives a reset, as the battery-backed one does.
//
// Example: out 0x70, 0x0b; in 0x71: bit 2 says whether registers are binary, bit 1 whether hours go to 24.
#pragma once
#include "vm/vm.h"

enum { RTC_CENTURY = 0x32 };

struct rtc {
    struct device dev; // its lock guards everything
    uint8_t index;
    uint8_t ram[128];       // the time in it (0, 2, 4, 6..9, 0x32) is meaningful only while the clock stands still
    int64_t offset_seconds; // guest time = wall clock + offset
    uint32_t offset_ns;     // less than a second
    int64_t seen_second;    // guest time up to which update and alarm flags are set in register C
    uint64_t seen_ns;       // guest ns up to which the periodic flag is
    struct vm_timer timer;
    struct irq_line irq;
};

int rtc_create(struct vm *vm, unsigned gsi, struct rtc **out, struct error *err);
