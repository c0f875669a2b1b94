// trapeze run and trapeze start: a machine's life begins, here or in the background (life.h does the rest).
#include "prog/command/commands.h"
#include "prog/command/power.h"
#include "prog/machine/detach.h"
#include "prog/machine/image.h"
#include "prog/machine/life.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int refuse(const char *command, const struct error *err, int status)
{
    fprintf(stderr, "trapeze %s: %s\n", command, err->text);
    return status;
}

// In the foreground, or in the background as the options say; the process there doesn't return.
static int live(struct life_options *life)
{
    life->background = -1;
    if (!life->run->detach)
        return life_run(life);
    int status;
    life->background = detach(&status);
    if (life->background >= 0)
        exit(life_run(life));
    return status;
}

int command_run(int argc, char **argv)
{
    return run_machine(argc, argv, NULL);
}

int run_machine(int argc, char **argv, struct restore *restore)
{
    struct error err;
    struct run_options *o = malloc(sizeof *o);
    struct record *record = o ? record_new(argc, argv, false, &err) : NULL; // before parsing, which cuts words in place
    int status;
    if (!record)
        status = refuse("run", o ? &err : &(struct error){"out of memory"}, STATUS_FAILED);
    else if (run_options_parse(o, argc, argv, &err))
        status = refuse("run", &err, STATUS_USAGE);
    else if (o->help)
        run_options_help(stdout), status = STATUS_OK;
    else if (!restore && run_image_available(o, &err))
        status = refuse("run", &err, STATUS_FAILED);
    else {
        record->detached = o->detach;
        record->restored = restore;
        status = live(&(struct life_options){.run = o, .record = record, .restore = restore});
    }
    record_free(record);
    free(o);
    return status;
}

// --- start

static int take_words(struct run_options *o, const struct record *record, char ***words, struct error *err)
{
    int n = 0;
    char **w = *words = calloc((size_t)record->count + 2, sizeof *w);
    for (; w && n < record->count; n++)
        if (!(w[n] = strdup(record->arguments[n])))
            return error_set(err, ENOMEM, "out of memory");
    if (!w || !(w[n++] = strdup("--detach")))
        return error_set(err, ENOMEM, "out of memory");
    return run_options_parse(o, n, w, err);
}

// How it was started then, in the same folder, in the background now.
static int start(const char *name, struct error *err)
{
    struct state_dir d;
    struct record *record = NULL;
    struct run_options *o = malloc(sizeof *o);
    char **words = NULL;
    int status = STATUS_FAILED, e = o ? state_dir_open(&d, name, err) : error_set(err, ENOMEM, "out of memory");
    if (e) {
        free(o);
        return -1;
    }
    if (state_dir_owner(&d))
        e = error_set(err, EBUSY, "%s: the machine is running", name);
    if (!e)
        e = record_read(&d, &record, err);
    // Its disks and its memory were the snapshot's, which the options of run don't name.
    if (!e && record->restored)
        e = error_set(err, ENOTSUP, "%s: it went on from a snapshot; trapeze restore makes another one of that", name);
    if (!e)
        e = take_words(o, record, &words, err);
    if (!e && chdir(record->directory))
        e = error_set(err, errno, "%s: the folder it was started in, %s: %s", name, record->directory, strerror(errno));
    if (!e) {
        o->name = d.name;
        status = live(&(struct life_options){.run = o, .record = record, .again = &d});
    }
    if (d.fd >= 0)
        state_dir_close(&d);
    for (char **w = words; w && *w; w++)
        free(*w);
    free(words);
    record_free(record);
    free(o);
    return e ? -1 : status;
}

// All that are named, one after the other.
static int start_all(const struct command_line *line, const struct vm_options *o)
{
    struct error err;
    int status = STATUS_OK;
    for (unsigned i = 0; i < o->names; i++) {
        int one = start(o->name[i], &err);
        status = one < 0 ? vm_fail(line, err.text) : one ? one : status;
    }
    return status;
}

int command_start(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&vm_help_option, NULL};
    static const struct command_line line = {
        .command = "start",
        .usage =
            "start NAME...\n"
            "Start machines again that have ended, in the background, with the options and in the folder they were "
            "started\nwith first.",
        .after = "Example: trapeze stop web && trapeze start web\n",
        .groups = groups,
    };
    struct vm_options o = {0};
    int status = vm_options_take(&line, &o, argc, argv, 1, VM_NAMES_MAX);
    return status >= 0 ? status : start_all(&line, &o);
}

int command_restart(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&vm_time_option, &vm_help_option, NULL};
    static const struct command_line line = {
        .command = "restart",
        .usage =
            "restart [--time SECONDS] NAME...\nStop machines, as trapeze stop does, and start them again, as trapeze "
            "start does.",
        .after = "Example: trapeze restart web\n",
        .groups = groups,
    };
    struct vm_options o = {.time = VM_STOP_SECONDS};
    int status = vm_options_take(&line, &o, argc, argv, 1, VM_NAMES_MAX);
    if (status >= 0)
        return status;
    status = vm_stop_all(&line, &o, false);
    return status ? status : start_all(&line, &o);
}
