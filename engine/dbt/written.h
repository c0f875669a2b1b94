// Code that was written by somebody else: another vCPU or a device.
//
// The writer's own blocks are forgotten at once. For other vCPUs the range goes into a list of theirs and they are
// prodded; they look at the list before they enter the next block by a far, indirect or back edge (which poll), and so
// before anything that x86 requires them to do between the write and the use of the new code (an interrupt, a
// serializing instruction, a jump to code that was not there before).
#pragma once
#include "engine/dbt/dbt.h"

void dbt_code_written(struct interp_vm *vm, struct interp_vcpu *i, uint64_t gpa, unsigned size, bool all);
// Forgets what others have written. On the vCPU's thread, parked.
void dbt_take_written(struct dbt_vcpu *v);
static inline bool dbt_is_written(struct dbt_vcpu *v)
{
    return __atomic_load_n(&v->written.count, __ATOMIC_SEQ_CST);
}
