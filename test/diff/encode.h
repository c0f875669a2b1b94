// Writes down an instruction of a given form with random registers, addressing mode and immediates.
#pragma once
#include "forms.h"
#include "values.h"

struct encoded {
    uint8_t bytes[24];
    unsigned len;
    unsigned imm_at, disp_at; // where the immediate and the displacement begin; disp_at 0: there is none
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
};

// Which registers to choose from: bit n is register n.
struct encode_choice {
    uint16_t registers, bases, indexes;
};

// False if the bytes are not of this form after all (a prefix can make another instruction).
bool encode_random(struct encoded *e, const struct form *f, struct random *r);
// The same with these registers, and memory operands near what a base register points to.
bool encode_chosen(struct encoded *e, const struct form *f, struct random *r, const struct encode_choice *choice);
// Decodes bytes again, after a displacement or immediate was changed.
bool encode_decode(struct encoded *e, const struct form *f);
