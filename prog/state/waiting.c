// See waiting.h.
#include "prog/state/waiting.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { TERMINAL_MS = 100, FIRST_MS = 3000, LOG_MS = 10000, COLUMNS = 80 };

static int64_t ms_since(const struct timespec *then)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)(now.tv_sec - then->tv_sec) * 1000 + (now.tv_nsec - then->tv_nsec) / 1000000;
}

static void tell(void *ctx, const char *what, uint64_t done, uint64_t total)
{
    struct waiting *w = ctx;
    // A log is spared what is over soon.
    if (ms_since(&w->last) < (w->terminal ? w->shown ? TERMINAL_MS : 0 : w->shown ? LOG_MS : FIRST_MS))
        return;
    char line[160];
    if (total)
        snprintf(line, sizeof line, "%s: %.80s, %" PRIu64 " %%", w->who, what, done * 100 / total);
    else if (done)
        snprintf(line, sizeof line, "%s: %.80s, %" PRIu64 " MiB", w->who, what, done >> 20);
    else
        snprintf(line, sizeof line, "%s: %.100s", w->who, what);
    if (!w->terminal && !strcmp(line, w->what))
        return;
    struct winsize size = {.ws_col = 0};
    if (w->terminal) {
        ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
        fprintf(stderr, "\r%.*s\033[K", (size.ws_col ? size.ws_col : COLUMNS) - 1, line);
    } else {
        fprintf(stderr, "%s\n", line);
    }
    fflush(stderr);
    snprintf(w->what, sizeof w->what, "%.127s", line);
    w->shown = true;
    clock_gettime(CLOCK_MONOTONIC, &w->last);
}

struct progress waiting_begin(struct waiting *w, const char *who)
{
    *w = (struct waiting){.who = who, .terminal = isatty(STDERR_FILENO)};
    clock_gettime(CLOCK_MONOTONIC, &w->last);
    return (struct progress){tell, w};
}

void waiting_end(struct waiting *w)
{
    if (w->terminal && w->shown)
        fprintf(stderr, "\r\033[K");
    w->shown = false;
}
