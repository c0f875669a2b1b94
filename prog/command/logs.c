// trapeze logs: what a machine has printed, from the log that its process keeps (backend/hub.h): NAME.1, then NAME.
#include "prog/command/commands.h"
#include "prog/command/vm_options.h"
#include "prog/command/vm_view.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOOK_US = 100000 }; // how often a log that is followed is looked at

static int open_log(const struct state_dir *d, const char *file)
{
    return openat(d->fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

// The rest of it, to standard output. -errno when nobody wants it any more.
static int copy(int fd)
{
    char data[16384];
    ssize_t n;
    while ((n = read(fd, data, sizeof data)) > 0)
        for (ssize_t done = 0, w; done < n; done += w)
            if ((w = write(STDOUT_FILENO, data + done, (size_t)(n - done))) < 0)
                return -errno;
    return 0;
}

static bool replaced(const struct state_dir *d, const char *file, int fd)
{
    struct stat mine, named;
    return fstatat(d->fd, file, &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &mine) == 0 &&
           mine.st_ino != named.st_ino;
}

// Until the machine has ended. *fd moves on when the log is replaced by a new one.
static int follow(const struct state_dir *d, const char *file, int *fd)
{
    for (;;) {
        bool ended = !state_dir_owner(d); // before the copy: what it printed last is in the log by then
        bool next = *fd >= 0 && replaced(d, file, *fd);
        int e = *fd < 0 ? 0 : copy(*fd);
        if (e || (ended && !next))
            return e;
        int fresh = next || *fd < 0 ? open_log(d, file) : -1;
        if (fresh >= 0 && *fd >= 0)
            close(*fd);
        if (fresh >= 0)
            *fd = fresh;
        else
            usleep(LOOK_US);
    }
}

static int show(const struct vm_options *o, const struct state_dir *d, struct error *err)
{
    char old[32];
    const char *file = o->messages ? "messages" : o->hvc ? "hvc.log" : "console.log";
    snprintf(old, sizeof old, "%s.1", file);
    // The new one first: if it becomes the old one meanwhile, what is read twice is none of it.
    int fd = open_log(d, file), before = open_log(d, old);
    int e = before >= 0 && !(fd >= 0 && !replaced(d, old, fd)) ? copy(before) : 0;
    if (before >= 0)
        close(before);
    if (!e && fd >= 0)
        e = copy(fd);
    if (!e && o->follow)
        e = follow(d, file, &fd);
    else if (!e && fd < 0 && before < 0)
        e = error_set(err, ENOENT, "%s: there is no %s", d->name, file);
    else if (e)
        error_set(err, -e, "standard output: %s", strerror(-e));
    if (fd >= 0)
        close(fd);
    return e;
}

static const struct option log_options[] = {
    {"follow", NULL, "go on with what it prints, until it ends", VM_FLAG(follow), .letter = 'f'},
    {"hvc", NULL, "the virtio console's, not the serial port's", VM_FLAG(hvc)},
    {"messages", NULL, "what trapeze itself had to say about it, in the background", VM_FLAG(messages)},
};
static const struct option_group log_group = OPTION_GROUP(NULL, log_options);

int command_logs(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&log_group, &vm_help_option, NULL};
    static const struct command_line line = {
        .command = "logs",
        .usage =
            "logs [-f] NAME\nShow what a machine has printed on its console: the last 2 to 4 MiB of it, also after "
            "its end.",
        .after = "Example: trapeze logs -f web\n",
        .groups = groups,
    };
    struct vm_options o = {0};
    struct state_dir d;
    struct error err;
    int status = vm_options_take(&line, &o, argc, argv, 1, 1);
    if (status >= 0)
        return status;
    if (state_dir_open(&d, o.name[0], &err))
        return vm_fail(&line, err.text);
    status = show(&o, &d, &err) ? vm_fail(&line, err.text) : STATUS_OK;
    state_dir_close(&d);
    return status;
}
