// One session of the agent: what the host asks for on one connection (protocol.h).
#pragma once

// Serves the connection until it is over. It may fork and wait for children of its own, so it wants a process to
// itself. `proc`: a /proc through which the root of process 1 is entered first; -1: that is ours already.
void session_serve(int fd, int proc);
