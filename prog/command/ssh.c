// trapeze ssh: ssh to a guest, with nothing to set up: no published port, no password, no question about a host key.
//
// ssh's connection goes through the guest's agent (`trapeze connect NAME 22` is its ProxyCommand), so the guest needs
// an ssh server and no network. Each machine has a key pair in its directory, made by ssh-keygen at first use; the
// public half is put among the user's authorized keys, by the agent. The guest's host key is accepted at the first
// connection, since nobody but the guest can be at the other end of that connection, and kept there too: it must stay
// the same as long as the machine's directory.
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = 1024, OURS = 24, KEY_MAX = 1024, RETRY_US = 200000 };

struct ssh {
    const char *name, *user;
    unsigned wait, count;
    bool help;
    char *words[WORDS]; // ssh's
    struct state_dir dir;
    char key[PATH_MAX], hosts[PATH_MAX + 40], proxy[3 * PATH_MAX], public[KEY_MAX];
    struct guest *guest;
    struct channel_request request;
};

static int take_word(void *into, char *word, struct error *err)
{
    struct ssh *s = into;
    if (!s->name) {
        s->name = word;
        return state_name_valid(word) ? 0 : error_set(err, EINVAL, "%.80s: must be a machine's name", word);
    }
    if (s->count == WORDS)
        return error_set(err, EINVAL, "more than %d words", WORDS);
    s->words[s->count++] = word;
    return 0;
}

static int take_wait(void *into, char *v, struct error *err)
{
    return guest_take_wait(&((struct ssh *)into)->wait, v, err);
}

static const struct option ssh_options[] = {
    {"user", "USER", "who to be in the guest (default root)", OPTION_TEXT(struct ssh, user), .letter = 'u'},
    {"wait", "SECONDS", "wait so long for the guest's agent, and its ssh server, while the guest boots (default 60)",
     OPTION_TAKE(take_wait)},
    {"help", NULL, "this help", OPTION_SET(struct ssh, help), .letter = 'h'},
};

static const struct option_group ssh_group = OPTION_GROUP(NULL, ssh_options);
static const struct option_group *const groups[] = {&ssh_group, NULL};

static const struct command_line line = {
    .command = "ssh",
    .usage = "ssh [OPTION]... NAME [SSH OPTION]... [COMMAND [ARGUMENT]...]\n"
             "Log in to a machine's guest by ssh, through its agent. What follows NAME is ssh's.",
    .after = "The guest needs an ssh server; no network, no published port, no key and no password are needed.\n\n"
             "Examples: trapeze ssh web\n"
             "          trapeze ssh -u alice web -L 8080:localhost:80 uptime\n",
    .groups = groups,
    .word = take_word,
    .rest_is_words = true,
};

// ---- the key

// Runs a program whose output (its first KEY_MAX bytes) is wanted. Its exit status, or -1.
static int output_of(char *const argv[], char *text, size_t room)
{
    int out[2], status;
    size_t size = 0;
    if (pipe2(out, O_CLOEXEC))
        return -1;
    pid_t pid = fork();
    if (!pid) {
        dup2(out[1], STDOUT_FILENO);
        execvp(argv[0], argv);
        _exit(AGENT_STATUS_NOT_FOUND);
    }
    close(out[1]);
    for (ssize_t n; pid > 0 && size + 1 < room && (n = read(out[0], text + size, room - 1 - size)) > 0;)
        size += (size_t)n;
    close(out[0]);
    text[size] = 0;
    text[strcspn(text, "\n")] = 0;
    if (pid < 0)
        return -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Makes the machine's key if it has none. Who comes at the same time makes another; the first to link wins.
static int make_key(struct ssh *s, struct error *err)
{
    char temporary[PATH_MAX + 32], public[PATH_MAX + 40], comment[80], nothing[KEY_MAX];
    if (!access(s->key, R_OK))
        return 0;
    snprintf(temporary, sizeof temporary, "%s.%d", s->key, (int)getpid());
    snprintf(public, sizeof public, "%s.pub", temporary);
    snprintf(comment, sizeof comment, "trapeze %s", s->name);
    char *const keygen[] = {"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", temporary, NULL};
    int status = output_of(keygen, nothing, sizeof nothing);
    int e = status || (link(temporary, s->key) && errno != EEXIST) ? errno : 0;
    unlink(temporary);
    unlink(public);
    if (status)
        return error_set(err, EIO, "%s: ssh-keygen %s", s->name,
                         status == AGENT_STATUS_NOT_FOUND ? "is not installed (package openssh-client)"
                                                          : "could not make a key");
    return e ? error_set(err, e, "%.200s: %s", s->key, strerror(e)) : 0;
}

static int find_key(struct ssh *s, struct error *err)
{
    int e = make_key(s, err);
    char *const show[] = {"ssh-keygen", "-y", "-f", s->key, NULL};
    if (!e && (output_of(show, s->public, sizeof s->public) || strncmp(s->public, "ssh-", 4)))
        e = error_set(err, EIO, "%.200s: ssh-keygen can't read this key", s->key);
    return e;
}

// Puts the key among those that the user's account accepts.
static int install_key(struct ssh *s, struct error *err)
{
    static const char script[] =
        "umask 077; mkdir -p ~/.ssh || exit; "
        "grep -qF \"$KEY\" ~/.ssh/authorized_keys 2>/dev/null || echo \"$KEY\" >>~/.ssh/authorized_keys";
    char key[KEY_MAX + 8];
    snprintf(key, sizeof key, "KEY=%s", s->public);
    struct channel_request *r = &s->request;
    bool fits = request_add_text(r, AGENT_ITEM_ARGUMENT, "/bin/sh") && request_add_text(r, AGENT_ITEM_ARGUMENT, "-c") &&
                request_add_text(r, AGENT_ITEM_ARGUMENT, script) && request_add_text(r, AGENT_ITEM_ENVIRONMENT, key) &&
                request_add_text(r, AGENT_ITEM_USER, s->user);
    if (!fits)
        return error_set(err, E2BIG, "%s: user's name too long", s->name);
    int e = guest_connect(s->guest, s->wait, err);
    if (!e)
        e = guest_ask(s->guest, AGENT_EXEC, r, err);
    if (e)
        return e;
    channel_put(&s->guest->relay.channel, AGENT_EOF, 0, NULL, 0);
    e = guest_relay(s->guest, -1, NULL, NULL, err);
    if (!e && s->guest->status)
        e = error_set(err, EIO, "%s: the key could not be put into ~/.ssh of %.60s in the guest", s->name, s->user);
    return e;
}

// ---- the server

// Waits until something answers at the guest's port 22: the agent is there long before a booting guest's ssh server.
static int await_server(struct ssh *s, struct error *err)
{
    time_t begun = time(NULL);
    uint8_t port[2];
    put_le(port, 22, sizeof port);
    s->request.size = 0;
    request_add(&s->request, AGENT_ITEM_TCP_PORT, port, sizeof port); // the first item fits
    for (bool told = false;;) {
        guest_free(s->guest);
        s->guest = guest_new(s->name, err);
        int e = s->guest ? guest_connect(s->guest, s->wait, err) : -ENOMEM;
        if (!e)
            e = guest_ask(s->guest, AGENT_CONNECT, &s->request, err);
        time_t gone = time(NULL) - begun;
        if (e != -ECHILD || gone >= (time_t)s->wait)
            return e;
        if (gone >= 3 && !told)
            fprintf(stderr, "trapeze ssh: %s: waiting for the guest's ssh server\n", s->name);
        told |= gone >= 3;
        usleep(RETRY_US);
    }
}

// ---- ssh

// Appends a word for a shell, in which ssh moreover replaces what follows a percent sign.
static void quote(char *to, size_t room, const char *word)
{
    size_t at = strlen(to);
    const char *p = word;
    if (at + 1 < room)
        to[at++] = '\'';
    for (; *p && at + 6 < room; p++) {
        if (*p == '\'')
            at += (size_t)sprintf(to + at, "'\\''");
        else if (*p == '%')
            at += (size_t)sprintf(to + at, "%%%%");
        else
            to[at++] = *p;
    }
    to[at++] = '\'';
    to[at] = 0;
}

static int become_ssh(struct ssh *s, struct error *err)
{
    char self[PATH_MAX], alias[64], target[160];
    char *argv[OURS + WORDS + 1];
    unsigned n = 0;
    ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
    if (size < 0)
        return error_set(err, errno, "/proc/self/exe: %s", strerror(errno));
    self[size] = 0;
    strcpy(s->proxy, "ProxyCommand=");
    quote(s->proxy, sizeof s->proxy, self);
    strncat(s->proxy, " connect ", sizeof s->proxy - strlen(s->proxy) - 1);
    quote(s->proxy, sizeof s->proxy, s->name);
    strncat(s->proxy, " 22", sizeof s->proxy - strlen(s->proxy) - 1);
    snprintf(s->hosts, sizeof s->hosts, "UserKnownHostsFile=\"%s/ssh_known_hosts\"", s->dir.path);
    snprintf(alias, sizeof alias, "HostKeyAlias=%s", s->name);
    snprintf(target, sizeof target, "%.60s@%s", s->user, s->name);
    const char *const ours[] = {"ssh",
                                "-i",
                                s->key,
                                "-o",
                                s->proxy,
                                "-o",
                                s->hosts,
                                "-o",
                                alias,
                                "-o",
                                "GlobalKnownHostsFile=/dev/null",
                                "-o",
                                "StrictHostKeyChecking=accept-new",
                                "-o",
                                "IdentitiesOnly=yes",
                                "-o",
                                "LogLevel=ERROR",
                                target};
    for (; n < sizeof ours / sizeof *ours; n++)
        argv[n] = (char *)ours[n];
    for (unsigned i = 0; i < s->count; i++)
        argv[n++] = s->words[i];
    argv[n] = NULL;
    execvp("ssh", argv);
    return error_set(err, errno, "ssh: %s%s", strerror(errno),
                     errno == ENOENT ? " (it is not installed: package openssh-client)" : "");
}

static int run(struct ssh *s, struct error *err)
{
    int e = state_dir_open(&s->dir, s->name, err);
    if (e)
        return e;
    if ((size_t)snprintf(s->key, sizeof s->key, "%s/ssh_key", s->dir.path) >= sizeof s->key)
        return error_set(err, ENAMETOOLONG, "%.160s: %s", s->dir.path, strerror(ENAMETOOLONG));
    e = find_key(s, err);
    if (!e)
        e = install_key(s, err);
    if (!e)
        e = await_server(s, err);
    return e ? e : become_ssh(s, err);
}

int command_ssh(int argc, char **argv)
{
    struct ssh *s = calloc(1, sizeof *s);
    struct error err = {.text = "out of memory"};
    int status = STATUS_FAILED, e = s ? 0 : -ENOMEM;
    if (!e) {
        s->wait = GUEST_WAIT;
        s->user = "root";
        s->dir.fd = s->dir.lock = -1;
        e = command_line_parse(&line, s, argc, argv, &err);
        if (!e && !s->help && !s->name)
            e = command_line_wrong(&line, &err, "the machine's name is missing");
        status = e ? STATUS_USAGE : STATUS_FAILED;
    }
    if (!e && s->help) {
        command_line_help(&line, stdout);
    } else if (!e) {
        s->guest = guest_new(s->name, &err);
        e = s->guest ? run(s, &err) : -ENOMEM; // returns only if there is no ssh
    }
    if (e)
        fprintf(stderr, "trapeze ssh: %s\n", err.text);
    if (s) {
        guest_free(s->guest);
        state_dir_close(&s->dir);
    }
    free(s);
    return e ? status : STATUS_OK;
}
