// A running machine in JSON: what it is, and what it uses.
#pragma once
#include "prog/machine/machine.h"
#include <jansson.h>

// {"name": ..., "engine": "dbt", "cpu": "x86-64-v3", "cpus": 2, "memory": 1073741824, "disks": [...], "networks":
// [...], ...}
json_t *machine_describe(const struct machine *m);

// {"time_ns": ..., "cpu_ns": ..., "memory": {"size": ..., "resident": ...}, "disk": {"read_bytes": ...,
// "written_bytes":
// ..., "requests": ...}, "net": {"received_bytes": ..., "sent_bytes": ...}, "exits": ..., "counters": {...}}. Times are
// nanoseconds: time_ns of the host's monotonic clock, cpu_ns all that the machine's threads and the processes that run
// its programs have used. resident: bytes of guest memory that the host really holds. All threads may call it.
json_t *machine_usage(struct machine *m);
