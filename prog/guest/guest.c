// See guest.h.
#include "prog/guest/guest.h"
#include "backend/unix_address.h"
#include "host/clock.h"
#include "prog/option/command_line.h"
#include "prog/state/state_dir.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RETRY_US = 50000, HELLO_MS = 15000, EARLY_MS = 5000, BEGIN_MS = 60000, LINE = 32 };

struct guest *guest_new(const char *name, struct error *err)
{
    struct guest *g = calloc(1, sizeof *g);
    if (!g) {
        error_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    g->name = name;
    g->fd = -1;
    return g;
}

void guest_free(struct guest *g)
{
    if (g && g->fd >= 0)
        close(g->fd);
    free(g);
}

static int64_t now_ms(void)
{
    return (int64_t)(host_monotonic_ns() / 1000000);
}

// ---- the socket

static int connect_path(const struct guest *g, struct error *err)
{
    struct unix_address a;
    int e = unix_address_open(&a, g->name, err);
    if (e)
        return e;
    int fd = unix_address_connect(&a, 0);
    unix_address_close(&a);
    return fd >= 0 || fd == -EAGAIN ? fd : error_set(err, -fd, "socket %.160s: %s", g->name, strerror(-fd));
}

// -EAGAIN: not yet. A machine that is just starting has no socket for a moment (`early`).
static int connect_machine(const struct guest *g, bool early, struct error *err)
{
    struct state_dir d;
    int e = state_dir_open(&d, g->name, err);
    if (e)
        return e;
    struct unix_address a = {.directory = -1};
    state_dir_socket(&d, "vsock.sock", &a.sun);
    int fd = unix_address_connect(&a, 0);
    bool lives = state_dir_owner(&d) != 0;
    state_dir_close(&d);
    if (fd >= 0 || fd == -EAGAIN)
        return fd;
    if (lives && early && (fd == -ENOENT || fd == -ECONNREFUSED))
        return -EAGAIN;
    if (!lives)
        return error_set(err, ESRCH, "machine %s is not running", g->name);
    return error_set(err, -fd, "machine %s has no sockets to its guest (--vsock): %s", g->name, strerror(-fd));
}

// Says which port, and hears whether a program there has accepted: 1, or 0 if none has.
static int ask_port(int fd, int64_t until)
{
    char line[LINE];
    int n = snprintf(line, sizeof line, "CONNECT %d\n", AGENT_PORT);
    if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        return 0;
    for (n = 0; n < LINE; n++) {
        int64_t left = until - now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        // Byte by byte: what follows the line is the agent's.
        if (left <= 0 || poll(&p, 1, (int)left) <= 0 || read(fd, line + n, 1) != 1)
            return 0;
        if (line[n] == '\n')
            return !strncmp(line, "OK ", 3);
    }
    return 0;
}

static int greet(struct guest *g, struct error *err)
{
    struct channel_frame f;
    relay_init(&g->relay, g->fd);
    channel_hello(&g->relay.channel);
    int e = channel_await(&g->relay.channel, &f, HELLO_MS);
    e = e > 0 ? channel_check_hello(&f) : e;
    if (e == -ENOTSUP)
        return error_set(err, ENOTSUP, "%s: the agent in the guest speaks another version of the protocol than %d",
                         g->name, AGENT_VERSION);
    return e ? error_set(err, -e, "%s: what answers in the guest is no agent (%s)", g->name, strerror(-e)) : 0;
}

int guest_connect(struct guest *g, unsigned wait_s, struct error *err)
{
    // Even who will not wait gives an agent that is there the time to answer.
    int64_t until = now_ms() + (int64_t)wait_s * 1000, patient = now_ms() + HELLO_MS, early = now_ms() + EARLY_MS;
    for (;;) {
        int fd = strchr(g->name, '/') ? connect_path(g, err) : connect_machine(g, now_ms() < early, err);
        if (fd < 0 && fd != -EAGAIN)
            return fd;
        if (fd >= 0 && ask_port(fd, until > patient ? until : patient)) {
            g->fd = fd;
            int e = greet(g, err);
            // A guest that has just gone on from a snapshot drops what it finds connected when it hears of that.
            if (e != -ECONNRESET || now_ms() >= early)
                return e;
            g->fd = -1;
        }
        if (fd >= 0)
            close(fd);
        if (now_ms() >= until)
            return error_set(err, ETIMEDOUT,
                             "%s: no agent answers in the guest (waited for %u s): is trapeze-agent running?", g->name,
                             wait_s);
        usleep(RETRY_US);
    }
}

// ---- sessions

void guest_clean(char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 127)
            text[i] = '?';
}

static int on_frame(struct relay *r, const struct channel_frame *f)
{
    struct guest *g = r->ctx;
    if (f->type == AGENT_STARTED)
        return 0;
    if ((f->type != AGENT_EXIT && f->type != AGENT_ERROR) || f->size < 4)
        return -EPROTO;
    g->over = true;
    g->status = (int)(get_le(f->data, 4) & 0xff);
    if (f->type == AGENT_ERROR) {
        size_t n = f->size - 4 < sizeof g->text - 1 ? f->size - 4 : sizeof g->text - 1;
        memcpy(g->text, f->data + 4, n);
        guest_clean(g->text, n);
        g->text[n] = 0;
    }
    return 0;
}

static int broken(const struct guest *g, int e, struct error *err)
{
    return error_set(
        err, -e, "%s: %s", g->name,
        e == -EPROTO ? "the agent in the guest says what makes no sense"
        : e == -ETIMEDOUT
            ? "the agent in the guest does not answer"
            : "the agent in the guest has gone before the command ended: the guest or the agent was stopped");
}

int guest_ask(struct guest *g, enum agent_frame kind, const struct channel_request *r, struct error *err)
{
    struct channel_frame f;
    g->relay.ctx = g;
    g->relay.frame = on_frame;
    channel_put(&g->relay.channel, kind, 0, r->data, r->size);
    int e = channel_await(&g->relay.channel, &f, BEGIN_MS);
    e = e > 0 ? on_frame(&g->relay, &f) : e;
    if (e)
        return broken(g, e, err);
    return g->over ? error_set(err, ECHILD, "%s: %s", g->name, g->text) : 0;
}

int guest_relay(struct guest *g, int extra, void (*on_extra)(struct guest *g, void *ctx), void *ctx, struct error *err)
{
    bool ready = false;
    while (!g->over || !relay_idle(&g->relay)) {
        int e = relay_round(&g->relay, extra, &ready);
        if (e && !g->over)
            return broken(g, e, err);
        if (e && relay_idle(&g->relay))
            break;
        if (ready)
            on_extra(g, ctx);
        int fault = g->relay.sink[1].broken;
        if (fault)
            return error_set(err, fault, "standard output: %s", strerror(fault));
    }
    return g->text[0] ? error_set(err, ECHILD, "%s: %s", g->name, g->text) : 0;
}

int guest_take_wait(unsigned *wait, const char *v, struct error *err)
{
    uint64_t n;
    if (!option_number(v, 0, 86400, &n))
        return error_set(err, EINVAL, "--wait %.40s: must be seconds, 0 to 86400", v);
    *wait = (unsigned)n;
    return 0;
}
