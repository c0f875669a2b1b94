// snapshot.json: what a snapshot is of, and what its files must be. docs/SNAPSHOT.md describes the format.
//
// A manifest may come from anybody: reading it checks every member's kind and range, and says which one is wrong.
//
// Example:
//     struct snapshot_manifest m;
//     if (!snapshot_manifest_read(&m, text, length, &err)) { ... snapshot_manifest_free(&m); }
#pragma once
#include "cpu/model.h"
#include "snapshot/memory.h"
#include <stdbool.h>

enum { SNAPSHOT_VERSION = 1, SNAPSHOT_DISKS = 24, SNAPSHOT_NETS = 8, SNAPSHOT_OPTIONS = 1024 };

struct snapshot_disk {
    char *path; // a copy in the snapshot: its name there; else the absolute path of what the machine only reads
    bool copied, readonly;
    char serial[21];
    char format[8];            // "raw" or "qcow2"
    uint64_t size;             // of the disk, bytes
    struct snapshot_part part; // of the copy
};

struct snapshot_manifest {
    char *name;      // of the machine
    char *created;   // "2026-01-31T12:00:00Z"
    char *program;   // version of Trapeze
    char *engine;    // that it ran under
    char *append;    // the kernel's command line
    char *directory; // where it was started: relative paths among the options begin there
    char **options;  // of `trapeze run`, as given; NULL at the end
    unsigned option_count;
    uint64_t memory; // bytes
    struct cpu_model model;
    unsigned disks, nets;
    struct snapshot_disk disk[SNAPSHOT_DISKS];
    uint8_t mac[SNAPSHOT_NETS][6];
    struct snapshot_part state, ram, kernel, initrd; // kernel and initrd: bytes 0 if there is none
};

// The text is the caller's to free; NULL: no memory.
char *snapshot_manifest_write(const struct snapshot_manifest *m);
// -EINVAL: not a manifest, or damaged. -ENOTSUP: of a newer version. Nothing is left to free on failure.
int snapshot_manifest_read(struct snapshot_manifest *m, const char *text, size_t length, struct error *err);
void snapshot_manifest_free(struct snapshot_manifest *m);

// Whether a machine with this CPU can go on with one that was made here. -ENOTSUP: err names the first difference.
int snapshot_model_same(const struct cpu_model *saved, const struct cpu_model *made, struct error *err);
