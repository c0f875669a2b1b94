// Who runs the machine: a file that both sides of a migration can open says so, whichever of them is killed and when.
//
// The file holds one line, WORD ID, where ID is drawn by lot for each attempt. The source has a lock on it from the
// moment it is there; the kernel drops that with the process, however it ends.
//
//     offer ID     the source runs the machine, or has stopped it and may go on. Who has all of its state may take it
//                  over once the lock is free.
//     kept ID      the source has decided to go on. Nobody else ever may.
//     claimed ID   the receiver has taken it over. The source never may go on.
//
// The word is only changed by who has the lock, and the machine is only run by who has the lock or (before an offer) is
// the only one there is. So: the source writes "offer", stops the machine, sends everything, learns that the receiver
// is ready, and lets the lock go. From there whoever takes the lock and finds "offer" may write its word and go on. If
// the source is killed after the receiver has everything, the lock becomes free and the receiver goes on; if the
// receiver is killed before it has written "claimed", the source gets the lock back and goes on; afterwards it is the
// receiver's machine that has been killed.
//
// The lock is a record lock (fcntl), which children do not inherit: what a killed process leaves behind does not hold
// it. So a process opens the file once and keeps it open. Works where both see the same file: on one host, or in a
// directory that hosts share and whose file system keeps locks. migrate/send.h tells what happens elsewhere.
//
// Example: source: owner_offer(&o, path, &err); ... owner_let_go(&o); ... if (owner_take_back(&o) == 0) resume
//          receiver: owner_watch(&o, path, id, &err); ... if (owner_claim(&o) == 0) start
#pragma once
#include "report/error.h"

enum { OWNER_ID = 32 }; // hexadecimal digits

struct owner {
    int fd; // -1: none
    char id[OWNER_ID + 1];
};

// The source's: makes the file, or takes that of an earlier attempt, with a new id.
int owner_offer(struct owner *o, const char *path, struct error *err);
int owner_keep(struct owner *o, struct error *err); // "kept"; the source has the lock
void owner_let_go(struct owner *o);
// 0: the lock is the source's again, and nobody has claimed the machine. -EBUSY: the receiver has the lock. -ESTALE:
// the receiver had claimed it, and is gone.
int owner_take_back(struct owner *o);
// Of an attempt where there is no file in common: "gone ID" stays in the source's own file, as what was decided.
int owner_record(struct owner *o, const char *word, struct error *err);

// The receiver's. -ENOENT: there is no such file here, or it is not of this attempt.
int owner_watch(struct owner *o, const char *path, const char *id, struct error *err);
// 0: the machine is the receiver's, and the file says so. -EBUSY: the source still has it. -ECANCELED: the source has
// decided to go on.
int owner_claim(struct owner *o);

void owner_close(struct owner *o); // and the lock goes
