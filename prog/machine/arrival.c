// See arrival.h.
#include "prog/machine/arrival.h"
#include "prog/machine/machine.h"
#include "virtio/net.h"
#include "vm/save.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define AWAY_MOST_NS 10000000000ull

void arrival_init(struct arrival *a, int fd, const _Atomic bool *cancel)
{
    receive_init(&a->r, fd, cancel);
    a->ram.fd = -1;
    a->restore.arrival = a;
    for (unsigned i = 0; i < HELLO_FILES; i++)
        a->file[i] = -1;
}

void arrival_close(struct arrival *a)
{
    receive_close(&a->r);
    host_ram_destroy(&a->ram);
    snapshot_manifest_free(&a->restore.s.m);
    for (unsigned i = 0; i < HELLO_FILES; i++)
        if (a->file[i] >= 0)
            close(a->file[i]);
}

int arrival_begin(struct arrival *a, struct error *err)
{
    int e = receive_hello(&a->r, err);
    if (e)
        return e;
    const struct hello *h = &a->r.hello;
    e = snapshot_manifest_read(&a->restore.s.m, h->machine, strlen(h->machine), err);
    if (!e && a->restore.s.m.memory != h->memory)
        e = error_set(err, EPROTO, "migration stream: what it says about the machine makes no sense");
    return e;
}

// --- options

static int choose_disk(struct arrival *a, unsigned n, struct disk_option *o, struct error *err)
{
    const struct snapshot_disk *d = &a->restore.s.m.disk[n];
    if (d->copied)
        return error_set(err, EPROTO, "migration stream: a disk that is not announced");
    o->readonly = !(a->r.hello.writable >> n & 1);
    o->format = !strcmp(d->format, "raw") ? DISK_RAW : DISK_QCOW2; // never what its bytes say: they are the guest's
    memcpy(o->serial, d->serial, sizeof o->serial);
    o->path = n < a->disks ? a->disk[n] : d->path;
    if (n >= a->disks && !a->same_paths)
        return error_set(err, EPERM,
                         "disk %u is %s on the other side: name the file to use here (--disk), or give --same-paths", n,
                         d->path);
    return access(o->path, o->readonly ? R_OK : R_OK | W_OK)
               ? error_set(err, errno, "disk %s: %s", o->path, strerror(errno))
               : 0;
}

static const char *file_path(struct arrival *a, const char *name)
{
    for (unsigned i = 0; i < a->r.hello.files; i++)
        if (!strcmp(a->r.hello.file[i].name, name)) {
            snprintf(a->file_path[i], sizeof a->file_path[i], "/proc/self/fd/%d", a->file[i]);
            return a->file_path[i];
        }
    return NULL;
}

static int make_files(struct arrival *a, struct error *err)
{
    for (unsigned i = 0; i < a->r.hello.files; i++) {
        a->file[i] = memfd_create(a->r.hello.file[i].name, MFD_CLOEXEC);
        if (a->r.hello.file[i].bytes > a->restore.s.m.memory)
            return error_set(err, EPROTO, "migration stream: a file that would not fit into the machine's memory");
        if (a->file[i] < 0 || ftruncate(a->file[i], (off_t)a->r.hello.file[i].bytes))
            return error_set(err, errno, "migration: %s", strerror(errno));
    }
    return 0;
}

int arrival_options(struct arrival *a, struct run_options *o, struct error *err)
{
    struct snapshot_manifest *m = &a->restore.s.m;
    if (o->nets != m->nets)
        return error_set(err, EINVAL, "the machine has %u network cards, and the options say %u", m->nets, o->nets);
    if (o->shares)
        return error_set(err, ENOTSUP, "the machine has folders of another host (--share)");
    if (o->vsock && !a->same_paths)
        return error_set(err, EPERM, "the machine has a socket on the other side (--vsock): it takes --same-paths");
    int e = make_files(a, err);
    for (unsigned n = o->disks == m->disks ? m->disks : 0; n < MAX_DISKS; n++)
        o->disk[n] = (struct disk_option){0};
    o->disks = m->disks;
    for (unsigned n = 0; n < o->disks && !e; n++)
        e = choose_disk(a, n, &o->disk[n], err);
    o->cpus = m->model.config.cpus;
    o->memory = m->memory;
    o->no_paravirt = !m->model.config.paravirt;
    o->append = m->append;
    o->cpu = m->model.name;
    o->kernel = file_path(a, "kernel");
    o->initrd = file_path(a, "initrd");
    for (unsigned n = 0; n < o->nets; n++) {
        o->net[n].has_mac = true;
        memcpy(o->net[n].mac, m->mac[n], sizeof m->mac[n]);
    }
    return e;
}

// --- contents

static int take_file(void *ctx, unsigned index, uint64_t at, const void *data, size_t size, struct error *err)
{
    struct arrival *a = ctx;
    ssize_t n = pwrite(a->file[index], data, size, (off_t)at);
    return n == (ssize_t)size ? 0
                              : error_set(err, ENOSPC, "migration: no room for the %s", a->r.hello.file[index].name);
}

static void zero(void *ctx, uint64_t at, uint64_t size)
{
    struct arrival *a = ctx;
    if (host_memory_discard(a->ram.base + at, size, true))
        memset(a->ram.base + at, 0, size);
}

int arrival_contents(struct arrival *a, struct error *err)
{
    int e = host_ram_create(&a->ram, a->restore.s.m.name, a->restore.s.m.memory, true, err);
    if (!e)
        e = receive_welcome(&a->r, err);
    if (e)
        return e;
    struct receive_sink sink = {
        .ram = {.base = a->ram.base, .size = a->ram.size, .zero = zero, .ctx = a}, .ctx = a, .file = take_file};
    return receive_contents(&a->r, &sink, err);
}

// --- the machine

int arrival_ram(struct arrival *a, struct machine *m)
{
    m->ram = a->ram;
    a->ram = (struct host_ram){.fd = -1};
    return 0;
}

// The guest's clock stood while the machine was under way. Both hosts' wall clocks tell how long, if they agree.
static void catch_up(const struct arrival *a, struct vm_clock *clock)
{
    int64_t seconds;
    uint32_t nanoseconds;
    host_wall(&seconds, &nanoseconds);
    uint64_t away = (uint64_t)seconds * 1000000000 + nanoseconds - a->r.stopped_ns;
    if (away <= AWAY_MOST_NS) // not the past either, which wraps around
        vm_clock_set(clock, vm_clock_tsc(clock) + (uint64_t)((double)away * clock->tsc_khz / 1e6),
                     vm_clock_ns(clock) + away);
}

int arrival_load(struct arrival *a, struct machine *m, struct error *err)
{
    struct state_buffer b = {.data = a->r.state, .size = a->r.state_size};
    vm_pause(&m->vm);
    int e = vm_load(&m->vm, &b, err);
    if (!e)
        catch_up(a, &m->vm.clock);
    vm_resume(&m->vm);
    return e;
}

int arrival_take_over(struct arrival *a, struct machine *m, bool *paused, struct error *err)
{
    int e = receive_take_over(&a->r, err);
    if (e)
        return e;
    *paused = a->r.hello.paused;
    receive_started(&a->r);
    for (unsigned n = 0; n < m->o->nets; n++)
        virtio_net_announce(m->net_card[n]);
    return 0;
}

void arrival_refuse(struct arrival *a, const char *why)
{
    receive_refuse(&a->r, why);
}
