// The groups of options that trapeze run knows, for options.c alone. A new area is a file options_AREA.c, a line here
// and one in options.c; a new option of an area is a line in its table.
#pragma once
#include "prog/option/command_line.h"

extern const struct option_group options_boot, options_image, options_guest, options_devices, options_life,
    options_engine, options_observe;
