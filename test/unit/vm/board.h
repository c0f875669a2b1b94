// The least of a machine for tests of the VM's life: a control port, an interrupt controller and a timer for each vCPU.
//
//     port 0x600, write: BOARD_* (what to ask of the VM); 0x601, write: interrupt the vCPU of that number
//     port 0x604, write of 4 bytes: the writing vCPU's timer goes off in so many microseconds
#pragma once
#include "host/loop.h"
#include "script_engine.h"

enum { BOARD_POWEROFF = 1, BOARD_RESET, BOARD_DEBUG_EXIT, BOARD_BUTTON };

struct board {
    struct device dev;
    struct vm_timer timer[CPU_MAX]; // bound to the vCPU of their number
    uint64_t due[CPU_MAX];
    _Atomic uint8_t vector[CPU_MAX]; // pending; 0: none
    _Atomic unsigned resets, inits, fired, early, buttons;
    _Atomic uint64_t latest; // longest that a timer was late, ns
};

struct bed {
    struct vm vm;
    struct loop *loop;
    struct log log;
    struct script_guest guest;
    struct board board;
    unsigned boots;
    int boot_result;
};

void bed_init(struct bed *bed, unsigned cpus, enum script (*step)(struct script_vcpu *v));
enum vm_end bed_run(struct bed *bed); // resets and runs
void bed_destroy(struct bed *bed);    // checks that nothing is left over

void board_interrupt(struct board *b, unsigned cpu, uint8_t vector);
