// The kinds of devices that a machine may have: disks, networks, consoles, random numbers, a balloon and
// sockets, each a machine_part.
#include "prog/command/switch.h"
#include "prog/machine/machine.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

enum { LOG_BYTES = 4 << 20 }; // that are kept of what one console has printed

// --- disks

static int disks_open(struct machine *m, struct error *err)
{
    int e = m->o->disks ? aio_create(&m->aio, err) : 0;
    for (unsigned n = 0; n < m->o->disks && !e; n++) {
        const struct disk_option *d = &m->o->disk[n];
        e = disk_open(
            &(struct disk_options){.path = d->path, .serial = d->serial, .readonly = d->readonly, .format = d->format},
            m->aio, &m->disk[n], err);
        if (!e)
            log_info(m->log, "disk %s: %" PRIu64 " MiB%s, by %s", d->path, m->disk[n]->size >> 20,
                     d->readonly ? ", read-only" : "", m->aio->ops->name);
        if (!e)
            e = disk_limit(&m->disk[n], &d->limits, err);
    }
    return e;
}

static int disks_attach(struct machine *m, struct error *err)
{
    int e = 0;
    for (unsigned n = 0; n < m->o->disks && !e; n++) {
        struct virtio_device *d;
        char name[24];
        snprintf(name, sizeof name, "virtio-blk%u", n);
        e = virtio_blk_create(&m->vm, name, m->disk[n], 1, &d, err);
        if (!e)
            e = machine_attach_virtio(m, d, err);
    }
    return e;
}

static void disks_close(struct machine *m)
{
    for (unsigned n = 0; n < m->o->disks; n++)
        if (m->disk[n])
            m->disk[n]->ops->close(m->disk[n]);
    if (m->aio)
        m->aio->ops->destroy(m->aio);
}

// --- networks

static int net_open_switch(struct machine *m, const struct network_option *o, const uint8_t mac[6], struct net **net,
                           struct error *err)
{
    char path[SWITCH_PATH_MAX];
    if (!o->socket) {
        int e = switch_default_socket(path, err);
        if (e)
            return e;
    }
    return net_switch_open(&(struct net_switch_options){.socket = o->socket ? o->socket : path,
                                                        .network = o->where,
                                                        .name = m->o->name,
                                                        .mac = mac,
                                                        .any_mac = o->any_mac,
                                                        .uplink_user = o->uplink_user,
                                                        .mtu = o->mtu,
                                                        .start = switch_start},
                           net, err);
}

static int net_open(struct machine *m, const struct network_option *o, const uint8_t mac[6], struct net **net,
                    struct error *err)
{
    char device[IF_NAMESIZE];
    int e;
    switch (o->kind) {
    case NETWORK_TAP:
        e = net_tap_open(o->where, o->mtu, device, net, err);
        if (!e)
            log_info(m->log, "network tap: device %s", device);
        return e;
    case NETWORK_SOCKET:
        return net_socket_open(o->where, o->mtu, net, err);
    case NETWORK_SWITCH:
        return net_open_switch(m, o, mac, net, err);
    default:
        return net_user_open(
            &(struct net_user_options){
                .hostname = m->o->name, .mtu = o->mtu, .publish = m->o->publish, .publishes = m->o->publishes},
            net, err);
    }
}

static void mac_of(const struct machine *m, unsigned n, uint8_t mac[6])
{
    if (m->o->net[n].has_mac)
        memcpy(mac, m->o->net[n].mac, 6);
    else
        network_mac(m->o->name, n, mac);
}

static int nets_open(struct machine *m, struct error *err)
{
    uint8_t mac[6];
    int e = 0;
    for (unsigned n = 0; n < m->o->nets && !e; n++) {
        mac_of(m, n, mac);
        e = net_open(m, &m->o->net[n], mac, &m->net[n], err);
        if (!e)
            e = net_limit(&m->net[n], &m->o->net[n].limits, err);
    }
    return e;
}

static int nets_attach(struct machine *m, struct error *err)
{
    int e = 0;
    for (unsigned n = 0; n < m->o->nets && !e; n++) {
        struct virtio_device *d;
        char name[24];
        uint8_t mac[6];
        mac_of(m, n, mac);
        snprintf(name, sizeof name, "virtio-net%u", n);
        e = virtio_net_create(&m->vm, name, m->net[n], mac, &d, err);
        if (!e)
            e = machine_attach_virtio(m, m->net_card[n] = d, err);
    }
    return e;
}

static void nets_close(struct machine *m)
{
    for (unsigned n = 0; n < m->o->nets; n++)
        if (m->net[n])
            m->net[n]->ops->close(m->net[n]);
}

// --- random numbers

static int rng_attach(struct machine *m, struct error *err)
{
    struct virtio_device *d;
    int e = virtio_rng_create(&m->vm, "virtio-rng0", &d, err);
    return e ? e : machine_attach_virtio(m, d, err);
}

// --- consoles

// So that others can attach to it, and what it says is kept.
static int make_hub(struct machine *m, struct console *below, const char *log, struct hub **hub, struct error *err)
{
    const struct hub_options o = {
        .below = console_stream(below), .loop = m->loop, .folder = m->dir->fd, .log = log, .limit = LOG_BYTES};
    return hub_create(&o, hub, err);
}

struct stream *machine_console(const struct machine *m)
{
    return m->console_hub ? hub_stream(m->console_hub) : console_stream(m->console);
}

struct stream *machine_hvc(const struct machine *m)
{
    return m->hvc_hub ? hub_stream(m->hvc_hub) : console_stream(m->hvc);
}

static int consoles_open(struct machine *m, struct error *err)
{
    const struct run_options *o = m->o;
    int e = console_open(o->console, m->loop, &m->keys, &m->console, err);
    if (!e && o->hvc)
        e = console_open(o->hvc, m->loop, &m->keys, &m->hvc, err);
    if (!e && o->debugcon)
        e = console_open("stdout", m->loop, NULL, &m->debugcon, err);
    if (!e && m->dir)
        e = make_hub(m, m->console, "console.log", &m->console_hub, err);
    if (!e && m->dir && m->hvc)
        e = make_hub(m, m->hvc, "hvc.log", &m->hvc_hub, err);
    if (!e && !strncmp(o->console, "pty", 3))
        fprintf(stderr, "%s: console on %s\n", o->name, console_name(m->console));
    if (!e && o->hvc && !strncmp(o->hvc, "pty", 3))
        fprintf(stderr, "%s: hvc on %s\n", o->name, console_name(m->hvc));
    return e;
}

static int consoles_attach(struct machine *m, struct error *err)
{
    struct virtio_device *d;
    if (!m->hvc)
        return 0;
    int e = virtio_console_create(&m->vm, "virtio-console0", machine_hvc(m), &d, err);
    return e ? e : machine_attach_virtio(m, d, err);
}

static void consoles_close(struct machine *m)
{
    if (m->hvc_hub)
        hub_destroy(m->hvc_hub);
    if (m->console_hub)
        hub_destroy(m->console_hub);
    if (m->debugcon)
        console_close(m->debugcon);
    if (m->hvc)
        console_close(m->hvc);
    if (m->console)
        console_close(m->console);
}

// --- the balloon

static int balloon_attach(struct machine *m, struct error *err)
{
    if (m->o->no_balloon)
        return 0;
    int e = virtio_balloon_create(&m->vm, "virtio-balloon0", &m->balloon, err);
    return e ? e : machine_attach_virtio(m, m->balloon, err);
}

// --- sockets

static int vsock_open(struct machine *m, struct error *err)
{
    char path[PATH_MAX];
    if (m->o->vsock)
        return vsock_unix_open(m->o->vsock, &m->vsock, err);
    if (m->o->no_vsock || !m->dir)
        return 0;
    if ((size_t)snprintf(path, sizeof path, "%s/vsock.sock", m->dir->path) >= sizeof path)
        return error_set(err, ENAMETOOLONG, "%.160s/vsock.sock: %s", m->dir->path, strerror(ENAMETOOLONG));
    return vsock_unix_open(path, &m->vsock, err);
}

static int vsock_attach(struct machine *m, struct error *err)
{
    struct virtio_device *d;
    if (!m->vsock)
        return 0;
    int e = virtio_vsock_create(&m->vm, "virtio-vsock0", m->vsock, m->o->vsock_cid, &d, err);
    return e ? e : machine_attach_virtio(m, d, err);
}

static void vsock_close(struct machine *m)
{
    if (m->vsock)
        m->vsock->ops->close(m->vsock);
}

// The order is that of slots, by which systems name their network cards: what is always there, or seldom several, comes
// first, so that adding a disk renames nothing. A new kind goes to the end.
const struct machine_part machine_parts[] = {
    {nets_open, nets_attach, nets_close},
    {disks_open, disks_attach, disks_close},
    {.attach = rng_attach},
    {consoles_open, consoles_attach, consoles_close},
    {.attach = balloon_attach},
    {vsock_open, vsock_attach, vsock_close},
    {.attach = shares_attach, .close = shares_close},
};

const unsigned machine_parts_count = sizeof machine_parts / sizeof *machine_parts;
