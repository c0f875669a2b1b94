// What a machine's directory says about it: config.json, how it was started, and exit.json, how it ended.
//
// config.json holds the arguments of `trapeze run` as they were given and the folder they were given in. So a machine
// can be started again by every version that knows these options, and nothing is said twice.
//
// Example:
//     {"version": 1, "name": "web", "directory": "/home/eva", "arguments": ["--kernel", "vmlinuz"], "detached": true,
//      "created": 1764387600, "trapeze": "0.1.0"}
//     {"end": "poweroff", "status": 0, "text": "the guest powered off", "time": 1764391200}
#pragma once
#include "prog/state/state_dir.h"
#include <jansson.h>

struct record {
    char *directory;  // where the command was given
    char **arguments; // of `trapeze run`, without what only says how this start is made; NULL at the end
    int count;
    bool detached;
    bool restored; // it went on from a snapshot
    json_t *json;  // all of it
};

// The words are copied. An argument that is no UTF-8 can't be kept: then the machine runs, but can't be started again,
// and record_read says so.
struct record *record_new(int argc, char **argv, bool detached, struct error *err);
int record_write(const struct state_dir *d, const struct record *r, struct error *err);
int record_read(const struct state_dir *d, struct record **out, struct error *err);
void record_free(struct record *r);

// The text may be cut; it need not be UTF-8. `end` is a word: poweroff, reset, crash, killed, debug, moved, failed,
// imported.
void record_end(const struct state_dir *d, const char *end, int status, const char *text);
// NULL: it has not ended by itself.
json_t *record_end_read(const struct state_dir *d);
