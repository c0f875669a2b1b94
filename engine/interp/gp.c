// Which handler serves a general-purpose instruction: asked once, when it is decoded.
#include "engine/interp/gp.h"

interp_fn interp_gp_handler(const struct interp_insn *i)
{
    static interp_fn (*const selectors[])(const struct interp_insn *) = {
        gp_move, gp_alu, gp_flow,     gp_stack,  gp_shift,   gp_muldiv,
        gp_bit,  gp_bmi, gp_exchange, gp_string, gp_decimal, gp_hint,
    };
    // Segment, control, debug and vector registers are not ours, nor is anything far.
    for (unsigned n = 0; n < i->ops; n++)
        if (i->op[n].kind == OPERAND_SEG || i->op[n].kind == OPERAND_CR || i->op[n].kind == OPERAND_DR ||
            i->op[n].kind == OPERAND_OTHER)
            return NULL;
    if (i->far)
        return NULL;
    for (unsigned n = 0; n < sizeof selectors / sizeof selectors[0]; n++) {
        interp_fn fn = selectors[n](i);
        if (fn)
            return fn;
    }
    return NULL;
}
