// trapeze run: builds the machine that the options tell (machine.h), stays with it until it ends, and turns its end
// into an exit status.
#include "host/loop.h"
#include "host/signal.h"
#include "prog/commands.h"
#include "prog/machine.h"
#include "prog/options.h"
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
    bool pressed; // the power button, by a signal
};

// --- messages

static void log_sink(void *ctx, const char *line)
{
    struct run *r = ctx;
    pthread_mutex_lock(&r->log_lock);
    fprintf(stderr, "%s: %s\n", r->o.name, line);
    pthread_mutex_unlock(&r->log_lock);
}

static int fail(const struct run *r, int status, const char *text)
{
    fprintf(stderr, "%s: %s\n", r->o.name, text);
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

static int run(struct run *r)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
    const struct console_keys keys = {.quit = on_quit, .button = on_button, .ctx = r};
    struct error err;
    if (loop_create(&r->loop, &err))
        return fail(r, STATUS_FAILED, err.text);
    r->signals = signal_watch(r->loop, ending, sizeof ending / sizeof *ending, on_signal, r, &err);
    if (!r->signals)
        return fail(r, STATUS_FAILED, err.text);
    struct machine *m = r->machine = machine_new(&r->o, &r->log, r->loop, &keys, &err);
    if (!m)
        return fail(r, STATUS_FAILED, err.text);
    int e = machine_build(m, &err);
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
    int status = status_of(r, end, &err);
    if (r->o.stats) {
        fprintf(stderr, "%s: counters\n", r->o.name);
        vm_stats(&m->vm, print_stat, stderr);
    }
    return status;
}

static void run_close(struct run *r)
{
    machine_free(r->machine);
    if (r->signals)
        signal_unwatch(r->signals);
    if (r->loop)
        loop_destroy(r->loop);
    pthread_mutex_destroy(&r->log_lock);
}

int command_run(int argc, char **argv)
{
    struct run *r = calloc(1, sizeof *r);
    struct error err;
    if (!r) {
        fprintf(stderr, "trapeze: out of memory\n");
        return STATUS_FAILED;
    }
    if (run_options_parse(&r->o, argc, argv, &err)) {
        fprintf(stderr, "trapeze run: %s\n", err.text);
        free(r);
        return STATUS_USAGE;
    }
    if (r->o.help) {
        run_options_help(stdout);
        free(r);
        return STATUS_OK;
    }
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
