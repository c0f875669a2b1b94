// Snapshots of a running machine, behind its control socket:
//
//     POST /snapshot   {"to": "/absolute/path"}   makes a snapshot there; slow
#pragma once
#include "prog/machine/control.h"

extern const struct control_route machine_snapshot_routes[];
