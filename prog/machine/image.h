// What `trapeze run` does to start a system that is in a disk: an overlay, so that the image stays as it is; a disk for
// cloud-init; the kernel, found in the disk.
//
// The machine's directory keeps
//     disk.qcow2   the overlay
//     seed.iso     what cloud-init is told
//     image        which image the overlay belongs to: of another one of that name it would make garbage
//     instance     32 hexadecimal digits, which the machine has alone: its machine-id, and cloud-init's instance
// A machine that is started again finds them and goes on with its disk.
//
// Example:
//     run_image_available(&o, &err); ...; run_image_prepare(&i, &o, &dir, &err); ...; run_image_free(&i);
#pragma once
#include "image/find.h"
#include "prog/option/options.h"
#include "prog/state/state_dir.h"
#include <limits.h>

struct run_image { // what the options point to
    char *append;
    char disk[PATH_MAX], seed[PATH_MAX];
    char kernel[32], initrd[32];
    struct boot_found found;
};

// The image that the options name is there, and if it is debian, it is now: that takes a minute or two, and is told on
// standard error.
int run_image_available(const struct run_options *o, struct error *err);

// Changes the options into ones with disks and a kernel. They point into `i` then. -EINVAL with a text that begins with
// the option's name for what the user got wrong.
int run_image_prepare(struct run_image *i, struct run_options *o, const struct state_dir *d, struct error *err);
// When the machine has been built: the kernel's memory goes.
void run_image_started(struct run_image *i);
void run_image_free(struct run_image *i);
