// What the commands about machines have in common: their options, and the names behind them.
//
// Example: trapeze stop --time 5 web db
#pragma once
#include "prog/option/command_line.h"

enum { VM_NAMES_MAX = 64, VM_STOP_SECONDS = 30 };

struct vm_options {
    bool help, all, json, follow, once, force, hvc, messages;
    uint64_t time; // seconds
    const char *name[VM_NAMES_MAX];
    unsigned names;
};

// Tables that commands choose from.
extern const struct option_group vm_help_option, vm_json_option, vm_time_option;

#define VM_FLAG(field) OPTION_SET(struct vm_options, field)

// Parses, and does what --help wants. At least `least` names, at most `most` (of snapshots, if the usage says so, else
// machines); `line`'s word is set here. -1: go on; else the status to end with, after a line on standard error.
int vm_options_take(const struct command_line *line, struct vm_options *o, int argc, char **argv, unsigned least,
                    unsigned most);

// "trapeze COMMAND: text" on standard error; returns STATUS_FAILED.
int vm_fail(const struct command_line *line, const char *text);
