// Conditions, as the low four bits of the opcode name them.
#pragma once
#include "cpu/state.h"

enum gp_condition {
    COND_O,
    COND_NO,
    COND_B,
    COND_AE,
    COND_E,
    COND_NE,
    COND_BE,
    COND_A,
    COND_S,
    COND_NS,
    COND_P,
    COND_NP,
    COND_L,
    COND_GE,
    COND_LE,
    COND_G,
};

// clang-format off
#define GP_CONDITIONS(X)                                                                                               \
    X(COND_O) X(COND_NO) X(COND_B) X(COND_AE) X(COND_E) X(COND_NE) X(COND_BE) X(COND_A)                                \
    X(COND_S) X(COND_NS) X(COND_P) X(COND_NP) X(COND_L) X(COND_GE) X(COND_LE) X(COND_G)
// clang-format on

static inline __attribute__((always_inline)) bool cond_holds(uint64_t f, enum gp_condition cc)
{
    bool less = (f >> 7 ^ f >> 11) & 1; // SF != OF
    bool r;
    switch (cc & ~1) {
    case COND_O:
        r = f & RFLAGS_OF;
        break;
    case COND_B:
        r = f & RFLAGS_CF;
        break;
    case COND_E:
        r = f & RFLAGS_ZF;
        break;
    case COND_BE:
        r = f & (RFLAGS_CF | RFLAGS_ZF);
        break;
    case COND_S:
        r = f & RFLAGS_SF;
        break;
    case COND_P:
        r = f & RFLAGS_PF;
        break;
    case COND_L:
        r = less;
        break;
    default:
        r = less || (f & RFLAGS_ZF);
    }
    return r != (cc & 1);
}
