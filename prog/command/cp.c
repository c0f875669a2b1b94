// trapeze cp: copies files and directories between here and a guest.
//
// A child of ours packs or unpacks the archive (agent/archive.h) at one end of a pipe; the other end is the session's
// stream, with a child of the agent's at its end. Whoever fails first says why: what the others say then is that the
// copy was broken off, and that is kept back.
#include "agent/archive.h"
#include "prog/command/commands.h"
#include "prog/guest/guest.h"
#include "prog/option/command_line.h"
#include "prog/state/state_dir.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OK, FAILED, BROKEN_OFF, LATER = 16 << 10 }; // how the child ended; bytes of the guest's messages kept for later

struct cp {
    const char *from, *to, *user;
    unsigned wait;
    bool help;
    bool there;             // the copy goes to the guest
    char machine[PATH_MAX]; // whose
    const char *path_there, *path_here;
    struct guest *guest;
    int messages; // pipe: what the agent's child writes to its standard error
    size_t size;
    char later[LATER];
    struct channel_request request;
};

static int take_word(void *into, char *word, struct error *err)
{
    struct cp *c = into;
    if (c->to)
        return error_set(err, EINVAL, "%.80s: one thing is copied to one place", word);
    *(c->from ? &c->to : &c->from) = word;
    return 0;
}

static int take_wait(void *into, char *v, struct error *err)
{
    return guest_take_wait(&((struct cp *)into)->wait, v, err);
}

static const struct option cp_options[] = {
    {"user", "USER[:GROUP]", "whose files they are in the guest (default root)", OPTION_TEXT(struct cp, user),
     .letter = 'u'},
    {"wait", "SECONDS", "wait so long for the guest's agent, while the guest boots (default 60)",
     OPTION_TAKE(take_wait)},
    {"help", NULL, "this help", OPTION_SET(struct cp, help), .letter = 'h'},
};

static const struct option_group cp_group = OPTION_GROUP(NULL, cp_options);
static const struct option_group *const groups[] = {&cp_group, NULL};

static const struct command_line line = {
    .command = "cp",
    .usage = "cp [OPTION]... FILE NAME:PATH\n"
             "       trapeze cp [OPTION]... NAME:PATH FILE\n"
             "Copy a file, or a directory with all that is in it, to a machine's guest or from there.",
    .after =
        "If the destination is a directory the copy is put into it under its own name. FILE - is standard input or\n"
        "output. Mode and time of last change are kept, owners are not.\n\n"
        "Examples: trapeze cp site web:/var/www\n"
        "          trapeze cp web:/var/log/syslog - | grep error\n",
    .groups = groups,
    .word = take_word,
};

// ---- who is where

// "NAME:PATH": a machine's name, or the path of its socket, before the colon. Returns the path, NULL if it is none.
static const char *in_machine(const char *word, char machine[PATH_MAX])
{
    const char *colon = strchr(word, ':');
    struct stat st;
    if (!colon || colon == word || !colon[1] || colon - word >= PATH_MAX)
        return NULL;
    memcpy(machine, word, (size_t)(colon - word));
    machine[colon - word] = 0;
    bool is = strchr(machine, '/') ? !stat(machine, &st) && S_ISSOCK(st.st_mode) : state_name_valid(machine);
    return is ? colon + 1 : NULL;
}

static int find_ends(struct cp *c, struct error *err)
{
    char other[PATH_MAX];
    const char *from = in_machine(c->from, c->machine), *to = in_machine(c->to, from ? other : c->machine);
    if (!from == !to)
        return command_line_wrong(&line, err,
                                  "%.60s, %.60s: one of the two must be in a machine (NAME:PATH), the other here",
                                  c->from, c->to);
    c->there = to != NULL;
    c->path_there = to ? to : from;
    c->path_here = to ? c->from : c->to;
    return 0;
}

// ---- the child

static void tell(const char *text)
{
    fprintf(stderr, "trapeze cp: %s\n", text);
}

static int child(const struct cp *c, int fd)
{
    struct error err;
    int e = c->there ? archive_pack(fd, c->path_here, tell, &err) : archive_unpack(fd, c->path_here, &err);
    if (e && e != -EPIPE)
        tell(err.text);
    return !e ? OK : e == -EPIPE ? BROKEN_OFF : FAILED;
}

// ---- the guest's messages

static void print_later(struct cp *c)
{
    for (char *at = c->later, *end; (end = memchr(at, '\n', c->size - (size_t)(at - c->later))); at = end + 1) {
        guest_clean(at, (size_t)(end - at));
        fprintf(stderr, "trapeze cp: %s: %.*s\n", c->machine, (int)(end - at), at);
    }
    c->size = 0;
}

static void on_message(struct guest *g, void *ctx)
{
    (void)g;
    struct cp *c = ctx;
    if (c->size == sizeof c->later)
        print_later(c);
    ssize_t n = read(c->messages, c->later + c->size, sizeof c->later - c->size);
    if (n > 0)
        c->size += (size_t)n;
}

// ---- all of it

static int start(struct cp *c, struct error *err)
{
    if (!request_add_text(&c->request, AGENT_ITEM_PATH, c->path_there) ||
        (c->user && !request_add_text(&c->request, AGENT_ITEM_USER, c->user)))
        return error_set(err, ENAMETOOLONG, "%.160s: %s", c->path_there, strerror(ENAMETOOLONG));
    int e = guest_connect(c->guest, c->wait, err);
    return e ? e : guest_ask(c->guest, c->there ? AGENT_UNPACK : AGENT_PACK, &c->request, err);
}

static int copy(struct cp *c, struct error *err)
{
    int e = start(c, err), data[2], messages[2], status = 0;
    if (e)
        return e;
    if (pipe2(data, O_CLOEXEC) || pipe2(messages, O_CLOEXEC | O_NONBLOCK))
        return error_set(err, errno, "pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        return error_set(err, errno, "fork: %s", strerror(errno));
    int ours = data[c->there ? 0 : 1], its = data[c->there ? 1 : 0];
    if (!pid) {
        close(ours);
        _exit(child(c, its));
    }
    close(its);
    struct relay *r = &c->guest->relay;
    if (c->there) {
        relay_source(r, 0, ours);
    } else {
        relay_sink(r, 1, ours, true);
        channel_put(&r->channel, AGENT_EOF, 0, NULL, 0);
    }
    relay_sink(r, 2, messages[1], true);
    c->messages = messages[0];
    e = guest_relay(c->guest, messages[0], on_message, c, err);
    // The stream's end may have closed it already.
    if (c->there || r->sink[1].fd >= 0)
        close(ours);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    int ended = WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
    if (ended == FAILED)
        return -EIO; // it has said why
    if (e && e != -EPIPE)
        return e;
    for (size_t before = SIZE_MAX; before != c->size;) {
        before = c->size;
        on_message(c->guest, c);
    }
    print_later(c);
    if (!c->guest->status && (e || ended))
        return error_set(err, EPIPE, "%s: the copy was broken off", c->machine);
    return 0;
}

static int finish(struct cp *c, int status)
{
    if (c)
        guest_free(c->guest);
    free(c);
    return status;
}

static int complain(struct cp *c, int status, const struct error *err)
{
    if (err->text[0])
        tell(err->text);
    return finish(c, status);
}

int command_cp(int argc, char **argv)
{
    struct cp *c = calloc(1, sizeof *c);
    struct error err = {.text = "out of memory"};
    if (!c)
        return complain(c, STATUS_FAILED, &err);
    c->wait = GUEST_WAIT;
    int e = command_line_parse(&line, c, argc, argv, &err);
    if (!e && !c->help)
        e = c->to ? find_ends(c, &err) : command_line_wrong(&line, &err, "what is copied where?");
    if (e)
        return complain(c, STATUS_USAGE, &err);
    if (c->help) {
        command_line_help(&line, stdout);
        return finish(c, STATUS_OK);
    }
    signal(SIGPIPE, SIG_IGN);
    c->guest = guest_new(c->machine, &err);
    err.text[0] = 0;
    e = c->guest ? copy(c, &err) : -ENOMEM;
    return e ? complain(c, STATUS_FAILED, &err) : finish(c, c->guest->status ? STATUS_FAILED : STATUS_OK);
}
