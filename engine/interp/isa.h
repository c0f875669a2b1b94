// Which instructions a CPU model has; see isa.c.
#pragma once
#include <stdbool.h>

struct cpu_model;

// `isa_set` is a ZydisISASet.
bool isa_allows(const struct cpu_model *m, unsigned isa_set);
