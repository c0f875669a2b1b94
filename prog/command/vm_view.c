// See vm_view.h.
#include "prog/command/vm_view.h"
#include "control/client.h"
#include "host/clock.h"
#include "prog/state/record.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LOOK_MS = 2000 }; // a list of many is not held up for long by one that hangs

const char *vm_state_name(enum vm_state s)
{
    static const char *const names[] = {"starting", "running", "paused", "stopped", "failed", "crashed"};
    return names[s];
}

static int ask(const struct state_dir *d, const char *method, const char *path, const json_t *body, int patience_ms,
               json_t **reply, struct error *err)
{
    struct sockaddr_un a;
    struct error why;
    json_t *answer = NULL;
    if (!state_dir_owner(d))
        return error_set(err, ESRCH, "%s: the machine is not running", d->name);
    state_dir_socket(d, "control.sock", &a);
    int e = control_ask(&a, method, path, body, patience_ms, &answer, &why);
    if (e && !state_dir_owner(d))
        return error_set(err, ESRCH, "%s: the machine is not running", d->name);
    if (e)
        return error_set(err, -e, "%s: %s", d->name, why.text);
    if (reply)
        *reply = answer;
    else
        json_decref(answer);
    return 0;
}

int vm_ask(const struct state_dir *d, const char *method, const char *path, const json_t *body, json_t **reply,
           struct error *err)
{
    return ask(d, method, path, body, CONTROL_PATIENCE_MS, reply, err);
}

static void look_at_dead(struct vm_view *v)
{
    v->exit = record_end_read(&v->dir);
    const char *end = json_string_value(json_object_get(v->exit, "end"));
    int status = (int)json_integer_value(json_object_get(v->exit, "status"));
    v->state = !end                     ? VM_STATE_CRASHED
               : !strcmp(end, "crash")  ? VM_STATE_CRASHED
               : !strcmp(end, "failed") ? VM_STATE_FAILED
                                        : VM_STATE_STOPPED;
    if (end && !strcmp(end, "killed"))
        snprintf(v->text, sizeof v->text, "stopped (killed)");
    else if (end)
        snprintf(v->text, sizeof v->text, "%s (%d)", vm_state_name(v->state), status);
    else
        snprintf(v->text, sizeof v->text, "crashed (killed)");
}

static void look_at_living(struct vm_view *v)
{
    v->state = VM_STATE_STARTING;
    if (ask(&v->dir, "GET", "/vm", NULL, LOOK_MS, &v->live, NULL) == 0) {
        const char *state = json_string_value(json_object_get(v->live, "state"));
        v->state = state && !strcmp(state, "paused") ? VM_STATE_PAUSED : VM_STATE_RUNNING;
    }
    snprintf(v->text, sizeof v->text, "%s", vm_state_name(v->state));
}

int vm_view_open(struct vm_view *v, const char *name, struct error *err)
{
    memset(v, 0, sizeof *v);
    int e = state_dir_open(&v->dir, name, err);
    if (e)
        return e;
    v->pid = state_dir_owner(&v->dir);
    if (v->pid)
        look_at_living(v);
    if (!v->live) // it may have ended while it was asked
        v->pid = state_dir_owner(&v->dir);
    if (!v->pid)
        look_at_dead(v);
    return 0;
}

void vm_view_close(struct vm_view *v)
{
    json_decref(v->live);
    json_decref(v->exit);
    state_dir_close(&v->dir);
}

bool vm_wait_end(const struct state_dir *d, double seconds)
{
    uint64_t until = host_monotonic_ns() + (uint64_t)(seconds * 1e9);
    for (;;) {
        pid_t pid = state_dir_owner(d);
        uint64_t now = host_monotonic_ns();
        if (!pid)
            return true;
        if (now >= until)
            return false;
        // The descriptor is that of whoever has the number now; it ends the wait early only.
        int process = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
        uint64_t ms = (until - now) / 1000000 + 1;
        struct pollfd p = {process, POLLIN, 0};
        poll(&p, 1, process < 0 ? (ms < 50 ? (int)ms : 50) : ms < 1000 ? (int)ms : 1000);
        if (process >= 0)
            close(process);
    }
}
