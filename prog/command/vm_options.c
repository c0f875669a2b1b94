// See vm_options.h.
#include "prog/command/vm_options.h"
#include "prog/command/commands.h"
#include <errno.h>
#include <string.h>

static int take_time(void *into, char *v, struct error *err)
{
    struct vm_options *o = into;
    return option_number(v, 0, 86400, &o->time) ? 0
                                                : error_set(err, EINVAL, "--time %.40s: seconds, from 0 to 86400", v);
}

static int take_word(void *into, char *word, struct error *err)
{
    struct vm_options *o = into;
    if (o->names == VM_NAMES_MAX)
        return error_set(err, EINVAL, "%.80s: at most %d names at a time", word, VM_NAMES_MAX);
    o->name[o->names++] = word;
    return 0;
}

static const struct option help[] = {{"help", NULL, "this help", VM_FLAG(help), .letter = 'h'}};
static const struct option json[] = {{"json", NULL, "in JSON, for programs", VM_FLAG(json)}};
static const struct option time_option[] = {{"time", "SECONDS",
                                             "how long the guest may take to power off (default 30); then it is killed",
                                             OPTION_TAKE(take_time), .letter = 't'}};

const struct option_group vm_help_option = OPTION_GROUP(NULL, help), vm_json_option = OPTION_GROUP(NULL, json),
                          vm_time_option = OPTION_GROUP(NULL, time_option);

int vm_fail(const struct command_line *line, const char *text)
{
    fflush(stdout);
    fprintf(stderr, "trapeze %s: %s\n", line->command, text);
    return STATUS_FAILED;
}

int vm_options_take(const struct command_line *line, struct vm_options *o, int argc, char **argv, unsigned least,
                    unsigned most)
{
    struct error err;
    struct command_line with_names = *line;
    with_names.word = most ? take_word : NULL;
    uint64_t time = o->time;
    memset(o, 0, sizeof *o);
    o->time = time;
    int e = command_line_parse(&with_names, o, argc, argv, &err);
    if (!e && o->help) {
        command_line_help(line, stdout);
        return STATUS_OK;
    }
    if (!e && o->names < least)
        e = command_line_wrong(line, &err, "the %s's name is missing",
                               strstr(line->usage, "SNAPSHOT") ? "snapshot" : "machine");
    if (!e && o->names > most)
        e = command_line_wrong(line, &err, "%.80s: one name too many", o->name[most]);
    if (!e)
        return -1;
    vm_fail(line, err.text);
    return STATUS_USAGE;
}
