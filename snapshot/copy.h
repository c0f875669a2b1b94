// Copies of files, as cheap as the file system makes them.
#pragma once
#include <stdint.h>

// The contents of `from` into the empty file `to`: shared blocks where the file system can (FICLONE), else the data
// without the holes. 0 or negative errno.
int snapshot_copy(int from, int to);
