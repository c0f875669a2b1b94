// What a block device needs from whatever holds its data: the interface that backends implement.
//
// Requests are asynchronous: submit() returns at once and done() is called exactly once for each, on any thread, maybe
// before submit() returns. The request and its segments stay the caller's and must live until done(). Flush: everything
// that was done before it is submitted is on stable storage when it is done.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

struct disk_segment { // same layout as struct iovec
    void *base;
    size_t len;
};

struct disk_request {
    enum disk_op op;
    uint64_t offset,
        length; // bytes, multiples of 512, within the disk; READ and WRITE: length is the sum of the segments
    struct disk_segment *seg;
    unsigned segs;
    void (*done)(struct disk_request *r, int result); // 0 or negative errno
    void *owner;
    struct disk_request *next; // the backend's while it is submitted
};

struct disk;

struct disk_ops {
    void (*submit)(struct disk *d, struct disk_request *r);
    void (*drain)(struct disk *d); // returns when every submitted request is done
    void (*close)(struct disk *d); // drains and frees
    // Counters for people to read; any thread. May be NULL.
    void (*stats)(struct disk *d, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
    // False: gives up the lock on what holds the data, so that another process may open it; until true has succeeded
    // nothing is submitted. True: -EBUSY if somebody else has it now. Drained and flushed. NULL: it has no lock.
    int (*hold)(struct disk *d, bool hold);
};

struct disk {
    const struct disk_ops *ops;
    uint64_t size;       // bytes, multiple of 512
    uint32_t block_size; // preferred I/O size, at least 512
    bool readonly;
    bool discard; // DISK_DISCARD and DISK_WRITE_ZEROES are worth sending
    char serial[21];
};
