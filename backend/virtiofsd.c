// Starting and ending virtiofsd: see virtiofsd.h.
//
// It takes a listening socket. Ours lies for a moment in a folder that only we may enter, and has one connection
// waiting, ours, before virtiofsd exists; then the folder goes.
//
// The child that becomes it is alone in its process group, so that what virtiofsd forks for its own PID namespace can
// be ended with it. Between fork and exec the child does system calls only, since other threads of ours may have held
// locks; each that fails is told through a pipe that closes when exec succeeds.
//
//     child                                        here
//     unshare user and mount namespaces   ->       (user namespace) write its maps, or have newuidmap do it
//     mount the folder read-only          <-       "go"
//     exec virtiofsd                      ->       the pipe ends: it runs
#include "backend/virtiofsd.h"
#include "backend/id_map.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "/usr/lib/qemu/virtiofsd"

enum { LISTENING_FD = 3, ARGUMENTS = 16 };

struct virtiofsd {
    pthread_mutex_t lock;
    pid_t pid; // 0: it has ended. Guarded by lock.
    int words; // its standard error
};

// What the child needs, made before it exists.
struct plan {
    const char *program, *folder; // absolute
    char *argv[ARGUMENTS];
    bool readonly, user_namespace, chroot;
    int listening, words, null;
    int report[2], go[2]; // pipes
    pid_t parent;
};

enum step { READY, NAMESPACES, PRIVATE, BIND, READONLY, EXEC };

struct report {
    enum step step;
    int code;
};

// ---- the child

static void tell(const struct plan *p, enum step step, int code)
{
    const struct report r = {step, code};
    if (write(p->report[1], &r, sizeof r) != sizeof r)
        _exit(1);
}

static void give_up(const struct plan *p, enum step step)
{
    tell(p, step, errno);
    _exit(1);
}

static void become(const struct plan *p)
{
    char byte;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setpgid(0, 0);
    if (p->user_namespace)
        syscall(SYS_setgroups, 0, NULL); // where it may; inside of the namespace it may not
    if (!p->chroot && unshare((p->user_namespace ? CLONE_NEWUSER : 0) | CLONE_NEWNS))
        give_up(p, NAMESPACES);
    tell(p, READY, 0);
    if (read(p->go[0], &byte, 1) != 1)
        _exit(1);
    if (!p->chroot && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        give_up(p, PRIVATE);
    if (p->readonly) {
        const struct mount_attr readonly = {.attr_set = MOUNT_ATTR_RDONLY};
        if (mount(p->folder, p->folder, NULL, MS_BIND | MS_REC, NULL))
            give_up(p, BIND);
        if (syscall(SYS_mount_setattr, AT_FDCWD, p->folder, AT_RECURSIVE, &readonly, sizeof readonly))
            give_up(p, READONLY);
    }
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) { // each file that the guest knows of takes one
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (!p->user_namespace && getppid() != p->parent) // it is gone already (in a user namespace we see its number, too)
        _exit(1);
    // Above the numbers that they get, first: none may be overwritten.
    int listening = fcntl(p->listening, F_DUPFD, 10), words = fcntl(p->words, F_DUPFD, 10),
        null = fcntl(p->null, F_DUPFD, 10), report = fcntl(p->report[1], F_DUPFD_CLOEXEC, 10);
    dup2(null, 0);
    dup2(null, 1);
    dup2(words, 2);
    dup2(listening, LISTENING_FD);
    dup3(report, LISTENING_FD + 1, O_CLOEXEC);
    syscall(SYS_close_range, LISTENING_FD + 2, ~0u, 0);
    execv(p->program, p->argv);
    const struct report r = {EXEC, errno};
    _exit(write(LISTENING_FD + 1, &r, sizeof r) == sizeof r ? 1 : 2);
}

// ---- here

// In a folder of our own; returns the connected socket.
static int connect_pair(int *listening, struct error *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char folder[] = "/tmp/trapeze-XXXXXX";
    if (!mkdtemp(folder))
        return error_set(err, errno, "%s: %s", folder, strerror(errno));
    snprintf(a.sun_path, sizeof a.sun_path, "%s/socket", folder);
    *listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), e = 0;
    if (*listening < 0 || s < 0 || bind(*listening, (struct sockaddr *)&a, sizeof a) || listen(*listening, 1) ||
        connect(s, (struct sockaddr *)&a, sizeof a))
        e = error_set(err, errno, "a socket for virtiofsd: %s", strerror(errno));
    unlink(a.sun_path);
    rmdir(folder);
    if (!e)
        return s;
    if (*listening >= 0)
        close(*listening);
    *listening = -1;
    if (s >= 0)
        close(s);
    return e;
}

// "source=" and the folder, as an option of virtiofsd wants it: commas and backslashes have a backslash before them.
static char *source_option(const char *folder)
{
    char *option = malloc(sizeof "source=" + 2 * strlen(folder)), *to = option;
    if (!option)
        return NULL;
    to = stpcpy(to, "source=");
    for (; *folder; folder++) {
        if (*folder == ',' || *folder == '\\')
            *to++ = '\\';
        *to++ = *folder;
    }
    *to = 0;
    return option;
}

static int failed(const struct plan *p, const struct report *r, struct error *err)
{
    static const char *const what[] = {[NAMESPACES] = "no namespaces for virtiofsd (user namespaces may be off here)",
                                       [PRIVATE] = "no mount namespace for virtiofsd",
                                       [BIND] = "cannot be mounted for virtiofsd",
                                       [READONLY] = "cannot be mounted read-only (Linux 5.12 or later is needed)",
                                       [EXEC] = "virtiofsd does not start"};
    unsigned step = r->step >= NAMESPACES && r->step <= EXEC ? r->step : EXEC;
    return error_set(err, r->code, "%s: %s: %s", p->folder, what[step], strerror(r->code));
}

// Waits for the child to say something. 1: it did; 0: it has become virtiofsd, or ended.
static int hear(int fd, struct report *r)
{
    ssize_t n;
    while ((n = read(fd, r, sizeof *r)) < 0 && errno == EINTR)
        ;
    return n == sizeof *r;
}

static int raise_child(struct virtiofsd *d, struct plan *p, struct error *err)
{
    struct report r = {READY, ECHILD};
    p->parent = getpid();
    d->pid = fork();
    if (d->pid == 0)
        become(p);
    close(p->report[1]);
    close(p->go[0]);
    p->report[1] = p->go[0] = -1;
    if (d->pid < 0) {
        int e = errno;
        d->pid = 0;
        return error_set(err, e, "virtiofsd: no process: %s", strerror(e));
    }
    if (!hear(p->report[0], &r) || r.step != READY)
        return failed(p, &r, err);
    int e = p->user_namespace ? id_map_write(d->pid, err) : 0;
    if (e)
        return e;
    if (write(p->go[1], "", 1) != 1 || hear(p->report[0], &r))
        return failed(p, &r, err);
    return 0;
}

// How the cage is made here. As root by namespaces, where they are to be had; without them (in many containers) root
// can still be locked in by chroot. Anybody else, and root without the right to mount, needs a user namespace.
static void choose_cage(struct plan *p)
{
    int status = 1;
    pid_t probe = fork();
    if (probe == 0)
        _exit(unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET) ? 1 : 0);
    bool fine = probe > 0 && waitpid(probe, &status, 0) == probe && !status;
    probe = fine ? 0 : fork();
    if (!fine && probe == 0)
        _exit(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET) ? 1 : 0);
    p->user_namespace = !fine && probe > 0 && waitpid(probe, &status, 0) == probe && !status;
    p->chroot = !fine && !p->user_namespace && !geteuid();
}

int virtiofsd_probe(const char *program, struct error *err)
{
    program = program ? program : PROGRAM;
    if (access(program, X_OK))
        return error_set(err, errno, "%s: virtiofsd is not there (Debian package qemu-system-common): %s", program,
                         strerror(errno));
    return 0;
}

static int plan(struct plan *p, const struct virtiofsd_options *o, struct error *err)
{
    struct stat st;
    *p = (struct plan){.program = o->program ? o->program : PROGRAM,
                       .readonly = o->readonly,
                       .listening = -1,
                       .words = -1,
                       .null = -1,
                       .report = {-1, -1},
                       .go = {-1, -1}};
    if (stat(o->folder, &st))
        return error_set(err, errno, "%s: %s", o->folder, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return error_set(err, ENOTDIR, "%s: is no folder", o->folder);
    if (access(o->folder, R_OK | X_OK))
        return error_set(err, errno, "%s: %s", o->folder, strerror(errno));
    int e = virtiofsd_probe(o->program, err);
    if (e)
        return e;
    p->folder = realpath(o->folder, NULL);
    if (!p->folder)
        return error_set(err, errno, "%s: %s", o->folder, strerror(errno));
    choose_cage(p);
    if (p->chroot && p->readonly)
        return error_set(err, EPERM, "%s: cannot be mounted read-only: no namespaces here", p->folder);
    unsigned n = 0;
    p->argv[n++] = (char *)p->program;
    p->argv[n++] = "--fd=3"; // LISTENING_FD
    p->argv[n++] = "-f";
    p->argv[n++] = "--rlimit-nofile=0"; // as it is
    p->argv[n++] = "-o";
    p->argv[n++] = p->chroot ? "sandbox=chroot" : "sandbox=namespace";
    p->argv[n++] = "-o";
    p->argv[n++] = "cache=auto,announce_submounts,modcaps=-mknod,log_level=err";
    p->argv[n++] = "-o";
    p->argv[n++] = source_option(p->folder);
    return p->argv[n - 1] ? 0 : error_set(err, ENOMEM, "%s: out of memory", p->folder);
}

static void plan_end(struct plan *p)
{
    int *const fds[] = {&p->listening, &p->words, &p->null, &p->report[0], &p->report[1], &p->go[0], &p->go[1]};
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
        if (*fds[i] >= 0)
            close(*fds[i]);
    for (unsigned i = 0; i < ARGUMENTS; i++)
        if (p->argv[i] && !strncmp(p->argv[i], "source=", 7))
            free(p->argv[i]);
    free((char *)p->folder);
}

static int open_fds(struct virtiofsd *d, struct plan *p, struct error *err)
{
    int words[2];
    // When nobody reads, what it has to say is dropped: it must not wait for us.
    if (pipe2(words, O_CLOEXEC | O_NONBLOCK))
        return error_set(err, errno, "virtiofsd: %s", strerror(errno));
    d->words = words[0];
    p->words = words[1];
    p->null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (p->null < 0 || pipe2(p->report, O_CLOEXEC) || pipe2(p->go, O_CLOEXEC))
        return error_set(err, errno, "virtiofsd: %s", strerror(errno));
    return 0;
}

int virtiofsd_start(const struct virtiofsd_options *o, struct virtiofsd **out, int *socket, struct error *err)
{
    struct plan p;
    struct virtiofsd *d = calloc(1, sizeof *d);
    if (!d)
        return error_set(err, ENOMEM, "%s: out of memory", o->folder);
    pthread_mutex_init(&d->lock, NULL);
    d->words = -1;
    *socket = -1;
    int e = plan(&p, o, err);
    if (!e)
        e = open_fds(d, &p, err);
    if (!e) {
        *socket = connect_pair(&p.listening, err);
        e = *socket < 0 ? *socket : 0;
    }
    if (!e)
        e = raise_child(d, &p, err);
    plan_end(&p);
    if (!e) {
        *out = d;
        return 0;
    }
    if (*socket >= 0)
        close(*socket);
    virtiofsd_free(d);
    return e;
}

void virtiofsd_end(void *daemon)
{
    struct virtiofsd *d = daemon;
    pthread_mutex_lock(&d->lock);
    if (d->pid) {
        // Its group, with what it has forked; itself, in case it had not come to making a group yet.
        kill(-d->pid, SIGKILL);
        kill(d->pid, SIGKILL);
        while (waitpid(d->pid, NULL, 0) < 0 && errno == EINTR)
            ;
        d->pid = 0;
    }
    pthread_mutex_unlock(&d->lock);
}

void virtiofsd_last_words(struct virtiofsd *d, char *text, size_t size)
{
    char heard[4096];
    size_t at = 0;
    ssize_t n;
    text[0] = 0;
    while ((n = read(d->words, heard + at, sizeof heard - 1 - at)) > 0) {
        at += (size_t)n;
        if (at == sizeof heard - 1) { // only the end is of interest
            memmove(heard, heard + at / 2, at - at / 2);
            at -= at / 2;
        }
    }
    while (at && heard[at - 1] == '\n')
        at--;
    heard[at] = 0;
    const char *line = strrchr(heard, '\n');
    snprintf(text, size, "%s", line ? line + 1 : heard);
}

void virtiofsd_free(struct virtiofsd *d)
{
    if (!d)
        return;
    virtiofsd_end(d);
    if (d->words >= 0)
        close(d->words);
    pthread_mutex_destroy(&d->lock);
    free(d);
}
