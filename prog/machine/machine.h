// One machine, built out of what the command line says: backends, devices, the VM.
//
// Everything that is made is recorded here and freed by machine_free in the opposite order, so every failure on the way
// has one way out. Devices come from a table of parts (machine_parts, prog/machine/parts.c): a part opens what stands
// behind its devices, attaches them, and closes them again.
//
// Example:
//     struct machine *m = machine_new(&options, &log, loop, &dir, &keys, &err);
//     if (!machine_build(m, &err)) end = vm_run(&m->vm, &err);
//     machine_free(m);
#pragma once
#include "backend/aio.h"
#include "backend/console.h"
#include "backend/disk.h"
#include "backend/hub.h"
#include "backend/net.h"
#include "backend/vsock.h"
#include "host/clock.h"
#include "host/memory.h"
#include "machine/pc.h"
#include "prog/machine/file.h"
#include "prog/machine/shares.h"
#include "prog/option/options.h"
#include "prog/state/state_dir.h"
#include "vm/vm.h"

struct restore;

struct machine {
    const struct run_options *o;
    const struct restore *restore; // the snapshot that it goes on from (prog/machine/restore.h); NULL: it boots
    struct log *log;
    struct loop *loop;
    const struct state_dir *dir; // NULL: none
    struct console_keys keys;    // what a terminal's escape keys do
    struct aio *aio;
    struct disk *disk[MAX_DISKS];
    struct net *net[MAX_NETS];
    struct virtio_device *net_card[MAX_NETS];
    struct vsock *vsock;
    struct console *console, *hvc, *debugcon;
    struct hub *console_hub, *hvc_hub; // NULL: nobody can attach to it
    struct host_instant since;         // when this was made: the longer ago, the less must clocks wait for each other
    struct host_ram ram;
    struct file kernel, initrd;
    char *cmdline; // NULL: as the options say
    struct cpu_model model;
    bool vm_made;
    enum {
        MACHINE_STAYED,
        MACHINE_MOVED,
        MACHINE_LOST
    } moved; // where it lives when it has ended here (machine_move.h)
    struct vm vm;
    struct pc *pc;
    struct share share[MAX_SHARES];
    struct virtio_device *balloon; // NULL: the machine has none
    int perf_map;                  // 0: none
};

// Options, log, loop and directory (NULL: none) are the caller's and outlive the machine.
struct machine *machine_new(const struct run_options *o, struct log *log, struct loop *loop,
                            const struct state_dir *dir, const struct console_keys *keys, struct error *err);
// Set m->restore before, for a machine that does not boot. Up to, and with, the first reset: vm_run may follow. On
// failure machine_free is still the caller's to call; m->vm_made tells whether it got so far that the VM exists.
int machine_build(struct machine *m, struct error *err);
void machine_free(struct machine *m); // m may be NULL
// Whether the saved machine's CPUs can be had here, before anything is made. -ENOTSUP: err says what is missing.
int machine_check_model(const struct run_options *o, const struct restore *restore, struct error *err);

// One kind of devices. open is called before there is a VM, in the table's order; attach when there is one, in the
// order of slots; close in the opposite order of open, also for what was never opened. Each may be NULL.
struct machine_part {
    int (*open)(struct machine *m, struct error *err);
    int (*attach)(struct machine *m, struct error *err);
    void (*close)(struct machine *m);
};

extern const struct machine_part machine_parts[];
extern const unsigned machine_parts_count;

// The streams of the serial port and of the virtio console, for the guest's devices.
struct stream *machine_console(const struct machine *m);
struct stream *machine_hvc(const struct machine *m);

// For parts: attaches a virtio device where --virtio says, and makes it the machine's.
int machine_attach_virtio(struct machine *m, struct virtio_device *d, struct error *err);
