// The host's own CPUID instruction, in the form that cpu_model_make() wants.
//
// Example: cpu_model_make(&model, NULL, host_cpuid, &config, err)
#pragma once
#include "cpu/model.h"

struct cpuid_regs host_cpuid(uint32_t leaf, uint32_t subleaf);
