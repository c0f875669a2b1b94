// Snapshots as directories: making one so that it is there complete or not at all, and opening one.
//
//     DIR/snapshot.json   what it is of, and the digests of its parts (manifest.h)
//     DIR/state           clock, CPUs, devices (vm/save.h)
//     DIR/memory          memory.h
//     DIR/kernel, initrd  what the machine boots from when it is reset
//     DIR/disk0, ...      copies of its writable disks
//
// Making one: everything is written into a directory beside it whose name begins with a dot; that is synced to the
// disk and gets its name at last. Files are read-only from the start, since machines map and overlay them.
//
// Example:
//     struct snapshot_writer w;
//     snapshot_begin(&w, "/backup/web", &err);
//     int fd = snapshot_add(&w, "memory", &err); ...
//     snapshot_commit(&w, manifest_text, &err);    // or snapshot_abandon(&w)
#pragma once
#include "snapshot/manifest.h"

enum { SNAPSHOT_FILES = SNAPSHOT_DISKS + 8 };

struct snapshot_writer {
    char *path, *making; // its name in the end, and until then
    int fd;              // the directory
    int file[SNAPSHOT_FILES];
    unsigned files;
};

// -EEXIST: there is something of that name already.
int snapshot_begin(struct snapshot_writer *w, const char *path, struct error *err);
// A new file of the snapshot, to be read and written; stays the writer's. Negative errno on failure.
int snapshot_add(struct snapshot_writer *w, const char *name, struct error *err);
// Both end the writer.
int snapshot_commit(struct snapshot_writer *w, const char *manifest, struct error *err);
void snapshot_abandon(struct snapshot_writer *w);

struct snapshot {
    char *path; // absolute
    int fd;     // the directory
    struct snapshot_manifest m;
};

int snapshot_open(struct snapshot *s, const char *path, struct error *err);
void snapshot_close(struct snapshot *s);
// A part, for reading: -EINVAL if it is not as long as the manifest says.
int snapshot_part_open(const struct snapshot *s, const char *name, const struct snapshot_part *part, struct error *err);
// The state, checked against its digest: free() it. NULL: err says why.
uint8_t *snapshot_state(const struct snapshot *s, size_t *size, struct error *err);
// All parts against their digests. -EINVAL: err names the first that differs.
int snapshot_verify(const struct snapshot *s, struct error *err);
// Removes a snapshot: only a directory that is one, with nothing else in it but its own files.
int snapshot_remove(const char *path, struct error *err);
