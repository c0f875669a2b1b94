// What people see while something takes long: one line on a terminal that is written over, or now and then a line in a
// log. On standard error.
//
// Example:
//     struct waiting w; struct progress p = waiting_begin(&w, "image debian");
//     image_build_debian(..., &p, ...); waiting_end(&w);
#pragma once
#include "image/progress.h"
#include <stdbool.h>
#include <time.h>

struct waiting {
    const char *who; // goes before each line
    bool terminal, shown;
    struct timespec last; // when something was written
    char what[128];
};

struct progress waiting_begin(struct waiting *w, const char *who);
void waiting_end(struct waiting *w); // the line goes away
