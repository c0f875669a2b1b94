// The engines that this program was built with, and which of them to take.
#pragma once
#include "engine/engine.h"

extern const struct engine_ops *const engines[]; // best first; ends with NULL

// The engine called `name`, or for NULL the first that works here. `why` (may be NULL) gets one line on the choice.
// -EINVAL for an unknown name, -ENOTSUP where it doesn't work here.
int engine_choose(const char *name, const struct engine_ops **out, struct error *why, struct error *err);
