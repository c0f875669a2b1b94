// Headers of tar archives, as POSIX's pax describes them (ustar interchange format), for regular files alone: that is
// all a bundle has. A size of 8 GiB or more doesn't fit into the octal digits; it stands there in base 256 then, as GNU
// tar and libarchive write and read it.
//
// Example: tar_header(block, "kernel", size); write(fd, block, TAR_BLOCK); the contents, filled up to whole blocks
#pragma once
#include <stdint.h>

enum { TAR_BLOCK = 512, TAR_NAME = 100 };

// name: at most TAR_NAME - 1 characters; size: below 2^63.
void tar_header(uint8_t block[TAR_BLOCK], const char *name, uint64_t size);
// 1: it is a regular file's; the name is whatever stands there. 0: a block of zeroes, as at the end. -EINVAL: neither.
int tar_header_read(const uint8_t block[TAR_BLOCK], char name[TAR_NAME + 1], uint64_t *size);
