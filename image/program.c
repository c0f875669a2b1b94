// See program.h.
#include "image/program.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINE = 512, TICK_MS = 500 };

struct output {
    const struct program *p;
    char line[LINE], last[LINE];
    size_t length;
    bool telling; // `last` speaks of an error
};

static bool tells_error(const char *line)
{
    static const char *const words[] = {"E:", "error", "Error", "rror:", "failed", "cannot", "curl:", "mke2fs:"};
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(line, words[i]))
            return true;
    return false;
}

static void end_line(struct output *o)
{
    o->line[o->length] = 0;
    for (char *c = o->line; *c; c++) // it goes to a terminal
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
    if (o->line[strspn(o->line, " ")]) {
        // The first that tells of an error says more than those which follow from it.
        bool tells = tells_error(o->line);
        if (!o->telling)
            strcpy(o->last, o->line);
        o->telling |= tells;
        if (o->p->line)
            o->p->line(o->p->ctx, o->line);
    }
    o->length = 0;
}

static void take(struct output *o, const char *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (b[i] == '\n' || b[i] == '\r')
            end_line(o);
        else if (o->length < LINE - 1)
            o->line[o->length++] = b[i];
}

static void child(const struct program *p, int out)
{
    // Where mke2fs is is not in everyone's path.
    const char *path = getenv("PATH");
    char longer[8192];
    snprintf(longer, sizeof longer, "%s:/usr/sbin:/sbin", path ? path : "/usr/bin:/bin");
    setenv("PATH", longer, 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    for (unsigned i = 0; p->env[i]; i++)
        putenv(p->env[i]);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
        _exit(126);
    signal(SIGPIPE, SIG_DFL);
    execvp(p->argv[0], (char *const *)p->argv);
    _exit(errno == ENOENT ? 127 : 126);
}

static void listen(struct output *o, int from)
{
    char b[4096];
    for (;;) {
        struct pollfd f = {from, POLLIN, 0};
        int ready = poll(&f, 1, TICK_MS);
        if (o->p->tick)
            o->p->tick(o->p->ctx);
        if (ready <= 0)
            continue;
        ssize_t n = read(from, b, sizeof b);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        take(o, b, (size_t)n);
    }
    if (o->length)
        end_line(o);
}

int program_run(const struct program *p, struct error *err)
{
    const char *name = p->argv[0];
    int pipes[2], status = 0;
    if (pipe2(pipes, O_CLOEXEC))
        return error_set(err, errno, "%s: %s", name, strerror(errno));
    struct output *o = calloc(1, sizeof *o);
    pid_t pid = o ? fork() : -1;
    if (!pid)
        child(p, pipes[1]);
    close(pipes[1]);
    if (pid < 0) {
        close(pipes[0]);
        free(o);
        return error_set(err, ENOMEM, "%s: no process to run it in", name);
    }
    o->p = p;
    listen(o, pipes[0]);
    close(pipes[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    int e = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        e = error_set(err, ENOENT, "%s is not installed (Debian's package %s has it)", name,
                      p->package ? p->package : name);
    else if (!WIFEXITED(status))
        e = error_set(err, EINTR, "%s was ended by %s", name, strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status))
        e = error_set(err, EIO, "%s failed: %.200s", name, o->last[0] ? o->last : "it did not say why");
    free(o);
    return e;
}
