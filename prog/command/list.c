// trapeze ps and trapeze inspect: which machines there are, and all that is known of one.
#include "control/client.h"
#include "prog/command/commands.h"
#include "prog/command/vm_options.h"
#include "prog/command/vm_view.h"
#include "prog/state/record.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

// 75 s -> "75 s", 10 min, 5 h, 3 d: as much as a glance needs.
static void span(char text[16], long long seconds)
{
    seconds = seconds < 0 ? 0 : seconds;
    if (seconds < 120)
        snprintf(text, 16, "%lld s", seconds);
    else if (seconds < 7200)
        snprintf(text, 16, "%lld min", seconds / 60);
    else if (seconds < 48 * 3600)
        snprintf(text, 16, "%lld h", seconds / 3600);
    else
        snprintf(text, 16, "%lld d", seconds / 86400 % 1000000);
}

// "2222:22, 8080:80"
static void ports(char *text, size_t size, const json_t *live)
{
    size_t i;
    json_t *one;
    text[0] = 0;
    json_array_foreach(json_object_get(live, "published"), i, one)
    {
        size_t n = strlen(text);
        if (json_is_string(one))
            snprintf(text + n, size - n, "%s%s", n ? ", " : "", json_string_value(one));
    }
}

static void print_row(const struct vm_view *v)
{
    char since[16] = "-", memory[16] = "-", cpus[16] = "-", published[64];
    const char *engine = json_string_value(json_object_get(v->live, "engine"));
    if (v->live) {
        span(since, json_integer_value(json_object_get(v->live, "uptime_ns")) / 1000000000);
        snprintf(memory, sizeof memory, "%lldM", json_integer_value(json_object_get(v->live, "memory")) >> 20);
        snprintf(cpus, sizeof cpus, "%lld", json_integer_value(json_object_get(v->live, "cpus")));
    } else if (v->exit) {
        span(since, time(NULL) - json_integer_value(json_object_get(v->exit, "time")));
    }
    ports(published, sizeof published, v->live);
    printf("%-20s %-16s %-9s %4s %8s  %-7s %s\n", v->dir.name, v->text, since, cpus, memory, engine ? engine : "-",
           published);
}

static json_t *row_json(const struct vm_view *v)
{
    json_t *j =
        json_pack("{s:s, s:s, s:s}", "name", v->dir.name, "state", vm_state_name(v->state), "directory", v->dir.path);
    if (!j) // a path that is no UTF-8
        j = json_pack("{s:s, s:s}", "name", v->dir.name, "state", vm_state_name(v->state));
    if (v->pid > 0)
        json_object_set_new(j, "pid", json_integer(v->pid));
    static const char *const keys[] = {"engine", "cpu", "cpus", "memory", "uptime_ns", "published"};
    for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++)
        if (json_object_get(v->live, keys[i]))
            json_object_set(j, keys[i], json_object_get(v->live, keys[i]));
    if (v->exit)
        json_object_set(j, "exit", v->exit);
    return j;
}

static void print_json(json_t *j)
{
    json_dumpf(j, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(j);
}

static const struct option ps_options[] = {
    {"all", NULL, "those that have ended, too", VM_FLAG(all), .letter = 'a'},
};
static const struct option_group ps_group = OPTION_GROUP(NULL, ps_options);

int command_ps(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&ps_group, &vm_json_option, &vm_help_option, NULL};
    static const struct command_line line = {
        .command = "ps",
        .usage = "ps [-a] [--json]\nList the machines that run.",
        .after = "Example: trapeze ps -a --json | jq -r '.[] | select(.state == \"crashed\").name'\n",
        .groups = groups,
    };
    struct vm_options o = {0};
    struct error err;
    char **names;
    int status = vm_options_take(&line, &o, argc, argv, 0, 0);
    if (status >= 0)
        return status;
    if (state_dir_list(&names, &err))
        return vm_fail(&line, err.text);
    json_t *all = json_array();
    if (!o.json)
        printf("%-20s %-16s %-9s %4s %8s  %-7s %s\n", "NAME", "STATE", "SINCE", "CPUS", "MEMORY", "ENGINE", "PORTS");
    for (char **name = names; *name; name++) {
        struct vm_view v;
        if (vm_view_open(&v, *name, &err))
            continue; // it has gone since
        if ((v.pid || o.all) && o.json)
            json_array_append_new(all, row_json(&v));
        else if (v.pid || o.all)
            print_row(&v);
        vm_view_close(&v);
    }
    free(names);
    if (o.json)
        print_json(all);
    else
        json_decref(all);
    return STATUS_OK;
}

int command_inspect(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&vm_help_option, NULL};
    static const struct command_line line = {
        .command = "inspect",
        .usage = "inspect NAME\nTell all that is known of a machine, in JSON: how it was started (config), what it is "
                 "(machine,\nwhile it runs), how it ended (exit).",
        .after = "Example: trapeze inspect web | jq .machine.disks\n",
        .groups = groups,
    };
    struct vm_options o = {0};
    struct vm_view v;
    struct error err;
    int status = vm_options_take(&line, &o, argc, argv, 1, 1);
    if (status >= 0)
        return status;
    if (vm_view_open(&v, o.name[0], &err))
        return vm_fail(&line, err.text);
    json_t *j = row_json(&v);
    char *config = state_dir_read(&v.dir, "config.json");
    json_t *c = config ? json_loads(config, 0, NULL) : NULL;
    free(config);
    json_object_set_new(j, "config", c ? c : json_null());
    if (v.live)
        json_object_set(j, "machine", v.live);
    print_json(j);
    vm_view_close(&v);
    return STATUS_OK;
}
