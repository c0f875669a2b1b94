// The 8254 interval timer and the PC's system control port B (0x61), which gates its channel 2.
//
// Channel 0 interrupts (the machine says which GSI), channel 2 can be timed by its output in port 0x61 bit 5. Channel 1
// once refreshed memory; it counts, and nobody listens.
//
// Example: 0x34 to port 0x43, then 0x9c, 0x2e to port 0x40: channel 0 interrupts every 11932 counts, 100 times a
// second.
#pragma once
#include "vm/vm.h"

enum { PIT_HZ = 1193182 };

// A channel's time is in counts of PIT_HZ since the machine was switched on.
struct pit_channel {
    uint8_t mode;    // 0..5
    uint8_t access;  // 1: low byte, 2: high byte, 3: low then high
    uint8_t bcd;     // counts in decimal
    uint8_t gate;    // level of the GATE input
    uint8_t written; // access 3: the low byte is in `low`, the high byte comes next
    uint8_t low;
    uint8_t read_high; // access 3: the next read gives the high byte
    uint8_t latched;   // bytes of `latch` still to be read: 1 low, 2 high (a mask)
    uint8_t status_latched;
    uint8_t status;
    uint16_t latch;
    uint8_t loaded;    // a count has been written since the mode was
    uint8_t triggered; // modes 1 and 5: GATE has risen since
    uint32_t count;    // what is counted down from, 1..65536
    uint32_t next;     // a count that waits: for `next_at` (modes 2 and 3) or for a trigger (1 and 5); 0: none
    uint64_t next_at;
    uint64_t start; // when counting down from `count` began
    uint64_t held;  // modes 0 and 4: what had been counted before GATE last rose
};

struct pit {
    struct device dev; // its lock guards everything
    struct pit_channel channel[3];
    uint8_t control; // port 0x61, bits 0..3
    uint64_t edge;   // channel 0: time (in counts) of the next rising edge of its output, UINT64_MAX if none comes
    uint8_t line;    // what the interrupt line was last told: between edges it need not be the output
    struct vm_timer timer;
    struct irq_line irq;
};

int pit_create(struct vm *vm, unsigned gsi, struct pit **out, struct error *err);
