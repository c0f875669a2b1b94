// One session of the agent: see session.h.
//
// The process waits for three things at once: the connection, the program's ends, and (by a signalfd) the program's
// death. When the program is dead what it has written is still sent, but its end is not waited for: a daemon that it
// left behind may hold its output open for ever.
//
// A host that goes away hangs up, as a terminal would: what it has started gets SIGHUP.
#include "agent/session.h"
#include "agent/archive.h"
#include "agent/program.h"
#include "agent/relay.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REQUEST_MS = 10000, FINISH_MS = 5000, WORDS = 4096, LAST_SIGNAL = 64 };

struct session {
    struct relay relay;
    struct program program;
    bool terminal;
    bool ended; // the program has
    int status;
    // The request.
    enum agent_frame kind;
    uint8_t request[AGENT_PAYLOAD + 1];
    char text[AGENT_PAYLOAD + WORDS]; // its strings, each with a 0
    char *argv[WORDS], *env[WORDS];
    const char *folder, *user, *path;
    uint16_t rows, columns, port;
};

// ---- the request

static void answer(struct session *s, enum agent_frame type, int status, const char *text)
{
    uint8_t data[4 + sizeof(struct error)];
    size_t size = strnlen(text, sizeof(struct error));
    put_le(data, (uint32_t)status, 4);
    memcpy(data + 4, text, size);
    channel_put(&s->relay.channel, type, 0, data, 4 + size);
}

static void fail(struct session *s, int status, const char *text)
{
    answer(s, AGENT_ERROR, status, text);
    relay_finish(&s->relay, FINISH_MS);
}

// Takes the request apart: strings get a 0 at their end. False: it makes no sense.
static bool understand(struct session *s, const struct channel_frame *f)
{
    size_t at = 0, size, used = 0;
    unsigned args = 0, envs = 0;
    enum agent_item tag;
    const uint8_t *data;
    int more;
    s->kind = f->type;
    while ((more = request_next(f, &at, &tag, &data, &size)) > 0) {
        if (size >= sizeof s->text - used || args + 1 == WORDS || envs + 1 == WORDS)
            return false;
        char *text = memcpy(s->text + used, data, size);
        text[size] = 0;
        used += size + 1;
        if (tag == AGENT_ITEM_ARGUMENT)
            s->argv[args++] = text;
        else if (tag == AGENT_ITEM_ENVIRONMENT)
            s->env[envs++] = text;
        else if (tag == AGENT_ITEM_FOLDER)
            s->folder = text;
        else if (tag == AGENT_ITEM_USER)
            s->user = text;
        else if (tag == AGENT_ITEM_PATH)
            s->path = text;
        else if (tag == AGENT_ITEM_TCP_PORT && size == 2)
            s->port = (uint16_t)get_le(data, 2);
        else if (tag == AGENT_ITEM_TERMINAL && size == 4) {
            s->terminal = true;
            s->rows = (uint16_t)get_le(data, 2);
            s->columns = (uint16_t)get_le(data + 2, 2);
        } else
            return false;
    }
    return !more;
}

// ---- copies

static void tell(const char *line)
{
    fprintf(stderr, "%s\n", line);
}

static int copy(void *ctx)
{
    struct session *s = ctx;
    struct error err;
    int e = s->kind == AGENT_PACK ? archive_pack(STDOUT_FILENO, s->path, tell, &err)
                                  : archive_unpack(STDIN_FILENO, s->path, &err);
    if (e)
        tell(err.text);
    return e ? 1 : 0;
}

// ---- programs

static int on_frame(struct relay *r, const struct channel_frame *f)
{
    struct session *s = r->ctx;
    bool alive = s->program.pid > 0 && !s->ended;
    if (f->type == AGENT_SIGNAL && f->size == 4) {
        uint32_t number = get_le(f->data, 4);
        if (alive && number && number <= LAST_SIGNAL)
            program_signal(&s->program, s->terminal, (int)number);
        return 0;
    }
    if (f->type == AGENT_RESIZE && f->size == 4) {
        if (alive && s->terminal)
            program_resize(&s->program, (uint16_t)get_le(f->data, 2), (uint16_t)get_le(f->data + 2, 2));
        return 0;
    }
    return -EPROTO;
}

// The host has nothing more to say to the program.
static void on_end(struct relay *r, unsigned stream)
{
    struct session *s = r->ctx;
    static const char end_of_file = 4; // Ctrl-D
    if (s->kind == AGENT_CONNECT) {
        shutdown(r->sink[stream].fd, SHUT_WR);
        return;
    }
    if (s->terminal && write(r->sink[stream].fd, &end_of_file, 1) < 0)
        return; // nobody is there who would miss it
    close(r->sink[stream].fd);
}

static void reap(struct session *s, int signals)
{
    struct signalfd_siginfo info;
    int status;
    while (read(signals, &info, sizeof info) > 0)
        continue;
    if (s->ended || waitpid(s->program.pid, &status, WNOHANG) != s->program.pid)
        return;
    s->ended = true;
    s->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    s->relay.draining = true;
}

static void run_program(struct session *s, int signals)
{
    struct error err;
    const bool copies = s->kind != AGENT_EXEC;
    struct program_options o = {.argv = s->argv,
                                .env = s->env,
                                .folder = s->folder,
                                .terminal = s->terminal,
                                .rows = s->rows,
                                .columns = s->columns,
                                .inside = copies ? copy : NULL,
                                .ctx = s};
    int status = AGENT_STATUS_FAILED, e = account_find(&o.account, s->user, &err);
    if (!e)
        e = program_start(&s->program, &o, &status, &err);
    if (e) {
        fail(s, status, err.text);
        return;
    }
    answer(s, AGENT_STARTED, 0, "");
    relay_sink(&s->relay, 0, s->program.in, false);
    relay_source(&s->relay, 1, s->program.out);
    relay_source(&s->relay, 2, s->program.err);
    bool ready = true; // it may have ended before there was a round
    do {
        if (ready)
            reap(s, signals);
        if (s->ended && relay_sources_ended(&s->relay)) {
            answer(s, AGENT_EXIT, s->status, "");
            relay_finish(&s->relay, FINISH_MS);
            return;
        }
        e = relay_round(&s->relay, signals, &ready);
    } while (!e);
    if (!s->ended)
        kill(-s->program.pid, SIGHUP);
}

// ---- connections

static void run_connection(struct session *s)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(s->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&a, sizeof a)) {
        struct error err;
        error_set(&err, errno, "port %u in the guest: %s", s->port, strerror(errno));
        fail(s, AGENT_STATUS_FAILED, err.text);
        return;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    answer(s, AGENT_STARTED, 0, "");
    relay_sink(&s->relay, 0, fd, false);
    relay_source(&s->relay, 1, fd);
    while (!relay_sources_ended(&s->relay))
        if (relay_round(&s->relay, -1, NULL))
            return;
    answer(s, AGENT_EXIT, 0, "");
    relay_finish(&s->relay, FINISH_MS);
}

// ---- all of it

static void serve(struct session *s, int signals)
{
    struct channel_frame f;
    struct channel *c = &s->relay.channel;
    if (channel_await(c, &f, REQUEST_MS) < 0)
        return;
    int e = channel_check_hello(&f);
    if (e == -EPROTO)
        return; // not who we talk to
    if (e) {
        struct error err;
        error_set(&err, ENOTSUP, "the agent in the guest speaks version %d of the protocol alone", AGENT_VERSION);
        fail(s, AGENT_STATUS_FAILED, err.text);
        return;
    }
    if (channel_await(c, &f, REQUEST_MS) < 0)
        return;
    bool understood = understand(s, &f);
    if (understood && s->kind == AGENT_EXEC) {
        run_program(s, signals);
    } else if (understood && (s->kind == AGENT_PACK || s->kind == AGENT_UNPACK) && s->path && !s->terminal) {
        run_program(s, signals);
    } else if (understood && s->kind == AGENT_CONNECT && s->port) {
        run_connection(s);
    } else if (understood && s->kind == AGENT_PING) {
        answer(s, AGENT_STARTED, 0, "");
        answer(s, AGENT_EXIT, 0, "");
        relay_finish(&s->relay, FINISH_MS);
    } else {
        fail(s, AGENT_STATUS_FAILED, "the agent in the guest does not understand the request");
    }
}

void session_serve(int fd, int proc)
{
    struct session *s = calloc(1, sizeof *s);
    sigset_t mask;
    if (!s)
        return;
    relay_init(&s->relay, fd);
    s->relay.ctx = s;
    s->relay.frame = on_frame;
    s->relay.end = on_end;
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    channel_hello(&s->relay.channel);
    if (proc >= 0 && (fchdir(proc) || chroot("1/root") || chdir("/")))
        fail(s, AGENT_STATUS_FAILED, "the guest's root directory cannot be entered yet");
    else if (signals >= 0)
        serve(s, signals);
    free(s);
}
