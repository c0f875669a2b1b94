// A machine that comes from another process (migrate/receive.h), between its first message and its life here.
//
// What a stranger says about a machine is not followed blindly. Files of this host (disks, sockets, files behind
// consoles) are used as the source named them only where it is the same user's (a unix socket), or where the user said
// so (--same-paths); otherwise the user of this command names them, or they are refused. Consoles, published ports and
// sockets are always this side's.
//
// Example:
//     arrival_begin(&a, fd, &err); arrival_options(&a, &o, &err); arrival_contents(&a, &o, &log, &err);
//     life_run(... .restore = &a.restore ...) calls arrival_ram, arrival_load and arrival_take_over
#pragma once
#include "host/memory.h"
#include "migrate/receive.h"
#include "prog/machine/restore.h"
#include "prog/option/options.h"

struct machine;

struct arrival {
    struct restore restore; // as it is known to those who build machines
    struct receiving r;
    struct host_ram ram;
    bool same_paths;
    const char *disk[MAX_DISKS]; // in place of those that the source names, in their order
    unsigned disks;
    int file[HELLO_FILES]; // memory files: kernel, initial RAM disk
    char file_path[HELLO_FILES][32];
};

void arrival_init(struct arrival *a, int fd, const _Atomic bool *cancel); // takes fd, connected
// The first message, and what the machine is made of: a->restore.s.m.
int arrival_begin(struct arrival *a, struct error *err);
// Changes options, which were parsed from those of the source's machine, as said above.
int arrival_options(struct arrival *a, struct run_options *o, struct error *err);
// Whether such a machine can be made here is known; then everything that it holds comes.
int arrival_contents(struct arrival *a, struct error *err);
void arrival_close(struct arrival *a);

// Called while the machine is built, in this order.
int arrival_ram(struct arrival *a, struct machine *m);
int arrival_load(struct arrival *a, struct machine *m, struct error *err);
// It could run: takes it over. *paused: by a user, on the other side; it is to stay so. After an error it must not run.
int arrival_take_over(struct arrival *a, struct machine *m, bool *paused, struct error *err);
void arrival_refuse(struct arrival *a, const char *why); // the source is told, and goes on
