// Folders of the host for the guest (--share): one virtio file system device and one virtiofsd for each.
#pragma once
#include "prog/option/share.h"

struct machine;
struct virtiofsd;
struct vhost;

struct share {
    struct machine *machine;
    const char *tag;
    struct virtiofsd *daemon;
    struct vhost *vhost;
};

// The machine_part.
int shares_attach(struct machine *m, struct error *err);
void shares_close(struct machine *m);
