// Raw disks. See disk_raw.c; everybody but disk.c opens disks by disk_open.
//
// Example: raw_disk_open(fd, options, guarded, aio, &disk, &err)
#pragma once
#include "backend/disk.h"

// fd is taken over, also on failure. guarded: the guest must not make the disk look like an image of another format;
// a write that would is failed with -EPERM. The rest is as in disk_open.
int raw_disk_open(int fd, const struct disk_options *o, bool guarded, struct aio *aio, struct disk **out,
                  struct error *err);
