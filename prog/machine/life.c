// See life.h.
#include "prog/machine/life.h"
#include "host/loop.h"
#include "host/signal.h"
#include "prog/command/commands.h"
#include "prog/machine/arrival.h"
#include "prog/machine/control.h"
#include "prog/machine/detach.h"
#include "prog/machine/image.h"
#include "prog/machine/machine.h"
#include "prog/machine/restore.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GUEST_MESSAGES = 1000 };

struct life {
    const struct life_options *how;
    struct run_options *o;
    struct log log;
    pthread_mutex_t log_lock;
    struct loop *loop;
    struct signal_watch *signals;
    struct machine *machine;
    const char *speaker;  // who speaks in messages: the name that the user gave, or the program's
    struct state_dir dir; // fd -1: none
    bool temporary;       // the directory goes when the machine has ended
    bool again;           // the directory was there before
    struct run_image image;
    int background; // see life_options
    int messages;   // where those of a machine in the background go; -1: they don't
    struct machine_control control;
    bool started; // the guest has run
    bool pressed; // the power button, by a signal
};

// --- messages

static void log_sink(void *ctx, const char *line)
{
    struct life *l = ctx;
    pthread_mutex_lock(&l->log_lock);
    fprintf(stderr, "%s: %s\n", l->speaker, line);
    pthread_mutex_unlock(&l->log_lock);
}

static int fail(const struct life *l, int status, const char *text)
{
    fprintf(stderr, "%s: %s\n", l->speaker, text);
    return status;
}

// --- ways to end it from outside

static void on_quit(void *ctx)
{
    vm_kill(&((struct life *)ctx)->machine->vm);
}

static void on_button(void *ctx)
{
    vm_press_power_button(&((struct life *)ctx)->machine->vm);
}

// The first signal asks the guest politely, the second does not ask.
static void on_signal(void *ctx, int number)
{
    struct life *l = ctx;
    if (!l->machine || !l->machine->vm_made)
        return;
    if (l->pressed) {
        vm_kill(&l->machine->vm);
        return;
    }
    l->pressed = true;
    log_info(&l->log, "%s: pressing the power button; once more ends the machine at once", strsignal(number));
    vm_press_power_button(&l->machine->vm);
}

// --- the end

static void print_stat(void *ctx, const char *name, uint64_t value)
{
    if (value)
        fprintf(ctx, "  %-32s %16" PRIu64 "\n", name, value);
}

static int status_of(const struct life *l, enum vm_end end, const struct error *err)
{
    const struct vm *vm = &l->machine->vm;
    switch (end) {
    case VM_END_POWEROFF:
        return STATUS_OK;
    case VM_END_RESET:
        return STATUS_OK;
    case VM_END_DEBUG:
        return vm->end_status;
    case VM_END_CRASH:
        return fail(l, STATUS_CRASHED, vm->end_text);
    case VM_END_KILLED:
        if (l->machine->moved == MACHINE_MOVED)
            return STATUS_OK;
        if (l->machine->moved == MACHINE_LOST)
            return fail(l, STATUS_FAILED, "it was given away, and has ended there");
        return fail(l, STATUS_FAILED, "ended before the guest had powered off");
    default:
        return fail(l, STATUS_FAILED, err->text);
    }
}

static void remember_end(const struct life *l, enum vm_end end, int status, const struct error *err)
{
    static const char *const words[] = {
        [VM_END_POWEROFF] = "poweroff", [VM_END_RESET] = "reset", [VM_END_CRASH] = "crash",
        [VM_END_KILLED] = "killed",     [VM_END_DEBUG] = "debug", [VM_END_NONE] = "failed"};
    if (l->dir.fd >= 0 && l->machine->moved)
        record_end(&l->dir, "moved", status, "the machine has moved to another process");
    else if (l->dir.fd >= 0)
        record_end(&l->dir, words[end], status, end == VM_END_NONE ? err->text : l->machine->vm.end_text);
}

// --- its place among the machines

static int enter_again(struct life *l, struct error *err)
{
    int e = state_dir_lock(&l->dir, err);
    if (e)
        state_dir_close(&l->dir);
    else
        unlinkat(l->dir.fd, "exit.json", 0);
    l->again = !e;
    return e;
}

// A machine of that name that has ended, with a disk of its own, goes on with it. err says by what the name is taken.
static int enter_own_disk(struct life *l, struct error *err)
{
    struct error none;
    if (!l->o->name || !l->o->image.what || state_dir_open(&l->dir, l->o->name, &none))
        return -EEXIST;
    char *image = state_dir_read(&l->dir, "image");
    int e = image ? 0 : -EEXIST;
    free(image);
    if (e)
        state_dir_close(&l->dir);
    return e ? e : enter_again(l, err);
}

// A machine that the user named must have its directory; one that nobody named runs in the foreground without, if need
// be.
static int enter_new(struct life *l, struct error *err)
{
    bool must = l->o->name || l->background >= 0;
    l->temporary = l->o->detach ? l->o->remove : !l->o->keep;
    int e = state_dir_create(&l->dir, l->o->name, l->temporary, err);
    if (e == -EEXIST)
        e = enter_own_disk(l, err);
    if (!e && (e = record_write(&l->dir, l->how->record, err))) {
        if (!l->again)
            state_dir_remove(&l->dir, NULL);
        state_dir_close(&l->dir);
    }
    if (e && !must) {
        log_info(&l->log, "other commands will not find this machine: %s", err->text);
        e = 0;
    }
    return e;
}

static int enter(struct life *l, struct error *err)
{
    if (l->how->again) {
        l->dir = *l->how->again;
        *l->how->again = (struct state_dir){.fd = -1, .lock = -1};
    }
    int e = l->how->again ? enter_again(l, err) : enter_new(l, err);
    if (e)
        return e;
    if (l->o->name)
        l->speaker = l->dir.name;
    l->o->name = l->dir.fd >= 0 ? l->dir.name : "trapeze";
    if (l->background < 0)
        return 0;
    l->messages = openat(l->dir.fd, "messages", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    return l->messages < 0 ? error_set(err, errno, "%s/messages: %s", l->dir.path, strerror(errno)) : 0;
}

// What the snapshot has in place of the options.
static int prepare_restore(struct life *l, struct error *err)
{
    if (l->how->restore->arrival)
        return 0; // which has changed them before
    if (l->dir.fd < 0)
        return error_set(err, ENOENT, "restoring: there is no directory for the machine's disks");
    return restore_options(l->how->restore, l->o, l->dir.path, err);
}

// The vCPUs have been started.
static void on_started(void *ctx)
{
    struct life *l = ctx;
    l->started = true;
    if (l->background >= 0)
        detach_done(l->background, l->dir.name, l->messages);
    l->background = -1;
}

static int serve(struct life *l, struct error *err)
{
    return l->dir.fd >= 0 ? machine_control_start(&l->control, l->machine, &l->dir, err) : 0;
}

// A machine that comes from another process becomes this one's.
static int take_over(struct life *l, struct error *err)
{
    bool paused = false;
    if (!l->how->restore || !l->how->restore->arrival)
        return 0;
    int e = arrival_take_over(l->how->restore->arrival, l->machine, &paused, err);
    if (!e && paused)
        machine_control_pause(&l->control);
    return e;
}

static void leave(struct life *l)
{
    // What has never run leaves nothing behind, and its name to others.
    if (l->dir.fd >= 0 && (l->temporary || (!l->started && !l->again)))
        state_dir_remove(&l->dir, NULL);
    else if (l->dir.fd >= 0)
        unlinkat(l->dir.fd, "control.sock", 0);
    state_dir_close(&l->dir);
}

// --- all of it

// Up to the point from where only the guest ends it. The status if that isn't reached, -1 if it is.
static int set_up(struct life *l, struct error *err)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
    const struct console_keys keys = {.quit = on_quit, .button = on_button, .ctx = l};
    if (enter(l, err)) {
        l->speaker = "trapeze"; // the text names the machine
        return fail(l, STATUS_FAILED, err->text);
    }
    int e = l->how->restore ? prepare_restore(l, err) : run_image_prepare(&l->image, l->o, &l->dir, err);
    if (e)
        return fail(l, e == -EINVAL && !strncmp(err->text, "--", 2) ? STATUS_USAGE : STATUS_FAILED, err->text);
    if (loop_create(&l->loop, err))
        return fail(l, STATUS_FAILED, err->text);
    l->signals = signal_watch(l->loop, ending, sizeof ending / sizeof *ending, on_signal, l, err);
    if (!l->signals)
        return fail(l, STATUS_FAILED, err->text);
    l->machine = machine_new(l->o, &l->log, l->loop, l->dir.fd >= 0 ? &l->dir : NULL, &keys, err);
    if (!l->machine)
        return fail(l, STATUS_FAILED, err->text);
    l->machine->restore = l->how->restore;
    e = machine_build(l->machine, err);
    run_image_started(&l->image);
    if (!e)
        e = serve(l, err);
    if (!e && loop_post(l->loop, on_started, l))
        e = error_set(err, ENOMEM, "out of memory");
    if (!e)
        e = take_over(l, err);
    if (!e)
        return -1;
    // What the user asked for in words we know but this host or program lacks is usage, too.
    if (l->machine->console)
        console_restore_terminal(l->machine->console);
    bool usage = e == -EINVAL && !l->machine->vm_made && !strncmp(err->text, "--", 2);
    return fail(l, usage ? STATUS_USAGE : STATUS_FAILED, err->text);
}

static int run(struct life *l)
{
    struct error err = {.text = ""};
    int status = set_up(l, &err);
    if (status >= 0) {
        if (l->how->restore && l->how->restore->arrival)
            arrival_refuse(l->how->restore->arrival, err.text);
        if (l->again && l->dir.fd >= 0)
            record_end(&l->dir, "failed", status, err.text);
        return status;
    }
    struct machine *m = l->machine;
    enum vm_end end = vm_run(&m->vm, &err);
    machine_console(m)->ops->flush(machine_console(m));
    console_restore_terminal(m->console);
    machine_control_stop(&l->control);
    status = status_of(l, end, &err);
    remember_end(l, end, status, &err);
    if (l->o->stats) {
        fprintf(stderr, "%s: counters\n", l->speaker);
        vm_stats(&m->vm, print_stat, stderr);
    }
    return status;
}

static void life_close(struct life *l)
{
    machine_control_stop(&l->control);
    machine_free(l->machine);
    if (l->signals)
        signal_unwatch(l->signals);
    if (l->loop)
        loop_destroy(l->loop);
    leave(l);
    run_image_free(&l->image);
    if (l->messages >= 0)
        close(l->messages);
    pthread_mutex_destroy(&l->log_lock);
}

int life_run(const struct life_options *how)
{
    static const enum log_level levels[] = {LOG_WARN, LOG_INFO, LOG_DEBUG};
    struct life *l = calloc(1, sizeof *l);
    if (!l) {
        fprintf(stderr, "trapeze: out of memory\n");
        return STATUS_FAILED;
    }
    l->how = how;
    l->o = how->run;
    l->background = how->background;
    l->dir.fd = l->dir.lock = l->messages = -1;
    l->image.found.kernel_fd = l->image.found.initrd_fd = -1;
    l->speaker = l->o->name ? l->o->name : "trapeze";
    l->log = (struct log){.level = levels[l->o->verbose < 2 ? l->o->verbose : 2],
                          .trace = l->o->trace,
                          .sink = log_sink,
                          .ctx = l,
                          .guest_budget = GUEST_MESSAGES};
    pthread_mutex_init(&l->log_lock, NULL);
    signal(SIGPIPE, SIG_IGN);
    int status = run(l);
    life_close(l);
    free(l);
    return status;
}
