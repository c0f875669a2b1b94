// Going to the background: the command's process waits until the machine really runs, or tells why it doesn't.
//
// detach() makes the process that goes on by itself: in a session of its own, its standard output and error leading to
// the command's process. That passes on what it hears, until the other calls detach_done (then it ends with 0, and the
// name on standard output), or ends (then it ends with the same status).
//
// Example:
//     int background = detach(&status, &err);
//     if (background < 0) return status;                 the command's process: all is over
//     ... build the machine ...
//     detach_done(background, "web", messages);          from here on nobody waits
#pragma once
#include "report/error.h"

// In the new process: a descriptor for detach_done. In the command's: -1, with *status what it shall end with. There
// must be no threads yet. Failing to make the process: -1, status 1, and a line on standard error.
int detach(int *status);
// The machine runs. Standard output and error become `messages` (a descriptor, which stays the caller's).
void detach_done(int background, const char *name, int messages);
