// A running machine behind its control socket: the resources that every machine has.
//
//     GET  /vm       what it is, and its state: "running" or "paused"
//     GET  /stats    time, processor time, memory, all counters
//     POST /pause    stops the CPUs and their clock; a paused machine stays paused
//     POST /resume
//     POST /power    {"action": "button"} or {"action": "kill"}
//     /console, /hvc WebSockets: the serial port and the virtio console
//
// An area of its own (snapshots) adds a table of routes to machine_control.c's list, with handlers that get the struct
// machine_control.
#pragma once
#include "control/server.h"
#include "prog/machine/machine.h"
#include "prog/state/state_dir.h"

struct machine_move;

struct machine_control {
    struct machine *m;
    const struct state_dir *dir;
    _Atomic bool paused; // by a user; written on the control thread
    uint64_t started_ns; // host monotonic time
    struct control_table tables[8];
    struct control_stream streams[3];
    struct machine_move *move; // machine_move.h
    struct control_server *server;
};

// The machine is built. Serves dir's control.sock until machine_control_stop.
int machine_control_start(struct machine_control *c, struct machine *m, const struct state_dir *dir, struct error *err);
void machine_control_pause(struct machine_control *c); // as a user would
void machine_control_stop(struct machine_control *c);  // nothing to do if it hasn't started
