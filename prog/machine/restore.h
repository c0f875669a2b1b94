// Making a machine go on from a snapshot.
//
// A restored machine is made of the options that the saved one was made of, but for what the snapshot replaces: kernel
// and initial RAM disk are its own copies, the CPU is the one that the guest knows, writable disks are new overlays
// over the snapshot's, which itself never changes. Memory is mapped, not read.
//
// Example:
//     struct restore r;
//     restore_open(&r, "web-1", &err);
//     run_options_parse(&o, r.s.m.option_count, r.s.m.options, &err);
//     restore_options(&r, &o, "/home/eva/.local/state/trapeze/web", &err);      then build: machine.h
#pragma once
#include "prog/option/options.h"
#include "snapshot/directory.h"

struct arrival;

struct restore {
    struct snapshot s;
    struct arrival
        *arrival; // it comes from another process, not from a directory (prog/machine/arrival.h): s.m alone is filled
    bool copy_memory; // read all of it in advance: costs time and memory, and other processes can map it
    // What the changed options point to.
    char *kernel, *initrd, *disk[SNAPSHOT_DISKS];
};

int restore_open(struct restore *r, const char *path, struct error *err);
void restore_close(struct restore *r);
// Changes what the snapshot replaces. overlays: the folder for the disks' overlays.
int restore_options(struct restore *r, struct run_options *o, const char *overlays, struct error *err);

struct machine;
// Called while the machine is built, in this order.
int restore_ram(const struct restore *r, struct machine *m, struct error *err);  // in place of new memory
int restore_load(const struct restore *r, struct machine *m, struct error *err); // in place of the first reset
