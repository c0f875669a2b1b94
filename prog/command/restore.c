// trapeze restore: a machine goes on from a snapshot.
//
// It is `trapeze run` with the options that the snapshot was made of, and behind them those that are given here.
#include "prog/machine/restore.h"
#include "prog/command/commands.h"
#include "prog/option/command_line.h"
#include "prog/state/snapshot_store.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct restore_command {
    const char *name, *engine, *console;
    bool copy, verify, detach, help;
    char *snapshot;
    char **rest; // options for run
    int rest_count;
};

static int take_word(void *into, char *word, struct error *err)
{
    struct restore_command *c = into;
    (void)err;
    if (!c->snapshot)
        c->snapshot = word;
    else
        c->rest[c->rest_count++] = word;
    return 0;
}

static const struct option table[] = {
    {"name", "NAME", "the machine's name (default: as it was)", OPTION_TEXT(struct restore_command, name)},
    {"engine", "ENGINE", "kvm, dbt or interp (default: the best)", OPTION_TEXT(struct restore_command, engine)},
    {"console", "WHERE", "where COM1 goes (default: as it was)", OPTION_TEXT(struct restore_command, console)},
    {"detach", NULL, "in the background", OPTION_SET(struct restore_command, detach), .letter = 'd'},
    {"copy-memory", NULL, "read all memory now, not as it is used; dbt then runs computing programs faster",
     OPTION_SET(struct restore_command, copy)},
    {"verify", NULL, "check all parts of the snapshot first", OPTION_SET(struct restore_command, verify)},
    {"help", NULL, "print this", OPTION_SET(struct restore_command, help), .letter = 'h'},
};
static const struct option_group group = OPTION_GROUP(NULL, table);
static const struct option_group *const groups[] = {&group, NULL};

static const struct command_line line = {
    .command = "restore",
    .usage =
        "restore [OPTION]... SNAPSHOT [OPTION OF RUN]...\n"
        "Make a machine go on from a snapshot: a directory that trapeze snapshot made. The snapshot stays as it is;\n"
        "the machine writes to overlays of its own. Options of trapeze run may follow, as far as the guest does not\n"
        "notice: where its consoles, networks and sockets lead.\n",
    .after = "\nExample: trapeze restore --name web2 web-1 --publish 8081:80\n",
    .groups = groups,
    .word = take_word,
    .rest_is_words = true,
};

static void give(char **words, int *count, const char *option, const char *value)
{
    if (!value)
        return;
    words[(*count)++] = strdup(option);
    words[(*count)++] = strdup(value);
}

// The snapshot's options, then ours. Freed with the process: options keep pointing into them.
static char **all_words(const struct restore_command *c, const struct snapshot_manifest *m, int *count)
{
    char **words = calloc(m->option_count + (unsigned)c->rest_count + 16, sizeof *words);
    *count = 0;
    for (unsigned i = 0; words && i < m->option_count; i++)
        words[(*count)++] = m->options[i];
    if (!words)
        return NULL;
    give(words, count, "--engine", c->engine);
    give(words, count, "--name", c->name);
    give(words, count, "--console", c->console);
    if (c->detach)
        words[(*count)++] = strdup("--detach");
    for (int i = 0; i < c->rest_count; i++)
        words[(*count)++] = c->rest[i];
    return words;
}

static int restore(struct restore_command *c, struct error *err)
{
    struct restore r;
    char *path = snapshot_store_path(c->snapshot, err);
    int count, e = path ? restore_open(&r, path, err) : -EINVAL;
    free(path);
    if (e)
        return fprintf(stderr, "trapeze restore: %s\n", err->text), STATUS_FAILED;
    r.copy_memory = c->copy;
    if (c->verify)
        e = snapshot_verify(&r.s, err);
    char **words = e ? NULL : all_words(c, &r.s.m, &count);
    int status = STATUS_FAILED;
    if (e)
        fprintf(stderr, "trapeze restore: %s\n", err->text);
    else if (!words)
        fprintf(stderr, "trapeze restore: out of memory\n");
    else if (chdir(r.s.m.directory) < 0 && access(r.s.m.directory, F_OK) == 0)
        fprintf(stderr, "trapeze restore: %s, where the machine was started, cannot be entered\n", r.s.m.directory);
    else
        status = run_machine(count, words, &r);
    free((void *)words);
    restore_close(&r);
    return status;
}

int command_restore(int argc, char **argv)
{
    struct restore_command c = {.rest = calloc((size_t)argc + 1, sizeof *c.rest)};
    struct error err;
    int status = STATUS_USAGE;
    if (!c.rest) {
        fprintf(stderr, "trapeze restore: out of memory\n");
        return STATUS_FAILED;
    }
    int e = command_line_parse(&line, &c, argc, argv, &err);
    if (!e && !c.help && !c.snapshot)
        e = command_line_wrong(&line, &err, "which snapshot?");
    if (e) {
        fprintf(stderr, "trapeze restore: %s\n", err.text);
    } else if (c.help) {
        command_line_help(&line, stdout);
        status = STATUS_OK;
    } else {
        status = restore(&c, &err);
    }
    free((void *)c.rest);
    return status;
}
