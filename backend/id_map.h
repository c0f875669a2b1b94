// Whose files a process in a user namespace works on: the maps of its user and group numbers.
//
// Number 0 in there is whoever we are. Where the administrator has given us numbers of others (/etc/subuid,
// /etc/subgid) and the programs that may write such maps are there (newuidmap, newgidmap; package uidmap), numbers from
// 1 on are those.
//
//     we are user 1000, /etc/subuid says me:100000:65536   ->   0 is 1000, 1..65536 are 100000..165535
#pragma once
#include "report/error.h"
#include <sys/types.h>

// For a process that has a user namespace of its own and none of the maps yet. Without numbers of others, groups beside
// the first one cannot be dropped in there: if the process has any, that is an error.
int id_map_write(pid_t pid, struct error *err);
