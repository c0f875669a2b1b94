// The CPUID instruction: see cpuid.h.
#include "host/cpuid.h"
#include <cpuid.h>

struct cpuid_regs host_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r;
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}
