// Writing and reading snapshot.json: see manifest.h.
//
// Numbers that need 64 bits fit into JSON's integers, which are signed here; nothing in a snapshot is larger. CPUID
// leaves are arrays of six numbers: leaf, subleaf, EAX, EBX, ECX, EDX.
#include "snapshot/manifest.h"
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT "trapeze-snapshot"

// --- writing

static json_t *part_json(const struct snapshot_part *p)
{
    return json_pack("{s:I, s:I, s:s}", "bytes", (json_int_t)p->bytes, "stored", (json_int_t)p->stored, "xxh3",
                     p->xxh3);
}

static json_t *model_json(const struct cpu_model *m)
{
    json_t *leaves = json_array();
    for (unsigned i = 0; i < m->count; i++) {
        const struct cpuid_leaf *l = &m->leaf[i];
        json_array_append_new(leaves, json_pack("[I, I, I, I, I, I]", (json_int_t)l->leaf, (json_int_t)l->subleaf,
                                                (json_int_t)l->r.eax, (json_int_t)l->r.ebx, (json_int_t)l->r.ecx,
                                                (json_int_t)l->r.edx));
    }
    return json_pack("{s:s, s:i, s:I, s:b, s:i, s:i, s:I, s:I, s:I, s:o}", "model", m->name, "count",
                     (int)m->config.cpus, "tsc_khz", (json_int_t)m->config.tsc_khz, "paravirt", m->config.paravirt,
                     "vendor", (int)m->vendor, "phys_bits", (int)m->phys_bits, "xcr0_mask", (json_int_t)m->xcr0_mask,
                     "cr4_mask", (json_int_t)m->cr4_mask, "efer_mask", (json_int_t)m->efer_mask, "cpuid", leaves);
}

static json_t *disk_json(const struct snapshot_disk *d)
{
    return json_pack("{s:s, s:b, s:s, s:s, s:I, s:o*}", "path", d->path, "readonly", d->readonly, "format", d->format,
                     "serial", d->serial, "size", (json_int_t)d->size, "part", d->copied ? part_json(&d->part) : NULL);
}

char *snapshot_manifest_write(const struct snapshot_manifest *m)
{
    json_t *options = json_array(), *disks = json_array(), *nets = json_array();
    for (unsigned i = 0; i < m->option_count; i++)
        json_array_append_new(options, json_string(m->options[i]));
    for (unsigned i = 0; i < m->disks; i++)
        json_array_append_new(disks, disk_json(&m->disk[i]));
    for (unsigned i = 0; i < m->nets; i++) {
        const uint8_t *a = m->mac[i];
        json_array_append_new(nets, json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5]));
    }
    json_t *j = json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:I, s:o, s:o, s:o, s:{s:o, s:o, s:o*, s:o*}}",
                          "format", FORMAT, "version", SNAPSHOT_VERSION, "name", m->name, "created", m->created,
                          "program", m->program, "engine", m->engine, "append", m->append, "directory", m->directory,
                          "options", options, "memory", (json_int_t)m->memory, "cpus", model_json(&m->model), "disks",
                          disks, "nets", nets, "parts", "state", part_json(&m->state), "memory", part_json(&m->ram),
                          "kernel", m->kernel.bytes ? part_json(&m->kernel) : NULL, "initrd",
                          m->initrd.bytes ? part_json(&m->initrd) : NULL);
    char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    json_decref(j);
    return text;
}

// --- reading

struct reader {
    struct error *err;
    int failed; // the first negative errno
};

static void wrong(struct reader *r, const char *what)
{
    if (!r->failed)
        r->failed = error_set(r->err, EINVAL, "snapshot.json: %s is missing or makes no sense", what);
}

static uint64_t number(struct reader *r, const json_t *in, const char *key, uint64_t least, uint64_t most)
{
    const json_t *v = json_object_get(in, key);
    json_int_t n = json_integer_value(v);
    if (json_is_integer(v) && n >= 0 && (uint64_t)n >= least && (uint64_t)n <= most)
        return (uint64_t)n;
    wrong(r, key);
    return 0;
}

static char *string(struct reader *r, const json_t *in, const char *key)
{
    const char *s = json_string_value(json_object_get(in, key));
    char *copy = s ? strdup(s) : NULL;
    if (!copy)
        wrong(r, key);
    return copy;
}

static bool truth(struct reader *r, const json_t *in, const char *key)
{
    const json_t *v = json_object_get(in, key);
    if (!json_is_boolean(v))
        wrong(r, key);
    return json_is_true(v);
}

static void read_part(struct reader *r, const json_t *in, const char *key, struct snapshot_part *p)
{
    const json_t *j = json_object_get(in, key);
    const char *hash = json_string_value(json_object_get(j, "xxh3"));
    p->bytes = number(r, j, "bytes", 0, INT64_MAX);
    p->stored = number(r, j, "stored", 0, INT64_MAX);
    if (hash && strlen(hash) == SNAPSHOT_DIGEST - 1)
        memcpy(p->xxh3, hash, SNAPSHOT_DIGEST);
    else
        wrong(r, key);
}

static void read_leaves(struct reader *r, const json_t *leaves, struct cpu_model *m)
{
    size_t count = json_array_size(leaves);
    if (!count || count > CPU_MODEL_LEAVES) {
        wrong(r, "cpuid");
        return;
    }
    m->count = (unsigned)count;
    for (unsigned i = 0; i < count; i++) {
        const json_t *l = json_array_get(leaves, i);
        uint32_t v[6] = {0};
        bool good = json_array_size(l) == 6;
        for (unsigned k = 0; k < 6; k++) {
            const json_t *n = json_array_get(l, k);
            json_int_t val = json_integer_value(n);
            good &= json_is_integer(n) && val >= 0 && val <= UINT32_MAX;
            v[k] = (uint32_t)val;
        }
        if (!good)
            wrong(r, "cpuid");
        m->leaf[i] = (struct cpuid_leaf){v[0], v[1], {v[2], v[3], v[4], v[5]}};
    }
}

static void read_model(struct reader *r, const json_t *in, struct cpu_model *m)
{
    const char *name = json_string_value(json_object_get(in, "model"));
    if (name && strlen(name) < sizeof m->name)
        memcpy(m->name, name, strlen(name) + 1);
    else
        wrong(r, "model");
    m->config.cpus = (unsigned)number(r, in, "count", 1, CPU_MAX);
    m->config.tsc_khz = (uint32_t)number(r, in, "tsc_khz", 1000, UINT32_MAX);
    m->config.paravirt = truth(r, in, "paravirt");
    m->vendor = (enum cpu_vendor)number(r, in, "vendor", CPU_VENDOR_AMD, CPU_VENDOR_INTEL);
    m->phys_bits = (unsigned)number(r, in, "phys_bits", 32, 52);
    m->xcr0_mask = number(r, in, "xcr0_mask", 0, INT64_MAX);
    m->cr4_mask = number(r, in, "cr4_mask", 0, INT64_MAX);
    m->efer_mask = number(r, in, "efer_mask", 0, INT64_MAX);
    read_leaves(r, json_object_get(in, "cpuid"), m);
}

static void read_options(struct reader *r, const json_t *list, struct snapshot_manifest *m)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count > SNAPSHOT_OPTIONS || !(m->options = calloc(count + 1, sizeof *m->options))) {
        wrong(r, "options");
        return;
    }
    for (; m->option_count < count; m->option_count++) {
        const char *s = json_string_value(json_array_get(list, m->option_count));
        if (!s || !(m->options[m->option_count] = strdup(s))) {
            wrong(r, "options");
            return;
        }
    }
}

// A copy's name is just that: nothing outside of the snapshot is reached by it.
static bool plain_name(const char *s)
{
    return s && *s && *s != '.' && !strchr(s, '/');
}

static void read_disks(struct reader *r, const json_t *list, struct snapshot_manifest *m)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count > SNAPSHOT_DISKS) {
        wrong(r, "disks");
        return;
    }
    for (; m->disks < count; m->disks++) {
        const json_t *j = json_array_get(list, m->disks);
        struct snapshot_disk *d = &m->disk[m->disks];
        const char *format = json_string_value(json_object_get(j, "format"));
        const char *serial = json_string_value(json_object_get(j, "serial"));
        d->path = string(r, j, "path");
        d->readonly = truth(r, j, "readonly");
        d->size = number(r, j, "size", 512, INT64_MAX);
        if (format && (!strcmp(format, "raw") || !strcmp(format, "qcow2")))
            memcpy(d->format, format, strlen(format) + 1);
        else
            wrong(r, "format");
        if (serial && strlen(serial) < sizeof d->serial)
            memcpy(d->serial, serial, strlen(serial) + 1);
        else
            wrong(r, "serial");
        d->copied = !d->readonly || json_object_get(j, "part");
        if (d->copied)
            read_part(r, j, "part", &d->part);
        if (d->copied ? !plain_name(d->path) : !d->path || d->path[0] != '/')
            wrong(r, "path");
    }
}

static void read_nets(struct reader *r, const json_t *list, struct snapshot_manifest *m)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count > SNAPSHOT_NETS) {
        wrong(r, "nets");
        return;
    }
    for (; m->nets < count; m->nets++) {
        const char *s = json_string_value(json_array_get(list, m->nets));
        uint8_t *a = m->mac[m->nets];
        if (!s || strlen(s) != 17 ||
            sscanf(s, "%2" SCNx8 ":%2" SCNx8 ":%2" SCNx8 ":%2" SCNx8 ":%2" SCNx8 ":%2" SCNx8, &a[0], &a[1], &a[2],
                   &a[3], &a[4], &a[5]) != 6)
            wrong(r, "nets");
    }
}

static void read_all(struct reader *r, const json_t *j, struct snapshot_manifest *m)
{
    m->name = string(r, j, "name");
    m->created = string(r, j, "created");
    m->program = string(r, j, "program");
    m->engine = string(r, j, "engine");
    m->append = string(r, j, "append");
    m->directory = string(r, j, "directory");
    m->memory = number(r, j, "memory", SNAPSHOT_PAGE, INT64_MAX);
    if (m->memory % SNAPSHOT_PAGE)
        wrong(r, "memory");
    read_model(r, json_object_get(j, "cpus"), &m->model);
    read_options(r, json_object_get(j, "options"), m);
    read_disks(r, json_object_get(j, "disks"), m);
    read_nets(r, json_object_get(j, "nets"), m);
    const json_t *parts = json_object_get(j, "parts");
    read_part(r, parts, "state", &m->state);
    read_part(r, parts, "memory", &m->ram);
    if (m->ram.bytes != m->memory)
        wrong(r, "memory");
    if (json_object_get(parts, "kernel"))
        read_part(r, parts, "kernel", &m->kernel);
    if (json_object_get(parts, "initrd"))
        read_part(r, parts, "initrd", &m->initrd);
}

int snapshot_manifest_read(struct snapshot_manifest *m, const char *text, size_t length, struct error *err)
{
    memset(m, 0, sizeof *m);
    json_error_t where;
    json_t *j = json_loadb(text, length, JSON_REJECT_DUPLICATES, &where);
    if (!j)
        return error_set(err, EINVAL, "snapshot.json: line %d: %s", where.line, where.text);
    struct reader r = {.err = err};
    const char *format = json_string_value(json_object_get(j, "format"));
    uint64_t version = number(&r, j, "version", 1, INT32_MAX);
    if (!format || strcmp(format, FORMAT) != 0)
        wrong(&r, "format");
    if (!r.failed && version > SNAPSHOT_VERSION)
        r.failed = error_set(err, ENOTSUP, "snapshot.json: version %d, but only up to %d is known", (int)version,
                             SNAPSHOT_VERSION);
    if (!r.failed)
        read_all(&r, j, m);
    json_decref(j);
    if (r.failed)
        snapshot_manifest_free(m);
    return r.failed;
}

void snapshot_manifest_free(struct snapshot_manifest *m)
{
    free(m->name);
    free(m->created);
    free(m->program);
    free(m->engine);
    free(m->append);
    free(m->directory);
    for (unsigned i = 0; m->options && m->options[i]; i++)
        free(m->options[i]);
    free((void *)m->options);
    for (unsigned i = 0; i < SNAPSHOT_DISKS; i++)
        free(m->disk[i].path);
    memset(m, 0, sizeof *m);
}

// --- comparing CPUs

static const struct cpuid_leaf *find(const struct cpu_model *m, uint32_t leaf, uint32_t subleaf)
{
    for (unsigned i = 0; i < m->count; i++)
        if (m->leaf[i].leaf == leaf && m->leaf[i].subleaf == subleaf)
            return &m->leaf[i];
    return NULL;
}

int snapshot_model_same(const struct cpu_model *saved, const struct cpu_model *made, struct error *err)
{
    static const char *const names[] = {"EAX", "EBX", "ECX", "EDX"};
    for (unsigned i = 0; i < saved->count; i++) {
        const struct cpuid_leaf *a = &saved->leaf[i], *b = find(made, a->leaf, a->subleaf);
        const uint32_t x[] = {a->r.eax, a->r.ebx, a->r.ecx, a->r.edx};
        uint32_t y[4] = {0};
        if (b)
            memcpy(y, (uint32_t[]){b->r.eax, b->r.ebx, b->r.ecx, b->r.edx}, sizeof y);
        for (unsigned k = 0; k < 4; k++)
            if (!b || x[k] != y[k])
                return error_set(err, ENOTSUP,
                                 "the saved machine's CPU (%s) cannot be given here: CPUID leaf 0x%x, %s is 0x%x there "
                                 "and 0x%x here",
                                 saved->name, a->leaf, names[k], x[k], y[k]);
    }
    if (saved->count != made->count || saved->vendor != made->vendor || saved->phys_bits != made->phys_bits ||
        saved->xcr0_mask != made->xcr0_mask || saved->cr4_mask != made->cr4_mask || saved->efer_mask != made->efer_mask)
        return error_set(err, ENOTSUP,
                         "the saved machine's CPU (%s) cannot be given here: this program makes another %s",
                         saved->name, made->name);
    return 0;
}
