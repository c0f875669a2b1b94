// trapeze exec: runs a program in a guest as if it ran here: its input, output, errors, signals, terminal and status
// are ours.
//
// Standard input goes to the guest unless it is a terminal that the program does not get as its own (it would be read
// away from the user's shell); -i and -n say otherwise. A terminal is asked for with -t, or by itself if both standard
// input and output are one; ours is raw meanwhile, so that keys go to the guest as they are typed.
#include "prog/command/commands.h"
#include "prog/guest/guest.h"
#include "prog/option/command_line.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

enum { WORDS = 4096 };

struct exec {
    const char *name, *folder, *user;
    char *argv[WORDS], *env[WORDS];
    unsigned args, envs, wait;
    bool terminal, interactive, no_input, no_terminal, help;
    struct guest *guest;
    struct termios saved;
    bool raw;
    struct channel_request request;
};

static int take_word(void *into, char *word, struct error *err)
{
    struct exec *x = into;
    if (!x->name) {
        x->name = word;
        return 0;
    }
    if (x->args == WORDS)
        return error_set(err, EINVAL, "more than %d words", WORDS);
    x->argv[x->args++] = word;
    return 0;
}

static int take_environment(void *into, char *v, struct error *err)
{
    struct exec *x = into;
    if (!strchr(v, '=') || *v == '=')
        return error_set(err, EINVAL, "--env %.80s: must be NAME=VALUE", v);
    if (x->envs == WORDS)
        return error_set(err, EINVAL, "--env: more than %d", WORDS);
    x->env[x->envs++] = v;
    return 0;
}

static int take_wait(void *into, char *v, struct error *err)
{
    return guest_take_wait(&((struct exec *)into)->wait, v, err);
}

#define FLAG(field) OPTION_SET(struct exec, field)

static const struct option exec_options[] = {
    {"tty", NULL, "give the program a terminal (default if standard input and output are one)", FLAG(terminal),
     .letter = 't'},
    {"no-tty", NULL, "give it none", FLAG(no_terminal), .letter = 'T'},
    {"interactive", NULL, "pass standard input on (default unless it is a terminal that the program has no part of)",
     FLAG(interactive), .letter = 'i'},
    {"no-stdin", NULL, "don't read standard input", FLAG(no_input), .letter = 'n'},
    {"env", "NAME=VALUE", "put this into its environment; may be given several times", OPTION_TAKE(take_environment),
     .letter = 'e'},
    {"workdir", "DIR", "start it in this directory (default: the user's own)", OPTION_TEXT(struct exec, folder),
     .letter = 'w'},
    {"user", "USER[:GROUP]", "run it as this user, by name or number (default root)", OPTION_TEXT(struct exec, user),
     .letter = 'u'},
    {"wait", "SECONDS", "wait so long for the guest's agent, while the guest boots (default 60)",
     OPTION_TAKE(take_wait)},
    {"help", NULL, "this help", FLAG(help), .letter = 'h'},
};

static const struct option_group exec_group = OPTION_GROUP(NULL, exec_options);
static const struct option_group *const groups[] = {&exec_group, NULL};

static const struct command_line line = {
    .command = "exec",
    .usage = "exec NAME [OPTION]... [--] [COMMAND [ARGUMENT]...]\n"
             "Run a program in a machine's guest; without COMMAND, the user's shell.",
    .after =
        "Exit status: the program's; 128 + N if signal N killed it; 127 it was not found, 126 it could not be run,\n"
        "125 the guest's agent failed or was not reached, 2 wrong usage.\n\n"
        "Examples: trapeze exec web -- uname -a\n"
        "          tar c . | trapeze exec web -w /srv -- tar x\n"
        "          trapeze exec web -u alice\n",
    .groups = groups,
    .word = take_word,
    .rest_is_words = true,
    .names = 1,
};

// ---- the terminal

static void window(uint8_t size[4])
{
    struct winsize w = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w))
        ioctl(STDIN_FILENO, TIOCGWINSZ, &w);
    if (!w.ws_row || !w.ws_col) // no terminal, or one that does not know
        w = (struct winsize){.ws_row = 24, .ws_col = 80};
    put_le(size, w.ws_row, 2);
    put_le(size + 2, w.ws_col, 2);
}

static void make_raw(struct exec *x)
{
    struct termios t;
    if (!x->terminal || tcgetattr(STDIN_FILENO, &x->saved))
        return;
    t = x->saved;
    cfmakeraw(&t);
    x->raw = !tcsetattr(STDIN_FILENO, TCSADRAIN, &t);
}

static void restore(struct exec *x)
{
    if (x->raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &x->saved);
    x->raw = false;
}

// ---- signals

static const int passed[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};

static int watch_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    for (unsigned i = 0; i < sizeof passed / sizeof *passed; i++)
        sigaddset(&set, passed[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

struct signals {
    int fd;
    bool terminal;
};

static void pass_signals(struct guest *g, void *ctx)
{
    const struct signals *s = ctx;
    struct signalfd_siginfo info;
    while (read(s->fd, &info, sizeof info) == sizeof info) {
        uint8_t data[4];
        if (info.ssi_signo == SIGWINCH) {
            if (!s->terminal)
                continue;
            window(data);
            channel_put(&g->relay.channel, AGENT_RESIZE, 0, data, sizeof data);
        } else {
            put_le(data, info.ssi_signo, 4);
            channel_put(&g->relay.channel, AGENT_SIGNAL, 0, data, sizeof data);
        }
    }
}

// ---- all of it

static bool make_request(struct exec *x)
{
    struct channel_request *r = &x->request;
    bool fits = true;
    for (unsigned i = 0; i < x->args; i++)
        fits &= request_add_text(r, AGENT_ITEM_ARGUMENT, x->argv[i]);
    const char *kind = getenv("TERM");
    if (x->terminal) {
        char term[80];
        uint8_t size[4];
        snprintf(term, sizeof term, "TERM=%.70s", kind && *kind ? kind : "vt100");
        fits &= request_add_text(r, AGENT_ITEM_ENVIRONMENT, term);
        window(size);
        fits &= request_add(r, AGENT_ITEM_TERMINAL, size, sizeof size);
    }
    for (unsigned i = 0; i < x->envs; i++)
        fits &= request_add_text(r, AGENT_ITEM_ENVIRONMENT, x->env[i]);
    if (x->folder)
        fits &= request_add_text(r, AGENT_ITEM_FOLDER, x->folder);
    if (x->user)
        fits &= request_add_text(r, AGENT_ITEM_USER, x->user);
    return fits;
}

static int start(struct exec *x, struct error *err)
{
    if (!make_request(x))
        return error_set(err, E2BIG, "%s: command and environment are longer than %d bytes", x->name, AGENT_PAYLOAD);
    int e = guest_connect(x->guest, x->wait, err);
    return e ? e : guest_ask(x->guest, AGENT_EXEC, &x->request, err);
}

static int run(struct exec *x, struct error *err)
{
    struct guest *g = x->guest;
    int e = start(x, err);
    if (e)
        return e;
    struct signals s = {.fd = watch_signals(), .terminal = x->terminal};
    bool input = !x->no_input && (x->interactive || x->terminal || !isatty(STDIN_FILENO));
    if (input)
        relay_source(&g->relay, 0, STDIN_FILENO);
    else
        channel_put(&g->relay.channel, AGENT_EOF, 0, NULL, 0);
    relay_sink(&g->relay, 1, STDOUT_FILENO, true);
    relay_sink(&g->relay, 2, STDERR_FILENO, true);
    make_raw(x);
    e = guest_relay(g, s.fd, pass_signals, &s, err);
    restore(x);
    return e;
}

static int finish(struct exec *x, int status)
{
    if (x)
        guest_free(x->guest);
    free(x);
    return status;
}

static int complain(struct exec *x, int status, const struct error *err)
{
    fprintf(stderr, "trapeze exec: %s\n", err->text);
    return finish(x, status);
}

int command_exec(int argc, char **argv)
{
    struct exec *x = calloc(1, sizeof *x);
    struct error err = {.text = "out of memory"};
    if (!x)
        return complain(x, AGENT_STATUS_FAILED, &err);
    x->wait = GUEST_WAIT;
    if (command_line_parse(&line, x, argc, argv, &err) ||
        (!x->help && !x->name && command_line_wrong(&line, &err, "the machine's name is missing")))
        return complain(x, STATUS_USAGE, &err);
    if (x->help) {
        command_line_help(&line, stdout);
        return finish(x, STATUS_OK);
    }
    x->terminal = !x->no_terminal && (x->terminal || (!x->no_input && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)));
    signal(SIGPIPE, SIG_IGN);
    x->guest = guest_new(x->name, &err);
    int e = x->guest ? run(x, &err) : -ENOMEM;
    if (!e || e == -EPIPE) // who reads our output has seen enough: as if its signal had ended us
        return finish(x, e ? 128 + SIGPIPE : x->guest->status);
    return complain(x, e == -ECHILD ? x->guest->status : AGENT_STATUS_FAILED, &err);
}
