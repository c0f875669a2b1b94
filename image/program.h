// Programs of the host that do part of the work: mmdebstrap, mke2fs, curl.
//
// Example: program_run(&(struct program){.argv = {"curl", "-o", file, url, NULL}, .what = "curl"}, &err)
#pragma once
#include "report/error.h"

enum { PROGRAM_ARGS = 48 };

struct program {
    const char *argv[PROGRAM_ARGS]; // ends with NULL; argv[0] is looked for in PATH, /usr/sbin and /sbin
    const char *package;            // of Debian, that brings it: for the error when it is not there
    char *env[4];                   // NAME=VALUE besides this process's; ends with NULL
    // Both may be NULL. line: each line that it writes. tick: about twice a second.
    void (*line)(void *ctx, const char *line);
    void (*tick)(void *ctx);
    void *ctx;
};

// Runs it to its end. What it writes, to either output, is not shown but given to `line`; when it fails, the error
// tells the last line that says so. It does not outlive this process, and has no input. -ENOENT: it is not installed.
int program_run(const struct program *p, struct error *err);
