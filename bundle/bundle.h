// A machine as one file: a tar archive, compressed with zstd, whose first member is manifest.json (manifest.h). `tar`
// with `zstd` reads it, too.
//
// Writing and reading are streams, with a bounded amount of memory. What is read is hostile: only the members that the
// manifest lists are taken, in its order, with exactly the sizes and digests that it says, and only if there is room
// for them; nothing may follow. Their names are ours, never the archive's.
//
// Example:
//     bundle_measure(fd[0], &m.member[0], &err);  bundle_write(out, &m, fd, &err);
//     bundle_read(in, folder, &m, &err);
#pragma once
#include "bundle/manifest.h"

// The size and digest of what is in fd, from its beginning.
int bundle_measure(int fd, struct bundle_member *member, struct error *err);
// fd[i] is what member i has. -EIO if one has another length than was measured. What was written is not synced.
int bundle_write(int out, const struct bundle_manifest *m, const int fd[], struct error *err);
// Puts the members into the directory `folder`, where there must be none of their names. On failure some may be there.
// -ENOSPC: they would not fit.
int bundle_read(int in, int folder, struct bundle_manifest *m, struct error *err);
