// Consoles on file descriptors. See console.h.
//
// Output goes through an output buffer with a thread of its own (output.h). Input is read on the event loop's thread
// into a small buffer, offered to the guest's device, and no more is read until the device has taken it all: a guest
// that does not read its serial port cannot make us buffer without bound. Standard input may be a plain file, which an
// event loop cannot wait for: it is always readable, so it is simply read again whenever the device has room.
#include "backend/console.h"
#include "backend/keys.h"
#include "backend/output.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

enum { INPUT = 256 };

struct console {
    struct stream stream;
    struct loop *loop;
    struct console_keys keys;
    struct output *output;
    int in, out, listener;
    int keeper;      // pty: our own hold on the other side; with nobody on it, the pty would report hang-up without end
    bool plain_file; // the input is always readable
    bool at_end;
    struct loop_source *in_source, *listen_source;
    uint8_t input[INPUT];
    size_t start, end; // input[start..end) is not taken yet; loop thread
    bool raw;          // saved is to be restored
    struct termios saved;
    struct keys escape;
    char name[160];
    char socket_path[sizeof((struct sockaddr_un *)0)->sun_path];
};

static void offer(struct console *c);

static void stream_write(struct stream *s, const void *data, size_t size)
{
    output_write(((struct console *)s)->output, data, size);
}

static void on_ready(void *ctx)
{
    offer(ctx);
}

static void stream_ready(struct stream *s)
{
    struct console *c = (struct console *)s;
    loop_post(c->loop, on_ready, c);
}

static void stream_flush(struct stream *s)
{
    output_flush(((struct console *)s)->output);
}

static void stream_close(struct stream *s)
{
    console_close((struct console *)s);
}

static void on_key(void *ctx, enum key_action action)
{
    struct console *c = ctx;
    static const char help[] = "\r\nCtrl-A x  switch the machine off at once\r\n"
                               "Ctrl-A p  press its power button\r\n"
                               "Ctrl-A h  this help\r\n"
                               "Ctrl-A Ctrl-A  send Ctrl-A\r\n";
    if (action == KEY_QUIT && c->keys.quit)
        c->keys.quit(c->keys.ctx);
    else if (action == KEY_BUTTON && c->keys.button)
        c->keys.button(c->keys.ctx);
    else if (action == KEY_HELP || action == KEY_DETACH) // nobody is attached here
        output_write(c->output, help, sizeof help - 1);
}

static void hang_up(struct console *c)
{
    if (c->listener >= 0) {
        output_fd(c->output, -1);
        loop_remove(c->in_source);
        close(c->in);
        c->in_source = NULL;
        c->in = c->out = -1;
        c->start = c->end = 0;
        loop_fd_events(c->listen_source, LOOP_READ);
        return;
    }
    c->at_end = true;
    if (c->in_source)
        loop_fd_events(c->in_source, 0);
}

static bool read_more(struct console *c)
{
    ssize_t n = read(c->in, c->input, sizeof c->input);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (n <= 0) {
        hang_up(c);
        return false;
    }
    c->start = 0;
    c->end = c->raw ? keys_filter(&c->escape, c->input, (size_t)n) : (size_t)n;
    return true;
}

// Gives the device what is there; reads more of a plain file; watches the descriptor only while nothing is left over.
static void offer(struct console *c)
{
    do {
        while (c->start < c->end) {
            size_t taken = c->stream.receive ? c->stream.receive(c->stream.ctx, c->input + c->start, c->end - c->start)
                                             : c->end - c->start;
            if (!taken)
                break;
            c->start += taken;
        }
    } while (c->start == c->end && c->plain_file && !c->at_end && read_more(c));
    if (c->in_source && !c->at_end)
        loop_fd_events(c->in_source, c->start == c->end ? LOOP_READ : 0);
}

static void on_readable(void *ctx, unsigned events)
{
    struct console *c = ctx;
    (void)events;
    if (c->start == c->end && !read_more(c))
        return;
    offer(c);
}

static void on_connect(void *ctx, unsigned events)
{
    struct console *c = ctx;
    (void)events;
    int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    c->in_source = loop_fd(c->loop, fd, LOOP_READ, on_readable, c);
    if (!c->in_source) {
        close(fd);
        return;
    }
    c->in = c->out = fd;
    loop_fd_events(c->listen_source, 0); // one peer at a time; the next one waits in the backlog
    output_fd(c->output, fd);
}

static int open_stdio(struct console *c, struct error *err)
{
    c->in = STDIN_FILENO;
    c->out = STDOUT_FILENO;
    snprintf(c->name, sizeof c->name, "stdio");
    if (!isatty(c->in))
        return 0;
    if (tcgetattr(c->in, &c->saved))
        return error_set(err, errno, "console stdio: the terminal's settings can't be read: %s", strerror(errno));
    struct termios t = c->saved;
    cfmakeraw(&t);
    t.c_oflag |= OPOST; // our own messages share this terminal
    if (tcsetattr(c->in, TCSADRAIN, &t))
        return error_set(err, errno, "console stdio: the terminal can't be made raw: %s", strerror(errno));
    c->raw = true;
    keys_init(&c->escape, on_key, c);
    return 0;
}

static int open_pty(struct console *c, struct error *err)
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    char peer[64];
    if (fd < 0 || grantpt(fd) || unlockpt(fd) || ptsname_r(fd, peer, sizeof peer)) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        return error_set(err, e, "console pty: %s", strerror(e));
    }
    c->in = c->out = fd;
    struct termios t;
    int keeper =
        open(peer, O_RDWR | O_NOCTTY | O_CLOEXEC); // raw from the start: nobody echoes before somebody attaches
    if (keeper >= 0) {
        if (tcgetattr(keeper, &t) == 0) {
            cfmakeraw(&t);
            tcsetattr(keeper, TCSANOW, &t);
        }
    }
    c->keeper = keeper;
    snprintf(c->name, sizeof c->name, "pty %s", peer);
    return 0;
}

static int open_socket(struct console *c, const char *path, struct error *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof a.sun_path)
        return error_set(err, EINVAL, "console socket:%s: the path must have 1 to %zu characters", path,
                         sizeof a.sun_path - 1);
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, errno, "console socket:%s: %s", path, strerror(errno));
    // A socket that a crashed machine left behind refuses connections: it may go. Anything else that is in the way
    // stays.
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && connect(fd, (struct sockaddr *)&a, sizeof a) < 0 &&
        errno == ECONNREFUSED)
        unlink(path);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 1)) {
        int e = errno;
        close(fd);
        return error_set(err, e, "console socket:%s: %s", path, strerror(e));
    }
    strcpy(c->socket_path, path);
    c->listener = fd;
    c->listen_source = loop_fd(c->loop, fd, LOOP_READ, on_connect, c);
    if (!c->listen_source)
        return error_set(err, ENOMEM, "console socket:%s: cannot wait for connections", path);
    snprintf(c->name, sizeof c->name, "socket %.140s", path);
    return 0;
}

static int open_file(struct console *c, const char *path, struct error *err)
{
    c->out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (c->out < 0)
        return error_set(err, errno, "console file:%s: %s", path, strerror(errno));
    snprintf(c->name, sizeof c->name, "file %.140s", path);
    return 0;
}

static int open_where(struct console *c, const char *where, enum output_manner *manner, struct error *err)
{
    *manner = OUTPUT_WAIT;
    if (!strcmp(where, "stdio"))
        return open_stdio(c, err);
    if (!strncmp(where, "file:", 5))
        return open_file(c, where + 5, err);
    if (!strcmp(where, "stdout")) {
        c->out = STDOUT_FILENO;
        snprintf(c->name, sizeof c->name, "stdout");
        return 0;
    }
    *manner = OUTPUT_DROP;
    if (!strcmp(where, "pty"))
        return open_pty(c, err);
    if (!strncmp(where, "socket:", 7))
        return open_socket(c, where + 7, err);
    if (!strcmp(where, "none")) {
        snprintf(c->name, sizeof c->name, "none");
        return 0;
    }
    return error_set(err, EINVAL, "console %s: must be stdio, pty, socket:PATH, file:PATH or none", where);
}

static int watch_input(struct console *c, struct error *err)
{
    if (c->in < 0)
        return 0;
    struct stat st;
    if (fstat(c->in, &st))
        return 0; // standard input is closed: no input
    c->plain_file = S_ISREG(st.st_mode);
    if (c->plain_file)
        return 0;
    c->in_source = loop_fd(c->loop, c->in, LOOP_READ, on_readable, c);
    if (!c->in_source && errno == EPERM) { // /dev/null and its like
        c->plain_file = true;
        return 0;
    }
    return c->in_source ? 0 : error_set(err, ENOMEM, "console %s: cannot wait for input", c->name);
}

int console_open(const char *where, struct loop *loop, const struct console_keys *keys, struct console **out,
                 struct error *err)
{
    static const struct stream_ops ops = {stream_write, stream_ready, stream_flush, stream_close};
    struct console *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, ENOMEM, "console: out of memory");
    c->stream.ops = &ops;
    c->loop = loop;
    if (keys)
        c->keys = *keys;
    c->in = c->out = c->listener = c->keeper = -1;
    enum output_manner manner;
    int e = open_where(c, where, &manner, err);
    if (e == 0)
        e = output_create(&c->output, c->out, manner, err);
    if (e == 0)
        e = watch_input(c, err);
    if (e) {
        console_close(c);
        return e;
    }
    *out = c;
    return 0;
}

struct stream *console_stream(struct console *c)
{
    return &c->stream;
}

const char *console_name(const struct console *c)
{
    return c->name;
}

void console_restore_terminal(struct console *c)
{
    if (c->raw)
        tcsetattr(c->in, TCSADRAIN, &c->saved);
    c->raw = false;
}

void console_close(struct console *c)
{
    if (c->output)
        output_destroy(c->output);
    console_restore_terminal(c);
    if (c->in_source)
        loop_remove(c->in_source);
    if (c->listen_source)
        loop_remove(c->listen_source);
    if (c->socket_path[0]) {
        unlink(c->socket_path);
        close(c->listener);
    }
    if (c->in > STDERR_FILENO)
        close(c->in);
    if (c->out > STDERR_FILENO && c->out != c->in)
        close(c->out);
    if (c->keeper >= 0)
        close(c->keeper);
    free(c);
}
