// trapeze console: sitting down at the console of a machine that runs, and leaving it again.
//
// The terminal is made raw; Ctrl-A is the escape key, as it is for a machine in the foreground, but what ends here is
// only our own being there. Input that is no terminal goes to the guest as it is; when it is at its end, output goes
// on.
#include "backend/keys.h"
#include "control/websocket.h"
#include "prog/command/commands.h"
#include "prog/command/vm_options.h"
#include "prog/command/vm_view.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

struct seat {
    const struct state_dir *dir;
    int fd;
    struct websocket socket;
    struct keys keys;
    bool raw, leaving, broken; // broken: standard output takes no more
    struct termios before;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    interrupted = number;
}

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        errno = 0;
}

static void press(struct seat *s)
{
    struct error err;
    json_t *body = json_pack("{s:s}", "action", "button");
    if (vm_ask(s->dir, "POST", "/power", body, NULL, &err))
        say("\r\nthe power button can't be reached\r\n");
    json_decref(body);
}

static void on_key(void *ctx, enum key_action action)
{
    struct seat *s = ctx;
    if (action == KEY_QUIT || action == KEY_DETACH)
        s->leaving = true;
    else if (action == KEY_BUTTON)
        press(s);
    else
        say("\r\nCtrl-A d  leave the console (also Ctrl-A x); the machine runs on\r\n"
            "Ctrl-A p  press its power button\r\n"
            "Ctrl-A h  this help\r\n"
            "Ctrl-A Ctrl-A  send Ctrl-A\r\n");
}

static void on_output(void *ctx, const void *data, size_t size)
{
    struct seat *s = ctx;
    const char *from = data;
    while (size && !s->broken) {
        ssize_t n = write(STDOUT_FILENO, from, size);
        if (n < 0 && errno != EINTR)
            s->broken = true;
        if (n > 0) {
            from += n;
            size -= (size_t)n;
        }
    }
}

static void sit_down(struct seat *s)
{
    keys_init(&s->keys, on_key, s);
    s->raw = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &s->before) == 0;
    if (s->raw) {
        struct termios t = s->before;
        cfmakeraw(&t);
        tcsetattr(STDIN_FILENO, TCSADRAIN, &t);
    }
    const struct sigaction a = {.sa_handler = on_signal};
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGHUP, &a, NULL);
    sigaction(SIGINT, &a, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void stand_up(struct seat *s)
{
    if (s->raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &s->before);
    websocket_send(s->fd, WEBSOCKET_CLOSE, NULL, 0);
    close(s->fd);
}

// Input for the guest. False at its end.
static bool pass_input(struct seat *s)
{
    uint8_t data[1024];
    ssize_t n = read(STDIN_FILENO, data, sizeof data);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return true;
    if (n <= 0)
        return false;
    size_t size = s->raw ? keys_filter(&s->keys, data, (size_t)n) : (size_t)n;
    if (size && websocket_send(s->fd, WEBSOCKET_BINARY, data, size))
        s->socket.closed = true;
    return true;
}

static int pass_output(struct seat *s)
{
    char data[8192];
    ssize_t n = read(s->fd, data, sizeof data);
    if (n < 0 && errno == EINTR)
        return 0;
    if (n <= 0) {
        s->socket.closed = true;
        return 0;
    }
    int e = websocket_feed(&s->socket, data, (size_t)n, on_output, s);
    if (!e && s->socket.pinged)
        websocket_send(s->fd, WEBSOCKET_PONG, s->socket.control, s->socket.control_size);
    s->socket.pinged = false;
    return e;
}

// 0 when we left or the machine has ended.
static int sit(struct seat *s)
{
    bool input = true;
    int e = websocket_feed(&s->socket, s->socket.rest, s->socket.rest_size, on_output, s);
    while (!e && !s->leaving && !s->broken && !s->socket.closed && !interrupted) {
        struct pollfd p[] = {{s->fd, POLLIN, 0}, {input ? STDIN_FILENO : -1, POLLIN, 0}};
        if (poll(p, 2, -1) < 0)
            continue;
        if (p[0].revents)
            e = pass_output(s);
        if (p[1].revents)
            input = pass_input(s);
    }
    return e;
}

static const struct option console_options[] = {
    {"hvc", NULL, "the virtio console, not the serial port", VM_FLAG(hvc)},
};
static const struct option_group console_group = OPTION_GROUP(NULL, console_options);

int command_console(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&console_group, &vm_help_option, NULL};
    static const struct command_line line = {
        .command = "console",
        .usage = "console [--hvc] NAME\nSit down at a machine's console: the last output, then what comes, and your "
                 "keys. Ctrl-A d leaves it.",
        .after =
            "On a terminal, Ctrl-A d leaves, Ctrl-A p presses the power button, Ctrl-A h helps. Several may sit at "
            "one\nconsole.\n\nExample: trapeze console web\n",
        .groups = groups,
    };
    struct vm_options o = {0};
    struct state_dir d;
    struct error err;
    struct sockaddr_un a;
    int status = vm_options_take(&line, &o, argc, argv, 1, 1);
    if (status >= 0)
        return status;
    if (state_dir_open(&d, o.name[0], &err))
        return vm_fail(&line, err.text);
    struct seat s = {.dir = &d};
    state_dir_socket(&d, "control.sock", &a);
    if (!state_dir_owner(&d))
        s.fd = error_set(&err, ESRCH, "%s: the machine is not running (trapeze logs shows what it printed)", d.name);
    else
        s.fd = websocket_open(&a, o.hvc ? "/hvc" : "/console", &s.socket, &err);
    if (s.fd < 0) {
        state_dir_close(&d);
        return vm_fail(&line, err.text);
    }
    sit_down(&s);
    int e = sit(&s);
    stand_up(&s);
    if (s.raw)
        say(s.socket.closed ? "\nthe machine has ended\n" : "\n");
    status = e ? vm_fail(&line, "the machine's answer makes no sense") : STATUS_OK;
    state_dir_close(&d);
    return status;
}
