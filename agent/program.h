// Starting a program for a session: with pipes or a terminal, as some user, somewhere.
//
// It leads a session of its own (setsid), so that a signal reaches all that it has started and nobody else.
#pragma once
#include "agent/account.h"
#include "report/error.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct program_options {
    char *const *argv;  // ends with NULL; argv[0] NULL: the user's shell
    char **env;         // ends with NULL: what is added to the environment
    const char *folder; // NULL: the user's own
    struct account account;
    bool terminal;
    uint16_t rows, columns;
    int (*inside)(void *ctx); // called in place of a program: its result is the exit status; NULL: argv
    void *ctx;
};

struct program {
    pid_t pid;
    int in, out, err; // our ends, not blocking; with a terminal all is `in` and `out`, two descriptors of it; err -1
};

// Starts it. On failure *status is what the host's program is to end with (AGENT_STATUS_*).
int program_start(struct program *p, const struct program_options *o, int *status, struct error *err);
void program_resize(const struct program *p, uint16_t rows, uint16_t columns);
// To the terminal's foreground, or to all that it has started.
void program_signal(const struct program *p, bool terminal, int number);
