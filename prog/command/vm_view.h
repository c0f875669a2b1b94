// Machines as the commands see them from outside: by their directories and control sockets.
#pragma once
#include "prog/state/state_dir.h"
#include <jansson.h>
#include <stdbool.h>

enum vm_state {
    VM_STATE_STARTING, // its process lives, but doesn't answer yet, or does no longer
    VM_STATE_RUNNING,
    VM_STATE_PAUSED,
    VM_STATE_STOPPED, // ended as it should, or as somebody wanted
    VM_STATE_FAILED,  // could not be started again
    VM_STATE_CRASHED, // the guest crashed, or the process was killed
};

struct vm_view {
    struct state_dir dir;
    pid_t pid; // 0: it doesn't live
    enum vm_state state;
    json_t *live;  // what GET /vm says; NULL: nothing
    json_t *exit;  // exit.json; NULL while it lives, and when it was killed
    char text[80]; // the state for people: "running", "stopped (0)", "crashed"
};

// -ENOENT as state_dir_open.
int vm_view_open(struct vm_view *v, const char *name, struct error *err);
void vm_view_close(struct vm_view *v);
const char *vm_state_name(enum vm_state s);

// The one way by which commands talk to machines: a request to the control socket of the machine in d. reply may be
// NULL; else it is the caller's. Errors name the machine; -ESRCH if it isn't running.
int vm_ask(const struct state_dir *d, const char *method, const char *path, const json_t *body, json_t **reply,
           struct error *err);

// Waits until the machine's process has ended, `seconds` at most (fractions count). True if it has.
bool vm_wait_end(const struct state_dir *d, double seconds);
