// trapeze balloon: how much memory a machine has, and asking its guest to be content with less.
#include "prog/command/commands.h"
#include "prog/command/vm_options.h"
#include "prog/command/vm_view.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

static const struct option_group *const groups[] = {&vm_json_option, &vm_help_option, NULL};
static const struct command_line line = {
    .command = "balloon",
    .usage = "balloon [--json] NAME [SIZE]\nAsk a machine's guest to be content with SIZE of its memory, such as 512M; "
             "what is over that goes\nback to the host. Without SIZE, only tell how much it has.",
    .after = "Example: trapeze balloon web 512M\n",
    .groups = groups,
};

static uint64_t mib(const json_t *state, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(state, key)) >> 20;
}

static int balloon(const struct vm_options *o, const struct state_dir *d, struct error *err)
{
    uint64_t bytes;
    json_t *state = NULL, *body = NULL;
    if (o->names == 2) {
        if (!option_size(o->name[1], &bytes) || bytes > INT64_MAX)
            return command_line_wrong(&line, err, "%.40s: must be a size, such as 512M", o->name[1]);
        body = json_pack("{s:I}", "size", (json_int_t)bytes);
    }
    int e = vm_ask(d, body ? "POST" : "GET", "/balloon", body, &state, err);
    json_decref(body);
    if (e)
        return e;
    if (o->json) {
        json_dumpf(state, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        printf("%s: memory %" PRIu64 "M, asked to be content with %" PRIu64 "M, has %" PRIu64 "M\n", d->name,
               mib(state, "memory"), mib(state, "target"), mib(state, "current"));
    }
    json_decref(state);
    return 0;
}

int command_balloon(int argc, char **argv)
{
    struct vm_options o = {0};
    struct state_dir d;
    struct error err;
    int status = vm_options_take(&line, &o, argc, argv, 1, 2);
    if (status >= 0)
        return status;
    int e = state_dir_open(&d, o.name[0], &err);
    if (!e) {
        e = balloon(&o, &d, &err);
        state_dir_close(&d);
    }
    if (!e)
        return STATUS_OK;
    vm_fail(&line, err.text);
    return e == -EINVAL ? STATUS_USAGE : STATUS_FAILED;
}
