// qcow2 images: disks in a file that grows as it is filled, over a backing file or not (QEMU's docs/interop/qcow2.txt).
//
// Read and written: versions 2 and 3, clusters of 512 bytes to 2 MiB, all refcount widths, backing chains, zero
// clusters, lazy refcounts; internal snapshots stay what they were, since what they share is copied before it is
// written. Read only: compressed clusters (deflate, zstd). Refused, by name: encryption, external data files,
// subclusters.
//
// An image is as hostile as a guest: everything in it is checked before use, and reading one costs bounded memory.
// Whoever made an image says by its backing file's name which file a guest may read: do not open those of strangers
// with more rights than the strangers have.
//
// Example: qcow2_create(&(struct qcow2_options){.path = "vm.qcow2", .backing = "debian.img", .backing_format = "raw"},
// &e)
#pragma once
#include "backend/disk.h"
#include <stdbool.h>
#include <stdint.h>

// What of a disk_open has turned out to be a qcow2 image. fd is taken over, also on failure. -EBUSY: another process
// has it open for writing, or wants to read what we would write.
int qcow2_disk_open(int fd, const struct disk_options *o, struct disk **out, struct error *err);

struct qcow2_options {
    const char *path;
    uint64_t size;              // bytes, multiple of 512; 0: the backing file's
    uint32_t cluster;           // bytes; 0: 64 KiB
    const char *backing;        // as it is written into the image: relative names start from the image's folder
    const char *backing_format; // "raw" or "qcow2"; must be there if backing is
    bool lazy_refcounts;
};

// Makes a new image of version 3 that reads as its backing file, or as zeroes. -EEXIST rather than replacing a file.
int qcow2_create(const struct qcow2_options *o, struct error *err);

enum { QCOW2_BACKING = 1024 };
// The name of an image's backing file, as it is written in there; empty: it has none. Nothing else is opened.
int qcow2_backing(const char *path, char name[QCOW2_BACKING], struct error *err);

struct qcow2_check {
    uint64_t leaks;       // clusters whose refcount is too high: lost space, no harm
    uint64_t corruptions; // anything else that is wrong
    uint64_t allocated, compressed;
    char first[160]; // the first corruption, for people
};

// Compares the refcounts and flags of an image that nobody has open with what its tables say. repair: writes the
// refcounts that are right, if nothing else is wrong. 0 even if the image is bad: see out.
int qcow2_check(const char *path, bool repair, struct qcow2_check *out, struct error *err);
