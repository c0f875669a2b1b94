// Disks on the host: what --disk FILE names.
//
// Example: disk_open(&(struct disk_options){.path = "debian.img", .readonly = true}, aio, &disk, &err)
#pragma once
#include "backend/aio.h"
#include "vm/disk.h"

struct disk_options {
    const char *path;
    const char *serial; // up to 20 characters; NULL: none
    bool readonly;
};

// Opens a raw image file or a block device. A writable disk is locked against other writers, a read-only one against
// any writer, for as long as it is open (open file description locks, so that crashed owners leave none behind). Its
// size must be a multiple of 512 and not 0. The aio stays the caller's and must outlive the disk.
int disk_open(const struct disk_options *o, struct aio *aio, struct disk **out, struct error *err);
