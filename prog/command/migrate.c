// trapeze migrate: moves a running machine to a trapeze receive, here or on another host.
//
// The machine's own process does it (machine_move.h); the command asks it to, tells how far it is, and cancels when it
// is interrupted. If the command is killed, the move goes on.
#include "prog/option/migrate.h"
#include "host/clock.h"
#include "prog/command/commands.h"
#include "prog/command/vm_view.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct migrate_command {
    const char *name, *to;
    uint64_t downtime, bandwidth, max_time;
    bool cancel, compress, json, quiet, help;
    struct migrate_security security;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static int take_downtime(void *into, char *v, struct error *err)
{
    return option_number(v, 1, 3600000, &((struct migrate_command *)into)->downtime)
               ? 0
               : error_set(err, EINVAL, "--downtime %.40s: milliseconds, from 1", v);
}

static int take_bandwidth(void *into, char *v, struct error *err)
{
    uint64_t *b = &((struct migrate_command *)into)->bandwidth;
    return option_size(v, b) && *b && *b <= INT64_MAX
               ? 0
               : error_set(err, EINVAL, "--bandwidth %.40s: bytes a second, such as 100M", v);
}

static int take_max_time(void *into, char *v, struct error *err)
{
    return option_number(v, 1, 1000000, &((struct migrate_command *)into)->max_time)
               ? 0
               : error_set(err, EINVAL, "--max-time %.40s: seconds, from 1", v);
}

static int take_word(void *into, char *word, struct error *err)
{
    struct migrate_command *c = into;
    const char **to = !c->name ? &c->name : !c->to ? &c->to : NULL;
    if (!to)
        return error_set(err, EINVAL, "%.80s: unexpected argument", word);
    *to = word;
    return 0;
}

static const struct option table[] = {
    {"downtime", "MS", "how long the machine may stand still, in milliseconds (default 300)",
     OPTION_TAKE(take_downtime)},
    {"bandwidth", "SIZE", "send at most so much a second while the machine runs", OPTION_TAKE(take_bandwidth)},
    {"max-time", "SECONDS", "give up if the guest still writes faster than its memory can be sent then",
     OPTION_TAKE(take_max_time)},
    {"compress", NULL, "compress memory (zstd): for slow networks", OPTION_SET(struct migrate_command, compress)},
    {"cancel", NULL, "end a move that is under way; the machine stays", OPTION_SET(struct migrate_command, cancel)},
    {"json", NULL, "print the result in JSON, for programs", OPTION_SET(struct migrate_command, json)},
    {"quiet", NULL, "say nothing while it goes well", OPTION_SET(struct migrate_command, quiet), .letter = 'q'},
    MIGRATE_SECURITY_OPTIONS(struct migrate_command),
    {"help", NULL, "this help", OPTION_SET(struct migrate_command, help), .letter = 'h'},
};
static const struct option_group group = OPTION_GROUP(NULL, table);
static const struct option_group *const groups[] = {&group, NULL};

static const struct command_line line = {
    .command = "migrate",
    .usage = "migrate [OPTION]... NAME unix:PATH|tcp:HOST:PORT\n"
             "Move a running machine to a trapeze receive that waits at the address, while it runs. If anything fails\n"
             "it goes on here. Its disks must be where the other side can open them, too. Ctrl-C cancels.",
    .after = "\nExample: trapeze migrate --tls-psk key web tcp:host2:7000\n",
    .groups = groups,
    .word = take_word,
};

// --- asking

static char *absolute(const char *path)
{
    return path ? realpath(path, NULL) : NULL;
}

// unix:PATH with a path that means the same to another process.
static char *absolute_address(const char *to)
{
    char folder[PATH_MAX], *all = NULL;
    if (strncmp(to, "unix:", 5) != 0 || to[5] == '/' || !getcwd(folder, sizeof folder))
        return strdup(to);
    return asprintf(&all, "unix:%s/%s", folder, to + 5) < 0 ? NULL : all;
}

static json_t *request(const struct migrate_command *c, struct error *err)
{
    static const char *const keys[] = {"psk", "cert", "key", "ca"};
    const char *files[] = {c->security.tls.psk, c->security.tls.cert, c->security.tls.key, c->security.tls.ca};
    json_t *tls = json_object();
    for (unsigned i = 0; i < 4; i++) {
        char *path = absolute(files[i]);
        if (files[i] && !path) {
            error_set(err, errno, "--tls-%s %s: %s", keys[i], files[i], strerror(errno));
            json_decref(tls);
            return NULL;
        }
        if (path)
            json_object_set_new(tls, keys[i], json_string(path));
        free(path);
    }
    char *to = absolute_address(c->to);
    json_t *body =
        json_pack("{s:s, s:I, s:I, s:I, s:b, s:b, s:o}", "to", to ? to : "", "downtime_ms", (json_int_t)c->downtime,
                  "bandwidth", (json_int_t)c->bandwidth, "max_time_s", (json_int_t)c->max_time, "compress", c->compress,
                  "insecure", c->security.insecure, "tls", tls);
    free(to);
    if (!body)
        error_set(err, ENOMEM, "out of memory");
    return body;
}

// --- telling

static uint64_t number(const json_t *j, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(j, key));
}

static const char *state_of(const json_t *j)
{
    const char *s = json_string_value(json_object_get(j, "state"));
    return s ? s : "";
}

static void tell_progress(const json_t *j)
{
    fprintf(stderr, "\r%s: round %" PRIu64 ", %" PRIu64 " MiB sent, %" PRIu64 " MiB left, %" PRIu64 " MiB/s",
            state_of(j), number(j, "rounds") + 1, number(j, "bytes_sent") >> 20, number(j, "pages_left") >> 8,
            number(j, "bandwidth") >> 20);
    if (number(j, "throttle"))
        fprintf(stderr, ", CPUs slowed down by %" PRIu64 "%%", number(j, "throttle"));
    fprintf(stderr, "   ");
}

static bool under_way(const char *state)
{
    return !strcmp(state, "connecting") || !strcmp(state, "copying") || !strcmp(state, "stopped") ||
           !strcmp(state, "handing over");
}

// Until it has ended; *end is the last that was heard.
static int follow(const struct migrate_command *c, const struct state_dir *d, json_t **end, struct error *err)
{
    bool terminal = isatty(STDERR_FILENO) && !c->quiet && !c->json, cancelled = false;
    for (;;) {
        json_t *j;
        int e = vm_ask(d, "GET", "/migrate", NULL, &j, err);
        if (e)
            return e;
        if (!under_way(state_of(j))) {
            if (terminal)
                fputs("\r\033[K", stderr);
            *end = j;
            return 0;
        }
        if (terminal)
            tell_progress(j);
        json_decref(j);
        if (interrupted && !cancelled) {
            vm_ask(d, "DELETE", "/migrate", NULL, NULL, NULL);
            cancelled = true;
        }
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
}

static int tell_end(const struct migrate_command *c, const json_t *j, uint64_t ms, struct error *err)
{
    const char *why = json_string_value(json_object_get(j, "error"));
    if (c->json) {
        json_dumpf(j, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    if (strcmp(state_of(j), "moved") != 0)
        return error_set(err, ECANCELED, "%s: %s", c->name, why ? why : state_of(j));
    if (!c->json && !c->quiet)
        printf("%s: moved to %s in %" PRIu64 " ms; it stood still for %" PRIu64 " ms; %" PRIu64 " MiB in %" PRIu64
               " rounds\n",
               c->name, c->to, ms, number(j, "down_ns") / 1000000, number(j, "bytes_sent") >> 20, number(j, "rounds"));
    return 0;
}

static uint64_t now_ms(void)
{
    return host_monotonic_ns() / 1000000;
}

static int migrate(const struct migrate_command *c, struct state_dir *d, struct error *err)
{
    if (c->cancel)
        return vm_ask(d, "DELETE", "/migrate", NULL, NULL, err);
    json_t *body = request(c, err), *end;
    if (!body)
        return -EINVAL;
    const struct sigaction act = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    uint64_t begin = now_ms();
    int e = vm_ask(d, "POST", "/migrate", body, NULL, err);
    json_decref(body);
    if (!e)
        e = follow(c, d, &end, err);
    if (e)
        return e;
    e = tell_end(c, end, now_ms() - begin, err);
    json_decref(end);
    return e;
}

int command_migrate(int argc, char **argv)
{
    struct migrate_command c = {.downtime = 300};
    struct state_dir d;
    struct error err;
    int e = command_line_parse(&line, &c, argc, argv, &err);
    if (!e && !c.help && (!c.name || !c.to == !c.cancel))
        e = command_line_wrong(&line, &err,
                               c.cancel ? "a machine's name is needed" : "a machine's name and an address are needed");
    if (e) {
        fprintf(stderr, "trapeze migrate: %s\n", err.text);
        return STATUS_USAGE;
    }
    if (c.help) {
        command_line_help(&line, stdout);
        return STATUS_OK;
    }
    e = state_dir_open(&d, c.name, &err);
    if (!e) {
        e = migrate(&c, &d, &err);
        state_dir_close(&d);
    }
    if (e)
        fprintf(stderr, "trapeze migrate: %s\n", err.text);
    return e ? STATUS_FAILED : STATUS_OK;
}
