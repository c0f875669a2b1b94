// Signals by signalfd: see signal.h.
#include "host/signal.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct signal_watch {
    int fd;
    struct loop_source *source;
    sigset_t before;
    void (*fn)(void *ctx, int signal);
    void *ctx;
};

static void on_readable(void *ctx, unsigned events)
{
    struct signal_watch *w = ctx;
    (void)events;
    struct signalfd_siginfo info; // one at a time: fn may end the watch
    if (read(w->fd, &info, sizeof info) == (ssize_t)sizeof info)
        w->fn(w->ctx, (int)info.ssi_signo);
}

struct signal_watch *signal_watch(struct loop *l, const int *signals, unsigned count, void (*fn)(void *ctx, int signal),
                                  void *ctx, struct error *err)
{
    struct signal_watch *w = calloc(1, sizeof *w);
    if (!w) {
        error_set(err, ENOMEM, "signals: no memory");
        return NULL;
    }
    w->fn = fn;
    w->ctx = ctx;
    sigset_t set;
    sigemptyset(&set);
    for (unsigned i = 0; i < count; i++)
        sigaddset(&set, signals[i]);
    pthread_sigmask(SIG_BLOCK, &set, &w->before);
    w->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (w->fd >= 0)
        w->source = loop_fd(l, w->fd, LOOP_READ, on_readable, w);
    if (!w->source) {
        error_set(err, errno, "signals: %s", strerror(errno));
        signal_unwatch(w);
        return NULL;
    }
    return w;
}

void signal_unwatch(struct signal_watch *w)
{
    if (!w)
        return;
    loop_remove(w->source);
    if (w->fd >= 0)
        close(w->fd);
    pthread_sigmask(SIG_SETMASK, &w->before, NULL);
    free(w);
}
