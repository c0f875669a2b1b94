// The source's side of a live migration: the machine runs while its memory is copied, and stands still only for the
// last part.
//
// Rounds. First all memory that is not zero is sent, then, again and again, the pages that were written meanwhile
// (engine.h, the dirty log). The receiver answers the end of each round; so bandwidth is measured where it counts. When
// what is left can be sent within the wanted down time, the machine is stopped, the rest and its state are sent, and it
// changes hands. If a round leaves more than it should, the guest writes faster than the connection carries: its CPUs
// are slowed down, more with each such round.
//
// Changing hands. Before READY nothing has happened but copying: any failure, and a cancel, lets the machine go on
// here. With a file in common (owner.h) the rest is as told there, and whichever side is killed, exactly one goes on.
// Without one (another host) the source records "gone", sends COMMIT, and never goes on by itself: if the answer does
// not come, MIGRATE_UNDECIDED says that only a person can tell (whether the machine runs there). The receiver does not
// start without a COMMIT. So it is never run twice, and nothing is lost: the source keeps the machine stopped.
#pragma once
#include "migrate/hello.h"
#include "migrate/owner.h"
#include "migrate/wire.h"
#include <stdatomic.h>

enum migrate_phase { MIGRATE_CONNECTING, MIGRATE_COPYING, MIGRATE_STOPPED, MIGRATE_HANDING_OVER, MIGRATE_ENDED };

// Read by other threads while it goes on; times in ns, bandwidth in bytes per second.
struct migrate_progress {
    _Atomic int phase; // enum migrate_phase
    _Atomic uint64_t rounds, pages_sent, zeros_sent, bytes_sent, pages_left, bandwidth, down_ns, disk_bytes;
    _Atomic unsigned throttle; // percent of time that CPUs stand still
};

struct migrate_limits {
    uint64_t downtime_ns, max_time_ns; // max_time_ns 0: as long as it takes
    uint64_t bandwidth;                // bytes per second; 0: none
    bool compress;
};

// The machine, called on the thread that migrates. Those that return int: 0 or a negative errno with err filled.
struct migrate_machine {
    int (*log_start)(void *ctx, struct error *err);
    void (*log_stop)(void *ctx);
    int (*log_fetch)(void *ctx, uint64_t *bitmap, struct error *err); // adds one bit per page of RAM
    void (*throttle)(void *ctx, unsigned percent);                    // 0: full speed
    int (*stop)(void *ctx, struct error *err);                        // until resume: nothing changes any more
    // While it is stopped: its state, the caller's to free; disks are flushed, and their files free to be opened.
    int (*state)(void *ctx, uint8_t **data, size_t *size, struct error *err);
    int (*resume)(void *ctx, struct error *err); // and the disks are ours again: -EBUSY if they cannot be had
    // Copies what is new of the disks that are sent along: until *done, while it runs; then, stopped, the rest. NULL:
    // none.
    int (*disks)(void *ctx, bool stopped, struct wire *c, struct migrate_progress *p, struct error *err);
};

struct migrate_file {
    const void *data;
    size_t size;
};

struct migrate_source {
    const struct migrate_machine *machine;
    void *ctx;
    const uint8_t *ram;
    uint64_t ram_size;
    int ram_fd;         // the same as a file, in which holes are zero; -1: none
    struct hello hello; // id and owner are filled in
    struct migrate_file file[HELLO_FILES];
    struct migrate_limits limits;
    _Atomic bool cancel;
    struct migrate_progress progress;
};

enum migrate_outcome {
    MIGRATE_KEPT,      // the machine goes on here; err says why
    MIGRATE_MOVED,     // it goes on there: this one is never to run again
    MIGRATE_LOST,      // it had changed hands, and the receiver ended then: this one is never to run again
    MIGRATE_UNDECIDED, // stopped here, and perhaps running there (no file in common)
};

// c is connected, and secured where it should be. hello.owner is a path whose last part is "owner".
enum migrate_outcome migrate_send(struct migrate_source *s, struct wire *c, struct error *err);
