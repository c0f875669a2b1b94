// The machine code that belongs to no block: entering and leaving translated code, and the path that a missed check
// takes.
//
// Made once per vCPU at the beginning of its code cache (runtime.c).
#pragma once
#include "engine/dbt/dbt.h"

// Why translated code was left (exit_why). With DBT_WHY_SLOT: the flags are in flag_slot, else in host_flags.
enum {
    DBT_WHY_LINK,     // exit_arg: struct dbt_exit, whose target is not linked yet
    DBT_WHY_STEP,     // exit_arg: struct dbt_exit; the interpreter does the instruction at its target
    DBT_WHY_POLL,     // exit_arg: struct dbt_block, at whose beginning we are
    DBT_WHY_INDIRECT, // exit_address: target
    DBT_WHY_SITE,     // exit_arg: struct dbt_site; the interpreter does that instruction
    DBT_WHY_SPLIT,    // exit_arg: struct dbt_site; go on there with stack accesses checked one by one
    DBT_WHY_FAULT, // exit_arg: struct dbt_block, exit_address: of the guest instruction whose code raised a host signal
    DBT_WHY_SLOT = 0x100,
};

struct dbt_runtime {
    // Addresses in the writable view, to jump to from emitted code (displacements are the same in both views).
    const uint8_t *leave; // all registers at home but for those of the same name; exit_why and exit_arg are set
    const uint8_t *leave_for[DBT_WHY_POLL + 1][2]; // r14: exit_arg; by exit_why, and whether flags are in flag_slot
    const uint8_t *slow_for[CPU_GPR_COUNT]; // exit_address: address, and in this register the site (not for RSP); comes
                                            // back to the site's retry or leaves
    const uint8_t *stack_for[2][CPU_GPR_COUNT]; // likewise, for a site that wants the stack window moved; user: 1
    const uint8_t *far_miss; // r14: own address of a block whose page is no longer mapped there; flags in flag_slot
    const uint8_t *indirect_miss; // r14: target; flags in flag_slot
    // In the executable view.
    void (*enter)(struct dbt_vcpu *v); // to v->enter_at, with registers from s.gpr and flags from host_flags
    uint64_t indirect_miss_address;
    uint64_t return_address; // leaves when all is saved already and RSP is host_rsp
};

struct dbt_runtime *dbt_runtime(struct dbt_vcpu *v);
int dbt_runtime_write(struct dbt_vcpu *v);

// The slow path's C half (slow.c, general registers only). 0: leave with exit_why set; 1: go on at enter_at with the
// registers in `save`.
int dbt_slow(struct dbt_vcpu *v);
