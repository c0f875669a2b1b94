// Who a program runs as: from /etc/passwd and /etc/group, read by ourselves, since a static program can't ask the C
// library (whose name services are loaded at run time). A system without these files has root alone.
#pragma once
#include "report/error.h"
#include <stdbool.h>
#include <sys/types.h>

enum { ACCOUNT_GROUPS = 64 };

struct account {
    uid_t uid;
    gid_t gid;
    gid_t groups[ACCOUNT_GROUPS]; // all of them, gid among them
    unsigned count;
    char name[64], home[256], shell[256];
};

// user: a name or number, with ":GROUP" (name or number) if wanted. NULL: who we are. -ENOENT: nobody of that name.
int account_find(struct account *a, const char *user, struct error *err);
// Becomes this user, for good. 0 or negative errno.
int account_become(const struct account *a);
