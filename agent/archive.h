// A file or a tree of files as a stream of bytes, for copies between host and guest.
//
// Kept: names, contents, mode, time of last change, symbolic links. Not kept: owners (files belong to who unpacks),
// hard links (they become files of their own), devices, sockets and pipes (left out, and told).
//
//     "TrpTree1"
//     'D' mode time name    a directory; what follows is in it, until
//     'U'                   up again
//     'F' mode time name    a file, whose contents follow: length (4 bytes), bytes, ..., length 0
//     'L' time name target  a symbolic link
//     'E'                   the end
//
// mode is 4 bytes, time 8 (seconds) and 4 (nanoseconds), name and target are a length (2) and bytes; little-endian. The
// first entry is what was asked for, under its own name.
//
// The stream is hostile: a name is one component, never . or .., so nothing is put but below the place that was asked
// for. Directories are entered by descriptor and links are not followed there. Set-user-ID and the like are not set.
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stdint.h>

enum { ARCHIVE_DEPTH = 200 }; // of directories

#define ARCHIVE_MAGIC "TrpTree1"

// Writes `path` (a file, a directory, or "-": standard input as a file) to fd. A link that is named itself is followed.
// `told` is called with a line for each thing that was left out; the result is then -EIO at the end.
int archive_pack(int fd, const char *path, void (*told)(const char *line), struct error *err);

// Reads an archive from fd and puts it at `path`: into it under its own name if that is a directory, else under this
// name. "-": a file's contents to standard output.
int archive_unpack(int fd, const char *path, struct error *err);
