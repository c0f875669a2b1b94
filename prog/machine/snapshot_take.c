// Taking a snapshot: see snapshot_take.h.
//
// What needs the machine to stand still is done on the event loop's thread: then no timer fires meanwhile and no
// console brings input. Other threads (networks, sockets) find the VM frozen.
#include "prog/machine/snapshot_take.h"
#include "host/clock.h"
#include "host/loop.h"
#include "snapshot/copy.h"
#include "snapshot/directory.h"
#include "vm/save.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TRIES = 50, TRY_AGAIN_NS = 20000000 };

struct taking {
    struct machine *m;
    struct snapshot_writer w;
    struct snapshot_manifest manifest;
    struct state_buffer state;
    int memory_fd, disk_fd[SNAPSHOT_DISKS];
    uint64_t paused_ns;
    // Between the two threads.
    pthread_mutex_t lock;
    pthread_cond_t change;
    enum { WAITING, WORKING, DONE, GIVEN_UP } stage;
    int result;
    struct error *err;
};

// --- while the machine stands still

static void flushed(struct disk_request *r, int result)
{
    *(int *)r->owner = result;
}

// Everything that the guest has written is in the file.
static int flush_disk(struct disk *d)
{
    int result = 0;
    struct disk_request r = {.op = DISK_FLUSH, .done = flushed, .owner = &result};
    d->ops->submit(d, &r);
    d->ops->drain(d);
    return result;
}

static int copy_disk(struct taking *t, unsigned n, struct error *err)
{
    const char *path = t->m->o->disk[n].path;
    int e = t->m->o->disk[n].readonly ? 0 : flush_disk(t->m->disk[n]);
    if (e)
        return error_set(err, -e, "disk %s: %s", path, strerror(-e));
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return error_set(err, errno, "disk %s: %s", path, strerror(errno));
    e = snapshot_copy(from, t->disk_fd[n]);
    close(from);
    return e ? error_set(err, -e, "disk %s: copying it: %s", path, strerror(-e)) : 0;
}

static int copy_standing(struct taking *t)
{
    struct machine *m = t->m;
    int e = vm_save(&m->vm, &t->state, t->err);
    if (!e)
        e = snapshot_memory_write(t->memory_fd, m->ram.base, m->ram.size, m->ram.fd, &t->manifest.ram, t->err);
    for (unsigned n = 0; n < m->o->disks && !e; n++)
        if (t->manifest.disk[n].copied)
            e = copy_disk(t, n, t->err);
    return e;
}

static void on_loop(void *ctx)
{
    struct taking *t = ctx;
    pthread_mutex_lock(&t->lock);
    bool wanted = t->stage == WAITING;
    if (wanted)
        t->stage = WORKING;
    pthread_mutex_unlock(&t->lock);
    if (!wanted)
        return;
    uint64_t begin = host_monotonic_ns();
    vm_pause(&t->m->vm);
    t->result = copy_standing(t);
    vm_resume(&t->m->vm);
    t->paused_ns = host_monotonic_ns() - begin;
    pthread_mutex_lock(&t->lock);
    t->stage = DONE;
    pthread_cond_signal(&t->change);
    pthread_mutex_unlock(&t->lock);
}

// Has the event loop call on_loop, and waits. A loop that ends with the machine calls nothing any more.
static int stand_still(struct taking *t)
{
    t->stage = WAITING;
    t->result = 0;
    state_free(&t->state);
    if (loop_post(t->m->loop, on_loop, t) < 0)
        return error_set(t->err, ENOMEM, "snapshot: no memory");
    pthread_mutex_lock(&t->lock);
    while (t->stage != DONE && t->stage != GIVEN_UP) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 100000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&t->change, &t->lock, &until);
        if (t->stage == WAITING && t->m->vm.end != VM_END_NONE)
            t->stage = GIVEN_UP;
    }
    bool done = t->stage == DONE;
    pthread_mutex_unlock(&t->lock);
    return done ? t->result : error_set(t->err, EBUSY, "snapshot: the machine has ended");
}

// --- before and after

// As the running machine found it (backend/disk.c): a raw disk cannot become one that begins like another format.
const char *snapshot_disk_format(const struct disk_option *d)
{
    static const uint8_t qcow2[DISK_MAGIC_BYTES] = {'Q', 'F', 'I', 0xfb};
    uint8_t first[DISK_MAGIC_BYTES] = {0};
    int fd = d->format == DISK_PROBE ? open(d->path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        if (pread(fd, first, sizeof first, 0) < 0)
            first[0] = 0;
        close(fd);
    }
    return d->format == DISK_QCOW2 || !memcmp(first, qcow2, sizeof first) ? "qcow2" : "raw";
}

// What lies in the machine's directory goes with it.
bool snapshot_in_own_folder(const struct machine *m, const char *path)
{
    size_t n = m->dir ? strlen(m->dir->path) : 0;
    return n && !strncmp(path, m->dir->path, n) && path[n] == '/';
}

static int add_files(struct taking *t, struct error *err)
{
    const struct run_options *o = t->m->o;
    t->memory_fd = snapshot_add(&t->w, "memory", err);
    if (t->memory_fd < 0)
        return t->memory_fd;
    for (unsigned n = 0; n < o->disks; n++) {
        struct snapshot_disk *d = &t->manifest.disk[n];
        struct stat st;
        char name[16];
        t->manifest.disks++;
        d->readonly = o->disk[n].readonly;
        d->size = t->m->disk[n]->size;
        strcpy(d->format, snapshot_disk_format(&o->disk[n]));
        snprintf(name, sizeof name, "disk%u", n);
        strcpy(d->serial, t->m->disk[n]->serial);
        d->copied = !d->readonly || snapshot_in_own_folder(t->m, o->disk[n].path);
        d->path = d->copied ? strdup(name) : realpath(o->disk[n].path, NULL);
        if (!d->path)
            return error_set(err, errno, "disk %s: %s", o->disk[n].path, strerror(errno));
        if (!d->copied)
            continue;
        if (stat(o->disk[n].path, &st) < 0 || !S_ISREG(st.st_mode))
            return error_set(err, ENOTSUP, "disk %s: only disks that are files can be copied", o->disk[n].path);
        t->disk_fd[n] = snapshot_add(&t->w, name, err);
        if (t->disk_fd[n] < 0)
            return t->disk_fd[n];
    }
    return 0;
}

static int write_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

static int add_part(struct taking *t, const char *name, const void *data, size_t size, struct snapshot_part *part,
                    struct error *err)
{
    int fd = snapshot_add(&t->w, name, err);
    if (fd < 0)
        return fd;
    int e = write_all(fd, data, size);
    if (e)
        return error_set(err, -e, "snapshot: %s: %s", name, strerror(-e));
    return snapshot_file_digest(fd, INT64_MAX, part, err);
}

static int add_rest(struct taking *t, struct error *err)
{
    struct machine *m = t->m;
    int e = add_part(t, "state", t->state.data, t->state.size, &t->manifest.state, err);
    if (!e && m->kernel.size)
        e = add_part(t, "kernel", m->kernel.data, m->kernel.size, &t->manifest.kernel, err);
    if (!e && m->initrd.size)
        e = add_part(t, "initrd", m->initrd.data, m->initrd.size, &t->manifest.initrd, err);
    for (unsigned n = 0; n < m->o->disks && !e; n++)
        if (t->manifest.disk[n].copied)
            e = snapshot_file_digest(t->disk_fd[n], INT64_MAX, &t->manifest.disk[n].part, err);
    return e;
}

void snapshot_describe(struct snapshot_manifest *f, const struct machine *m, char **options, const char *directory)
{
    char now[32];
    time_t seconds = time(NULL);
    struct tm tm;
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &tm));
    f->name = strdup(m->o->name);
    f->created = strdup(now);
    f->program = strdup(TRAPEZE_VERSION);
    f->engine = strdup(m->vm.engine_ops->name);
    f->append = strdup(m->cmdline ? m->cmdline : m->o->append);
    f->directory = strdup(directory);
    f->options = options;
    while (options[f->option_count])
        f->option_count++;
    f->memory = m->ram.size;
    f->model = m->model;
    f->nets = m->o->nets;
    for (unsigned n = 0; n < f->nets; n++) {
        network_mac(m->o->name, n, f->mac[n]);
        if (m->o->net[n].has_mac)
            memcpy(f->mac[n], m->o->net[n].mac, sizeof f->mac[n]);
    }
}

static int finish(struct taking *t, char **options, const char *directory, struct error *err)
{
    int e = add_rest(t, err);
    if (e)
        return e;
    snapshot_describe(&t->manifest, t->m, options, directory);
    char *text = snapshot_manifest_write(&t->manifest);
    e = text ? snapshot_commit(&t->w, text, err) : error_set(err, ENOMEM, "snapshot: what it is of cannot be written");
    free(text);
    return e;
}

static int take(struct taking *t, char **options, const char *directory, const char *path, struct error *err)
{
    int e = snapshot_begin(&t->w, path, err);
    if (e)
        return e;
    e = add_files(t, err);
    // A guest that is just being reset is so only for a moment.
    for (unsigned n = 0; !e; n++) {
        e = stand_still(t);
        if (e != -EBUSY || t->m->vm.end != VM_END_NONE || n == TRIES)
            break;
        nanosleep(&(struct timespec){.tv_nsec = TRY_AGAIN_NS}, NULL);
        e = 0;
    }
    if (!e)
        e = finish(t, options, directory, err);
    if (e)
        snapshot_abandon(&t->w);
    return e;
}

int snapshot_take(struct machine *m, char **options, const char *directory, const char *path,
                  struct snapshot_taken *taken, struct error *err)
{
    uint64_t begin = host_monotonic_ns();
    struct taking *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(err, ENOMEM, "snapshot: no memory");
    t->m = m;
    t->err = err;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->change, NULL);
    int e = take(t, options, directory, path, err);
    *taken = (struct snapshot_taken){.paused_ns = t->paused_ns,
                                     .total_ns = host_monotonic_ns() - begin,
                                     .memory_bytes = t->manifest.ram.bytes,
                                     .memory_stored = t->manifest.ram.stored};
    t->manifest.options = NULL; // the caller's
    snapshot_manifest_free(&t->manifest);
    state_free(&t->state);
    pthread_cond_destroy(&t->change);
    pthread_mutex_destroy(&t->lock);
    free(t);
    return e;
}
