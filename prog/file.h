// Whole files in memory, read-only: kernels and initial RAM disks.
#pragma once
#include "report/error.h"
#include <stddef.h>

struct file {
    const void *data; // NULL: none
    size_t size;
};

// `what` names the file's role in errors: "kernel". An empty file is an error.
int file_map(struct file *f, const char *what, const char *path, struct error *err);
void file_unmap(struct file *f);
