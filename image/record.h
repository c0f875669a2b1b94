// What is written down about an image, in its image.json.
//
// The file may be anybody's (a folder that was copied from elsewhere): what is read has been checked, and texts in it
// are printable and end.
#pragma once
#include "backend/disk.h"
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum { IMAGE_NAME = 33, IMAGE_HASH = 65, IMAGE_TEXT = 512 };

struct image_record {
    char name[IMAGE_NAME];   // of the folder; not in the file
    bool built;              // by `trapeze image build`; else imported
    enum disk_format format; // DISK_RAW or DISK_QCOW2
    uint64_t size;           // of the disk, as a guest sees it; bytes, multiple of 512
    char sha256[IMAGE_HASH]; // of the disk's file, lower case
    time_t created;
    char source[IMAGE_TEXT];                     // where it came from: a file, URL or suite
    char packages[IMAGE_TEXT];                   // built: what was asked for besides, with commas
    char kernel[IMAGE_TEXT], initrd[IMAGE_TEXT]; // paths in it when it was made; empty: none was found
    char root[IMAGE_TEXT];                       // what goes after root=
};

// 1 to 32 letters, digits, dots, dashes and underscores, not beginning with a dot.
bool image_name_good(const char *name);

// `where` names the file in errors. -EINVAL if something is missing or makes no sense.
int image_record_read(int fd, const char *where, struct image_record *out, struct error *err);
int image_record_write(int fd, const struct image_record *r, const char *where, struct error *err);
// The record as JSON text; the caller frees it. NULL: out of memory.
char *image_record_text(const struct image_record *r, uint64_t disk_bytes, const char *path);
const char *image_record_format(const struct image_record *r); // "raw" or "qcow2"
