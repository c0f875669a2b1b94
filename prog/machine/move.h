// Moving a running machine to another process, behind its control socket (migrate/send.h does the work):
//
//     POST   /migrate  {"to": "tcp:host:7000", "downtime_ms": 300, "bandwidth": 0, "max_time_s": 0, "compress": false,
//                      "insecure": false, "tls": {"psk": "/file"} or {"cert": ..., "key": ..., "ca": ...}}; begins
//     GET    /migrate  how far it is
//     DELETE /migrate  the machine stays here
//
// GET's "state" is none, connecting, copying, stopped or handing over while it goes on, then moved, kept (with
// "error"), lost or undecided (send.h says what these are). After "moved" and "lost" the machine ends. One that is
// undecided stands still until a user has it resumed or killed.
#pragma once
#include "prog/machine/control.h"

struct machine_move;

extern const struct control_route machine_move_routes[];

struct machine_move *machine_move_new(struct machine_control *c); // NULL: no memory
// The machine has ended, or is about to: cancels what goes on, and waits for it.
void machine_move_free(struct machine_move *v);
// For an undecided machine whose user says that it shall go on here: true if it was one.
bool machine_move_take_back(struct machine_move *v);
