// Command lines by tables: each command lists its options once, and that parses, checks and prints its own help.
//
// Options are written --name VALUE or --name=VALUE, or by one letter (-v), letters without values together (-vv); the
// last one may take a value (-n VALUE). After -- everything is a word. A wrong one gives -EINVAL and a text that names
// it, says why, and where help is.
//
// A new option is one line in the table of its area:
//     {"stats", NULL, "print counters at the end", OPTION_SET(struct run_options, stats)},        sets a bool
//     {"kernel", "FILE", "the kernel", OPTION_TEXT(struct run_options, kernel)},                  keeps the string
//     {"cpus", "N", "virtual CPUs (default 1)", OPTION_TAKE(take_cpus)},                          calls a function
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct option {
    const char *name;
    const char *value; // what the value is called; NULL: the option takes none
    const char *help;
    // Called with the value (NULL where there is none), which it may cut in place and keep. NULL: see set and text.
    int (*take)(void *into, char *value, struct error *err);
    size_t set, text; // offset + 1 of a bool that becomes true; of a const char * that becomes the value; 0: none
    char letter;      // 0: none
};

#define OPTION_TAKE(fn) .take = (fn)
#define OPTION_SET(type, field) .set = offsetof(type, field) + 1
#define OPTION_TEXT(type, field) .text = offsetof(type, field) + 1

struct option_group {
    const char *title; // over its options in the help; NULL: none
    const struct option *options;
    unsigned count;
};

#define OPTION_GROUP(heading, table)                                                                                   \
    {                                                                                                                  \
        (heading), (table), sizeof(table) / sizeof *(table)                                                            \
    }

struct command_line {
    const char *command;                      // "run", for messages
    const char *usage;                        // what follows "Usage: trapeze "; more lines tell what it does
    const char *after;                        // what follows the options in the help: examples; ends with a newline
    const struct option_group *const *groups; // ends with NULL
    // A word that is no option and no option's value. NULL: there may be none.
    int (*word)(void *into, char *word, struct error *err);
    bool rest_is_words; // after the first word there are no more options: a command with its own
    unsigned names;     // that many words come before that first one
};

// argv[0] is the first argument after the command's name. Strings that options keep point into argv.
int command_line_parse(const struct command_line *c, void *into, int argc, char **argv, struct error *err);
void command_line_help(const struct command_line *c, FILE *f);

// -EINVAL, and the text with " (see trapeze COMMAND --help)" behind it: for what a command finds wrong itself.
// Functions that take a value use error_set; the parser adds the rest.
int command_line_wrong(const struct command_line *c, struct error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// Values. A size is a number with a unit (K, M, G, T, powers of 1024); without one it is MiB. A number is decimal.
bool option_size(const char *v, uint64_t *bytes);
bool option_number(const char *v, uint64_t least, uint64_t most, uint64_t *n);
