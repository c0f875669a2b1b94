// How a failure is told: one line of text that names the thing and the reason.
//
// Functions that can fail return 0 or a negative errno and fill a struct error that the caller owns. The text is for a
// person who reads only this line; it has no trailing full stop or newline and does not start with the program's name
// (the main program adds that).
//
// Example: return error_set(err, ENOENT, "kernel %s: %s", path, strerror(ENOENT));   // returns -ENOENT
#pragma once
#include <stdarg.h>

struct error {
    char text[256];
};

// Fills err (which may be NULL) and returns -code. Long texts are cut.
int error_set(struct error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

// Puts "what: " before the text that is there.
void error_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
