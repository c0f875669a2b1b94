// Starting a program: see program.h.
#include "agent/program.h"
#include "agent/protocol.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { IN, OUT, ERR, REPORT, PIPES };

struct ends {
    int pipe[PIPES][2]; // -1: none
    int terminal, slave;
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_ends(struct ends *e)
{
    for (unsigned i = 0; i < PIPES; i++)
        for (unsigned j = 0; j < 2; j++)
            close_fd(&e->pipe[i][j]);
    close_fd(&e->terminal);
    close_fd(&e->slave);
}

static int open_terminal(struct ends *e, const struct program_options *o, struct error *err)
{
    int number, unlock = 0;
    char path[32];
    struct winsize size = {.ws_row = o->rows, .ws_col = o->columns};
    e->terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (e->terminal < 0 || ioctl(e->terminal, TIOCSPTLCK, &unlock) || ioctl(e->terminal, TIOCGPTN, &number))
        return error_set(err, errno, "no terminal: /dev/ptmx: %s (is devpts mounted in the guest?)", strerror(errno));
    snprintf(path, sizeof path, "/dev/pts/%d", number);
    e->slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (e->slave < 0)
        return error_set(err, errno, "no terminal: %s: %s (is devpts mounted in the guest?)", path, strerror(errno));
    ioctl(e->terminal, TIOCSWINSZ, &size);
    if (!geteuid() && (fchown(e->slave, o->account.uid, (gid_t)-1) || fchmod(e->slave, 0620)))
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    return 0;
}

static int open_ends(struct ends *e, const struct program_options *o, struct error *err)
{
    *e = (struct ends){.pipe = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}}, .terminal = -1, .slave = -1};
    for (unsigned i = o->terminal ? REPORT : IN; i < PIPES; i++)
        if (pipe2(e->pipe[i], O_CLOEXEC))
            return error_set(err, errno, "pipe: %s", strerror(errno));
    return o->terminal ? open_terminal(e, o, err) : 0;
}

// ---- in the new process

static void set(const char *name, const char *value)
{
    setenv(name, value, 1);
}

static void set_environment(const struct program_options *o)
{
    const struct account *a = &o->account;
    clearenv();
    set("PATH", DEFAULT_PATH);
    set("HOME", a->home);
    set("USER", a->name);
    set("LOGNAME", a->name);
    set("SHELL", a->shell);
    for (char **e = o->env; *e; e++)
        if (strchr(*e, '='))
            putenv(*e);
}

// Tells the parent what went wrong, and ends.
static void report(int fd, int status, const char *what, int code)
{
    char line[240];
    int n = snprintf(line, sizeof line, "%c%.160s: %s", status, what, strerror(code));
    ssize_t r = write(fd, line, (size_t)n);
    (void)r; // nobody is there to be told
    _exit(status);
}

static void become(const struct program_options *o, int fd)
{
    const struct account *a = &o->account;
    int e = account_become(a);
    if (e)
        report(fd, AGENT_STATUS_FAILED, a->name, -e);
    if (o->folder ? chdir(o->folder) : chdir(a->home)) {
        if (o->folder)
            report(fd, AGENT_STATUS_FAILED, o->folder, errno);
        if (chdir("/"))
            report(fd, AGENT_STATUS_FAILED, "/", errno);
    }
}

static void run(const struct program_options *o, const struct ends *e)
{
    int fd = e->pipe[REPORT][1];
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int n = 1; n < NSIG; n++)
        signal(n, SIG_DFL);
    setsid();
    if (o->terminal)
        ioctl(e->slave, TIOCSCTTY, 0);
    // Standard descriptors may be closed where the agent runs, and one of ours have their number.
    for (int n = 0; n < 3; n++) {
        int from = o->terminal ? e->slave : n == IN ? e->pipe[IN][0] : e->pipe[n][1];
        if (from <= 2 || dup2(from, n) < 0)
            report(fd, AGENT_STATUS_FAILED, "standard descriptors", from <= 2 ? EBADF : errno);
    }
    umask(022);
    set_environment(o);
    become(o, fd);
    if (o->inside) {
        closefrom(3); // started; and our own ends of its pipes would keep it from ever seeing an end
        _exit(o->inside(o->ctx));
    }
    // A login shell is one whose name begins with a dash.
    char dashed[300];
    const char *base = strrchr(o->account.shell, '/');
    snprintf(dashed, sizeof dashed, "-%s", base ? base + 1 : o->account.shell);
    char *const shell[] = {dashed, NULL};
    if (!o->argv[0])
        execv(o->account.shell, shell);
    else
        execvp(o->argv[0], o->argv);
    report(fd, errno == ENOENT || errno == ENOTDIR ? AGENT_STATUS_NOT_FOUND : AGENT_STATUS_CANNOT_RUN,
           o->argv[0] ? o->argv[0] : o->account.shell, errno);
}

// ---- in ours

// Whether it was started: the pipe closes when it was, else a text comes.
static int hear(struct ends *e, int *status, struct error *err)
{
    char line[240];
    ssize_t n;
    close_fd(&e->pipe[REPORT][1]);
    do
        n = read(e->pipe[REPORT][0], line, sizeof line - 1);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return 0;
    line[n] = 0;
    *status = (unsigned char)line[0];
    return error_set(err, ECHILD, "%s", line + 1);
}

static int unblocked(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

static int take(int *fd)
{
    int taken = unblocked(*fd);
    *fd = -1;
    return taken;
}

int program_start(struct program *p, const struct program_options *o, int *status, struct error *err)
{
    struct ends e;
    *p = (struct program){.pid = -1, .in = -1, .out = -1, .err = -1};
    *status = AGENT_STATUS_FAILED;
    int rc = open_ends(&e, o, err);
    if (!rc) {
        p->pid = fork();
        if (!p->pid)
            run(o, &e);
        rc = p->pid < 0 ? error_set(err, errno, "fork: %s", strerror(errno)) : hear(&e, status, err);
        if (rc && p->pid > 0)
            waitpid(p->pid, NULL, 0);
    }
    if (!rc && o->terminal) {
        p->in = fcntl(e.terminal, F_DUPFD_CLOEXEC, 3);
        p->out = take(&e.terminal);
    } else if (!rc) {
        p->in = take(&e.pipe[IN][1]);
        p->out = take(&e.pipe[OUT][0]);
        p->err = take(&e.pipe[ERR][0]);
    }
    close_ends(&e);
    return rc;
}

void program_resize(const struct program *p, uint16_t rows, uint16_t columns)
{
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    ioctl(p->out, TIOCSWINSZ, &size);
}

void program_signal(const struct program *p, bool terminal, int number)
{
    pid_t front = terminal ? tcgetpgrp(p->out) : -1;
    if (front > 0)
        kill(-front, number);
    else
        kill(-p->pid, number);
}
