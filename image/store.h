// The images of this user: one folder each, $XDG_DATA_HOME/trapeze/images/NAME (default ~/.local/share), with
//
//     image.json          what it is (record.h)
//     disk.raw, disk.qcow2  the disk, as its format says
//
// An image appears at once or not at all: it is made in a folder .NAME.new beside, brought to stable storage and
// renamed. That folder is locked while somebody works in it; one that nobody has locked is what an interruption left,
// and goes at the next occasion. Disks of images are never written to once they are there: machines have overlays.
//
// Example:
//     struct store s; struct draft d;
//     store_open(&s, &err); store_begin(&s, "debian", false, &d, &err);
//     ... make store_draft_disk(&d, DISK_RAW, path) ...; store_commit(&d, &record, &err);
#pragma once
#include "image/record.h"
#include <limits.h>

struct store {
    char path[PATH_MAX];
    int fd;
};

// $XDG_DATA_HOME/trapeze/OF, with ~/.local/share where that is not set, and the home of the user database where HOME is
// not either. Nothing is made. `of` is what is kept there: "images", "snapshots". -ENODEV if there is no home.
int store_folder(const char *of, char *path, size_t size, struct error *err);

int store_open(struct store *s, struct error *err); // makes the folder if need be
void store_close(struct store *s);

// -ENOENT if there is no such image, -EINVAL if its description is bad.
int store_get(const struct store *s, const char *name, struct image_record *out, struct error *err);
void store_disk(const struct store *s, const struct image_record *r, char path[PATH_MAX]);
// All of them, by name; the caller frees *out. What can't be read is told to `bad` (may be NULL) and left out.
int store_list(const struct store *s, struct image_record **out, unsigned *count,
               void (*bad)(void *ctx, const struct error *e), void *ctx, struct error *err);
// -EBUSY while a machine has it open.
int store_remove(const struct store *s, const char *name, struct error *err);

struct draft {
    const struct store *store;
    char name[IMAGE_NAME];
    char path[PATH_MAX]; // the folder: whatever is in it becomes the image
    bool replace;
    int fd;
};

// Begins an image of that name. replace: it takes the place of one that is there; else that is -EEXIST. Waits while
// another process makes the same one.
int store_begin(const struct store *s, const char *name, bool replace, struct draft *d, struct error *err);
void store_draft_disk(const struct draft *d, enum disk_format format, char path[PATH_MAX]);
// Completes r (name, hash) and makes it an image. The draft is over, whatever the result.
int store_commit(struct draft *d, struct image_record *r, struct error *err);
void store_abort(struct draft *d);

// SHA-256 of a file, as 64 digits.
int file_sha256(const char *path, char hex[IMAGE_HASH], struct error *err);
