// What the commands that make snapshots share.
#pragma once
#include "report/error.h"
#include <jansson.h>

// Has the running machine of that name save itself to `path` (made absolute), however long that takes. *reply (may be
// NULL) is what it says about it, the caller's.
int snapshot_of_machine(const char *machine, const char *path, json_t **reply, struct error *err);
