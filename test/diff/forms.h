// Instruction forms: every way, that the decoder knows, of writing an instruction down, up to the choice of registers,
// addresses and immediate values.
//
// The list is made by enumeration: all opcode maps, mandatory prefixes, REX.W, VEX.L and VEX.W, register and memory
// ModRM, and the ModRM fields that are part of the opcode. Each is decoded once; what decodes to an instruction that
// was not yet seen with the same operand kinds is a form. Nothing is listed by hand, so nothing can be forgotten; what
// must not run in a user program is taken out by form_excluded() (select.c), with the reason.
#pragma once
#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct form {
    bool long64;       // decoded in 64-bit mode; otherwise in 32-bit mode
    bool vex;          // VEX encoding; otherwise legacy
    uint8_t prefix[2]; // legacy: 0x66, 0xf2, 0xf3, 0xf0, in this order
    uint8_t prefixes;
    uint8_t map; // 0: one byte, 1: 0f, 2: 0f 38, 3: 0f 3a
    uint8_t opcode;
    uint8_t pp, l;                     // VEX
    uint8_t w;                         // REX.W or VEX.W
    bool opcode_reg;                   // the low three bits of the opcode choose a register
    bool modrm, mem;                   // has a ModRM byte; it names memory
    bool reg_free, rm_free, vvvv_free; // the field chooses a register
    uint8_t reg, rm;                   // otherwise: its fixed value
    bool vsib;
    uint8_t imm; // bytes of immediates and displacements after ModRM
    ZydisMnemonic mnemonic;
    ZydisISASet isa_set;
    ZydisISAExt isa_ext;
    ZydisInstructionCategory category;
};

struct forms {
    struct form *form;
    size_t count;
};

// All forms of one mode; free with forms_free. False if there is no memory.
bool forms_enumerate(struct forms *f, bool long64);
void forms_free(struct forms *f);

// The reason why a form is not tested, or NULL: the model doesn't have it, a user program can't execute it here, or its
// result is no function of the case (select.c).
struct cpu_model;
const char *form_excluded(const struct form *f, const struct cpu_model *model);

// Number of distinct mnemonics.
size_t forms_mnemonics(const struct forms *f);
