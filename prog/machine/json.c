// See machine_json.h. Strings that come from the user may be no UTF-8: then JSON can't hold them, and null stands
// there.
#include "prog/machine/json.h"
#include "host/clock.h"
#include "host/process.h"
#include <string.h>

static json_t *text(const char *s)
{
    json_t *j = s ? json_string(s) : NULL;
    return j ? j : json_null();
}

static json_t *disks(const struct machine *m)
{
    json_t *all = json_array();
    for (unsigned n = 0; n < m->o->disks; n++) {
        const struct disk_option *d = &m->o->disk[n];
        json_array_append_new(all,
                              json_pack("{s:o, s:s, s:b, s:I}", "path", text(d->path), "serial", d->serial, "readonly",
                                        d->readonly, "size", (json_int_t)(m->disk[n] ? m->disk[n]->size : 0)));
    }
    return all;
}

static json_t *networks(const struct machine *m)
{
    static const char *const kinds[] = {
        [NETWORK_USER] = "user", [NETWORK_TAP] = "tap", [NETWORK_SOCKET] = "socket", [NETWORK_SWITCH] = "switch"};
    json_t *all = json_array();
    for (unsigned n = 0; n < m->o->nets; n++) {
        const struct network_option *o = &m->o->net[n];
        uint8_t mac[6];
        char address[18];
        if (o->has_mac)
            memcpy(mac, o->mac, sizeof mac);
        else
            network_mac(m->o->name, n, mac);
        snprintf(address, sizeof address, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                 mac[5]);
        const char *kind = o->kind < sizeof kinds / sizeof *kinds ? kinds[o->kind] : NULL;
        json_array_append_new(
            all, json_pack("{s:o, s:o, s:s}", "kind", text(kind), "where", text(o->where), "mac", address));
    }
    return all;
}

static json_t *published(const struct machine *m)
{
    json_t *all = json_array();
    for (unsigned n = 0; n < m->o->publishes; n++)
        json_array_append_new(all, text(m->o->publish[n].text));
    return all;
}

static json_t *shares(const struct machine *m)
{
    json_t *all = json_array();
    for (unsigned n = 0; n < m->o->shares; n++) {
        const struct share_option *o = &m->o->share[n];
        json_array_append_new(
            all, json_pack("{s:o, s:o, s:b}", "folder", text(o->folder), "tag", text(o->tag), "readonly", o->readonly));
    }
    return all;
}

json_t *machine_describe(const struct machine *m)
{
    const struct run_options *o = m->o;
    return json_pack("{s:o, s:s, s:s, s:i, s:I, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "name",
                     text(o->name), "engine", m->vm.engine_ops->name, "cpu", m->model.name, "cpus", (int)o->cpus,
                     "memory", (json_int_t)o->memory, "paravirt", !o->no_paravirt, "kernel", text(o->kernel), "initrd",
                     text(o->initrd), "append", text(o->append), "disks", disks(m), "networks", networks(m),
                     "published", published(m), "console", text(o->console), "hvc", text(o->hvc), "shares", shares(m),
                     "balloon", m->balloon != NULL);
}

// --- usage

struct sums {
    json_t *counters;
    uint64_t disk_read, disk_written, disk_requests, net_received, net_sent, exits;
};

// What devices and CPUs count, by the end of its name, and of which kind of device.
static const struct {
    const char *start, *end;
    size_t into;
} summed[] = {
    {"virtio-blk", ".bytes_read", offsetof(struct sums, disk_read)},
    {"virtio-blk", ".bytes_written", offsetof(struct sums, disk_written)},
    {"virtio-blk", ".requests", offsetof(struct sums, disk_requests)},
    {"virtio-net", ".rx_bytes", offsetof(struct sums, net_received)},
    {"virtio-net", ".tx_bytes", offsetof(struct sums, net_sent)},
    {"cpu", ".port_reads", offsetof(struct sums, exits)},
    {"cpu", ".port_writes", offsetof(struct sums, exits)},
    {"cpu", ".mmio_reads", offsetof(struct sums, exits)},
    {"cpu", ".mmio_writes", offsetof(struct sums, exits)},
    {"cpu", ".hypercalls", offsetof(struct sums, exits)},
    {"cpu", ".halts", offsetof(struct sums, exits)},
};

static void take_counter(void *ctx, const char *name, uint64_t value)
{
    struct sums *s = ctx;
    size_t length = strlen(name);
    if (value)
        json_object_set_new(s->counters, name, json_integer((json_int_t)value));
    for (unsigned i = 0; i < sizeof summed / sizeof *summed; i++) {
        size_t start = strlen(summed[i].start), end = strlen(summed[i].end);
        if (length >= start + end && !memcmp(name, summed[i].start, start) &&
            !memcmp(name + length - end, summed[i].end, end))
            *(uint64_t *)((char *)s + summed[i].into) += value;
    }
}

json_t *machine_usage(struct machine *m)
{
    struct sums s = {.counters = json_object()};
    vm_stats(&m->vm, take_counter, &s);
    return json_pack("{s:I, s:I, s:{s:I, s:I}, s:{s:I, s:I, s:I}, s:{s:I, s:I}, s:I, s:i, s:o}", "time_ns",
                     (json_int_t)host_monotonic_ns(), "cpu_ns", (json_int_t)process_family_cpu_ns(), "memory", "size",
                     (json_int_t)m->ram.size, "resident", (json_int_t)host_ram_resident(&m->ram), "disk", "read_bytes",
                     (json_int_t)s.disk_read, "written_bytes", (json_int_t)s.disk_written, "requests",
                     (json_int_t)s.disk_requests, "net", "received_bytes", (json_int_t)s.net_received, "sent_bytes",
                     (json_int_t)s.net_sent, "exits", (json_int_t)s.exits, "cpus", (int)m->o->cpus, "counters",
                     s.counters);
}
