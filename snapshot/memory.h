// A snapshot's memory: a file as large as the guest's RAM, in which pages of zeroes are holes.
//
// The byte at offset n of the file is the byte n of RAM, so a restored machine maps the file and reads nothing of it in
// advance. The digest is that of all pages that are not zero, each preceded by its number (8 bytes, little-endian), so
// it does not depend on how the file system stores holes.
#pragma once
#include "report/error.h"
#include <stdint.h>

enum { SNAPSHOT_PAGE = 4096, SNAPSHOT_DIGEST = 33 }; // hexadecimal digits and the terminating zero

struct snapshot_part {
    uint64_t bytes;  // of the file
    uint64_t stored; // of pages that are not zero; other parts than memory: the same as bytes
    char xxh3[SNAPSHOT_DIGEST];
};

// Writes [base, base + size) into the empty file fd. shared: a memfd that this memory is a mapping of, from its
// beginning (so that what the guest never touched need not be looked at), or -1. Whoever writes the memory is stopped.
int snapshot_memory_write(int fd, const uint8_t *base, uint64_t size, int shared, struct snapshot_part *out,
                          struct error *err);
// The digest of a memory file as it is now.
int snapshot_memory_digest(int fd, struct snapshot_part *out, struct error *err);
// The digest of any other file. At most `limit` bytes, else -EFBIG.
int snapshot_file_digest(int fd, uint64_t limit, struct snapshot_part *out, struct error *err);
