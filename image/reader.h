// Reading a disk, whatever its format is, one blocking call at a time: what looks into images without running them.
//
// Example:
//     struct reader r;
//     if (!reader_open(&r, "debian.qcow2", DISK_PROBE, &err)) { reader_read(&r, sector, 512, 0); reader_close(&r); }
#pragma once
#include "backend/disk.h"
#include <stdint.h>

struct reader {
    struct aio *aio;
    struct disk *disk;
    uint64_t size; // bytes, multiple of 512
};

// Read-only: -EBUSY (or the like) while a machine has the disk open for writing.
int reader_open(struct reader *r, const char *path, enum disk_format format, struct error *err);
void reader_close(struct reader *r);
// Any offset and length; -EINVAL beyond the end of the disk. For one thread at a time.
int reader_read(struct reader *r, void *to, uint64_t length, uint64_t offset);

// One request to a disk, waited for. READ and WRITE: `memory` of `length` bytes; offset and length multiples of 512.
int disk_do(struct disk *d, enum disk_op op, void *memory, uint64_t length, uint64_t offset);
