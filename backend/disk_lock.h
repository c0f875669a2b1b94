// Locks on the files of disks: nobody else writes what we write, and nobody writes what we read.
//
// They are the open file description's (fcntl(2), F_OFD_SETLK): they end with its last descriptor. Where a file system
// has no locks there is nothing to be had, and everything succeeds.
//
// Example: e = disk_lock(fd, !readonly, path, err); ... disk_lock_hold(fd, false, !readonly); another process has it
#pragma once
#include "report/error.h"
#include <stdbool.h>

int disk_lock(int fd, bool write, const char *path, struct error *err); // -EBUSY, with a text that names path
int disk_lock_hold(int fd, bool hold, bool write); // gives that lock up, or has it again: 0 or -EBUSY
