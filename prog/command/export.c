// trapeze export: a machine that has ended becomes one file, which `trapeze import` makes a machine of elsewhere.
//
// The machine's directory is locked meanwhile, so that nobody starts it. Each disk is copied into a qcow2 image of its
// own first, beside the file that is made: overlays and what they lie on become one, and what is zero takes no room.
// A copy loses its name when it is made; only a process that is killed leaves one, as .FILE-PID.diskN or .FILE-PID.
#include "bundle/bundle.h"
#include "image/make.h"
#include "prog/command/commands.h"
#include "prog/command/vm_options.h"
#include "prog/option/options.h"
#include "prog/state/record.h"
#include "prog/state/waiting.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct export
{
    struct state_dir dir;
    struct record *record;
    char **words; // of the record, cut by the parser
    struct run_options o;
    struct bundle_manifest m;
    int fd[BUNDLE_MEMBERS];
    char path[PATH_MAX], draft[PATH_MAX]; // of the file, absolute
    struct waiting waiting;
    struct progress progress;
};

// --- what the machine has

static void left_out(const char *option, const char *value)
{
    fprintf(stderr, "trapeze export: %s %.80s is of this host: left out\n", option, value);
}

// One card goes along, with its address, on a user network: which others there are is the other host's affair.
static void take_nets(struct export *x)
{
    const struct run_options *o = &x->o;
    unsigned best = 0;
    for (unsigned i = o->nets; i-- > 0;)
        if (o->net[i].kind == NETWORK_USER)
            best = i;
    if (!o->nets)
        return;
    if (o->net[best].has_mac)
        memcpy(x->m.mac[0], o->net[best].mac, 6);
    else
        network_mac(x->dir.name, best, x->m.mac[0]);
    x->m.nets = 1;
    if (o->net[best].kind != NETWORK_USER)
        fprintf(stderr, "trapeze export: its network is of this host: it gets --net user in place of that\n");
    for (unsigned i = 0; i < o->nets; i++)
        if (i != best)
            left_out("--net", o->net[i].where ? o->net[i].where : "");
    for (unsigned i = 0; i < o->publishes; i++)
        left_out("--publish", o->publish[i].text);
}

static int copy_text(char *to, size_t room, const char *from, const char *option, struct error *err)
{
    if (!from)
        from = "";
    if (strlen(from) >= room)
        return error_set(err, E2BIG, "%s %.80s...: too long for a bundle", option, from);
    strcpy(to, from);
    return 0;
}

static int describe(struct export *x, struct error *err)
{
    struct bundle_manifest *m = &x->m;
    const struct run_options *o = &x->o;
    strcpy(m->name, x->dir.name);
    snprintf(m->program, sizeof m->program, "%s", TRAPEZE_VERSION);
    m->cpus = o->cpus;
    m->memory = o->memory;
    m->mmio = o->virtio_mmio;
    m->paravirt = !o->no_paravirt;
    m->balloon = !o->no_balloon;
    m->no_reboot = o->no_reboot;
    m->agent = o->agent;
    m->kernel = o->kernel;
    m->initrd = o->initrd;
    m->disks = o->disks;
    for (unsigned i = 0; i < o->disks; i++) {
        m->disk[i].readonly = o->disk[i].readonly;
        strcpy(m->disk[i].serial, o->disk[i].serial);
    }
    take_nets(x);
    for (unsigned i = 0; i < o->shares; i++)
        left_out("--share", o->share[i].tag);
    if (!strncmp(o->console, "socket:", 7) || !strncmp(o->console, "file:", 5))
        left_out("--console", o->console);
    if (o->hvc)
        left_out("--hvc", o->hvc);
    if (o->vsock)
        left_out("--vsock", o->vsock);
    bundle_members(m);
    int e = copy_text(m->cpu, sizeof m->cpu, o->cpu, "--cpu", err);
    return e ? e : copy_text(m->append, sizeof m->append, o->append, "--append", err);
}

// The disks that `trapeze run` has put before and behind those that are named (run_image.h).
static int add_own_disks(struct export *x, struct error *err)
{
    static char disk[PATH_MAX], seed[PATH_MAX];
    struct run_options *o = &x->o;
    snprintf(disk, sizeof disk, "%s/disk.qcow2", x->dir.path);
    snprintf(seed, sizeof seed, "%s/seed.iso", x->dir.path);
    bool has_seed = !access(seed, F_OK);
    if (o->disks + (o->image.what ? 1 : 0) + has_seed > BUNDLE_DISKS)
        return error_set(err, EINVAL, "%s: a bundle has at most %d disks", x->dir.name, BUNDLE_DISKS);
    if (o->image.what) {
        if (access(disk, F_OK))
            return error_set(err, errno, "%s: it has no disk yet: %s", x->dir.name, strerror(errno));
        memmove(o->disk + 1, o->disk, o->disks * sizeof *o->disk);
        o->disk[0] = (struct disk_option){.path = disk, .format = DISK_QCOW2};
        o->disks++;
    }
    if (has_seed && o->disks < MAX_DISKS)
        o->disk[o->disks++] = (struct disk_option){.path = seed, .readonly = true, .format = DISK_RAW};
    return 0;
}

static int understand(struct export *x, const char *name, struct error *err)
{
    int e = state_dir_open(&x->dir, name, err);
    if (!e && (e = state_dir_lock(&x->dir, err)) == -EBUSY)
        error_set(err, EBUSY, "%s: the machine is running; stop it first", name);
    if (!e)
        e = record_read(&x->dir, &x->record, err);
    if (!e && x->record->restored)
        e = error_set(err, ENOTSUP, "%s: it went on from a snapshot: its disks are the snapshot's", name);
    if (e)
        return e;
    x->words = calloc((size_t)x->record->count + 1, sizeof *x->words);
    if (!x->words)
        return error_set(err, ENOMEM, "out of memory");
    for (int i = 0; i < x->record->count; i++)
        x->words[i] = x->record->arguments[i];
    e = run_options_parse(&x->o, x->record->count, x->words, err);
    if (!e && chdir(x->record->directory))
        e = error_set(err, errno, "%s: the folder it was started in, %s: %s", name, x->record->directory,
                      strerror(errno));
    if (!e)
        e = add_own_disks(x, err);
    return e ? e : describe(x, err);
}

// --- its members

static int open_file(const char *path, const char *what, struct error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode))
        return fd;
    int e =
        error_set(err, fd < 0 ? errno : EINVAL, "%s %.200s: %s", what, path, fd < 0 ? strerror(errno) : "not a file");
    if (fd >= 0)
        close(fd);
    return e;
}

static int open_disk(struct export *x, const struct disk_option *d, unsigned i, struct error *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s.disk%u", x->draft, i) >= (int)sizeof path)
        return error_set(err, ENAMETOOLONG, "%s: the name is too long", x->path);
    int e = image_convert(d->path, d->format, path, DISK_QCOW2, 0, &x->progress, err);
    if (e)
        return e;
    int fd = open_file(path, "disk", err);
    unlink(path);
    return fd;
}

static int gather(struct export *x, struct error *err)
{
    for (unsigned i = 0; i < x->m.members; i++) {
        struct bundle_member *b = &x->m.member[i];
        int fd = i < x->m.disks               ? open_disk(x, &x->o.disk[i], i, err)
                 : !strcmp(b->name, "kernel") ? open_file(x->o.kernel, "kernel", err)
                                              : open_file(x->o.initrd, "initrd", err);
        if (fd < 0)
            return fd;
        x->fd[i] = fd;
        int e = bundle_measure(fd, b, err);
        if (e)
            return e;
    }
    return 0;
}

// --- the file

static int name_file(struct export *x, const char *file, struct error *err)
{
    char here[PATH_MAX];
    if (!getcwd(here, sizeof here))
        return error_set(err, errno, "this folder: %s", strerror(errno));
    int n = snprintf(x->path, sizeof x->path, "%s%s%s", file[0] == '/' ? "" : here, file[0] == '/' ? "" : "/", file);
    if (n >= (int)sizeof x->path - 64)
        return error_set(err, ENAMETOOLONG, "%.80s...: the name is too long", file);
    const char *slash = strrchr(x->path, '/');
    if (snprintf(x->draft, sizeof x->draft, "%.*s/.%s-%d", (int)(slash - x->path), x->path, slash + 1, (int)getpid()) >=
        (int)sizeof x->draft)
        return error_set(err, ENAMETOOLONG, "%.80s...: the name is too long", file);
    return access(x->path, F_OK) ? 0 : error_set(err, EEXIST, "%s: there is such a file", file);
}

static int write_file(struct export *x, const char *file, struct error *err)
{
    int fd = open(x->draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600); // disks have secrets
    if (fd < 0)
        return error_set(err, errno, "%s: %s", file, strerror(errno));
    int e = bundle_write(fd, &x->m, x->fd, err);
    if (!e && fsync(fd))
        e = error_set(err, errno, "%s: %s", file, strerror(errno));
    close(fd);
    if (!e && link(x->draft, x->path)) {
        bool unable = errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS; // no hard links there
        if (!unable || !access(x->path, F_OK) || rename(x->draft, x->path))
            e = error_set(err, errno, "%s: %s", file, strerror(errno));
    }
    unlink(x->draft);
    return e;
}

static int export(struct export *x, const char *name, const char *file, struct error *err)
{
    int e = name_file(x, file, err);
    if (!e)
        e = understand(x, name, err);
    if (e)
        return e;
    x->progress = waiting_begin(&x->waiting, name);
    e = gather(x, err);
    if (!e)
        e = write_file(x, file, err);
    waiting_end(&x->waiting);
    return e;
}

int command_export(int argc, char **argv)
{
    static const struct option_group *const groups[] = {&vm_help_option, NULL};
    static const struct command_line line = {
        .command = "export",
        .usage = "export NAME FILE\n"
                 "Put a machine that has ended into one file, with its disks and kernel, for trapeze import on any "
                 "host. The file\nis a tar archive, compressed with zstd; nothing in it refers to this host.",
        .after = "Example: trapeze stop web && trapeze export web web.tar.zst\n",
        .groups = groups,
    };
    struct vm_options o = {0};
    struct error err;
    int status = vm_options_take(&line, &o, argc, argv, 2, 2);
    if (status >= 0)
        return status;
    struct export *x = calloc(1, sizeof *x);
    if (!x)
        return vm_fail(&line, "out of memory");
    x->dir = (struct state_dir){.fd = -1, .lock = -1};
    memset(x->fd, -1, sizeof x->fd);
    status = export(x, o.name[0], o.name[1], &err) ? vm_fail(&line, err.text) : STATUS_OK;
    for (unsigned i = 0; i < BUNDLE_MEMBERS; i++)
        if (x->fd[i] >= 0)
            close(x->fd[i]);
    free(x->words);
    record_free(x->record);
    state_dir_close(&x->dir);
    free(x);
    return status;
}
