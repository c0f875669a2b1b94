// Whether a struct cpu_state that comes from outside (a saved machine, a migration) is one that a CPU can be in.
//
// Engines rely on what an instruction could have produced: reserved bits are clear, modes go together, an XRSTOR of the
// vector state does not fault. A file may say anything; so whoever loads a state asks here before an engine sees it.
#pragma once
#include "cpu/model.h"

// 0, or -EINVAL and which register holds what no CPU of this model could.
int cpu_state_check(const struct cpu_state *s, const struct cpu_model *m, struct error *err);
