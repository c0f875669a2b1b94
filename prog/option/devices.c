// Options of trapeze run about devices: disks, networks, consoles.
#include "prog/option/groups.h"
#include "prog/option/limits.h"
#include "prog/option/options.h"
#include "vm/vsock.h"
#include <errno.h>
#include <string.h>

static int take_disk(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    if (o->disks == MAX_DISKS)
        return error_set(err, EINVAL, "--disk %.80s: at most %d disks", v, MAX_DISKS);
    struct disk_option *d = &o->disk[o->disks];
    *d = (struct disk_option){.path = v};
    char *next = strchr(v, ',');
    if (next)
        *next++ = 0;
    if (!*v)
        return error_set(err, EINVAL, "--disk: the file's name is empty");
    while (next) {
        char *word = next;
        next = strchr(word, ',');
        if (next)
            *next++ = 0;
        char who[80];
        snprintf(who, sizeof who, "--disk %.60s", v);
        int limit = limits_take(&d->limits, "iops", word, who, err);
        if (limit < 0)
            return limit;
        if (limit)
            continue;
        if (!strcmp(word, "ro")) {
            d->readonly = true;
        } else if (!strncmp(word, "serial=", 7)) {
            if (strlen(word + 7) >= sizeof d->serial)
                return error_set(err, EINVAL, "--disk %.80s: serial=%.40s: at most 20 characters", v, word + 7);
            strcpy(d->serial, word + 7);
        } else if (!strncmp(word, "format=", 7)) {
            if (strcmp(word + 7, "raw") && strcmp(word + 7, "qcow2"))
                return error_set(err, EINVAL, "--disk %.80s: format=%.40s: must be raw or qcow2", v, word + 7);
            d->format = strcmp(word + 7, "raw") ? DISK_QCOW2 : DISK_RAW;
        } else {
            return error_set(err, EINVAL,
                             "--disk %.60s: %.40s: unknown; there are: ro, serial=S, format=raw|qcow2, iops=N, bps=N, "
                             "burst=MS",
                             v, word);
        }
    }
    o->disks++;
    return 0;
}

static int take_net(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    struct error why;
    if (!strcmp(v, "none")) {
        o->nets = 0;
        o->net_none = true;
        return 0;
    }
    if (o->nets == MAX_NETS)
        return error_set(err, EINVAL, "--net %.80s: at most %d networks", v, MAX_NETS);
    if (network_take(&o->net[o->nets], v, &why))
        return error_set(err, EINVAL, "%s", why.text);
    o->nets++;
    return 0;
}

static int take_publish(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    struct error why;
    if (o->publishes == MAX_PUBLISHES)
        return error_set(err, EINVAL, "--publish %.80s: at most %d ports", v, MAX_PUBLISHES);
    if (network_take_publish(&o->publish[o->publishes], v, &why))
        return error_set(err, EINVAL, "%s", why.text);
    o->publishes++;
    return 0;
}

static bool is_console(const char *v)
{
    return !strcmp(v, "stdio") || !strcmp(v, "pty") || !strcmp(v, "none") || (!strncmp(v, "socket:", 7) && v[7]) ||
           (!strncmp(v, "file:", 5) && v[5]);
}

static int take_console(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    if (!is_console(v))
        return error_set(err, EINVAL, "--console %.80s: must be stdio, pty, socket:PATH, file:PATH or none", v);
    o->console = v;
    return 0;
}

static int take_hvc(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    if (!is_console(v))
        return error_set(err, EINVAL, "--hvc %.80s: must be stdio, pty, socket:PATH, file:PATH or none", v);
    o->hvc = v;
    return 0;
}

static int take_share(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    struct error why;
    if (o->shares == MAX_SHARES)
        return error_set(err, EINVAL, "--share %.80s: at most %d folders", v, MAX_SHARES);
    struct share_option *s = &o->share[o->shares];
    if (share_take(s, v, &why))
        return error_set(err, EINVAL, "%s", why.text);
    for (unsigned n = 0; n < o->shares; n++)
        if (!strcmp(o->share[n].tag, s->tag))
            return error_set(err, EINVAL, "--share %.80s:%s: there is a share of that tag already", v, s->tag);
    o->shares++;
    return 0;
}

static int take_balloon(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    o->no_balloon = !strcmp(v, "off");
    if (!o->no_balloon && strcmp(v, "on"))
        return error_set(err, EINVAL, "--balloon %.40s: must be on or off", v);
    return 0;
}

static int take_vsock(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    char *comma = strrchr(v, ',');
    uint64_t cid = VSOCK_CID_FIRST;
    o->no_vsock = !strcmp(v, "none");
    if (o->no_vsock) {
        o->vsock = NULL;
        return 0;
    }
    if (comma) {
        *comma = 0;
        if (strncmp(comma + 1, "cid=", 4) || !option_number(comma + 5, VSOCK_CID_FIRST, VSOCK_CID_LAST, &cid))
            return error_set(err, EINVAL, "--vsock %.80s: %.40s: must be cid=N, from %u to %u", v, comma + 1,
                             VSOCK_CID_FIRST, VSOCK_CID_LAST);
    }
    if (!*v)
        return error_set(err, EINVAL, "--vsock: the socket's name is empty");
    o->vsock = v;
    o->vsock_cid = (uint32_t)cid;
    return 0;
}

static int take_virtio(void *into, char *v, struct error *err)
{
    struct run_options *o = into;
    o->virtio_mmio = !strcmp(v, "mmio");
    if (!o->virtio_mmio && strcmp(v, "pci"))
        return error_set(err, EINVAL, "--virtio %.40s: must be pci or mmio", v);
    return 0;
}

static const struct option device_options[] = {
    {"disk", "FILE[,ro][,serial=S][,format=F][,iops=N][,bps=N][,burst=MS]",
     "raw or qcow2 image or block device; may be given several times", OPTION_TAKE(take_disk)},
    {"net", "WHERE[,mac=MAC][,mtu=N][,pps=N][,bps=N][,burst=MS]",
     "a network card: user, tap[:NAME], socket:PATH, switch:NETWORK[@PATH]; may be given several times; none (default)",
     OPTION_TAKE(take_net)},
    {"publish", "[ADDR:]HOST:GUEST[/udp]",
     "let the host's port (of 127.0.0.1, or ADDR) lead to the guest's; may be given several times",
     OPTION_TAKE(take_publish)},
    {"console", "WHERE", "the serial port: stdio (default), pty, socket:PATH, file:PATH, none",
     OPTION_TAKE(take_console)},
    {"hvc", "WHERE", "a virtio console (hvc0) as well; the same choices", OPTION_TAKE(take_hvc)},
    {"share", "FOLDER:TAG[,ro]",
     "let the guest mount a folder of the host (mount -t virtiofs TAG ...); may be given several times",
     OPTION_TAKE(take_share)},
    {"balloon", "on|off", "whether memory that the guest frees goes back to the host (default on)",
     OPTION_TAKE(take_balloon)},
    {"vsock", "PATH[,cid=N]|none",
     "sockets between guest and host: where they meet (default: vsock.sock in the machine's directory)",
     OPTION_TAKE(take_vsock)},
    {"virtio", "pci|mmio", "how virtio devices are attached (default pci)", OPTION_TAKE(take_virtio)},
};

const struct option_group options_devices = OPTION_GROUP("Devices", device_options);
