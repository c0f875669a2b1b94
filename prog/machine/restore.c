// Restoring machines: see restore.h.
#include "prog/machine/restore.h"
#include "backend/qcow2/qcow2.h"
#include "host/memory.h"
#include "prog/machine/arrival.h"
#include "prog/machine/machine.h"
#include "vm/save.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int restore_open(struct restore *r, const char *path, struct error *err)
{
    *r = (struct restore){0};
    return snapshot_open(&r->s, path, err);
}

void restore_close(struct restore *r)
{
    snapshot_close(&r->s);
    free(r->kernel);
    free(r->initrd);
    for (unsigned n = 0; n < SNAPSHOT_DISKS; n++)
        free(r->disk[n]);
}

// --- options

static char *file_of(const struct restore *r, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", r->s.path, name) < 0 ? NULL : path;
}

// A new overlay over the snapshot's copy, or what the machine only reads.
static int replace_disk(struct restore *r, unsigned n, struct disk_option *o, const char *overlays, struct error *err)
{
    struct snapshot_disk *d = &r->s.m.disk[n];
    o->readonly = d->readonly;
    o->format = d->readonly && !strcmp(d->format, "raw") ? DISK_RAW : DISK_QCOW2;
    memcpy(o->serial, d->serial, sizeof o->serial);
    char *base = d->copied ? file_of(r, d->path) : d->path;
    if (d->readonly && base) {
        r->disk[n] = d->copied ? base : NULL;
        o->path = base;
        return 0;
    }
    if (!base || asprintf(&r->disk[n], "%s/disk%u.qcow2", overlays, n) < 0) {
        free(base);
        r->disk[n] = NULL;
        return error_set(err, ENOMEM, "restoring: no memory");
    }
    int e = qcow2_create(
        &(struct qcow2_options){.path = r->disk[n], .size = d->size, .backing = base, .backing_format = d->format},
        err);
    free(base);
    o->path = r->disk[n];
    return e;
}

int restore_options(struct restore *r, struct run_options *o, const char *overlays, struct error *err)
{
    const struct snapshot_manifest *m = &r->s.m;
    if (o->nets != m->nets)
        return error_set(err, EINVAL, "snapshot %s: it has %u network cards, and the options say %u", r->s.path,
                         m->nets, o->nets);
    // A disk that was found or made for the machine is not among its options: their limits are for others then.
    for (unsigned n = o->disks == m->disks ? m->disks : 0; n < MAX_DISKS; n++)
        o->disk[n] = (struct disk_option){0};
    o->disks = m->disks;
    o->cpus = m->model.config.cpus;
    o->memory = m->memory;
    o->no_paravirt = !m->model.config.paravirt;
    o->append = m->append;
    r->kernel = m->kernel.bytes ? file_of(r, "kernel") : NULL;
    r->initrd = m->initrd.bytes ? file_of(r, "initrd") : NULL;
    o->kernel = r->kernel;
    o->initrd = r->initrd;
    o->cpu = m->model.name;
    for (unsigned n = 0; n < o->nets; n++) {
        o->net[n].has_mac = true;
        memcpy(o->net[n].mac, m->mac[n], sizeof m->mac[n]);
    }
    if (o->shares) // virtiofsd maps it
        r->copy_memory = true;
    int e = 0;
    for (unsigned n = 0; n < o->disks && !e; n++)
        e = replace_disk(r, n, &o->disk[n], overlays, err);
    return e;
}

// --- the machine

static int read_memory(int fd, struct host_ram *ram, struct error *err)
{
    uint64_t at = 0;
    while (at < ram->size) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? 0 : error_set(err, errno, "memory: %s", strerror(errno));
        off_t hole = lseek(fd, data, SEEK_HOLE);
        at = (uint64_t)data;
        while (hole > 0 && at < (uint64_t)hole) {
            ssize_t n = pread(fd, ram->base + at, (size_t)hole - at, (off_t)at);
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                return error_set(err, n ? errno : EIO, "memory: %s", strerror(n ? errno : EIO));
            at += (uint64_t)n;
        }
    }
    return 0;
}

int restore_ram(const struct restore *r, struct machine *m, struct error *err)
{
    if (r->arrival)
        return arrival_ram(r->arrival, m);
    int fd = snapshot_part_open(&r->s, "memory", &r->s.m.ram, err);
    if (fd < 0)
        return fd;
    int e;
    if (r->copy_memory) {
        e = host_ram_create(&m->ram, m->o->name, r->s.m.memory, true, err);
        if (!e)
            e = read_memory(fd, &m->ram, err);
    } else {
        e = host_ram_map(&m->ram, fd, r->s.m.memory, err);
    }
    close(fd); // a mapping outlives it
    if (e)
        error_prefix(err, "snapshot %s", r->s.path);
    return e;
}

int restore_load(const struct restore *r, struct machine *m, struct error *err)
{
    struct state_buffer b = {0};
    if (r->arrival)
        return arrival_load(r->arrival, m, err);
    b.data = snapshot_state(&r->s, &b.size, err);
    if (!b.data)
        return -EINVAL;
    vm_pause(&m->vm);
    int e = vm_load(&m->vm, &b, err);
    if (!e)
        pc_new_generation(m->pc);
    vm_resume(&m->vm);
    free(b.data);
    if (e)
        error_prefix(err, "snapshot %s", r->s.path);
    return e;
}
