// Taking a snapshot of a running machine.
//
// The machine stands still while its state, its memory and its disks are copied; syncing them to the host's disk, and
// all digests but the memory's, come after it has gone on.
#pragma once
#include "prog/machine/machine.h"
#include "snapshot/manifest.h"

struct snapshot_taken {
    uint64_t paused_ns;                   // how long the machine stood still
    uint64_t total_ns;                    // until everything was on the disk
    uint64_t memory_bytes, memory_stored; // of RAM, and of its pages that are not zero
};

// `options` of `trapeze run` (NULL at the end) and the folder they were given in: what the machine was made of. path:
// where the snapshot shall be. Any thread but the machine's own (loop, vCPUs). -EEXIST: there is something at path.
// -EBUSY: the machine has ended. On failure nothing is left at path and the machine runs on.
int snapshot_take(struct machine *m, char **options, const char *directory, const char *path,
                  struct snapshot_taken *taken, struct error *err);

// What a manifest says of a machine besides disks and parts. `options` stay the caller's.
void snapshot_describe(struct snapshot_manifest *f, const struct machine *m, char **options, const char *directory);
const char *snapshot_disk_format(const struct disk_option *d); // "raw" or "qcow2"
bool snapshot_in_own_folder(const struct machine *m, const char *path);
