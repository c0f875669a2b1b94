// Disks on the host: what --disk FILE names.
//
// Example: disk_open(&(struct disk_options){.path = "debian.img", .readonly = true}, aio, &disk, &err)
#pragma once
#include "backend/aio.h"
#include "backend/rate.h"
#include "vm/disk.h"

enum disk_format { DISK_PROBE, DISK_RAW, DISK_QCOW2 };

struct disk_options {
    const char *path;
    const char *serial; // up to 20 characters; NULL: none
    bool readonly;
    enum disk_format format; // DISK_PROBE: what the first bytes say, and the guest cannot change (disk.c)
};

// Opens a raw image file, a block device or a qcow2 image (qcow2/qcow2.h). A writable disk is locked against other
// writers, a read-only one against any writer, for as long as it is open (open file description locks, so that crashed
// owners leave none behind). Its size must be a multiple of 512 and not 0. The aio stays the caller's and must outlive
// the disk.
int disk_open(const struct disk_options *o, struct aio *aio, struct disk **out, struct error *err);

// Puts limits before a disk: *disk becomes the one that keeps to them, and closing that closes both. Without limits
// nothing changes. On failure *disk may have changed and is to be closed all the same. operations: requests.
int disk_limit(struct disk **disk, const struct rate_limits *limits, struct error *err);

enum { DISK_MAGIC_BYTES = 4 };
// Whether a disk that begins with these DISK_MAGIC_BYTES bytes is taken for something else than a raw one.
bool disk_magic(const void *first);
