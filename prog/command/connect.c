// trapeze connect: standard input and output become a connection to a TCP port inside of a guest, through its agent. No
// port need be published, nor need the guest have a network. ssh uses it (prog/command/ssh.c).
#include "prog/command/commands.h"
#include "prog/guest/guest.h"
#include "prog/option/command_line.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct connect {
    const char *name;
    uint64_t port;
    unsigned wait;
    bool help;
    struct guest *guest;
    struct channel_request request;
};

static int take_word(void *into, char *word, struct error *err)
{
    struct connect *c = into;
    if (!c->name) {
        c->name = word;
        return 0;
    }
    if (c->port || !option_number(word, 1, 65535, &c->port))
        return error_set(err, EINVAL, "%.80s: must be one port, from 1 to 65535", word);
    return 0;
}

static int take_wait(void *into, char *v, struct error *err)
{
    return guest_take_wait(&((struct connect *)into)->wait, v, err);
}

static const struct option connect_options[] = {
    {"wait", "SECONDS", "wait so long for the guest's agent, while the guest boots (default 60)",
     OPTION_TAKE(take_wait)},
    {"help", NULL, "this help", OPTION_SET(struct connect, help), .letter = 'h'},
};

static const struct option_group connect_group = OPTION_GROUP(NULL, connect_options);
static const struct option_group *const groups[] = {&connect_group, NULL};

static const struct command_line line = {
    .command = "connect",
    .usage = "connect NAME PORT\n"
             "Connect standard input and output to a TCP port of the guest's 127.0.0.1.",
    .after = "Example: curl --unix-socket s http://web/ & socat UNIX-LISTEN:s EXEC:'trapeze connect web 80'\n",
    .groups = groups,
    .word = take_word,
};

static int run(struct connect *c, struct error *err)
{
    uint8_t port[2];
    put_le(port, (uint32_t)c->port, 2);
    request_add(&c->request, AGENT_ITEM_TCP_PORT, port, sizeof port); // the first item fits
    int e = guest_connect(c->guest, c->wait, err);
    if (!e)
        e = guest_ask(c->guest, AGENT_CONNECT, &c->request, err);
    if (e)
        return e;
    relay_source(&c->guest->relay, 0, STDIN_FILENO);
    relay_sink(&c->guest->relay, 1, STDOUT_FILENO, true);
    e = guest_relay(c->guest, -1, NULL, NULL, err);
    return e == -EPIPE ? 0 : e; // who reads it has gone
}

int command_connect(int argc, char **argv)
{
    struct connect *c = calloc(1, sizeof *c);
    struct error err = {.text = "out of memory"};
    int status = STATUS_FAILED, e = c ? 0 : -ENOMEM;
    if (!e) {
        c->wait = GUEST_WAIT;
        e = command_line_parse(&line, c, argc, argv, &err);
        if (!e && !c->help && !c->port)
            e = command_line_wrong(&line, &err, "a machine's name and a port are needed");
        status = e ? STATUS_USAGE : STATUS_FAILED;
    }
    if (!e && c->help) {
        command_line_help(&line, stdout);
    } else if (!e) {
        signal(SIGPIPE, SIG_IGN);
        c->guest = guest_new(c->name, &err);
        e = c->guest ? run(c, &err) : -ENOMEM;
    }
    if (e)
        fprintf(stderr, "trapeze connect: %s\n", err.text);
    if (c)
        guest_free(c->guest);
    free(c);
    return e ? status : STATUS_OK;
}
