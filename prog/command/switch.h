// The switch from outside: where its socket is, how one is started, what it tells.
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <stddef.h>

enum { SWITCH_PATH_MAX = 4096 };

// $XDG_RUNTIME_DIR/trapeze/switch.sock, or .switch.sock beside the machines' directories where there is no such folder.
// The folder is made.
int switch_default_socket(char path[SWITCH_PATH_MAX], struct error *err);
// Starts `trapeze switch` in the background, which ends by itself when nobody has used it for a while, and returns when
// it listens; also if another one just did. 0 or negative errno. ctx is not used: this is a net_switch_options.start.
int switch_start(void *ctx, const char *socket);
// Prints the networks and ports of the switch at that socket to standard output.
int switch_list(const char *socket, bool json, struct error *err);
