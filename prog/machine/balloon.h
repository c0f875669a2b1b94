// The memory of a running machine, behind its control socket:
//
//     GET  /balloon                    what it has, is asked to be content with, and says it has now; in bytes
//     POST /balloon   {"size": N}      asks it to be content with N bytes; the answer is what GET says
#pragma once
#include "prog/machine/control.h"

extern const struct control_route machine_balloon_routes[];
