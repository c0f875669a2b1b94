// A small guest on an engine that runs one program after the other: long mode, page tables, and handlers for every
// vector that write down what happened and go on behind the piece that raised it.
//
// Nothing of the engine is looked at but its interface, so a program's run can be compared with its run on another
// engine: registers, memory, and what it asked of its owner.
#pragma once
#include "cpu/model.h"
#include "engine/engine.h"
#include "program.h"
#include <string.h>

enum {
    TABLES_END = 0x40000, // of page tables, which engines may mark as accessed and written at different times
    VECTOR = 0x40,        // of interrupts
};

// How a program is run.
enum how {
    FREELY,   // as engines do for real
    COUNTED,  // a limit to the number of instructions
    IN_STEPS, // of random numbers of instructions
    SINGLY,   // one instruction at a time
    HOWS,
};
extern const char *const how_names[HOWS];

enum end { HALTED, CRASHED, LIMIT, HUNG, BROKEN };
extern const char *const end_names[BROKEN + 1];

struct machine {
    const char *name;
    const struct engine_ops *ops;
    struct engine_vm *vm;
    struct engine_vcpu *cpu;
    uint8_t *ram;
    int fd;
    struct cpu_state s;
    unsigned interrupts;
    uint64_t calls, hash; // what the owner was asked for: how often, and a digest of it
    uint64_t tsc;
    enum end end;
};

// 0 or an error text. cells: engine dbt runs ring 3 in processes of its own.
int machine_open(struct machine *m, const char *name, const struct engine_ops *ops, const struct cpu_model *model,
                 bool cells, struct error *err);
void machine_close(struct machine *m);
// What memory holds in the beginning: RAM bytes.
void machine_memory(uint8_t *ram, const struct program *p, const struct image *image);
// `steps` is the seed of IN_STEPS. The machine's s, ram, calls, hash and end are the result.
void machine_run(struct machine *m, const struct program *p, const uint8_t *memory, const struct cpu_model *model,
                 enum how how, uint64_t limit, uint64_t steps);
// For telling what a program does: one instruction more. False: it has ended.
void machine_begin(struct machine *m, const struct program *p, const uint8_t *memory, const struct cpu_model *model);
bool machine_step(struct machine *m);
// The vector whose handler has just begun, or -1. (An engine need not count an instruction that faults: a step may be
// one further.)
int machine_vector(const struct machine *m);
// The bytes at RIP, as they are by now; fewer where the next page is absent. How many.
enum { LONGEST = 15 };
unsigned machine_code(const struct machine *m, uint8_t bytes[LONGEST]);
