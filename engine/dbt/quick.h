// Single instructions done by the interpreter's handlers without the interpreter around them.
//
// An instruction that is not translated and that operating systems use often is decoded once, with the block that ends
// before it. When the block is left there, its handler is called: no look-up, no look at events before it, and the
// guest's vector registers stay in the host's, because those handlers are compiled for general registers only (and say
// so before they call what is not: interp_vectors_used). All others go through interp_step().
#pragma once
#include "engine/dbt/dbt.h"

bool dbt_quick_can(unsigned mnemonic); // ZydisMnemonic
// With nothing pending that would have to be looked at between instructions (interp_stepping).
void dbt_quick(struct dbt_vcpu *v, const struct interp_insn *insn);
