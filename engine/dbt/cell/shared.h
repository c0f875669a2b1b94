// What a cell and its vCPU share: the layout of the cell's own part of its address space, and the page through which
// the two talk.
//
// The cell's part lies at an address drawn by lot (cell->base), a multiple of CELL_ALIGN, where the guest program has
// no page (the vCPU looks before every entry). All else in the cell's address space is the guest program's.
//
//     0        struct cell_shared, the stacks     read, write
//     IBL      targets of indirect jumps          read
//     CODE     runtime, child, blocks             read, execute
//
// The guest's program could write to the first part. That does no harm: while guest code runs nothing there is in use.
// What counts is made anew afterwards (RSP, commands), and the vCPU takes the registers that it finds for the guest's,
// whatever they are. That the cell has stopped is told through a pipe, and guest code has no system calls.
#pragma once
#include "cpu/state.h"

#define CELL_BASE_MIN 0x100000000000ull
#define CELL_BASE_MAX 0x7e0000000000ull

enum {
    CELL_STACK_END = 0x14000,
    CELL_SIGNAL_STACK = 0x14000,
    CELL_SIGNAL_STACK_SIZE = 0x20000,
    CELL_DATA_SIZE = 0x40000, // the first part
    CELL_IBL = 0x80000,
    CELL_IBL_ENTRIES = 1 << 16,
    CELL_CODE = 0x100000,
    CELL_CHILD = CELL_CODE + 0x1000,
    CELL_BLOCKS = CELL_CODE + 0x3000,
    CELL_SIZE = CELL_CODE + (2 << 20),
    CELL_ALIGN = 4 << 20,
    // Places in the runtime.
    CELL_ENTER = CELL_CODE,
    CELL_ENTER_END = CELL_CODE + 0x200,
    CELL_LEAVE = CELL_CODE + 0x400,
    CELL_NOTHING = CELL_CODE + 0x800,
    CELL_LINK = CELL_CODE + 0x900,
    CELL_STEP = CELL_CODE + 0x940,
    CELL_MISS = CELL_CODE + 0x980,
};

enum { CELL_IN = 3, CELL_OUT = 4, CELL_MEMORY = 5 }; // its file descriptors

// Why guest code was left.
enum {
    CELL_WHY_NOTHING,  // it was not entered: a kick came before
    CELL_WHY_LINK,     // exit: number of one that leads nowhere yet
    CELL_WHY_STEP,     // exit: its target is an instruction for the interpreter
    CELL_WHY_INDIRECT, // target; exit: number of the block that jumped
    CELL_WHY_SIGNAL,   // signal, host_rip, ...
};

enum { CELL_MAP, CELL_UNMAP, CELL_FS_BASE, CELL_COMMANDS = 256 };

struct cell_command {
    uint32_t op;
    uint32_t prot;
    uint64_t address, size, offset; // offset: in the guest's memory
};

struct cell_shared {
    uint64_t spill[4]; // RCX, RDX of an indirect jump; a scratch register
    uint64_t target;   // of an indirect jump
    uint32_t why, exit;
    uint32_t kicked;
    uint32_t signal;
    uint64_t host_rip, rsp, fault_address, fault_error, trap; // rsp: not in gpr
    uint64_t gpr[CPU_GPR_COUNT], flags, enter_at;
    uint32_t commands, failed; // failed: an errno
    struct cell_command command[CELL_COMMANDS];
    uint8_t filter[1024]; // seccomp program
    uint64_t filter_size;
    _Alignas(64) uint8_t xsave[CPU_XSAVE_SIZE];
};

// child.c: code that is copied to CELL_CHILD.
extern const uint8_t __start_cell_text[], __stop_cell_text[];
void cell_begin(void);  // in the new process, on the cell's stack: gives up all memory but the cell's
void cell_loop(void);   // waits, does what is asked for, enters guest code; on the cell's stack
void cell_return(void); // end of a signal handler
void cell_signal(int number, void *info, void *context);
