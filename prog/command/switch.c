// trapeze switch: the process that many machines' network cards are plugged into (switch/switch.h), and what it shows.
#include "prog/command/switch.h"
#include "host/signal.h"
#include "prog/command/commands.h"
#include "prog/option/command_line.h"
#include "switch/switch.h"
#include "vm/net.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct switch_command {
    const char *socket; // NULL: the default one
    struct lan_uplink_rule uplink[LAN_UPLINKS_MAX];
    unsigned uplinks;
    uint16_t mtu;
    unsigned idle_s;
    bool detach, list, json, help;
    int told; // the pipe to whoever waits for --detach; -1: none
    struct loop *loop;
};

static int take_uplink(void *into, char *v, struct error *err)
{
    struct switch_command *c = into;
    char *is = strchr(v, '=');
    if (c->uplinks == LAN_UPLINKS_MAX)
        return error_set(err, EINVAL, "--uplink %.60s: at most %d networks", v, LAN_UPLINKS_MAX);
    if (is)
        *is++ = 0;
    struct lan_uplink_rule *r = &c->uplink[c->uplinks];
    *r = (struct lan_uplink_rule){.network = v};
    if (is && !strcmp(is, "user"))
        r->kind = LAN_UPLINK_USER;
    else if (is && !strcmp(is, "none"))
        r->kind = LAN_UPLINK_NONE;
    else if (is && !strncmp(is, "tap:", 4) && is[4]) {
        r->kind = LAN_UPLINK_TAP;
        r->tap = is + 4;
    }
    if (!*v || !r->kind)
        return error_set(err, EINVAL, "--uplink %.40s: must be NETWORK=user, NETWORK=tap:NAME or NETWORK=none", v);
    c->uplinks++;
    return 0;
}

static int take_mtu(void *into, char *v, struct error *err)
{
    struct switch_command *c = into;
    uint64_t n;
    if (!option_number(v, NET_MTU_MIN, NET_MTU_MAX, &n))
        return error_set(err, EINVAL, "--mtu %.40s: must be a number from %d to %d", v, NET_MTU_MIN, NET_MTU_MAX);
    c->mtu = (uint16_t)n;
    return 0;
}

static int take_idle(void *into, char *v, struct error *err)
{
    struct switch_command *c = into;
    uint64_t n;
    if (!option_number(v, 1, 1000000, &n))
        return error_set(err, EINVAL, "--idle %.40s: must be seconds, from 1 on", v);
    c->idle_s = (unsigned)n;
    return 0;
}

static int take_word(void *into, char *v, struct error *err)
{
    struct switch_command *c = into;
    if (c->list || strcmp(v, "ls"))
        return error_set(err, EINVAL, "%.80s: unexpected argument", v);
    c->list = true;
    return 0;
}

static const struct option options[] = {
    {"socket", "PATH", "where machines find it (default: in $XDG_RUNTIME_DIR, or beside the machines' directories)",
     OPTION_TEXT(struct switch_command, socket)},
    {"uplink", "NETWORK=user|tap:NAME|none",
     "what leads out of a network: a user network with DHCP, DNS and NAT, or a TAP device; may be given several times",
     OPTION_TAKE(take_uplink)},
    {"mtu", "N", "largest packet that machines are told (default 1500)", OPTION_TAKE(take_mtu)},
    {"idle", "SECONDS", "end when nobody has been connected for so long (default: never)", OPTION_TAKE(take_idle)},
    {"detach", NULL, "go into the background when it listens", OPTION_SET(struct switch_command, detach)},
    {"json", NULL, "with ls: print JSON", OPTION_SET(struct switch_command, json)},
    {"help", NULL, "this help", OPTION_SET(struct switch_command, help), .letter = 'h'},
};
static const struct option_group group = OPTION_GROUP(NULL, options);
static const struct option_group *const groups[] = {&group, NULL};

static const struct command_line switch_line = {
    .command = "switch",
    .usage = "switch [OPTION]...\n"
             "       trapeze switch ls [--json] [--socket PATH]\n"
             "Connect the network cards of many machines, on networks that know nothing of each other; or list them.",
    .after =
        "Machines are plugged in by --net switch:NETWORK[@PATH]. The first one that asks starts a switch if there is\n"
        "none, which ends by itself; this command is for one that stays, or that has uplinks of its own.\n\n"
        "Example: trapeze switch --uplink lan=user\n",
    .groups = groups,
    .word = take_word,
};

static int fail(const struct switch_command *c, int status, const char *text)
{
    if (c->told >= 0) {
        ssize_t n = write(c->told, text, strlen(text));
        (void)n; // nobody is left to tell
    } else {
        fprintf(stderr, "trapeze switch: %s\n", text);
    }
    return status;
}

static void on_idle(void *ctx)
{
    loop_stop(((struct switch_command *)ctx)->loop);
}

static void on_signal(void *ctx, int number)
{
    (void)number;
    on_idle(ctx);
}

// The switch listens: tells whoever waits, and lets go of the terminal.
static void tell_ready(struct switch_command *c)
{
    if (c->told < 0) {
        printf("switch: listening at %s\n", c->socket);
        fflush(stdout);
        return;
    }
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2 && null >= 0; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
    close(c->told);
    c->told = -1;
}

static int serve(struct switch_command *c)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
    struct error err;
    struct lan_switch *s = NULL;
    const struct lan_switch_options o = {.socket = c->socket,
                                         .uplink = c->uplink,
                                         .uplinks = c->uplinks,
                                         .mtu = c->mtu,
                                         .idle_s = c->idle_s,
                                         .idle = on_idle,
                                         .ctx = c};
    signal(SIGPIPE, SIG_IGN);
    if (loop_create(&c->loop, &err))
        return fail(c, STATUS_FAILED, err.text);
    struct signal_watch *signals = signal_watch(c->loop, ending, sizeof ending / sizeof *ending, on_signal, c, &err);
    int status = STATUS_OK;
    if (!signals || lan_switch_open(c->loop, &o, &s, &err)) {
        status = fail(c, STATUS_FAILED, err.text);
    } else {
        tell_ready(c);
        loop_run(c->loop);
        lan_switch_close(s);
    }
    if (signals)
        signal_unwatch(signals);
    loop_destroy(c->loop);
    return status;
}

// In the background: the first process waits for the second to say that it listens, or why it cannot.
static int serve_detached(struct switch_command *c)
{
    int pipes[2];
    char text[sizeof(struct error)];
    if (pipe2(pipes, O_CLOEXEC))
        return fail(c, STATUS_FAILED, strerror(errno));
    pid_t child = fork();
    if (child < 0)
        return fail(c, STATUS_FAILED, strerror(errno));
    if (!child) {
        close(pipes[0]);
        setsid();
        c->told = pipes[1];
        if (chdir("/"))
            return fail(c, STATUS_FAILED, strerror(errno));
        return serve(c);
    }
    close(pipes[1]);
    ssize_t n = read(pipes[0], text, sizeof text - 1); // nothing: it is ready and has closed its end
    close(pipes[0]);
    if (!n)
        return STATUS_OK;
    text[n > 0 ? n : 0] = 0;
    return fail(c, STATUS_FAILED, text);
}

int command_switch(int argc, char **argv)
{
    struct switch_command c = {.mtu = LAN_MTU, .told = -1};
    struct error err;
    char path[SWITCH_PATH_MAX], absolute[2 * SWITCH_PATH_MAX];
    int e = command_line_parse(&switch_line, &c, argc, argv, &err);
    if (!e && c.json && !c.list)
        e = command_line_wrong(&switch_line, &err, "--json: only for ls");
    if (e)
        return fail(&c, STATUS_USAGE, err.text);
    if (c.help) {
        command_line_help(&switch_line, stdout);
        return STATUS_OK;
    }
    if (!c.socket && switch_default_socket(path, &err))
        return fail(&c, STATUS_FAILED, err.text);
    c.socket = c.socket ? c.socket : path;
    if (c.list)
        return switch_list(c.socket, c.json, &err) ? fail(&c, STATUS_FAILED, err.text) : STATUS_OK;
    if (c.detach && c.socket[0] != '/') { // it leaves the folder
        if (!getcwd(path, sizeof path))
            return fail(&c, STATUS_FAILED, strerror(errno));
        snprintf(absolute, sizeof absolute, "%s/%s", path, c.socket);
        c.socket = absolute;
    }
    return c.detach ? serve_detached(&c) : serve(&c);
}
