// One session of the agent: what the host asks for on one connection (protocol.h).
#pragma once

// Serves the connection until it is over. It may fork and wait for children of its own, so it wants a process to
// itself. `root`: the directory to enter before anything else is done; NULL: none.
void session_serve(int fd, const char *root);
