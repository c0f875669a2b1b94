// See detach.h. What comes through the pipe is text for standard error, up to a byte of 0; behind that comes the name.
#include "prog/machine/detach.h"
#include "prog/command/commands.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// Takes what has come. True when the name is complete.
static bool hear(int pipe, char name[64], size_t *length, bool *named)
{
    char text[512];
    ssize_t n = read(pipe, text, sizeof text);
    for (ssize_t i = 0; i < n; i++) {
        if (*named && text[i] == '\n')
            return true;
        if (*named && *length < 63)
            name[(*length)++] = text[i];
        else if (!*named && text[i])
            fputc(text[i], stderr);
        *named |= !text[i];
    }
    return false;
}

static int wait_for_start(pid_t child, int pipe)
{
    char name[64] = "";
    size_t length = 0;
    bool named = false;
    int ended, process = (int)syscall(SYS_pidfd_open, child, 0);
    for (;;) {
        // Its end counts, not that of the pipe: others may have that, too (a process that serves a folder).
        struct pollfd p[] = {{pipe, POLLIN, 0}, {process, POLLIN, 0}};
        poll(p, 2, process < 0 ? 100 : -1);
        if (p[0].revents) {
            if (hear(pipe, name, &length, &named)) {
                puts(name);
                return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
            }
            if (p[0].revents & POLLIN)
                continue; // all that was said is heard before the end is looked at
        }
        pid_t w = waitpid(child, &ended, p[0].revents ? 0 : WNOHANG);
        if (w == child || (w < 0 && errno != EINTR))
            break;
    }
    if (WIFEXITED(ended) && WEXITSTATUS(ended))
        return WEXITSTATUS(ended);
    if (WIFEXITED(ended))
        return STATUS_OK; // so short a life that it has ended before it was told of
    fprintf(stderr, "trapeze: the machine's process was killed at its start (%s)\n", strsignal(WTERMSIG(ended)));
    return STATUS_FAILED;
}

static void go_to_background(int pipe)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    setsid();
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    dup2(pipe, STDOUT_FILENO);
    dup2(pipe, STDERR_FILENO);
    if (null > STDERR_FILENO)
        close(null);
}

int detach(int *status)
{
    int pipe[2];
    *status = STATUS_FAILED;
    fflush(NULL);
    if (pipe2(pipe, O_CLOEXEC)) {
        fprintf(stderr, "trapeze: going to the background: %s\n", strerror(errno));
        return -1;
    }
    pid_t child = fork();
    if (child < 0) {
        fprintf(stderr, "trapeze: going to the background: %s\n", strerror(errno));
        close(pipe[0]);
        close(pipe[1]);
        return -1;
    }
    if (!child) {
        close(pipe[0]);
        go_to_background(pipe[1]);
        return pipe[1];
    }
    close(pipe[1]);
    *status = wait_for_start(child, pipe[0]);
    close(pipe[0]);
    return -1;
}

void detach_done(int background, const char *name, int messages)
{
    char text[80];
    fflush(NULL);
    dup2(messages, STDOUT_FILENO);
    dup2(messages, STDERR_FILENO);
    int n = snprintf(text + 1, sizeof text - 1, "%s\n", name);
    text[0] = 0;
    // Whoever waited may have been killed: that is no matter of the machine's.
    if (write(background, text, (size_t)n + 1) < 0)
        errno = 0;
    close(background);
}
