// trapeze run: builds the machine that the options tell (machine.h), stays with it until it ends, and turns its end
// into an exit status.
#include "host/loop.h"
#include "host/signal.h"
#include "prog/commands.h"
#include "prog/machine.h"
#include "prog/machine_control.h"
#include "prog/options.h"
#include "prog/record.h"
#include "prog/restore.h"
#include "prog/state_dir.h"
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { GUEST_MESSAGES = 1000 };

struct run {
    struct run_options o;
    struct log log;
    pthread_mutex_t log_lock;
    struct loop *loop;
    struct signal_watch *signals;
    struct machine *machine;
    const char *speaker; // who speaks in messages: the name that the user gave, or the program's
    struct record *record;
    struct state_dir dir; // fd -1: none
    struct machine_control control;
    struct restore *restore; // NULL: it boots
    bool pressed;            // the power button, by a signal
};

// --- messages

static void log_sink(void *ctx, const char *line)
{
    struct run *r = ctx;
    pthread_mutex_lock(&r->log_lock);
    fprintf(stderr, "%s: %s\n", r->speaker, line);
    pthread_mutex_unlock(&r->log_lock);
}

static int fail(const struct run *r, int status, const char *text)
{
    fprintf(stderr, "%s: %s\n", r->speaker, text);
    return status;
}

// --- ways to end it from outside

static void on_quit(void *ctx)
{
    vm_kill(&((struct run *)ctx)->machine->vm);
}

static void on_button(void *ctx)
{
    vm_press_power_button(&((struct run *)ctx)->machine->vm);
}

// The first signal asks the guest politely, the second does not ask.
static void on_signal(void *ctx, int number)
{
    struct run *r = ctx;
    if (!r->machine || !r->machine->vm_made)
        return;
    if (r->pressed) {
        vm_kill(&r->machine->vm);
        return;
    }
    r->pressed = true;
    log_info(&r->log, "%s: pressing the power button; once more ends the machine at once", strsignal(number));
    vm_press_power_button(&r->machine->vm);
}

// --- the end

static void print_stat(void *ctx, const char *name, uint64_t value)
{
    if (value)
        fprintf(ctx, "  %-32s %16" PRIu64 "\n", name, value);
}

static int status_of(const struct run *r, enum vm_end end, const struct error *err)
{
    const struct vm *vm = &r->machine->vm;
    switch (end) {
    case VM_END_POWEROFF:
        return STATUS_OK;
    case VM_END_RESET:
        return STATUS_OK;
    case VM_END_DEBUG:
        return vm->end_status;
    case VM_END_CRASH:
        return fail(r, STATUS_CRASHED, vm->end_text);
    case VM_END_KILLED:
        return fail(r, STATUS_FAILED, "ended before the guest had powered off");
    default:
        return fail(r, STATUS_FAILED, err->text);
    }
}

static void remember_end(const struct run *r, enum vm_end end, int status, const struct error *err)
{
    static const char *const words[] = {
        [VM_END_POWEROFF] = "poweroff", [VM_END_RESET] = "reset", [VM_END_CRASH] = "crash",
        [VM_END_KILLED] = "killed",     [VM_END_DEBUG] = "debug", [VM_END_NONE] = "failed"};
    if (r->dir.fd >= 0)
        record_end(&r->dir, words[end], status, end == VM_END_NONE ? err->text : r->machine->vm.end_text);
}

// --- its place among the machines

// A machine that the user named must have its directory; one that nobody named runs without, if need be.
static int enter(struct run *r, struct error *err)
{
    int e = state_dir_create(&r->dir, r->o.name, true, err);
    if (!e)
        e = record_write(&r->dir, r->record, err);
    if (e && !r->o.name) {
        log_info(&r->log, "other commands will not find this machine: %s", err->text);
        r->o.name = "trapeze";
        return 0;
    }
    if (!e)
        r->o.name = r->dir.name;
    return e;
}

// What the snapshot has in place of the options.
static int prepare_restore(struct run *r, struct error *err)
{
    if (!r->restore)
        return 0;
    if (r->dir.fd < 0)
        return error_set(err, ENOENT, "restoring: there is no directory for the machine's disks");
    return restore_options(r->restore, &r->o, r->dir.path, err);
}

static int serve(struct run *r, struct error *err)
{
    return r->dir.fd >= 0 ? machine_control_start(&r->control, r->machine, &r->dir, err) : 0;
}

static void leave(struct run *r)
{
    if (r->dir.fd >= 0)
        state_dir_remove(&r->dir, NULL);
    state_dir_close(&r->dir);
}

// --- all of it

static int run(struct run *r)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
    const struct console_keys keys = {.quit = on_quit, .button = on_button, .ctx = r};
    struct error err;
    if (enter(r, &err) || prepare_restore(r, &err) || loop_create(&r->loop, &err))
        return fail(r, STATUS_FAILED, err.text);
    r->signals = signal_watch(r->loop, ending, sizeof ending / sizeof *ending, on_signal, r, &err);
    if (!r->signals)
        return fail(r, STATUS_FAILED, err.text);
    struct machine *m = r->machine = machine_new(&r->o, &r->log, r->loop, &keys, &err);
    if (!m)
        return fail(r, STATUS_FAILED, err.text);
    m->restore = r->restore;
    int e = machine_build(m, &err);
    if (!e)
        e = serve(r, &err);
    if (e) {
        // What the user asked for in words we know but this host or program lacks is usage, too.
        if (m->console)
            console_restore_terminal(m->console);
        bool usage = e == -EINVAL && !m->vm_made && !strncmp(err.text, "--", 2);
        return fail(r, usage ? STATUS_USAGE : STATUS_FAILED, err.text);
    }
    enum vm_end end = vm_run(&m->vm, &err);
    console_stream(m->console)->ops->flush(console_stream(m->console));
    console_restore_terminal(m->console);
    machine_control_stop(&r->control);
    int status = status_of(r, end, &err);
    remember_end(r, end, status, &err);
    if (r->o.stats) {
        fprintf(stderr, "%s: counters\n", r->speaker);
        vm_stats(&m->vm, print_stat, stderr);
    }
    return status;
}

static void run_close(struct run *r)
{
    machine_control_stop(&r->control);
    machine_free(r->machine);
    if (r->signals)
        signal_unwatch(r->signals);
    if (r->loop)
        loop_destroy(r->loop);
    leave(r);
    record_free(r->record);
    pthread_mutex_destroy(&r->log_lock);
}

int command_run(int argc, char **argv)
{
    return run_machine(argc, argv, NULL);
}

int run_machine(int argc, char **argv, struct restore *restore)
{
    struct run *r = calloc(1, sizeof *r);
    struct error err;
    if (!r) {
        fprintf(stderr, "trapeze: out of memory\n");
        return STATUS_FAILED;
    }
    r->dir.fd = r->dir.lock = -1;
    r->restore = restore;
    r->record = record_new(argc, argv, false, &err); // before it is parsed: that cuts words in place
    if (!r->record) {
        fprintf(stderr, "trapeze run: %s\n", err.text);
        free(r);
        return STATUS_FAILED;
    }
    if (run_options_parse(&r->o, argc, argv, &err)) {
        fprintf(stderr, "trapeze run: %s\n", err.text);
        record_free(r->record);
        free(r);
        return STATUS_USAGE;
    }
    if (r->o.help) {
        run_options_help(stdout);
        record_free(r->record);
        free(r);
        return STATUS_OK;
    }
    r->speaker = r->o.name ? r->o.name : "trapeze";
    static const enum log_level levels[] = {LOG_WARN, LOG_INFO, LOG_DEBUG};
    r->log = (struct log){.level = levels[r->o.verbose < 2 ? r->o.verbose : 2],
                          .trace = r->o.trace,
                          .sink = log_sink,
                          .ctx = r,
                          .guest_budget = GUEST_MESSAGES};
    pthread_mutex_init(&r->log_lock, NULL);
    signal(SIGPIPE, SIG_IGN);
    int status = run(r);
    run_close(r);
    free(r);
    return status;
}
