// Makes a case from an instruction form and a seed. The same form and seed always give the same case.
#pragma once
#include "case.h"
#include "forms.h"

// False if this form and seed give none (an encoding that means something else, an address that can't be reached).
bool case_generate(struct diff_case *c, const struct form *f, uint64_t seed);
