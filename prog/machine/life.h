// One life of a machine, in this process: from its directory to the exit status.
//
// While it lives the machine has a directory (state_dir.h), where other commands find it, and a control socket
// (machine_control.h). A temporary one takes its directory with it when it ends; another leaves there how it ended.
//
// Example: status = life_run(&(struct life_options){.run = &o, .record = r, .background = -1});
#pragma once
#include "prog/option/options.h"
#include "prog/state/record.h"

struct restore;

struct life_options {
    struct run_options *run;
    const struct record *record; // how it is started
    struct state_dir *again;     // the directory of a machine that is started again, not locked; NULL: a new one
    struct restore *restore;     // the snapshot that it goes on from; NULL: it boots
    int background;              // what detach() gave: who waits for the start; -1: in the foreground
};

// Returns the exit status. What goes wrong is told on standard error, in a line.
int life_run(const struct life_options *o);
