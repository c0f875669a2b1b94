// trapeze stats: what machines use, in a table that refreshes itself on a terminal.
//
// A machine tells what it has used since its start (GET /stats); how fast, is the difference of two answers.
#include "control/client.h"
#include "prog/command/commands.h"
#include "prog/command/vm_options.h"
#include "prog/command/vm_view.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INTERVAL_MS = 1000, FIRST_MS = 300 };

struct machine_use {
    char name[STATE_NAME_MAX + 1];
    json_t *now, *before; // answers; NULL: none
    struct machine_use *next;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    interrupted = number;
}

// A number at "a.b" or "a".
static double number(const json_t *j, const char *path)
{
    char first[32];
    const char *dot = strchr(path, '.');
    if (!dot)
        return json_number_value(json_object_get(j, path));
    snprintf(first, sizeof first, "%.*s", (int)(dot - path), path);
    return json_number_value(json_object_get(json_object_get(j, first), dot + 1));
}

// Per second, between the two answers.
static double rate(const struct machine_use *u, const char *path)
{
    double ns = number(u->now, "time_ns") - number(u->before, "time_ns");
    return u->before && ns > 0 ? (number(u->now, path) - number(u->before, path)) * 1e9 / ns : 0;
}

static void bytes(char text[12], double n)
{
    static const char units[] = "BKMGT";
    unsigned unit = 0;
    for (; n >= 1024 && unit < 4; unit++)
        n /= 1024;
    snprintf(text, 12, unit && n < 10 ? "%.1f%c" : "%.0f%c", n, units[unit]);
}

static struct machine_use *find(struct machine_use **list, const char *name)
{
    for (struct machine_use *u = *list; u; u = u->next)
        if (!strcmp(u->name, name))
            return u;
    struct machine_use *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    snprintf(u->name, sizeof u->name, "%s", name);
    while (*list)
        list = &(*list)->next;
    return *list = u;
}

static void forget(struct machine_use *list)
{
    while (list) {
        struct machine_use *next = list->next;
        json_decref(list->now);
        json_decref(list->before);
        free(list);
        list = next;
    }
}

// Asks one. `named`: the user wants this one, so its absence is an error.
static int ask(const struct command_line *line, struct machine_use **list, const char *name, bool named)
{
    struct state_dir d;
    struct error err;
    json_t *answer = NULL;
    int e = state_dir_open(&d, name, &err);
    if (!e) {
        e = named || state_dir_owner(&d) ? vm_ask(&d, "GET", "/stats", NULL, &answer, &err) : 0;
        state_dir_close(&d);
    }
    if (e && named)
        return vm_fail(line, err.text);
    struct machine_use *u = answer ? find(list, name) : NULL;
    if (u) {
        json_decref(u->now); // a name that was given twice
        u->now = answer;
    } else {
        json_decref(answer);
    }
    return STATUS_OK;
}

static int ask_all(const struct command_line *line, struct machine_use **list, const struct vm_options *o)
{
    // Who doesn't answer this time, isn't shown this time.
    for (struct machine_use *u = *list; u; u = u->next) {
        json_decref(u->before);
        u->before = u->now;
        u->now = NULL;
    }
    char **names;
    struct error err;
    int status = STATUS_OK;
    for (unsigned i = 0; i < o->names && !status; i++)
        status = ask(line, list, o->name[i], true);
    if (o->names)
        return status;
    if (state_dir_list(&names, &err))
        return vm_fail(line, err.text);
    for (char **n = names; *n; n++)
        ask(line, list, *n, false);
    free(names);
    return STATUS_OK;
}

static void print_table(const struct machine_use *list)
{
    printf("%-20s %6s %6s %6s  %9s %9s  %9s %9s %9s\n", "NAME", "CPU%", "MEMORY", "OF", "READ/s", "WRITE/s", "RECV/s",
           "SEND/s", "EXITS/s");
    for (const struct machine_use *u = list; u; u = u->next) {
        static const char *const paths[] = {"disk.read_bytes", "disk.written_bytes", "net.received_bytes",
                                            "net.sent_bytes"};
        char resident[12], size[12], io[4][12];
        if (!u->now)
            continue;
        bytes(resident, number(u->now, "memory.resident"));
        bytes(size, number(u->now, "memory.size"));
        for (unsigned i = 0; i < 4; i++)
            bytes(io[i], rate(u, paths[i]));
        printf("%-20s %6.1f %6s %6s  %9s %9s  %9s %9s %9.0f\n", u->name, rate(u, "cpu_ns") / 1e7, resident, size, io[0],
               io[1], io[2], io[3], rate(u, "exits"));
    }
    fflush(stdout);
}

static void print_json(const struct machine_use *list)
{
    json_t *all = json_array();
    for (const struct machine_use *u = list; u; u = u->next)
        if (u->now) {
            json_t *one = json_pack("{s:s}", "name", u->name);
            json_object_update(one, u->now);
            json_array_append_new(all, one);
        }
    json_dumpf(all, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(all);
}

static int show(const struct command_line *line, const struct vm_options *o, struct machine_use **list)
{
    int status = ask_all(line, list, o);
    if (status)
        return status;
    if (o->json) {
        print_json(*list);
        return STATUS_OK;
    }
    bool live = !o->once && isatty(STDOUT_FILENO);
    const struct sigaction a = {.sa_handler = on_signal};
    if (live)
        sigaction(SIGINT, &a, NULL);
    for (unsigned ms = FIRST_MS; !status; ms = INTERVAL_MS) {
        usleep(ms * 1000);
        if (interrupted)
            break;
        status = ask_all(line, list, o);
        if (status)
            break;
        if (live)
            printf("\033[H\033[2J"); // home, clear: ECMA-48
        print_table(*list);
        if (!live)
            break;
    }
    return status;
}

static const struct option stats_options[] = {
    {"once", NULL, "print one table, and end (as without a terminal)", VM_FLAG(once)},
};
static const struct option_group stats_group = OPTION_GROUP(NULL, stats_options);

int command_stats(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&stats_group, &vm_json_option, &vm_help_option, NULL};
    static const struct command_line line = {
        .command = "stats",
        .usage =
            "stats [--once] [--json] [NAME...]\nShow what machines use: processor time (100% is one CPU of the host), "
            "guest memory that\nthe host holds, disk and network traffic, exits. In JSON: what they have used since "
            "their start,\nwith all counters.",
        .after = "Example: trapeze stats --json web | jq '.[0].counters'\n",
        .groups = groups,
    };
    struct vm_options o = {0};
    struct machine_use *list = NULL;
    int status = vm_options_take(&line, &o, argc, argv, 0, VM_NAMES_MAX);
    if (status >= 0)
        return status;
    status = show(&line, &o, &list);
    forget(list);
    return status;
}
