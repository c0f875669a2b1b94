// What --share says: a folder of the host, the tag by which the guest mounts it, and whether it may write there.
#pragma once
#include "report/error.h"
#include <stdbool.h>

enum { MAX_SHARES = 8 };

struct share_option {
    const char *folder, *tag;
    bool readonly;
};

// Parses FOLDER:TAG[,ro]; cuts v. The folder's name may have colons and commas.
int share_take(struct share_option *o, char *v, struct error *err);
// Words for a kernel's command line, each with a space before it, by which an image that trapeze image build has made
// mounts the folders at /mnt/TAG; those whose tags are plain words. NULL: no memory. The caller's to free.
char *share_words(const struct share_option *o, unsigned count);
