// The guest's agent as a file of ours: where it lies, and how it gets into a guest that does not have it.
//
// `trapeze run --agent` appends a small archive to the initial RAM disk (Linux unpacks several, one after the other)
// that holds the agent, and has the kernel start it first (rdinit=/trapeze-agent). It leaves a child behind and becomes
// the /init that the kernel would have started; the child serves the system that this brings up (agent/main.c).
#pragma once
#include "prog/machine/file.h"
#include <limits.h>

// The folder with trapeze-agent and trapeze-agent.service: beside this program in the build's folder, or where it was
// installed. NULL: there is none.
const char *agent_folder(char path[PATH_MAX]);

#define AGENT_RDINIT "rdinit=/trapeze-agent"

// Appends the agent to the initial RAM disk. -ENOENT: there is none.
int agent_append(struct file *initrd, struct error *err);
