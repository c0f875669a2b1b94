// From bytes to struct interp_insn; see decode.c.
#pragma once
#include "engine/interp/interp.h"

struct interp_decoder;

int decoder_create(const struct cpu_model *m, struct interp_decoder **out, struct error *err);
void decoder_destroy(struct interp_decoder *d);

// Decodes one instruction for v's mode. False: it goes on behind `available` bytes. *last: it ends a block.
bool decode_insn(struct interp_vcpu *v, const uint8_t *bytes, unsigned available, struct interp_insn *out, bool *last);
