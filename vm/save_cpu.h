// The table by which struct cpu_state (cpu/state.h) is saved. Inside of vm/.
#pragma once
#include "vm/state.h"

extern const struct state_table cpu_state_table;
