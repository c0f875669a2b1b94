// trapeze clone: machines that go on from where another one is, or from a snapshot, in the background.
//
// Each clone is a process of its own, started as `trapeze restore --detach` would be.
#include "prog/command/commands.h"
#include "prog/command/snapshot.h"
#include "prog/command/vm_options.h"
#include "prog/state/snapshot_store.h"
#include "prog/state/state_dir.h"
#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { CLONES_MAX = 1000 };

struct clone_options {
    const char *source, *name, *engine;
    uint64_t count;
    bool help;
};

static int take_count(void *into, char *v, struct error *err)
{
    struct clone_options *o = into;
    return option_number(v, 1, CLONES_MAX, &o->count)
               ? 0
               : error_set(err, EINVAL, "-n %.40s: must be a number from 1 to %d", v, CLONES_MAX);
}

static int take_word(void *into, char *word, struct error *err)
{
    struct clone_options *o = into;
    if (o->source)
        return error_set(err, EINVAL, "%.80s: one machine or snapshot at a time", word);
    o->source = word;
    return 0;
}

static const struct option table[] = {
    {"count", "N", "how many (default 1)", OPTION_TAKE(take_count), .letter = 'n'},
    {"name", "NAME", "what they are called, with a number behind it (default: the source's name and -clone)",
     OPTION_TEXT(struct clone_options, name)},
    {"engine", "ENGINE", "kvm, dbt or interp (default: the best)", OPTION_TEXT(struct clone_options, engine)},
    {"help", NULL, "this help", OPTION_SET(struct clone_options, help), .letter = 'h'},
};
static const struct option_group group = OPTION_GROUP(NULL, table);
static const struct option_group *const groups[] = {&group, NULL};

static const struct command_line line = {
    .command = "clone",
    .usage =
        "clone [OPTION]... MACHINE|SNAPSHOT\n"
        "Start machines that go on from where a running machine is now, or from a snapshot, in the background. They\n"
        "share the memory that they don't write. Of a running machine a snapshot is made first, which stays.",
    .after = "Example: trapeze clone -n 3 --name worker web\n",
    .groups = groups,
    .word = take_word,
};

// The path of the snapshot that the clones go on from.
static char *source_path(const char *source, struct error *err)
{
    struct state_dir d;
    bool machine = !strchr(source, '/') && !state_dir_open(&d, source, err);
    if (!machine)
        return snapshot_store_path(source, err);
    state_dir_close(&d);
    char *path = snapshot_store_new(source, err);
    if (path && snapshot_of_machine(source, path, NULL, err)) {
        free(path);
        path = NULL;
    }
    return path;
}

// Waits until the clone runs; it says its name itself.
static int start(const char *path, const char *name, const char *engine)
{
    const char *argv[] = {"trapeze",
                          "restore",
                          "--name",
                          name,
                          engine ? "--engine" : path,
                          engine ? engine : "--detach",
                          engine ? path : NULL,
                          engine ? "--detach" : NULL,
                          NULL};
    pid_t pid;
    int status, e = posix_spawn(&pid, "/proc/self/exe", NULL, NULL, (char *const *)argv, environ);
    if (e) {
        fprintf(stderr, "trapeze clone: %s: %s\n", name, strerror(e));
        return STATUS_FAILED;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : STATUS_FAILED;
}

static int clone_all(const struct clone_options *o, const char *path)
{
    char name[STATE_NAME_MAX + 1], base[STATE_NAME_MAX + 1];
    const char *slash = strrchr(o->source, '/');
    snprintf(base, sizeof base, "%.24s%s", o->name ? o->name : slash ? slash + 1 : o->source, o->name ? "" : "-clone");
    int status = STATUS_OK;
    unsigned made = 0;
    for (unsigned n = 1; made < o->count && n < 10 * CLONES_MAX && status == STATUS_OK; n++) {
        struct state_dir d;
        struct error err;
        snprintf(name, sizeof name, "%.27s%u", base, n);
        if (o->name && o->count == 1 && n == 1)
            snprintf(name, sizeof name, "%s", base);
        if (!state_dir_open(&d, name, &err)) { // the next number then
            state_dir_close(&d);
            continue;
        }
        status = start(path, name, o->engine);
        made++;
    }
    return status;
}

int command_clone(int argc, char **argv)
{
    struct clone_options o = {.count = 1};
    struct error err;
    int e = command_line_parse(&line, &o, argc, argv, &err);
    if (!e && o.help) {
        command_line_help(&line, stdout);
        return STATUS_OK;
    }
    if (!e && !o.source)
        e = command_line_wrong(&line, &err, "which machine or snapshot?");
    if (e)
        return vm_fail(&line, err.text), STATUS_USAGE;
    char *path = source_path(o.source, &err);
    if (path && access(path, F_OK)) {
        free(path);
        path = NULL;
        error_set(&err, ENOENT, "%.80s: there is neither a machine nor a snapshot of this name", o.source);
    }
    if (!path)
        return vm_fail(&line, err.text);
    int status = clone_all(&o, path);
    free(path);
    return status;
}
