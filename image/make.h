// How images come into the store: built, imported, made larger. And disks out of disks.
//
// All of these take minutes for large disks; `progress` (may be NULL) hears how far they are.
#pragma once
#include "image/progress.h"
#include "image/store.h"

struct build_options {
    const char *name;     // of the image
    const char *suite;    // of Debian, such as bookworm
    const char *packages; // more of them, with commas; NULL: none
    const char *mirror;   // URL; NULL: Debian's own
    const char *agent;    // folder with trapeze-agent and its unit, which are put into the image; NULL: none
    uint64_t size;        // of the disk, bytes
};

// A Debian system: kernel, systemd, network by DHCP, ssh, cloud-init, a login on the serial port (root, no password).
// By mmdebstrap: as root directly, else in a user namespace or by fakechroot.
int image_build_debian(const struct store *s, const struct build_options *o, const struct progress *progress,
                       struct image_record *out, struct error *err);

struct import_options {
    const char *name;   // NULL: the file's, without what follows the first dot of its ending
    const char *from;   // a file, or an URL (http, https) that curl fetches
    const char *sha256; // of the file; NULL: not known
};

// A raw or qcow2 disk, by its content, as it is. A qcow2 image that names a backing file is refused: whoever made it
// would choose which file of this host a guest reads.
int image_import(const struct store *s, const struct import_options *o, const struct progress *progress,
                 struct image_record *out, struct error *err);

// Makes the disk larger; what is in it is for the system in it to make use of. -EINVAL for a smaller size.
int image_resize(const struct store *s, const char *name, uint64_t size, const struct progress *progress,
                 struct image_record *out, struct error *err);

// A new file with the contents of a disk, in either format, `size` bytes large (0: as the disk). Never replaces a file;
// leaves none behind when it fails.
int image_convert(const char *from, enum disk_format from_format, const char *to, enum disk_format to_format,
                  uint64_t size, const struct progress *progress, struct error *err);

// Copies a file with its holes; shares blocks where the file system can.
int image_copy_file(const char *from, const char *to, const struct progress *progress, struct error *err);
// What a file is by its first bytes: DISK_RAW or DISK_QCOW2. -EINVAL for what is certainly no disk: archives, other
// formats.
int image_probe(const char *path, enum disk_format *format, struct error *err);
// Fills in what can be told from the disk alone: format, size, kernel, initrd, root.
int image_examine(const char *path, enum disk_format format, struct image_record *r, struct error *err);
