// Whole files in memory, read-only: kernels and initial RAM disks.
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>

struct file {
    const void *data; // NULL: none
    size_t size;
    bool viewed;
};

// `what` names the file's role in errors: "kernel". An empty file is an error.
int file_map(struct file *f, const char *what, const char *path, struct error *err);
// The same for a file that nobody changes (a snapshot's): it is mapped, and read when it is needed.
int file_view(struct file *f, const char *what, const char *path, struct error *err);
void file_unmap(struct file *f);
