// The keyboard controller of a PC, with a keyboard that nobody types on, and the other two ways in which it matters:
// the reset line (command 0xfe, port 0x92) and the A20 gate.
//
// Ports 0x60 (data), 0x64 (status and command), 0x92. The gate is kept as a bit but masks no address: processors with
// long mode have no A20M pin any more that matters to what we run. There is no mouse; its commands answer as on a
// controller whose mouse port is empty.
//
// Example: out 0x64, 0xfe resets the machine.
#pragma once
#include "vm/vm.h"

enum { I8042_QUEUE = 16 };

struct i8042 {
    struct device dev;        // its lock guards everything
    uint8_t command;          // command byte ("CTR"): what command 0x20 reads
    uint8_t status;           // bits 2 (system flag) and 3 (last write was a command)
    uint8_t outport;          // bit 1: A20
    uint8_t expects;          // controller command whose data byte comes next, 0 if none
    uint8_t keyboard_expects; // likewise of the keyboard
    uint8_t scan_set;
    uint8_t scanning;
    uint8_t last; // the byte last sent, for the keyboard's "resend"
    uint8_t queue[I8042_QUEUE];
    uint8_t queue_start, queue_count;
    struct irq_line irq;
};

int i8042_create(struct vm *vm, unsigned gsi, struct i8042 **out, struct error *err);
