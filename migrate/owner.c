// Who runs the machine: see owner.h.
#include "migrate/owner.h"
#include "host/random.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE = 64 }; // bytes of the file: the line, filled up with spaces before its end

static int set_lock(int fd, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET};
    if (fcntl(fd, F_SETLK, &l) == 0)
        return 0;
    return errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
}

static void make_line(char line[LINE + 1], const char *word, const char *id)
{
    snprintf(line, LINE + 1, "%-8s %-54s\n", word, id);
}

static bool says(const struct owner *o, const char *word)
{
    char line[LINE + 1], found[LINE];
    make_line(line, word, o->id);
    return pread(o->fd, found, LINE, 0) == LINE && !memcmp(line, found, LINE);
}

static int write_word(struct owner *o, const char *word)
{
    char line[LINE + 1];
    make_line(line, word, o->id);
    errno = ENOSPC;
    return pwrite(o->fd, line, LINE, 0) == LINE && fdatasync(o->fd) == 0 ? 0 : -errno;
}

int owner_record(struct owner *o, const char *word, struct error *err)
{
    int e = write_word(o, word);
    return e ? error_set(err, -e, "migration: what was decided cannot be written: %s", strerror(-e)) : 0;
}

int owner_offer(struct owner *o, const char *path, struct error *err)
{
    uint8_t lot[OWNER_ID / 2];
    *o = (struct owner){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)};
    if (o->fd < 0)
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    host_random(lot, sizeof lot);
    for (unsigned i = 0; i < sizeof lot; i++)
        snprintf(o->id + (size_t)2 * i, 3, "%02x", lot[i]);
    int e = set_lock(o->fd, F_WRLCK);
    if (e)
        error_set(err, -e, "%s: another process has it", path);
    if (!e && ftruncate(o->fd, LINE))
        e = error_set(err, errno, "%s: %s", path, strerror(errno));
    if (!e)
        e = owner_record(o, "offer", err);
    if (e)
        owner_close(o);
    return e;
}

int owner_keep(struct owner *o, struct error *err)
{
    return owner_record(o, "kept", err);
}

void owner_let_go(struct owner *o)
{
    set_lock(o->fd, F_UNLCK);
}

int owner_take_back(struct owner *o)
{
    int e = set_lock(o->fd, F_WRLCK);
    if (e)
        return e;
    return says(o, "offer") ? 0 : -ESTALE;
}

// The path is a stranger's: nothing is opened for its own sake, and nothing written that is not of this attempt.
int owner_watch(struct owner *o, const char *path, const char *id, struct error *err)
{
    struct stat st;
    const char *last = strrchr(path, '/');
    *o = (struct owner){.fd = -1};
    if (strlen(id) != OWNER_ID || strspn(id, "0123456789abcdef") != OWNER_ID || !last || strcmp(last, "/owner") != 0)
        return error_set(err, ENOENT, "migration: no file in common");
    strcpy(o->id, id);
    o->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (o->fd >= 0 && fstat(o->fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == LINE && says(o, "offer"))
        return 0;
    owner_close(o);
    return error_set(err, ENOENT, "migration: no file in common");
}

int owner_claim(struct owner *o)
{
    if (says(o, "kept"))
        return -ECANCELED;
    int e = set_lock(o->fd, F_WRLCK);
    if (e)
        return e;
    if (!says(o, "offer"))
        e = -ECANCELED;
    else if ((e = write_word(o, "claimed")))
        write_word(o, "offer"); // it may have been written, but not be on the disk: not ours, then
    if (e)
        set_lock(o->fd, F_UNLCK);
    return e;
}

void owner_close(struct owner *o)
{
    if (o->fd >= 0)
        close(o->fd);
    o->fd = -1;
}
