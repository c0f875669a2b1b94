// Between the loop (run.c) and those who drive it (engine.c, other software engines).
#pragma once
#include "engine/interp/shared.h"

enum interp_event {
    EVENT_NONE,  // nothing to do: execute
    EVENT_AGAIN, // something was delivered, or the CPU slept: look again
    EVENT_EXIT,  // ENGINE_EXIT was set, and is cleared
    EVENT_SHUTDOWN,
};

// Looks at everything that can happen between two instructions. In the guest (world.h).
enum interp_event interp_events(struct interp_vcpu *v);

// Runs until told otherwise; `count` instructions at most (UINT64_MAX: no limit). Out of the guest before and after.
enum engine_exit interp_run(struct interp_vcpu *v, uint64_t count);
