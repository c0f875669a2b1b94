// From bytes to struct interp_insn; see decode.c.
#pragma once
#include "engine/interp/interp.h"
#include <Zydis/Zydis.h>

struct interp_decoder;

int decoder_create(const struct cpu_model *m, struct interp_decoder **out, struct error *err);
void decoder_destroy(struct interp_decoder *d);

// Zydis's decoder as the model wants it, and whether the model has an instruction that it decoded: for another engine.
const ZydisDecoder *decoder_zydis(const struct interp_decoder *d, enum interp_mode mode);
bool decoder_allows(const struct interp_decoder *d, const ZydisDecodedInstruction *z);

// Decodes one instruction for v's mode. False: it goes on behind `available` bytes. *last: it ends a block.
bool decode_insn(struct interp_vcpu *v, const uint8_t *bytes, unsigned available, struct interp_insn *out, bool *last);
