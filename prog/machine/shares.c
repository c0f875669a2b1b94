// See machine_shares.h.
#include "prog/machine/shares.h"
#include "backend/vhost_user/front_end.h"
#include "backend/virtiofsd.h"
#include "prog/machine/machine.h"
#include "virtio/fs.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Called before the device hears that virtiofsd is lost, on the front end's thread.
static void end(void *ctx)
{
    struct share *s = ctx;
    char words[200];
    virtiofsd_end(s->daemon);
    virtiofsd_last_words(s->daemon, words, sizeof words);
    if (*words)
        log_info(s->machine->log, "share %s: virtiofsd said last: %s", s->tag, words);
}

static int start(struct share *s, const struct share_option *o, struct error *err)
{
    char name[64];
    int socket;
    const struct virtiofsd_options options = {
        .program = getenv("TRAPEZE_VIRTIOFSD"), .folder = o->folder, .readonly = o->readonly};
    int e = virtiofsd_start(&options, &s->daemon, &socket, err);
    if (e)
        return e;
    snprintf(name, sizeof name, "virtiofsd of share %s", o->tag);
    const struct host_ram *ram = &s->machine->ram;
    return vhost_user_open(&(struct vhost_user_options){.socket = socket,
                                                        .name = name,
                                                        .memory = ram->base,
                                                        .memory_size = ram->size,
                                                        .memory_fd = ram->fd,
                                                        .end = end,
                                                        .ctx = s},
                           &s->vhost, err);
}

static int attach(struct share *s, const struct share_option *o, unsigned n, struct error *err)
{
    struct virtio_device *d;
    char name[24], words[100];
    s->tag = o->tag;
    snprintf(name, sizeof name, "virtio-fs%u", n);
    int e = start(s, o, err);
    if (!e)
        e = virtio_fs_create(&s->machine->vm, name, o->tag, s->vhost, &d, err);
    if (!e)
        return machine_attach_virtio(s->machine, d, err);
    if (!s->daemon)
        return e;
    // What virtiofsd has to say of it is worth more than that it has ended.
    virtiofsd_end(s->daemon);
    virtiofsd_last_words(s->daemon, words, sizeof words);
    struct error why = *err;
    return *words ? error_set(err, -e, "%.120s (%s)", why.text, words) : e;
}

int shares_attach(struct machine *m, struct error *err)
{
    int e = 0;
    for (unsigned n = 0; n < m->o->shares && !e; n++) {
        m->share[n].machine = m;
        e = attach(&m->share[n], &m->o->share[n], n, err);
        if (e)
            error_prefix(err, "--share %s:%s", m->o->share[n].folder, m->o->share[n].tag);
    }
    return e;
}

void shares_close(struct machine *m)
{
    for (unsigned n = 0; n < m->o->shares; n++) {
        if (m->share[n].vhost)
            m->share[n].vhost->ops->close(m->share[n].vhost);
        virtiofsd_free(m->share[n].daemon);
    }
}
