// The directories of machines: what a machine keeps on the host while it lives, and what is left of it afterwards.
//
//     $XDG_STATE_HOME/trapeze/NAME/       ($XDG_STATE_HOME is ~/.local/state unless set; an absolute path)
//         pid                             number of its process; locked by that process as long as it lives
//         config.json                     how it was started (prog/state/record.h)
//         exit.json                       how it ended; missing while it runs, or when its process was killed
//         console.log, console.log.1      what the guest printed
//         messages                        what a machine in the background had to say
//         control.sock, vsock.sock        sockets
//         temporary                       an empty file: nobody misses this machine when it has ended
//
// Whether a machine lives is never told by a number in a file: the number may have another process by now. It is told
// by a lock on `pid`, which the kernel drops with the process, however that ends, and whose holder the kernel names. It
// is a record lock (fcntl), which children don't inherit: what a killed machine leaves behind doesn't pass for it. The
// other side of that is a rule: the process of a machine opens its `pid` once, here, since closing any other descriptor
// of that file would drop the lock.
//
// A directory appears under its name complete and locked, and goes as a whole: it is made, and taken apart, under names
// that no machine can have (they begin with a dot). So no lock on all directories is needed.
//
// Example:
//     struct state_dir d;
//     if (state_dir_create(&d, "web", false, &err) < 0) ...        in the machine's process: it is locked now
//     state_dir_socket(&d, "control.sock", &address); bind(...);
//     state_dir_remove(&d, &err); state_dir_close(&d);
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

enum { STATE_NAME_MAX = 32 };

struct state_dir {
    char name[STATE_NAME_MAX + 1];
    char *path; // absolute
    int fd;     // the directory
    int lock;   // its `pid`: locked by this process; -1: not ours
};

// 1 to 32 letters, digits, dots, dashes or underscores; the first is a letter or a digit.
bool state_name_valid(const char *name);

// The directory of all machines' directories, made if it isn't there; path has PATH_MAX bytes. What else lies there has
// a name that begins with a dot.
int state_dir_root(char *path, struct error *err);

// Makes a directory and locks it. name NULL: the first of vm1, vm2, ... that is free. What temporary machines that died
// have left is swept away first. -EEXIST if the name is taken; the text says by what.
int state_dir_create(struct state_dir *d, const char *name, bool temporary, struct error *err);
// The same in two steps, for who fills it first: a draft has a name that no machine can have, and is locked; then it
// appears. On failure it stays a draft: state_dir_remove takes it away.
int state_dir_draft(struct state_dir *d, bool temporary, struct error *err);
int state_dir_publish(struct state_dir *d, const char *name, struct error *err);
// Opens what is there. -ENOENT if there is none of that name.
int state_dir_open(struct state_dir *d, const char *name, struct error *err);
// For a machine that is to be started again, or removed: -EBUSY while its process lives.
int state_dir_lock(struct state_dir *d, struct error *err);
// The process that has it locked, or 0: the machine doesn't live. -1: it lives where we can't see its number (another
// PID namespace). Not for one's own.
pid_t state_dir_owner(const struct state_dir *d);
// Removes the directory and what is in it, without following links. Locks it first, if it isn't: -EBUSY as above.
int state_dir_remove(struct state_dir *d, struct error *err);
void state_dir_close(struct state_dir *d); // and unlocks

// Names of all machines, sorted, in one piece of memory to free(); NULL at the end. No directory at all: an empty list.
int state_dir_list(char ***names, struct error *err);

// The address of a socket in the directory, however long the path to it is: where it is too long for an address, one
// through /proc/self/fd, valid for this process as long as d is open.
void state_dir_socket(const struct state_dir *d, const char *file, struct sockaddr_un *address);

// Whole small files. Reading: a string to free(), NULL with errno set; at most 1 MiB. Writing: a reader sees the old or
// the new contents, never a part.
char *state_dir_read(const struct state_dir *d, const char *file);
int state_dir_write(const struct state_dir *d, const char *file, const char *text, struct error *err);
