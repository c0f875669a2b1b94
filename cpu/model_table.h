// The rows that CPU models are made of; private to cpu/model*.c.
//
// A feature is one CPUID bit with a name. Its kind says what a host must offer for it, its `in` which models have it.
#pragma once
#include "cpu/model.h"

enum cpuid_reg { REG_EAX, REG_EBX, REG_ECX, REG_EDX };

enum {
    // Where a feature comes from.
    NATIVE = 0, // user-mode instructions that engines may run on the host's own units: the host must have them
    ENGINE = 1, // every engine provides it, whatever the host
    SYSTEM = 2, // software engines provide it; hardware virtualization only where the host's CPU has it
};

enum {
    // Which models have it.
    IN_V2 = 1 << 0,
    IN_V3 = 1 << 1,
    IN_HOST = 1 << 2,    // NATIVE: if the host has it
    ONLY_AMD = 1 << 3,   // only where the vendor is AMD
    ONLY_INTEL = 1 << 4, // only where it is Intel
    ON_REQUEST = 0,      // only by +name
    IN_ALL = IN_V2 | IN_V3 | IN_HOST,
    IN_V3_UP = IN_V3 | IN_HOST,
};

struct cpu_feature {
    const char *name;
    uint32_t leaf, subleaf;
    uint8_t reg, bit, kind, in;
    const char *needs; // another feature's name, or NULL: without that one this one goes too
};

extern const struct cpu_feature cpu_features[];
extern const unsigned cpu_feature_count;

uint32_t *cpuid_reg(struct cpuid_regs *r, unsigned reg);
// The entry for leaf/subleaf, made (zero) if there is none yet. The table has room for all leaves that models use; NULL
// only if it were full.
struct cpuid_regs *cpu_model_leaf(struct cpu_model *m, uint32_t leaf, uint32_t subleaf);

// model_leaves.c: leaves that are not feature bits. The feature bits are in place before.
void cpu_model_add_identity(struct cpu_model *m, const char *name, cpu_host_cpuid host); // host: NULL unless `host`
void cpu_model_add_topology(struct cpu_model *m);
void cpu_model_add_xsave(struct cpu_model *m, cpu_host_cpuid host);
void cpu_model_add_clock(struct cpu_model *m);
void cpu_model_add_paravirt(struct cpu_model *m);
