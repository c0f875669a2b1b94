// Exceptions and interrupts as numbers, and how two of them combine.
//
// Example: a #GP raised while a #PF is being delivered becomes a double fault:
//     cpu_exception_combine(EXC_PF, EXC_GP) == CPU_DOUBLE_FAULT
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum cpu_exception {
    EXC_DE = 0,
    EXC_DB = 1,
    EXC_NMI = 2,
    EXC_BP = 3,
    EXC_OF = 4,
    EXC_BR = 5,
    EXC_UD = 6,
    EXC_NM = 7,
    EXC_DF = 8,
    EXC_TS = 10,
    EXC_NP = 11,
    EXC_SS = 12,
    EXC_GP = 13,
    EXC_PF = 14,
    EXC_MF = 16,
    EXC_AC = 17,
    EXC_MC = 18,
    EXC_XM = 19,
    EXC_CP = 21,
};

// Page-fault error code bits (Intel SDM vol. 3, 4.7).
enum { PF_P = 1 << 0, PF_W = 1 << 1, PF_U = 1 << 2, PF_RSVD = 1 << 3, PF_I = 1 << 4, PF_PK = 1 << 5 };

// What became of an instruction. `raised` false: nothing else is meaningful.
struct cpu_fault {
    bool raised;
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t cr2; // EXC_PF only
};

enum cpu_combined { CPU_SERIAL, CPU_DOUBLE_FAULT, CPU_TRIPLE_FAULT };

// What a second exception means that is raised while `first` is being delivered (Intel SDM vol. 3, table 6-5).
enum cpu_combined cpu_exception_combine(uint8_t first, uint8_t second);

// True if the exception pushes an error code (protected and long mode).
bool cpu_exception_has_error(uint8_t vector);
