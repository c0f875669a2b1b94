// trapeze receive: waits for a machine that trapeze migrate sends, and is its home from then on.
#include "host/cpuid.h"
#include "migrate/address.h"
#include "prog/command/commands.h"
#include "prog/machine/arrival.h"
#include "prog/machine/detach.h"
#include "prog/machine/life.h"
#include "prog/machine/machine.h"
#include "prog/option/command_line.h"
#include "prog/option/migrate.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct receive_command {
    const char *name, *engine, *console, *address;
    bool detach, same_paths, help;
    struct migrate_security security;
    const char *disk[MAX_DISKS];
    unsigned disks;
    char **rest; // options for run
    int rest_count;
    int background;
    struct arrival arrival;
    struct address at;
};

static int take_word(void *into, char *word, struct error *err)
{
    struct receive_command *c = into;
    (void)err;
    if (!c->address)
        c->address = word;
    else
        c->rest[c->rest_count++] = word;
    return 0;
}

static int take_disk(void *into, char *value, struct error *err)
{
    struct receive_command *c = into;
    if (c->disks == MAX_DISKS)
        return error_set(err, EINVAL, "--disk %.80s: at most %d disks", value, MAX_DISKS);
    c->disk[c->disks++] = value;
    return 0;
}

static const struct option table[] = {
    {"name", "NAME", "the machine's name (default: as it was)", OPTION_TEXT(struct receive_command, name)},
    {"engine", "ENGINE", "kvm, dbt or interp (default: the best)", OPTION_TEXT(struct receive_command, engine)},
    {"detach", NULL, "wait for the machine and let it run in the background",
     OPTION_SET(struct receive_command, detach), .letter = 'd'},
    {"console", "WHERE", "where COM1 goes (default: as trapeze run has it)",
     OPTION_TEXT(struct receive_command, console)},
    {"disk", "FILE", "use FILE for the machine's first disk, the next one for its second, and so on",
     OPTION_TAKE(take_disk)},
    {"same-paths", NULL, "over tcp: use files of this host as the other side names them",
     OPTION_SET(struct receive_command, same_paths)},
    MIGRATE_SECURITY_OPTIONS(struct receive_command),
    {"help", NULL, "this help", OPTION_SET(struct receive_command, help), .letter = 'h'},
};
static const struct option_group group = OPTION_GROUP(NULL, table);
static const struct option_group *const groups[] = {&group, NULL};

static const struct command_line line = {
    .command = "receive",
    .usage = "receive [OPTION]... unix:PATH|tcp:ADDRESS:PORT [OPTION OF RUN]...\n"
             "Wait for a machine that trapeze migrate sends, take it over while it runs, and stay with it until it\n"
             "ends. Options of trapeze run may follow, as far as the guest does not notice: where its networks, ports\n"
             "and sockets lead.",
    .after = "\nExample: trapeze receive -d --tls-psk key tcp::7000      and there: trapeze migrate --tls-psk key web "
             "tcp:host2:7000\n",
    .groups = groups,
    .word = take_word,
    .rest_is_words = true,
};

// --- the machine's options

static bool give(char **words, int *count, const char *option, const char *value)
{
    if (!value)
        return true;
    words[*count] = strdup(option);
    words[*count + 1] = strdup(value);
    *count += 2;
    return words[*count - 2] && words[*count - 1];
}

// Those of the source's machine, then ours. Freed with the process: options keep pointing into them.
static char **all_words(const struct receive_command *c, int *count)
{
    const struct snapshot_manifest *m = &c->arrival.restore.s.m;
    char **words = calloc(m->option_count + (unsigned)c->rest_count + 16, sizeof *words);
    *count = 0;
    for (unsigned i = 0; words && i < m->option_count; i++)
        words[(*count)++] = m->options[i];
    bool good = words && give(words, count, "--engine", c->engine) && give(words, count, "--name", c->name);
    if (good && c->console)
        good = give(words, count, "--console", c->console);
    for (int i = 0; good && i < c->rest_count; i++)
        words[(*count)++] = c->rest[i];
    if (!good)
        free((void *)words);
    return good ? words : NULL;
}

// --- from the connection to the machine's life

static int check_name(const struct run_options *o, struct error *err)
{
    struct state_dir d;
    if (!o->name || state_dir_open(&d, o->name, NULL))
        return 0;
    state_dir_close(&d);
    return error_set(err, EEXIST, "%s: there is a machine of this name here; give it another one (--name)", o->name);
}

static int receive(struct receive_command *c, struct run_options *o, struct record **record, struct error *err)
{
    struct arrival *a = &c->arrival;
    int count, e = arrival_begin(a, err);
    if (e)
        return e;
    char **words = all_words(c, &count);
    *record = words ? record_new(count, words, c->detach, err) : NULL;
    if (!*record)
        return words ? -ENOMEM : error_set(err, ENOMEM, "out of memory");
    // Relative paths among the options begin where the machine was started; elsewhere there may be no such folder.
    if (a->same_paths && chdir(a->restore.s.m.directory) < 0 && errno != ENOENT)
        return error_set(err, errno, "%s: %s", a->restore.s.m.directory, strerror(errno));
    e = run_options_parse(o, count, words, err);
    if (!e && !a->same_paths && !c->console)
        o->console = c->detach ? "none" : "stdio";
    if (!e && !a->same_paths)
        o->hvc = o->hvc ? "none" : NULL;
    o->detach = c->detach;
    if (!e && !o->name)
        o->name = a->restore.s.m.name;
    if (!e)
        e = check_name(o, err);
    if (!e)
        e = arrival_options(a, o, err);
    if (!e)
        e = machine_check_model(o, &a->restore, err);
    return e ? e : arrival_contents(a, err);
}

static int accept_one(struct receive_command *c, struct error *err)
{
    int listening = address_listen(&c->at, err);
    if (listening < 0)
        return listening;
    if (c->background < 0)
        fprintf(stderr, "trapeze receive: waiting at %s\n", c->address);
    int fd = address_accept(&c->at, listening, NULL, err);
    close(listening);
    if (!c->at.tcp)
        unlink(c->at.path);
    if (fd < 0)
        return fd;
    arrival_init(&c->arrival, fd, NULL);
    c->arrival.same_paths = c->same_paths || !c->at.tcp;
    memcpy(c->arrival.disk, c->disk, sizeof c->disk);
    c->arrival.disks = c->disks;
    return migrate_secured(&c->security) ? wire_secure(&c->arrival.r.c, &c->security.tls, NULL, err) : 0;
}

static int run(struct receive_command *c)
{
    struct error err = {.text = ""};
    struct run_options *o = calloc(1, sizeof *o);
    struct record *record = NULL;
    signal(SIGPIPE, SIG_IGN);
    int e = o ? accept_one(c, &err) : error_set(&err, ENOMEM, "out of memory");
    if (!e)
        e = receive(c, o, &record, &err);
    int status = STATUS_FAILED;
    if (e) {
        fprintf(stderr, "trapeze receive: %s\n", err.text);
        arrival_refuse(&c->arrival, err.text);
    } else {
        record->restored = true;
        status = life_run(&(struct life_options){
            .run = o, .record = record, .restore = &c->arrival.restore, .background = c->background});
    }
    arrival_close(&c->arrival);
    record_free(record);
    free(o);
    return status;
}

static int begin(struct receive_command *c)
{
    c->background = -1;
    if (!c->detach)
        return run(c);
    int status;
    c->background = detach(&status);
    if (c->background >= 0)
        exit(run(c));
    return status;
}

int command_receive(int argc, char **argv)
{
    struct receive_command *c = calloc(1, sizeof *c);
    struct error err = {.text = "out of memory"};
    int status = STATUS_FAILED;
    if (c) {
        c->arrival.r.c.fd = c->arrival.r.owner.fd = c->arrival.ram.fd = -1;
        for (unsigned i = 0; i < HELLO_FILES; i++)
            c->arrival.file[i] = -1;
        c->rest = calloc((size_t)argc + 1, sizeof *c->rest);
    }
    if (!c || !c->rest) {
        fprintf(stderr, "trapeze receive: %s\n", err.text);
        free(c);
        return STATUS_FAILED;
    }
    int e = command_line_parse(&line, c, argc, argv, &err);
    if (!e && !c->help && !c->address)
        e = command_line_wrong(&line, &err, "at which address?");
    if (!e && !c->help)
        e = address_parse(&c->at, c->address, &err);
    if (!e && !c->help && c->at.tcp && !migrate_secured(&c->security) && !c->security.insecure)
        e = error_set(&err, EINVAL,
                      "over tcp a machine's memory must be encrypted: --tls-psk or certificates (or --insecure, if the "
                      "network is to be trusted)");
    if (e) {
        fprintf(stderr, "trapeze receive: %s\n", err.text);
        status = STATUS_USAGE;
    } else if (c->help) {
        command_line_help(&line, stdout);
        status = STATUS_OK;
    } else {
        status = begin(c);
    }
    free((void *)c->rest);
    free(c);
    return status;
}
