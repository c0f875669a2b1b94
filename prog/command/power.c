// Commands that change how a machine lives: stop, kill, rm, pause, resume. Each takes several names, goes on after one
// that fails, and then ends with 1.
#include "prog/command/power.h"
#include "host/clock.h"
#include "prog/command/commands.h"
#include "prog/command/vm_view.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { KILL_SECONDS = 10, ANSWERLESS_SECONDS = 3, PRESS_SECONDS = 3 };

typedef int act(const struct vm_options *o, struct state_dir *d, struct error *err);

// Does it with every machine that is named; names of those with which it went well go to standard output.
static int each(const struct command_line *line, const struct vm_options *o, act *fn)
{
    int status = STATUS_OK;
    for (unsigned i = 0; i < o->names; i++) {
        struct state_dir d;
        struct error err;
        int e = state_dir_open(&d, o->name[i], &err);
        if (!e) {
            e = fn(o, &d, &err);
            state_dir_close(&d);
        }
        if (e)
            status = vm_fail(line, err.text);
        else
            puts(o->name[i]);
    }
    return status;
}

static int power(const struct state_dir *d, const char *action, struct error *err)
{
    json_t *body = json_pack("{s:s}", "action", action);
    int e = vm_ask(d, "POST", "/power", body, NULL, err);
    json_decref(body);
    return e;
}

static const struct option_group *const plain[] = {&vm_help_option, NULL};

// --- pause and resume

static int pause_one(const struct vm_options *o, struct state_dir *d, struct error *err)
{
    (void)o;
    return vm_ask(d, "POST", "/pause", NULL, NULL, err);
}

static int resume_one(const struct vm_options *o, struct state_dir *d, struct error *err)
{
    (void)o;
    return vm_ask(d, "POST", "/resume", NULL, NULL, err);
}

int command_pause(int argc, char **argv)
{
    static const struct command_line line = {
        .command = "pause",
        .usage = "pause NAME...\nStop the CPUs and the clock of machines, until they are resumed.",
        .after = "Example: trapeze pause web && trapeze resume web\n",
        .groups = plain,
    };
    struct vm_options o = {0};
    int status = vm_options_take(&line, &o, argc, argv, 1, VM_NAMES_MAX);
    return status >= 0 ? status : each(&line, &o, pause_one);
}

int command_resume(int argc, char **argv)
{
    static const struct command_line line = {
        .command = "resume",
        .usage = "resume NAME...\nLet machines go on that were paused.",
        .after = "Example: trapeze resume web\n",
        .groups = plain,
    };
    struct vm_options o = {0};
    int status = vm_options_take(&line, &o, argc, argv, 1, VM_NAMES_MAX);
    return status >= 0 ? status : each(&line, &o, resume_one);
}

// --- stop and kill

// Ends the process that has the machine, if need be without its help.
static int end_process(const struct state_dir *d, struct error *err)
{
    struct error ignored;
    // One that is about to end may take its answer along.
    int e = power(d, "kill", &ignored);
    if (vm_wait_end(d, e ? ANSWERLESS_SECONDS : KILL_SECONDS))
        return 0;
    pid_t pid = state_dir_owner(d);
    int process = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    // Held by the descriptor the number can't pass to another process; and it was the owner's at this moment still.
    if (process >= 0 && state_dir_owner(d) == pid)
        syscall(SYS_pidfd_send_signal, process, SIGKILL, NULL, 0);
    if (process >= 0)
        close(process);
    return vm_wait_end(d, KILL_SECONDS) ? 0 : error_set(err, ETIMEDOUT, "%s: its process does not end", d->name);
}

static int kill_one(const struct vm_options *o, struct state_dir *d, struct error *err)
{
    (void)o;
    return state_dir_owner(d) ? end_process(d, err) : error_set(err, ESRCH, "%s: the machine is not running", d->name);
}

// The first half: the button. 0, and the machine is about to end.
static int press(struct state_dir *d, const char *name, struct error *err)
{
    int e = state_dir_open(d, name, err);
    if (e)
        return e;
    // A paused guest would not notice the button. A machine that takes neither is killed in the other half.
    struct error ignored;
    if (!state_dir_owner(d))
        return error_set(err, ESRCH, "%s: the machine is not running", name);
    if (vm_ask(d, "POST", "/resume", NULL, NULL, &ignored) == 0)
        power(d, "button", &ignored);
    return 0;
}

// Waits for the first of n machines until that time. All that still run are pressed again now and then: a guest that is
// about to boot has nobody yet who listens to the button, and one that shuts down already does not mind.
static bool wait_pressing(struct state_dir *d, const bool *pressed, unsigned n, uint64_t until)
{
    struct error ignored;
    for (;;) {
        uint64_t now = host_monotonic_ns();
        double left = until > now ? (double)(until - now) / 1e9 : 0;
        if (vm_wait_end(&d[0], left < PRESS_SECONDS ? left : PRESS_SECONDS))
            return true;
        if (left <= PRESS_SECONDS)
            return false;
        for (unsigned i = 0; i < n; i++)
            if (pressed[i] && state_dir_owner(&d[i]))
                power(&d[i], "button", &ignored);
    }
}

// The buttons of all are pressed first: they power off at the same time.
int vm_stop_all(const struct command_line *line, const struct vm_options *o, bool tell)
{
    struct state_dir d[VM_NAMES_MAX];
    struct error err;
    bool pressed[VM_NAMES_MAX];
    int status = STATUS_OK;
    uint64_t until = host_monotonic_ns() + o->time * 1000000000;
    for (unsigned i = 0; i < o->names; i++) {
        pressed[i] = press(&d[i], o->name[i], &err) == 0;
        if (!pressed[i])
            status = vm_fail(line, err.text);
    }
    for (unsigned i = 0; i < o->names; i++) {
        if (pressed[i] && !wait_pressing(&d[i], &pressed[i], o->names - i, until) && end_process(&d[i], &err))
            status = vm_fail(line, err.text);
        else if (pressed[i] && tell)
            puts(o->name[i]);
        state_dir_close(&d[i]);
    }
    return status;
}

int command_stop(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&vm_time_option, &vm_help_option, NULL};
    static const struct command_line line = {
        .command = "stop",
        .usage = "stop [--time SECONDS] NAME...\nPress the power button of machines, and kill those that have not "
                 "powered off after a while.",
        .after = "Example: trapeze stop --time 60 web db\n",
        .groups = groups,
    };
    struct vm_options o = {.time = VM_STOP_SECONDS};
    int status = vm_options_take(&line, &o, argc, argv, 1, VM_NAMES_MAX);
    return status >= 0 ? status : vm_stop_all(&line, &o, true);
}

int command_kill(int argc, char **argv)
{
    static const struct command_line line = {
        .command = "kill",
        .usage = "kill NAME...\nEnd machines at once, as if their power failed.",
        .after = "Example: trapeze kill web\n",
        .groups = plain,
    };
    struct vm_options o = {0};
    int status = vm_options_take(&line, &o, argc, argv, 1, VM_NAMES_MAX);
    return status >= 0 ? status : each(&line, &o, kill_one);
}

// --- rm

static int rm_one(const struct vm_options *o, struct state_dir *d, struct error *err)
{
    if (state_dir_owner(d)) {
        if (!o->force)
            return error_set(err, EBUSY, "%s: the machine is running; stop it first, or give --force", d->name);
        int e = end_process(d, err);
        if (e)
            return e;
    }
    int e = state_dir_remove(d, err);
    return e == -ENOENT && o->force ? 0 : e; // a temporary one's directory goes with it
}

static const struct option rm_options[] = {
    {"force", NULL, "kill it first if it runs", VM_FLAG(force), .letter = 'f'},
};
static const struct option_group rm_group = OPTION_GROUP(NULL, rm_options);

int command_rm(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&rm_group, &vm_help_option, NULL};
    static const struct command_line line = {
        .command = "rm",
        .usage = "rm [-f] NAME...\nRemove machines that have ended: their directories, with logs and overlays. Images "
                 "and disks\nstay.",
        .after = "Example: trapeze stop web && trapeze rm web\n",
        .groups = groups,
    };
    struct vm_options o = {0};
    int status = vm_options_take(&line, &o, argc, argv, 1, VM_NAMES_MAX);
    return status >= 0 ? status : each(&line, &o, rm_one);
}
