// manifest.json: the first thing in a bundle. It says what the machine is and what else is in the bundle.
//
//     {"format": "trapeze-bundle", "version": 1, "trapeze": "0.1.0", "name": "web",
//      "machine": {"cpus": 2, "memory": 1073741824, "cpu": "", "append": "console=ttyS0", "mmio": false,
//                  "paravirt": true, "balloon": true, "no_reboot": false, "agent": false, "kernel": true,
//                  "initrd": false, "nets": ["52:54:00:00:00:01"], "disks": [{"readonly": false, "serial": ""}]},
//      "members": [{"name": "disk0.qcow2", "size": 196616, "sha256": "..."}, {"name": "kernel", ...}]}
//
// A machine is described by what it has, not by options of a command line: a bundle comes from a stranger, and must not
// choose files, ports or networks of the host that it is imported on. The members follow from the machine: its disks in
// order, the kernel, the initial RAM disk; other names, or another order, are refused.
//
// Example:
//     if (!bundle_manifest_read(&m, text, length, &err)) for (unsigned i = 0; i < m.members; i++) m.member[i].size ...
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BUNDLE_VERSION = 1,
    BUNDLE_DISKS = 24,
    BUNDLE_NETS = 1, // the user network: others belong to a host
    BUNDLE_MEMBERS = BUNDLE_DISKS + 2,
    BUNDLE_APPEND = 4096,
    BUNDLE_MANIFEST = 64 << 10 // bytes of JSON, at most
};

struct bundle_member {
    char name[32];
    uint64_t size; // bytes
    char sha256[65];
};

struct bundle_manifest {
    char name[33];    // of the machine
    char program[33]; // version of Trapeze
    unsigned cpus;
    uint64_t memory; // bytes, whole MiB
    char cpu[65];    // the model; empty: the best that the host can give
    char append[BUNDLE_APPEND];
    bool mmio, paravirt, balloon, no_reboot, agent;
    bool kernel, initrd; // without a kernel: it is in the first disk
    unsigned nets, disks;
    uint8_t mac[BUNDLE_NETS][6];
    struct {
        bool readonly;
        char serial[21];
    } disk[BUNDLE_DISKS];
    unsigned members;
    struct bundle_member member[BUNDLE_MEMBERS];
};

// Fills in the names of the members, as they follow from the rest; sizes and digests are left alone.
void bundle_members(struct bundle_manifest *m);
// The text is the caller's to free; NULL: no memory, or a string is no UTF-8.
char *bundle_manifest_write(const struct bundle_manifest *m);
// -EINVAL: not a manifest, or it makes no sense; -ENOTSUP: of a newer version.
int bundle_manifest_read(struct bundle_manifest *m, const char *text, size_t length, struct error *err);
