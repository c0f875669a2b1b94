// What the command line of `trapeze run` says. The options stand in tables by area (devices.c, engine.c, guest.c,
// image.c); how a table is read, in command_line.h.
#pragma once
#include "backend/disk.h"
#include "engine/engine.h"
#include "prog/option/network.h"
#include "prog/option/share.h"
#include "report/error.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { MAX_DISKS = 24, MAX_SSH_KEYS = 16 };

struct disk_option {
    const char *path;
    char serial[21];
    bool readonly;
    enum disk_format format;
    struct rate_limits limits;
};

// What starts is a system in a disk (run_image.h).
struct image_option {
    const char *what; // an image's name, or a file with a slash in its name; NULL: none
    uint64_t size;    // of the machine's disk; 0: the image's
    // For cloud-init; NULL: not given.
    const char *user_data, *network_config, *hostname, *ssh_key[MAX_SSH_KEYS];
    unsigned ssh_keys;
};

struct run_options {
    const char *engine; // NULL: auto
    const char *cpu;    // NULL: the best the host can give
    unsigned cpus;
    uint64_t memory;                      // bytes
    const char *kernel, *initrd, *append; // kernel NULL: found in the first disk
    struct image_option image;
    struct disk_option disk[MAX_DISKS];
    unsigned disks;
    struct network_option net[MAX_NETS];
    unsigned nets;
    bool net_none;                             // "none" was said
    struct net_publish publish[MAX_PUBLISHES]; // on the one user network
    unsigned publishes;
    struct share_option share[MAX_SHARES];
    unsigned shares;
    const char *console;       // COM1, ttyS0 in Linux
    const char *hvc;           // virtio console, hvc0 in Linux; NULL: none
    const char *name;          // NULL: one is chosen (state_dir.h)
    bool detach, keep, remove; // in the background; whether the directory stays when it has ended
    bool no_balloon;
    const char *vsock; // path of the host's socket; NULL: in the machine's own folder
    uint32_t vsock_cid;
    bool no_vsock;
    bool agent;       // comes with the initial RAM disk
    bool virtio_mmio; // transport of virtio devices: mmio, not pci
    bool debug_exit, debugcon;
    bool no_reboot;
    bool stats;
    bool help;
    bool no_paravirt; // the guest finds no hypervisor's leaves in CPUID
    enum engine_apics apics;
    bool bells; // doorbells of virtio devices ring on a thread of their own, where the engine can
    enum engine_cells cells;
    bool translate_always, perf_map;
    uint64_t code_cache; // bytes for the whole machine; 0: the default
    unsigned trace;      // TRACE_* of report/log.h
    unsigned verbose;
};

// argv[0] is the first argument after "run". Strings point into argv (disk options: the path is cut out of it in
// place).
int run_options_parse(struct run_options *o, int argc, char **argv, struct error *err);
void run_options_help(FILE *f);
