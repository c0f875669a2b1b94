// See manifest.h.
#include "bundle/manifest.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char format[] = "trapeze-bundle";
static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

void bundle_members(struct bundle_manifest *m)
{
    m->members = 0;
    for (unsigned i = 0; i < m->disks; i++)
        snprintf(m->member[m->members++].name, sizeof m->member->name, "disk%u.qcow2", i);
    if (m->kernel)
        strcpy(m->member[m->members++].name, "kernel");
    if (m->initrd)
        strcpy(m->member[m->members++].name, "initrd");
}

// --- writing

char *bundle_manifest_write(const struct bundle_manifest *m)
{
    json_t *nets = json_array(), *disks = json_array(), *members = json_array();
    int bad = 0;
    for (unsigned i = 0; i < m->nets; i++) {
        const uint8_t *b = m->mac[i];
        bad |= json_array_append_new(nets,
                                     json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]));
    }
    for (unsigned i = 0; i < m->disks; i++)
        bad |= json_array_append_new(
            disks, json_pack("{s:b, s:s}", "readonly", m->disk[i].readonly, "serial", m->disk[i].serial));
    for (unsigned i = 0; i < m->members; i++)
        bad |= json_array_append_new(members, json_pack("{s:s, s:I, s:s}", "name", m->member[i].name, "size",
                                                        (json_int_t)m->member[i].size, "sha256", m->member[i].sha256));
    json_t *machine =
        json_pack("{s:i, s:I, s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:o, s:o}", "cpus", (int)m->cpus, "memory",
                  (json_int_t)m->memory, "cpu", m->cpu, "append", m->append, "mmio", m->mmio, "paravirt", m->paravirt,
                  "balloon", m->balloon, "no_reboot", m->no_reboot, "agent", m->agent, "kernel", m->kernel, "initrd",
                  m->initrd, "nets", nets, "disks", disks);
    json_t *j = json_pack("{s:s, s:i, s:s, s:s, s:o, s:o}", "format", format, "version", BUNDLE_VERSION, "trapeze",
                          m->program, "name", m->name, "machine", machine, "members", members);
    char *text = j && !bad ? json_dumps(j, JSON_INDENT(2)) : NULL;
    json_decref(j);
    return text;
}

// --- reading

static int wrong(struct error *err, const char *what)
{
    return error_set(err, EINVAL, "manifest.json: %s: missing, or not what it must be", what);
}

// A string that fits, without control characters.
static bool text_take(const json_t *j, const char *key, char *to, size_t room)
{
    const json_t *s = json_object_get(j, key);
    const char *text = json_string_value(s);
    size_t length = json_string_length(s);
    if (!text || length >= room || strlen(text) != length)
        return false;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 127)
            return false;
    memcpy(to, text, length + 1);
    return true;
}

static bool word_take(const json_t *j, const char *key, char *to, size_t room)
{
    return text_take(j, key, to, room) && strspn(to, letters) == strlen(to);
}

static bool bool_take(const json_t *j, const char *key, bool *to)
{
    const json_t *b = json_object_get(j, key);
    *to = json_is_true(b);
    return json_is_boolean(b);
}

static bool number_take(const json_t *j, const char *key, json_int_t least, json_int_t most, json_int_t *to)
{
    const json_t *n = json_object_get(j, key);
    *to = json_integer_value(n);
    return json_is_integer(n) && *to >= least && *to <= most;
}

static bool mac_take(const char *text, uint8_t mac[6])
{
    unsigned b[6];
    int end = 0;
    if (!text || strlen(text) != 17 ||
        sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) != 6 || end != 17)
        return false;
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)b[i];
    return !(mac[0] & 1); // no group's address
}

static int devices_read(struct bundle_manifest *m, const json_t *j, struct error *err)
{
    const json_t *nets = json_object_get(j, "nets"), *disks = json_object_get(j, "disks");
    if (!json_is_array(nets) || json_array_size(nets) > BUNDLE_NETS)
        return wrong(err, "machine.nets");
    for (m->nets = 0; m->nets < json_array_size(nets); m->nets++)
        if (!mac_take(json_string_value(json_array_get(nets, m->nets)), m->mac[m->nets]))
            return wrong(err, "machine.nets");
    if (!json_is_array(disks) || json_array_size(disks) > BUNDLE_DISKS)
        return wrong(err, "machine.disks");
    for (m->disks = 0; m->disks < json_array_size(disks); m->disks++) {
        const json_t *d = json_array_get(disks, m->disks);
        if (!bool_take(d, "readonly", &m->disk[m->disks].readonly) ||
            !text_take(d, "serial", m->disk[m->disks].serial, sizeof m->disk->serial) ||
            strchr(m->disk[m->disks].serial, ',')) // which would begin another property of the disk
            return wrong(err, "machine.disks");
    }
    return 0;
}

static int machine_read(struct bundle_manifest *m, const json_t *j, struct error *err)
{
    static const struct {
        const char *key;
        size_t at;
    } flags[] = {
        {"mmio", offsetof(struct bundle_manifest, mmio)},
        {"paravirt", offsetof(struct bundle_manifest, paravirt)},
        {"balloon", offsetof(struct bundle_manifest, balloon)},
        {"no_reboot", offsetof(struct bundle_manifest, no_reboot)},
        {"agent", offsetof(struct bundle_manifest, agent)},
        {"kernel", offsetof(struct bundle_manifest, kernel)},
        {"initrd", offsetof(struct bundle_manifest, initrd)},
    };
    json_int_t cpus, memory;
    if (!number_take(j, "cpus", 1, 1024, &cpus))
        return wrong(err, "machine.cpus");
    if (!number_take(j, "memory", 1 << 20, 1ll << 40, &memory) || memory % (1 << 20))
        return wrong(err, "machine.memory");
    m->cpus = (unsigned)cpus;
    m->memory = (uint64_t)memory;
    if (!text_take(j, "cpu", m->cpu, sizeof m->cpu))
        return wrong(err, "machine.cpu");
    if (!text_take(j, "append", m->append, sizeof m->append))
        return wrong(err, "machine.append");
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++)
        if (!bool_take(j, flags[i].key, (bool *)((char *)m + flags[i].at)))
            return wrong(err, flags[i].key);
    int e = devices_read(m, j, err);
    if (e)
        return e;
    if ((m->initrd && !m->kernel) || (!m->kernel && !m->disks))
        return error_set(err, EINVAL, "manifest.json: the machine has nothing to start from");
    return 0;
}

static int members_read(struct bundle_manifest *m, const json_t *j, struct error *err)
{
    char name[32];
    json_int_t size;
    if (!json_is_array(j) || json_array_size(j) != m->members)
        return wrong(err, "members");
    for (unsigned i = 0; i < m->members; i++) {
        const json_t *one = json_array_get(j, i);
        struct bundle_member *b = &m->member[i];
        if (!text_take(one, "name", name, sizeof name) || strcmp(name, b->name))
            return error_set(err, EINVAL, "manifest.json: members: %s should be here", b->name);
        if (!number_take(one, "size", 1, INT64_MAX / BUNDLE_MEMBERS, &size) ||
            !text_take(one, "sha256", b->sha256, sizeof b->sha256) || strspn(b->sha256, "0123456789abcdef") != 64)
            return wrong(err, b->name);
        b->size = (uint64_t)size;
    }
    return 0;
}

static int all_read(struct bundle_manifest *m, const json_t *j, struct error *err)
{
    char is[sizeof format];
    json_int_t version;
    if (!text_take(j, "format", is, sizeof is) || strcmp(is, format))
        return error_set(err, EINVAL, "manifest.json: not a bundle's");
    if (!number_take(j, "version", 1, INT64_MAX, &version))
        return wrong(err, "version");
    if (version != BUNDLE_VERSION)
        return error_set(err, ENOTSUP, "manifest.json: version %lld: this trapeze knows version %d", (long long)version,
                         BUNDLE_VERSION);
    if (!text_take(j, "trapeze", m->program, sizeof m->program))
        return wrong(err, "trapeze");
    if (!word_take(j, "name", m->name, sizeof m->name) || !m->name[0] || strchr("._-", m->name[0]))
        return wrong(err, "name");
    int e = machine_read(m, json_object_get(j, "machine"), err);
    if (e)
        return e;
    bundle_members(m);
    return members_read(m, json_object_get(j, "members"), err);
}

int bundle_manifest_read(struct bundle_manifest *m, const char *text, size_t length, struct error *err)
{
    json_error_t why;
    memset(m, 0, sizeof *m);
    json_t *j = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    if (!j)
        return error_set(err, EINVAL, "manifest.json: line %d: no JSON", why.line);
    int e = all_read(m, j, err);
    json_decref(j);
    return e;
}
