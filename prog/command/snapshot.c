// trapeze snapshot: saves running machines, and tells of what was saved: ls, info, verify, rm.
#include "prog/command/snapshot.h"
#include "control/client.h"
#include "prog/command/commands.h"
#include "prog/command/vm_options.h"
#include "prog/state/snapshot_store.h"
#include "prog/state/state_dir.h"
#include "snapshot/directory.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// --- making one

static char *absolute(const char *path)
{
    char *here = path[0] == '/' ? strdup("") : getcwd(NULL, 0), *all = NULL;
    if (here && asprintf(&all, "%s%s%s", here, *here ? "/" : "", path) < 0)
        all = NULL;
    free(here);
    return all;
}

int snapshot_of_machine(const char *machine, const char *path, json_t **reply, struct error *err)
{
    struct state_dir d;
    struct sockaddr_un address;
    json_t *answer = NULL;
    int e = state_dir_open(&d, machine, err);
    if (e)
        return e;
    char *to = absolute(path);
    json_t *body = to ? json_pack("{s:s}", "to", to) : NULL;
    state_dir_socket(&d, "control.sock", &address);
    e = body ? control_ask(&address, "POST", "/snapshot", body, -1, &answer, err)
             : error_set(err, EINVAL, "%s: its name cannot be told to the machine", path);
    if (e == -ENOENT || e == -ECONNREFUSED)
        error_set(err, -e, "%s: the machine is not running", machine);
    json_decref(body);
    free(to);
    state_dir_close(&d);
    if (reply)
        *reply = answer;
    else
        json_decref(answer);
    return e;
}

struct make_options {
    const char *machine, *to;
    bool help;
};

static int take_machine(void *into, char *word, struct error *err)
{
    struct make_options *o = into;
    if (o->machine)
        return error_set(err, EINVAL, "%.80s: one machine at a time", word);
    o->machine = word;
    return 0;
}

static const struct option make_table[] = {
    {"to", "DIR", "where: a path, or a name (default: the machine's name and a number)",
     OPTION_TEXT(struct make_options, to)},
    {"help", NULL, "this help", OPTION_SET(struct make_options, help), .letter = 'h'},
};
static const struct option_group make_group = OPTION_GROUP(NULL, make_table);
static const struct option_group *const make_groups[] = {&make_group, NULL};

static const struct command_line make_line = {
    .command = "snapshot",
    .usage =
        "snapshot [--to DIR] MACHINE\n"
        "       trapeze snapshot ls [--json]\n"
        "       trapeze snapshot info|verify|rm SNAPSHOT...\n"
        "Save a running machine: its memory, CPUs, devices and disks, as a directory. It stands still while they are\n"
        "copied and runs on. Snapshots without a path are kept below $XDG_DATA_HOME/trapeze/snapshots.",
    .after = "Example: trapeze snapshot web && trapeze restore --name web2 web-1\n",
    .groups = make_groups,
    .word = take_machine,
};

static int make(int argc, char **argv)
{
    struct make_options o = {0};
    struct error err;
    int e = command_line_parse(&make_line, &o, argc, argv, &err);
    if (!e && o.help) {
        command_line_help(&make_line, stdout);
        return STATUS_OK;
    }
    if (!e && !o.machine)
        e = command_line_wrong(&make_line, &err, "which machine?");
    if (e)
        return vm_fail(&make_line, err.text), STATUS_USAGE;
    json_t *reply = NULL;
    char *path = o.to ? snapshot_store_path(o.to, &err) : snapshot_store_new(o.machine, &err);
    e = path ? snapshot_of_machine(o.machine, path, &reply, &err) : -EINVAL;
    if (!e) {
        const char *base = strrchr(path, '/');
        puts(o.to ? o.to : base + 1);
    }
    json_decref(reply);
    free(path);
    return e ? vm_fail(&make_line, err.text) : STATUS_OK;
}

// --- telling of them

static json_t *described(const struct snapshot *s, const char *name)
{
    const struct snapshot_manifest *m = &s->m;
    uint64_t bytes = m->state.stored + m->ram.stored + m->kernel.stored + m->initrd.stored;
    for (unsigned i = 0; i < m->disks; i++)
        bytes += m->disk[i].part.stored;
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:i, s:i}", "name", name, "path", s->path,
                     "machine", m->name, "created", m->created, "program", m->program, "engine", m->engine, "cpu",
                     m->model.name, "cpus", (int)m->model.config.cpus, "memory", (json_int_t)m->memory, "memory_stored",
                     (json_int_t)m->ram.stored, "stored", (json_int_t)bytes, "disks", (int)m->disks, "networks",
                     (int)m->nets);
}

static const struct option_group *const json_groups[] = {&vm_json_option, &vm_help_option, NULL};
static const struct option_group *const plain_groups[] = {&vm_help_option, NULL};

static int list(int argc, char **argv)
{
    static const struct command_line line = {.command = "snapshot ls",
                                             .usage = "snapshot ls [--json]\nList the snapshots.",
                                             .after = "Example: trapeze snapshot ls --json | jq -r '.[].name'\n",
                                             .groups = json_groups};
    struct vm_options o = {0};
    struct error err;
    int status = vm_options_take(&line, &o, argc, argv, 0, 0);
    if (status >= 0)
        return status;
    char **names = snapshot_store_list(&err);
    if (!names)
        return vm_fail(&line, err.text);
    json_t *all = json_array();
    if (!o.json)
        printf("%-20s %-16s %-20s %5s %9s %9s\n", "SNAPSHOT", "MACHINE", "CREATED", "CPUS", "MEMORY", "STORED");
    for (unsigned i = 0; names[i]; i++) {
        struct snapshot s;
        char *path = snapshot_store_path(names[i], &err);
        if (path && !snapshot_open(&s, path, &err)) {
            json_t *j = described(&s, names[i]);
            if (!o.json)
                printf("%-20s %-16s %-20s %5u %8" PRIu64 "M %8" PRIu64 "M\n", names[i], s.m.name, s.m.created,
                       s.m.model.config.cpus, s.m.memory >> 20,
                       (uint64_t)json_integer_value(json_object_get(j, "stored")) >> 20);
            json_array_append_new(all, j);
            snapshot_close(&s);
        } else if (path) {
            fprintf(stderr, "trapeze snapshot ls: %s\n", err.text);
        }
        free(path);
        free(names[i]);
    }
    free((void *)names);
    if (o.json && !json_dumpf(all, stdout, JSON_INDENT(2)))
        putchar('\n');
    json_decref(all);
    return STATUS_OK;
}

typedef int act(const char *name, const char *path, struct error *err);

static int info_one(const char *name, const char *path, struct error *err)
{
    struct snapshot s;
    int e = snapshot_open(&s, path, err);
    if (e)
        return e;
    json_t *j = described(&s, name);
    json_dumpf(j, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(j);
    snapshot_close(&s);
    return 0;
}

static int verify_one(const char *name, const char *path, struct error *err)
{
    struct snapshot s;
    int e = snapshot_open(&s, path, err);
    if (e)
        return e;
    e = snapshot_verify(&s, err);
    snapshot_close(&s);
    if (!e)
        printf("%s: all parts are what was saved\n", name);
    return e;
}

static int remove_one(const char *name, const char *path, struct error *err)
{
    int e = snapshot_remove(path, err);
    if (!e)
        puts(name);
    return e;
}

// Goes on after one that fails.
static int each(const struct command_line *line, act *fn, int argc, char **argv)
{
    struct vm_options o = {0};
    int status = vm_options_take(line, &o, argc, argv, 1, VM_NAMES_MAX);
    if (status >= 0)
        return status;
    status = STATUS_OK;
    for (unsigned i = 0; i < o.names; i++) {
        struct error err;
        char *path = snapshot_store_path(o.name[i], &err);
        if (!path || fn(o.name[i], path, &err))
            status = vm_fail(line, err.text);
        free(path);
    }
    return status;
}

int command_snapshot(int argc, char **argv)
{
    static const struct {
        const char *word;
        act *fn;
        struct command_line line;
    } acts[] = {
        {"info",
         info_one,
         {.command = "snapshot info",
          .usage = "snapshot info SNAPSHOT...\nTell what snapshots are of, in JSON.",
          .after = "Example: trapeze snapshot info web-1\n",
          .groups = plain_groups}},
        {"verify",
         verify_one,
         {.command = "snapshot verify",
          .usage =
              "snapshot verify SNAPSHOT...\nCheck all files of snapshots against the digests that were taken then.",
          .after = "Example: trapeze snapshot verify web-1 && trapeze restore web-1\n",
          .groups = plain_groups}},
        {"rm",
         remove_one,
         {.command = "snapshot rm",
          .usage =
              "snapshot rm SNAPSHOT...\nRemove snapshots. Machines that went on from one go on; but their disks need\n"
              "its disks when they are opened the next time, and so do snapshots of those machines.",
          .after = "Example: trapeze snapshot rm web-1 web-2\n",
          .groups = plain_groups}},
    };
    if (argc && !strcmp(argv[0], "ls"))
        return list(argc - 1, argv + 1);
    for (unsigned i = 0; argc && i < sizeof acts / sizeof acts[0]; i++)
        if (!strcmp(argv[0], acts[i].word))
            return each(&acts[i].line, acts[i].fn, argc - 1, argv + 1);
    return make(argc, argv);
}
