// Stopping machines as trapeze stop does, for other commands.
#pragma once
#include "prog/command/vm_options.h"

// Presses the buttons of all machines that are named, and after o->time seconds kills those that have not powered off.
// tell: the names of those that have ended go to standard output. Status to end with; what went wrong has been told.
int vm_stop_all(const struct command_line *line, const struct vm_options *o, bool tell);
