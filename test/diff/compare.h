// Whether two results of a case are the same, and how to tell a person of a case.
#pragma once
#include "case.h"
#include <stdio.h>

// Result 0: equal, as far as the architecture defines them. Otherwise a description of the first differences is written
// to `why`. `translated`: see struct runner.
int compare_results(const struct diff_case *c, const struct diff_result *a, const struct diff_result *b,
                    bool translated, char *why, size_t size);
// Bytes, disassembly, inputs, and what two runners made of them.
void print_case(FILE *out, const struct diff_case *c, const char *name_a, const struct diff_result *a,
                const char *name_b, const struct diff_result *b);
