// Where snapshots are that commands call by a name alone: $XDG_DATA_HOME/trapeze/snapshots/NAME (~/.local/share where
// that is not set). A name with a slash is a path.
#pragma once
#include "report/error.h"

// The path that a word means; free() it. NULL: err says why.
char *snapshot_store_path(const char *word, struct error *err);
// The first of NAME-1, NAME-2, ... that is not there yet, its folder made if need be. free() it.
char *snapshot_store_new(const char *machine, struct error *err);
// Names of those that are there, sorted, NULL at the end; free() each and the list.
char **snapshot_store_list(struct error *err);
