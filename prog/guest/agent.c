// See agent.h.
#include "prog/guest/agent.h"
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEAD = 110, MODE_FILE = 0100755 }; // of an entry of a cpio archive of the kind "newc"

const char *agent_folder(char path[PATH_MAX])
{
    char program[PATH_MAX], file[PATH_MAX + 32];
    static const char *const places[] = {"agent", "../" TRAPEZE_LIBDIR "/trapeze"};
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = 0;
    char *slash = strrchr(program, '/');
    for (unsigned i = 0; slash && i < sizeof places / sizeof *places; i++) {
        *slash = 0;
        if (snprintf(path, PATH_MAX, "%.3000s/%s", program, places[i]) >= PATH_MAX)
            continue;
        snprintf(file, sizeof file, "%s/trapeze-agent.service", path);
        bool there = !access(file, R_OK);
        snprintf(file, sizeof file, "%s/trapeze-agent", path);
        if (there && !access(file, X_OK))
            return path;
    }
    return NULL;
}

static size_t padded(size_t size)
{
    return (size + 3) & ~(size_t)3;
}

// Where the next entry begins. The name's 0 is one of its bytes; name and contents each end at a multiple of 4.
static size_t put_entry(uint8_t *at, const char *name, unsigned mode, const void *data, size_t size)
{
    char head[HEAD + 1];
    size_t length = strlen(name) + 1, body = padded(HEAD + length);
    snprintf(head, sizeof head, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1, mode, 0, 0, 1, 0,
             (unsigned)size, 0, 0, 0, 0, (unsigned)length, 0);
    memcpy(at, head, HEAD);
    memcpy(at + HEAD, name, length);
    if (size)
        memcpy(at + body, data, size);
    return body + padded(size);
}

int agent_append(struct file *initrd, struct error *err)
{
    static const char name[] = "trapeze-agent", last[] = "TRAILER!!!";
    char folder[PATH_MAX], path[PATH_MAX + 32];
    struct file agent = {0};
    if (!initrd->size)
        return error_set(err, EINVAL, "--agent: the guest has no initial RAM disk to put it into");
    if (!agent_folder(folder))
        return error_set(err, ENOENT, "--agent: trapeze-agent is not where it was installed");
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int e = file_map(&agent, "agent", path, err);
    if (e)
        return e;
    size_t at = padded(initrd->size);
    size_t room = at + padded(HEAD + sizeof name) + padded(agent.size) + padded(HEAD + sizeof last);
    uint8_t *both = calloc(1, room);
    if (both) {
        memcpy(both, initrd->data, initrd->size);
        at += put_entry(both + at, name, MODE_FILE, agent.data, agent.size);
        at += put_entry(both + at, last, 0, NULL, 0);
        file_unmap(initrd);
        *initrd = (struct file){both, at};
    }
    file_unmap(&agent);
    return both ? 0 : error_set(err, ENOMEM, "--agent: out of memory");
}
